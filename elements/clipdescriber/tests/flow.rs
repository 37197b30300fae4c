//! What goes in and what comes out, in order and in time.

use std::sync::mpsc;

use describe_models::{Kind, Observation, time::SECOND};
use gst::prelude::*;
use gst_check::Harness;

use super::bench::{Bench, CAPS, Scripted, buffer, caption, line, seconds};

#[test]
fn the_sampler_is_told_the_shape_of_clips() {
    let bench = Bench::new(Scripted::says(vec![]));
    let sink = bench.element.static_pad("sink").unwrap();
    let wanted: gst::Caps = "application/x-clip,width=[1,448],height=[1,448],rate=16000".parse().unwrap();
    assert_eq!(sink.query_caps(None), wanted);
    assert!(sink.query_accept_caps(&CAPS.parse().unwrap()));
    // A source without sound says nothing of its rate.
    assert!(sink.query_accept_caps(&"application/x-clip,width=100,height=100".parse().unwrap()));
    assert!(!sink.query_accept_caps(&"application/x-clip,width=100,height=100,rate=48000".parse().unwrap()));
    let filter: gst::Caps = "application/x-clip,width=100".parse().unwrap();
    assert_eq!(
        sink.query_caps(Some(&filter)).to_string(),
        wanted.to_string().replace("[ 1, 448 ]", "100").replacen("height=(int)100", "height=(int)[ 1, 448 ]", 1)
    );
}

#[test]
fn before_ready_any_clip_is_welcome() {
    gst::init().unwrap();
    let element = crate::clipdescriber::with_describer(Box::new(Scripted::says(vec![])));
    let caps = element.static_pad("sink").unwrap().query_caps(None);
    assert_eq!(caps.to_string(), "application/x-clip");
}

#[test]
fn observations_are_lines_of_json_with_time() {
    let sound = Observation::new(Kind::Sound, seconds(1, 3), "a dog barks", 0.5, "test/sounds");
    let mut bench = Bench::new(Scripted::says(vec![caption(2, 4, "A dog."), sound]));
    bench.push(0, 4);
    assert_eq!(
        bench.observations(),
        [
            (
                1,
                3,
                concat!(
                    r#"{"kind":"sound","start_ns":1000000000,"end_ns":3000000000,"text":"a dog barks","#,
                    r#""confidence":0.5,"source":"test/sounds"}"#,
                    "\n"
                )
                .to_owned()
            ),
            line(2, 4, "A dog.")
        ]
    );
    let src = bench.element.static_pad("src").unwrap();
    assert_eq!(src.current_caps().unwrap().to_string(), "application/x-json, format=(string)observation");
    assert_eq!(bench.stat("observations"), 2);
}

#[test]
fn text_is_escaped_as_its_format_wants() {
    let said = || Scripted::says(vec![caption(0, 4, "a < b & \"c\"")]);
    for (caps, format, text) in [
        ("text/x-raw", "pango-markup", "a &lt; b &amp; &quot;c&quot;"),
        ("text/x-raw,format=utf8", "utf8", "a < b & \"c\""),
    ] {
        let mut bench = Bench::with_text_caps(said(), caps);
        bench.push(0, 4);
        assert_eq!(Bench::story(&mut bench.text), [(0, 4, text.to_owned())]);
        let current = bench.element.static_pad("text").unwrap().current_caps().unwrap();
        assert_eq!(current.structure(0).unwrap().get::<&str>("format"), Ok(format));
    }
}

#[test]
fn captions_and_gaps_cover_time() {
    let said = vec![caption(1, 3, "one"), caption(2, 5, "two"), caption(9, 11, "three")];
    let mut bench = Bench::new(Scripted::says(said));
    for start in [0, 4, 8] {
        bench.push(start, start + 4);
    }
    let story = [(0, 1, "-"), (1, 3, "one"), (3, 4, "two"), (4, 8, "-"), (8, 9, "-"), (9, 11, "three"), (11, 12, "-")];
    assert_eq!(Bench::story(&mut bench.text), story.map(|(start, end, text)| (start, end, text.to_owned())));
}

#[test]
fn a_clip_without_observations_is_a_gap_once_it_is_settled() {
    let mut bench = Bench::new(Scripted { settled_ns: Some(3 * SECOND), ..Scripted::says(vec![]) });
    bench.push(0, 4);
    assert_eq!(Bench::story(&mut bench.clips), [(0, 3, "-".to_owned())]);
    bench.push(4, 8);
    assert_eq!(Bench::story(&mut bench.clips), []);
    assert!(bench.clips.push_event(gst::event::Eos::new()));
    assert_eq!(Bench::story(&mut bench.clips), [(3, 8, "-".to_owned())]);
}

