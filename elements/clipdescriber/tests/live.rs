//! Latency, lateness and quality of service.

use gst::prelude::*;

use super::bench::{Bench, Scripted, caption, line};

fn live(describer: Scripted) -> Bench {
    let mut bench = Bench::new(describer);
    bench.clips.set_live(true);
    bench.clips.set_upstream_latency(gst::ClockTime::from_seconds(4));
    bench.element.set_property("latency", 1_000_000_000u64);
    bench.bus.iter().for_each(drop);
    bench
}

fn latency(bench: &Bench, pad: &str) -> (bool, gst::ClockTime, Option<gst::ClockTime>) {
    let mut query = gst::query::Latency::new();
    assert!(bench.element.static_pad(pad).unwrap().query(&mut query));
    query.result()
}

#[test]
fn latency_is_upstreams_and_ours() {
    let mut bench = live(Scripted::says(vec![]));
    for pad in ["src", "text"] {
        let (is_live, min, _) = latency(&bench, pad);
        assert_eq!((is_live, min), (true, gst::ClockTime::from_seconds(5)));
    }
    bench.element.set_property("latency", 3_000_000_000u64);
    assert_eq!(latency(&bench, "src").1, gst::ClockTime::from_seconds(7));
    let messages: Vec<_> = bench.bus.iter().map(|message| message.type_()).collect();
    assert_eq!(messages, [gst::MessageType::Latency]);
    bench.clips.set_live(false);
    let (is_live, min, _) = latency(&bench, "src");
    assert_eq!((is_live, min), (false, gst::ClockTime::from_seconds(4)));
}

#[test]
fn a_late_clip_is_skipped_and_counted() {
    let script = Scripted { last_words: vec![caption(3, 4, "open")], settled_ns: Some(0), ..Scripted::says(vec![]) };
    let mut bench = live(script);
    // Clip 0-4 may begin up to 4 + 1 s, clip 4-8 up to 9 s.
    bench.clips.set_time(gst::ClockTime::from_seconds(5)).unwrap();
    bench.push(0, 4);
    bench.clips.set_time(gst::ClockTime::from_mseconds(9_001)).unwrap();
    bench.push(4, 8);
    bench.push(8, 12);
    assert_eq!(bench.calls(), ["clip 0-4 discont", "flush", "reset", "clip 8-12 discont"]);
    assert_eq!((bench.stat("clips"), bench.stat("described"), bench.stat("skipped")), (3, 2, 1));
    assert_eq!(bench.observations(), [line(3, 4, "open")]);
    let story = [(0, 3, "-"), (3, 4, "open"), (4, 8, "-")];
    assert_eq!(Bench::story(&mut bench.text), story.map(|(start, end, text)| (start, end, text.to_owned())));

    let [message] = &bench.messages()[..] else { panic!("one message expected") };
    let gst::MessageView::Qos(qos) = message.view() else { panic!("{message:?} is no QoS") };
    let (is_live, running_time, stream_time, timestamp, duration) = qos.get();
    let four = Some(gst::ClockTime::from_seconds(4));
    assert_eq!((is_live, running_time, stream_time, timestamp, duration), (true, four, four, four, four));
    assert_eq!(qos.values().0, 1_000_000);
}

#[test]
fn every_clip_is_described_where_that_is_wanted_or_nothing_is_live() {
    let mut bench = live(Scripted::says(vec![]));
    bench.element.set_property("skip-late", false);
    bench.clips.set_time(gst::ClockTime::from_seconds(100)).unwrap();
    bench.push(0, 4);

    let mut offline = Bench::new(Scripted::says(vec![]));
    offline.clips.set_live(false);
    offline.clips.set_time(gst::ClockTime::from_seconds(100)).unwrap();
    offline.push(0, 4);
    assert_eq!((bench.stat("skipped"), offline.stat("skipped")), (0, 0));
}

#[test]
fn quality_of_service_ends_here() {
    let mut bench = Bench::new(Scripted::says(vec![]));
    let late = gst::event::Qos::builder(gst::QOSType::Underflow, 2.0, 100);
    assert!(bench.clips.push_upstream_event(late.build()));
    assert!(bench.clips.push_upstream_event(gst::event::CustomUpstream::new(gst::Structure::new_empty("marker"))));
    let passed: Vec<_> =
        std::iter::from_fn(|| bench.clips.try_pull_upstream_event()).map(|event| event.type_()).collect();
    assert!(passed.contains(&gst::EventType::CustomUpstream) && !passed.contains(&gst::EventType::Qos), "{passed:?}");
}
