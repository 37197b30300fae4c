//! One clip's failure is a warning and a counted loss.

use describe_models::{Clip, DescribeError};
use gst::{glib, prelude::*};

use super::bench::{Bench, Scripted, caption, line};

fn broken() -> DescribeError {
    DescribeError::Output { piece: "tags".into(), expected: "1000 numbers".into(), found: "7".into() }
}

#[track_caller]
fn warning(bench: &Bench) -> glib::Error {
    let [message] = &bench.messages()[..] else { panic!("one message expected") };
    let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?} is no warning") };
    warning.error()
}

#[test]
fn one_failed_clip_does_not_end_the_stream() {
    let mut bench = Bench::new(Scripted::new(|clip: &Clip, _, out| {
        let start = clip.span.start_ns / 1_000_000_000;
        out.push(caption(start, start + 1, "said"));
        if start == 4 { Err(broken()) } else { Ok(()) }
    }));
    for start in [0, 4, 8] {
        bench.push(start, start + 4);
    }
    let error = warning(&bench);
    assert!(error.matches(gst::StreamError::Failed));
    assert!(error.message().contains("0:00:04") && error.message().contains("tags"), "{}", error.message());
    // What could be said of the failed clip is not lost.
    assert_eq!(bench.observations(), [line(0, 1, "said"), line(4, 5, "said"), line(8, 9, "said")]);
    assert_eq!(bench.calls(), ["clip 0-4 discont", "clip 4-8", "clip 8-12 discont"]);
    assert_eq!((bench.stat("clips"), bench.stat("described"), bench.stat("failed")), (3, 2, 1));
}

#[test]
fn a_buffer_that_is_no_clip_is_left_out() {
    let mut bench = Bench::new(Scripted::says(vec![caption(0, 4, "still here")]));
    assert!(bench.clips.push(gst::Buffer::from_slice(*b"RIFF....WAVE")).is_ok());
    let error = warning(&bench);
    assert!(error.matches(gst::StreamError::Decode) && error.message().contains("clipsampler"), "{}", error.message());
    bench.push(0, 4);
    assert_eq!(bench.observations(), [line(0, 4, "still here")]);
    assert_eq!((bench.stat("clips"), bench.stat("failed")), (2, 1));
}

#[test]
fn a_panic_of_the_describer_is_an_error_of_the_element() {
    let mut bench = Bench::new(Scripted::new(|_, _, _| panic!("on purpose")));
    assert_eq!(bench.clips.push(super::bench::buffer(0, 4, 0)), Err(gst::FlowError::Error));
    let [message] = &bench.messages()[..] else { panic!("one message expected") };
    assert_eq!(message.type_(), gst::MessageType::Error);
}

/// The error of an element that cannot go to READY with these properties.
#[track_caller]
fn refusal(properties: &[(&str, &str)]) -> glib::Error {
    gst::init().unwrap();
    let element: crate::clipdescriber::ClipDescriber = glib::Object::new();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    for (name, value) in properties {
        element.set_property_from_str(name, value);
    }
    assert!(element.set_state(gst::State::Ready).is_err());
    let error = bus.iter().find_map(|message| match message.view() {
        gst::MessageView::Error(error) => Some(error.error()),
        _ => None,
    });
    element.set_state(gst::State::Null).unwrap();
    error.expect("an error message")
}

#[test]
fn a_missing_pack_is_an_error_with_the_remedy() {
    let error = refusal(&[("model-path", "nowhere/at/all")]);
    assert!(error.matches(gst::ResourceError::NotFound));
    for words in ["nowhere/at/all", "describe models fetch", "model-path"] {
        assert!(error.message().contains(words), "{}", error.message());
    }
}

#[test]
fn a_word_that_is_no_kind_is_an_error_with_the_right_words() {
    let error = refusal(&[("kinds", "caption,smell")]);
    assert!(error.matches(gst::LibraryError::Settings));
    assert!(error.message().contains("'smell'") && error.message().contains("speech"), "{}", error.message());
}

#[test]
fn loading_tells_its_progress() {
    let bench = Bench::new(Scripted::says(vec![]));
    let steps: Vec<_> = bench
        .bus
        .iter()
        .filter_map(|message| match message.view() {
            gst::MessageView::Progress(progress) => Some((progress.get().0, progress.get().1.to_owned())),
            _ => None,
        })
        .collect();
    let load = |kind| (kind, "load".to_owned());
    assert_eq!(steps, [load(gst::ProgressType::Start), load(gst::ProgressType::Complete)]);
}
