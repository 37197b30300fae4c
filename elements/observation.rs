//! Observations as buffers and messages: a line of JSON, a piece of text, a structure.

use describe_models::Observation;
use gst::glib;

/// Media type of observations: one JSON object and a newline in each buffer.
pub const OBSERVATION_CAPS: &str = "application/x-json,format=(string)observation";

/// Name of the structure in messages.
pub const STRUCTURE_NAME: &str = "observation";

/// How text is written into a buffer of `text/x-raw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextFormat {
    /// Pango markup: `&`, `<`, `>` and quotes are escaped.
    #[default]
    PangoMarkup,
    /// Plain UTF-8.
    Utf8,
}

impl TextFormat {
    /// The format of fixed caps of `text/x-raw`; `None` where they name another.
    pub fn from_caps(caps: &gst::CapsRef) -> Option<Self> {
        match caps.structure(0)?.get::<&str>("format").ok()? {
            "pango-markup" => Some(Self::PangoMarkup),
            "utf8" => Some(Self::Utf8),
            _ => None,
        }
    }

    /// A buffer of `text`; times are the caller's.
    pub fn buffer(self, text: &str) -> gst::Buffer {
        let written = match self {
            Self::PangoMarkup => glib::markup_escape_text(text).to_string(),
            Self::Utf8 => text.to_owned(),
        };
        gst::Buffer::from_slice(written.into_bytes())
    }
}

/// A buffer with the line of JSON; times are the caller's.
pub fn json_buffer(observation: &Observation) -> gst::Buffer {
    gst::Buffer::from_slice((observation.to_json() + "\n").into_bytes())
}

/// The fields of the JSON under the same names: `start_ns` and `end_ns` as uint64 (stream time in nanoseconds),
/// `confidence` as double (0 to 1), `labels` and `box` as arrays, the rest as strings.
pub fn structure(observation: &Observation) -> gst::Structure {
    let labels = observation.labels.iter().map(|label| {
        gst::Structure::builder("label")
            .field("name", &label.name)
            .field("confidence", f64::from(label.confidence))
            .build()
    });
    gst::Structure::builder(STRUCTURE_NAME)
        .field("kind", observation.kind.as_str())
        .field("start_ns", observation.span.start_ns)
        .field("end_ns", observation.span.end_ns)
        .field("text", &observation.text)
        .field("confidence", f64::from(observation.confidence))
        .field("source", &observation.source)
        .field_if("labels", gst::Array::new(labels), !observation.labels.is_empty())
        .field_if_some("language", observation.language.as_deref())
        .field_if_some("box", observation.bounds.map(|bounds| gst::Array::new(bounds.map(f64::from))))
        .field_if_some("embedding", observation.embedding_base64())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use describe_models::{Kind, Label, Span};

    fn barking() -> Observation {
        let mut barking = Observation::new(Kind::Sound, Span::new(1, 2), "a < b & \"c\"", 0.5, "lite/sounds");
        barking.labels.push(Label { name: "dog".into(), confidence: 0.25 });
        barking.bounds = Some([0.0, 0.25, 0.5, 1.0]);
        barking
    }

    fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
        buffer.map_readable().unwrap().to_vec()
    }

    #[test]
    fn markup_is_escaped_and_utf8_is_not() {
        gst::init().unwrap();
        let text = "a < b & \"c\"";
        assert_eq!(bytes(&TextFormat::PangoMarkup.buffer(text)), b"a &lt; b &amp; &quot;c&quot;");
        assert_eq!(bytes(&TextFormat::Utf8.buffer(text)), text.as_bytes());
    }

    #[test]
    fn a_buffer_holds_one_line_of_json() {
        gst::init().unwrap();
        let line = String::from_utf8(bytes(&json_buffer(&barking()))).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(Observation::from_json(line.strip_suffix('\n').unwrap()).unwrap(), barking());
    }

    #[test]
    fn the_structure_has_the_fields_of_the_json() {
        gst::init().unwrap();
        let mut said = barking();
        said.language = Some("en".into());
        said.embedding = Some(vec![0.5, -1.0]);
        let structure = structure(&said);
        let json: serde_json::Value = serde_json::from_str(&said.to_json()).unwrap();
        let mut names: Vec<&str> = structure.fields().map(|name| name.as_str()).collect();
        names.sort_unstable();
        let mut wanted: Vec<&String> = json.as_object().unwrap().keys().collect();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        assert_eq!(structure.get::<u64>("end_ns"), Ok(2));
        assert_eq!(structure.get::<f64>("confidence"), Ok(0.5));
        let labels = structure.get::<gst::Array>("labels").unwrap();
        assert_eq!(labels[0].get::<gst::Structure>().unwrap().get::<&str>("name"), Ok("dog"));
    }
}