#[test]
fn streams_are_sparse_and_have_their_own_names() {
    let bench = Bench::new(Scripted::says(vec![]));
    for (pad, name) in [("src", "observations"), ("text", "text")] {
        let pad = bench.element.static_pad(pad).unwrap();
        let event = pad.sticky_event::<gst::event::StreamStart>(0).unwrap();
        assert!(event.stream_id().ends_with(&format!("/{name}")), "{}", event.stream_id());
        assert!(event.stream_flags().contains(gst::StreamFlags::SPARSE));
    }
}

#[test]
fn the_end_closes_what_is_open_and_comes_last() {
    let script =
        Scripted { last_words: vec![caption(2, 4, "the end")], ..Scripted::says(vec![caption(0, 2, "so far")]) };
    let mut bench = Bench::new(script);
    bench.push(0, 4);
    assert_eq!(bench.observations(), [line(0, 2, "so far")]);
    assert!(bench.clips.push_event(gst::event::Eos::new()));
    assert_eq!(bench.calls(), ["clip 0-4 discont", "flush", "reset"]);
    // A pull after EOS gives what was pushed before it.
    assert_eq!(bench.observations(), [line(2, 4, "the end")]);
    for harness in [&mut bench.clips, &mut bench.text] {
        let last = std::iter::from_fn(|| harness.try_pull_event()).last().unwrap();
        assert_eq!(last.type_(), gst::EventType::Eos);
    }
}

#[test]
fn a_flush_stops_the_description_in_progress_and_keeps_the_model() {
    let ((entered, has_entered), (leave, may_leave)) = (mpsc::channel(), mpsc::channel::<()>());
    let mut bench = Bench::new(Scripted::new(move |clip, cancel, out| {
        if clip.span.start_ns == 0 {
            entered.send(()).unwrap();
            may_leave.recv().unwrap();
            cancel.check()?;
        }
        out.push(caption(6, 7, "after the flush"));
        Ok(())
    }));
    let sink = bench.element.static_pad("sink").unwrap();
    let flow = std::thread::scope(|scope| {
        let chain = scope.spawn(|| sink.chain(buffer(0, 4, 0)));
        has_entered.recv().unwrap();
        assert!(sink.send_event(gst::event::FlushStart::new()));
        leave.send(()).unwrap();
        chain.join().unwrap()
    });
    assert_eq!(flow, Err(gst::FlowError::Flushing));
    assert!(sink.send_event(gst::event::FlushStop::new(true)));
    assert_eq!(bench.calls(), ["clip 0-4 discont", "reset"]);
    assert_eq!((bench.stat("described"), bench.stat("failed")), (0, 0));

    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(bench.clips.push_event(gst::event::Segment::new(&segment)));
    bench.push(4, 8);
    assert_eq!(bench.observations(), [line(6, 7, "after the flush")]);
    assert_eq!(bench.calls(), ["clip 4-8 discont"]);
    assert_eq!(bench.stat("clips"), 2);
}

#[test]
fn going_down_stops_the_description_in_progress() {
    let ((entered, has_entered), (leave, may_leave)) = (mpsc::channel(), mpsc::channel::<()>());
    let bench = Bench::new(Scripted::new(move |_, cancel, _| {
        entered.send(()).unwrap();
        may_leave.recv().unwrap();
        // Spins until the state change gets to us; for ever, if it never does.
        while cancel.check().is_ok() {
            std::thread::yield_now();
        }
        cancel.check()
    }));
    let sink = bench.element.static_pad("sink").unwrap();
    let flow = std::thread::scope(|scope| {
        let chain = scope.spawn(|| sink.chain(buffer(0, 4, 0)));
        has_entered.recv().unwrap();
        leave.send(()).unwrap();
        bench.element.set_state(gst::State::Ready).unwrap();
        chain.join().unwrap()
    });
    assert_eq!(flow, Err(gst::FlowError::Flushing));
    // The same model goes on.
    bench.element.set_state(gst::State::Playing).unwrap();
    assert_eq!(bench.calls(), ["clip 0-4 discont", "reset"]);
}

#[test]
fn a_new_segment_moves_positions_not_stream_time() {
    let mut bench = Bench::new(Scripted::says(vec![caption(11, 13, "here")]));
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::from_seconds(3));
    segment.set_time(gst::ClockTime::from_seconds(10));
    assert!(bench.clips.push_event(gst::event::Segment::new(&segment)));
    assert!(bench.clips.push(buffer(10, 14, 3)).is_ok());
    let (_, _, json) = line(11, 13, "here");
    assert_eq!(bench.observations(), [(4, 6, json)]);
    let story = [(3, 4, "-"), (4, 6, "here"), (6, 7, "-")];
    assert_eq!(Bench::story(&mut bench.text), story.map(|(start, end, text)| (start, end, text.to_owned())));
}

