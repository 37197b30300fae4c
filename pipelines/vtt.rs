//! WebVTT (W3C Candidate Recommendation, 4 April 2019): captions and sounds as subtitles, scenes as chapters.

use std::fmt::Write as _;

use describe_models::{Kind, Observation, Span, timeline};

/// Second block of each file: tells our files from other people's subtitles of the same name.
pub const MARK: &str = "NOTE made by describe";

/// Subtitles: captions as they are, sounds in brackets, in order of time.
pub fn subtitles(observations: &[Observation], media: &str) -> String {
    let cues = observations.iter().filter_map(|said| match said.kind {
        Kind::Caption => Some((said.span, said.text.clone())),
        Kind::Sound => Some((said.span, format!("[{}]", said.text.trim_end_matches('.')))),
        _ => None,
    });
    file(cues.collect(), media)
}

/// Chapters: a cue each shot, titled by the caption that covers most of it; without shots a cue each event, titled by it.
pub fn chapters(observations: &[Observation], media: &str) -> String {
    let has_shots = observations.iter().any(timeline::is_shot);
    let scenes = observations.iter().filter(|said| said.kind == Kind::Scene && timeline::is_shot(said) == has_shots);
    let cues = scenes.enumerate().map(|(index, scene)| {
        let overlap = |caption: &&Observation| caption.span.intersect(scene.span).duration_ns();
        let captions = observations.iter().filter(|said| said.kind == Kind::Caption && said.span.overlaps(scene.span));
        // The first of several that cover as much.
        let title = captions.rev().max_by_key(overlap).map(|caption| caption.text.clone());
        if !has_shots {
            return (scene.span, scene.text.clone());
        }
        (scene.span, title.unwrap_or_else(|| format!("Scene {}", index + 1)))
    });
    file(cues.collect(), media)
}

fn file(mut cues: Vec<(Span, String)>, media: &str) -> String {
    cues.sort();
    let mut text = format!("WEBVTT\n\n{MARK} from {}\n", escape(media));
    for (span, words) in cues {
        let start_ms = milliseconds(span.start_ns);
        // A cue must end after it starts (section 4.1).
        let end_ms = milliseconds(span.end_ns).max(start_ms + 1);
        let _ = write!(text, "\n{} --> {}\n{}\n", timestamp(start_ms), timestamp(end_ms), escape(&words));
    }
    text
}

fn milliseconds(ns: u64) -> u64 {
    ns / 1_000_000 + u64::from(ns % 1_000_000 >= 500_000)
}

fn timestamp(ms: u64) -> String {
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// Cue text on one line: no markup, no `-->`, no blank line that would end the cue.
fn escape(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            match c {
                '&' => line.push_str("&amp;"),
                '<' => line.push_str("&lt;"),
                '>' => line.push_str("&gt;"),
                c if c.is_control() => {}
                c => line.push(c),
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, start_ms: u64, end_ms: u64, text: &str) -> Observation {
        Observation::new(kind, Span::new(start_ms * 1_000_000, end_ms * 1_000_000), text, 1.0, "x")
    }

    #[test]
    fn captions_and_sounds_are_cues_in_order() {
        let observations = [
            said(Kind::Caption, 0, 4000, "A German shepherd; a dog barks."),
            said(Kind::Sound, 3_500, 3_723_004, "a dog barks."),
            said(Kind::Speech, 0, 100, "left out"),
            said(Kind::Sound, 200, 200, "a <click> & --> more\n\nlines"),
        ];
        assert_eq!(
            subtitles(&observations, "a --> b.mp4"),
            "WEBVTT\n\nNOTE made by describe from a --&gt; b.mp4\n\n\
             00:00:00.000 --> 00:00:04.000\nA German shepherd; a dog barks.\n\n\
             00:00:00.200 --> 00:00:00.201\n[a &lt;click&gt; &amp; --&gt; more lines]\n\n\
             00:00:03.500 --> 01:02:03.004\n[a dog barks]\n"
        );
    }

    #[test]
    fn chapters_have_the_caption_that_covers_most() {
        let observations = [
            said(Kind::Scene, 0, 1000, "shot 1"),
            said(Kind::Caption, 0, 400, "A cow."),
            said(Kind::Caption, 400, 1000, "A goose."),
            said(Kind::Scene, 1000, 2000, "shot 2"),
        ];
        let text = chapters(&observations, "x");
        let cues: Vec<_> = text.lines().skip(4).collect();
        assert_eq!(cues, ["00:00:00.000 --> 00:00:01.000", "A goose.", "", "00:00:01.000 --> 00:00:02.000", "Scene 2"]);
        assert_eq!(chapters(&[], "x"), "WEBVTT\n\nNOTE made by describe from x\n");
    }

    #[test]
    fn times_are_rounded_to_the_nearest_millisecond() {
        assert_eq!([0, 499_999, 500_000, 1_499_999].map(milliseconds), [0, 0, 1, 1]);
        assert_eq!(timestamp(100 * 3_600_000), "100:00:00.000");
    }
}
