//! The element `clipdescriber` as applications meet it: by the name of its factory, from the plugin.

use gst::{glib, prelude::*};

fn describer() -> gst::Element {
    gst::init().unwrap();
    gstdescribe::plugin_register_static().unwrap();
    gst::ElementFactory::make("clipdescriber").build().unwrap()
}

#[test]
fn the_plugin_says_what_it_is() {
    describer();
    let plugin = gst::Registry::get().find_plugin("describe").unwrap();
    assert_eq!(plugin.license(), "MIT/X11");
    assert!(plugin.version().starts_with(env!("CARGO_PKG_VERSION")), "{}", plugin.version());
}

#[test]
fn the_pads_have_the_documented_caps() {
    let element = describer();
    let caps = |pad: &str| element.static_pad(pad).unwrap().pad_template_caps().to_string();
    assert_eq!(caps("sink"), "application/x-clip");
    assert_eq!(caps("src"), "application/x-json, format=(string)observation");
    assert_eq!(caps("text"), "text/x-raw, format=(string){ pango-markup, utf8 }");
}

#[test]
fn properties_have_their_defaults_and_say_when_they_may_change() {
    let element = describer();
    let text = |name: &str| {
        let value = element.property_value(name).serialize().map(|text| text.to_string());
        value.unwrap_or_else(|_| "NULL".into()).trim_matches('"').replace('\\', "")
    };
    let [ready, playing] = [1u32 << 10, 1 << 12];
    for (name, default, mutable) in [
        ("model-path", "NULL", ready),
        ("runtime-path", "NULL", ready),
        ("kinds", "caption,scene,sound,speech", ready),
        ("min-confidence", "0", playing),
        ("threads", "2", ready),
        ("execution-provider", "auto", ready),
        ("language", "NULL", ready),
        ("post-messages", "false", playing),
        ("latency", "2000000000", playing),
        ("skip-late", "true", playing),
    ] {
        assert_eq!(text(name), default, "{name}");
        let spec = element.find_property(name).unwrap();
        assert_eq!(spec.flags().bits() & (0b111 << 10), mutable, "{name}");
        assert!(spec.blurb().is_some_and(|blurb| blurb.len() > 10), "{name}");
    }
    assert_eq!(element.property::<Option<gst::Structure>>("pieces"), None);
    let stats = element.property::<gst::Structure>("stats");
    let names: Vec<&str> = stats.fields().map(|name| name.as_str()).collect();
    assert_eq!(
        names,
        ["clips", "described", "skipped", "failed", "observations", "processing-ns", "load-ns", "missing-pieces"]
    );
}

#[test]
fn properties_can_be_set_on_a_command_line() {
    describer();
    let line = "clipdescriber name=d kinds=caption,scene execution-provider=tensorrt \
                pieces=files,tags.model=(string)/a/tags.onnx";
    let pipeline = gst::parse::launch(line).unwrap();
    assert_eq!(pipeline.property::<String>("kinds"), "caption,scene");
    let pieces = pipeline.property::<gst::Structure>("pieces");
    assert_eq!(pieces.get::<&str>("tags.model"), Ok("/a/tags.onnx"));
}

/// The error of an element that cannot be started with these properties.
#[track_caller]
fn refusal(properties: &[(&str, &str)]) -> glib::Error {
    let element = describer();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    for (name, value) in properties {
        element.set_property_from_str(name, value);
    }
    assert!(element.set_state(gst::State::Paused).is_err());
    let error = bus.iter().find_map(|message| match message.view() {
        gst::MessageView::Error(error) => Some(error.error()),
        _ => None,
    });
    element.set_state(gst::State::Null).unwrap();
    error.unwrap()
}

#[test]
fn a_missing_pack_is_an_error_with_the_remedy() {
    let error = refusal(&[("model-path", "nowhere/at/all")]);
    assert!(error.matches(gst::ResourceError::NotFound));
    for words in ["nowhere/at/all", "run 'describe models fetch'", "model-path"] {
        assert!(error.message().contains(words), "{}", error.message());
    }
}

#[test]
fn a_missing_runtime_is_an_error_with_the_remedy() {
    let pack = tempfile::tempdir().unwrap();
    let manifest = r#"{"name": "x", "version": "1", "clip": {"max_size": 448, "rate": 16000}, "pieces": {}}"#;
    std::fs::write(pack.path().join("describe.json"), manifest).unwrap();
    let pack = pack.path().to_str().unwrap();
    let error = refusal(&[("model-path", pack), ("runtime-path", "nowhere/libonnxruntime.so")]);
    assert!(error.matches(gst::LibraryError::Init), "{}", error.message());
    for words in ["nowhere/libonnxruntime.so", "run 'describe models fetch'", "runtime-path"] {
        assert!(error.message().contains(words), "{}", error.message());
    }
}