#[test]
fn what_was_open_before_a_jump_is_said_in_the_old_segment() {
    let script = Scripted { last_words: vec![caption(2, 4, "cut short")], ..Scripted::says(vec![]) };
    let mut bench = Bench::new(script);
    bench.push(0, 4);
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_time(gst::ClockTime::from_seconds(60));
    assert!(bench.clips.push_event(gst::event::Segment::new(&segment)));
    assert_eq!(bench.observations(), [line(2, 4, "cut short")]);
    bench.clips.push(buffer(60, 64, 0)).unwrap();
    assert_eq!(bench.calls(), ["clip 0-4 discont", "flush", "reset", "clip 60-64 discont"]);
}

#[test]
fn the_same_segment_again_changes_nothing() {
    let mut bench = Bench::new(Scripted::says(vec![]));
    bench.push(0, 4);
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(bench.clips.push_event(gst::event::Segment::new(&segment)));
    bench.push(4, 8);
    assert_eq!(bench.calls(), ["clip 0-4 discont", "clip 4-8"]);
}

#[test]
fn a_gap_from_the_sampler_goes_on_as_gaps() {
    let script = Scripted { last_words: vec![caption(1, 4, "before")], settled_ns: Some(0), ..Scripted::says(vec![]) };
    let mut bench = Bench::new(script);
    bench.push(0, 4);
    let gap = gst::event::Gap::builder(gst::ClockTime::from_seconds(4)).duration(gst::ClockTime::from_seconds(4));
    assert!(bench.clips.push_event(gap.build()));
    bench.push(8, 12);
    assert_eq!(bench.calls(), ["clip 0-4 discont", "flush", "reset", "clip 8-12 discont"]);
    let story = [(0, 1, "-"), (1, 4, "before"), (4, 8, "-")];
    assert_eq!(Bench::story(&mut bench.text), story.map(|(start, end, text)| (start, end, text.to_owned())));
}

#[test]
fn one_pad_is_enough() {
    for (pad, is_linked) in [(None, false), (Some("src"), true), (Some("text"), true)] {
        gst::init().unwrap();
        let script = Scripted::says(vec![caption(0, 4, "x")]);
        let element = crate::clipdescriber::with_describer(Box::new(script));
        let mut harness = Harness::with_element(&element, Some("sink"), pad);
        harness.set_src_caps_str(CAPS);
        let expected = if is_linked { Ok(gst::FlowSuccess::Ok) } else { Err(gst::FlowError::NotLinked) };
        // A pad is known not to be linked once something was pushed into it.
        assert_eq!(harness.push(buffer(0, 4, 0)), expected, "{pad:?}");
        assert_eq!(harness.buffers_received(), u32::from(is_linked));
    }
}

#[test]
fn only_sure_observations_of_the_wanted_kinds_go_out() {
    let unsure = Observation { confidence: 0.25, ..caption(0, 1, "maybe") };
    let scene = Observation::new(Kind::Scene, seconds(0, 4), "shot", 1.0, "test/shots");
    let mut bench = Bench::new(Scripted::says(vec![unsure, scene, caption(1, 2, "surely")]));
    bench.element.set_state(gst::State::Null).unwrap();
    bench.element.set_property("kinds", "caption");
    bench.element.set_property("min-confidence", 0.5);
    bench.element.set_state(gst::State::Playing).unwrap();
    bench.clips.set_src_caps_str(CAPS);
    bench.push(0, 4);
    assert_eq!(bench.observations(), [line(1, 2, "surely")]);
}

#[test]
fn messages_are_posted_on_request() {
    let mut bench = Bench::new(Scripted::says(vec![caption(0, 1, "quiet"), caption(4, 8, "loud")]));
    bench.push(0, 4);
    assert!(bench.messages().is_empty());
    bench.element.set_property("post-messages", true);
    bench.push(4, 8);
    let [message] = &bench.messages()[..] else { panic!("one message expected") };
    let structure = message.structure().unwrap();
    assert_eq!(
        (structure.name().as_str(), structure.get("text"), structure.get("start_ns")),
        ("observation", Ok("loud"), Ok(4 * SECOND))
    );
}

#[test]
fn nothing_keeps_the_element_alive() {
    let mut bench = Bench::new(Scripted::says(vec![caption(0, 4, "x")]));
    bench.push(0, 4);
    let element = bench.element.downgrade();
    // Messages on the bus know their sender.
    bench.bus.set_flushing(true);
    drop(bench);
    assert!(element.upgrade().is_none());
}
