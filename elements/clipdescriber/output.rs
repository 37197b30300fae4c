//! Where answers go in time: what is said, in what order, at which position of the segment. Pure.

use std::collections::BTreeSet;

use describe_models::{Kind, Observation, Span};

/// A segment in time format.
pub type Segment = gst::FormattedSegment<gst::ClockTime>;

/// The observations that may go out, in canonical order: of the `kinds`, sure enough, with words, inside `hull`.
pub fn tidy(said: Vec<Observation>, kinds: &BTreeSet<Kind>, min_confidence: f32, hull: Span) -> Vec<Observation> {
    let mut tidy: Vec<_> = said
        .into_iter()
        .filter(|one| kinds.contains(&one.kind) && one.confidence >= min_confidence && !one.text.trim().is_empty())
        .map(|one| Observation { span: one.span.intersect(hull), ..one })
        .filter(|one| !one.span.is_empty())
        .collect();
    tidy.sort_by(Observation::canonical_cmp);
    tidy
}

/// One thing on a sparse pad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Nothing in this span.
    Gap(Span),
    /// These words in this span.
    Text(Span, String),
}

/// How far a sparse pad has told its story, in nanoseconds of stream time; never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress(u64);

impl Progress {
    /// Nothing is told before `start_ns`.
    pub fn new(start_ns: u64) -> Self {
        Self(start_ns)
    }

    /// The captions in `said` (in order of time) one after the other, with gaps between them and up to `settled_ns`:
    /// a reader of subtitles shows one text at a time. What was told already is cut off.
    pub fn captions(&mut self, said: &[Observation], settled_ns: u64) -> Vec<Item> {
        let mut items = Vec::new();
        for caption in said.iter().filter(|one| one.kind == Kind::Caption) {
            let span = Span::new(caption.span.start_ns.max(self.0), caption.span.end_ns);
            if !span.is_empty() {
                items.extend(self.gap(span.start_ns).map(Item::Gap));
                items.push(Item::Text(span, caption.text.clone()));
                self.0 = span.end_ns;
            }
        }
        items.extend(self.gap(settled_ns).map(Item::Gap));
        items
    }

    /// What lies between here and `settled_ns`, after which the story has got there.
    pub fn gap(&mut self, settled_ns: u64) -> Option<Span> {
        let gap = Span::new(self.0, settled_ns);
        self.0 = gap.end_ns;
        (!gap.is_empty()).then_some(gap)
    }
}

/// Start and duration of the stream time `span` in positions of `segment`; what lies outside comes to its border.
pub fn place(segment: &Segment, span: Span) -> (gst::ClockTime, gst::ClockTime) {
    let first = segment.start().unwrap_or_default();
    let last = segment.stop().unwrap_or(gst::ClockTime::MAX);
    let position = |ns| match segment.position_from_stream_time_full(gst::ClockTime::from_nseconds(ns)) {
        Some(gst::Signed::Positive(position)) => position.clamp(first, last.max(first)),
        _ => first,
    };
    let (start, end) = (position(span.start_ns), position(span.end_ns));
    // Backwards in a segment of negative rate.
    (start.min(end), start.max(end) - start.min(end))
}

/// Whether `new` goes on where the clips before it, up to `seen_ns` of stream time, ended.
pub fn continues(old: &Segment, new: &Segment, seen_ns: u64) -> bool {
    let same_speed = old.rate() == new.rate() && old.applied_rate() == new.applied_rate();
    let same_times = old.start() == new.start() && old.time() == new.time() && old.base() == new.base();
    same_speed && (same_times || new.time().map(gst::ClockTime::nseconds) == Some(seen_ns))
}

/// Running time at which it is too late to begin with a clip, in nanoseconds.
///
/// A clip is complete at the end of its `running` span or, where upstream is slower, `upstream_ns` after its start;
/// from then on the describer has the `latency_ns` it declared.
pub fn deadline_ns(running: Span, upstream_ns: u64, latency_ns: u64) -> u64 {
    running.end_ns.max(running.start_ns.saturating_add(upstream_ns)).saturating_add(latency_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst::ClockTime;
    use proptest::prelude::*;

    fn segment(start: u64, stop: Option<u64>, time: u64) -> Segment {
        gst::init().unwrap();
        let mut segment = Segment::new();
        segment.set_start(ClockTime::from_seconds(start));
        segment.set_stop(stop.map(ClockTime::from_seconds));
        segment.set_time(ClockTime::from_seconds(time));
        segment
    }

    fn seconds(start: u64, end: u64) -> Span {
        Span::new(start * 1_000_000_000, end * 1_000_000_000)
    }

    fn caption(start: u64, end: u64, text: &str) -> Observation {
        Observation::new(Kind::Caption, Span::new(start, end), text, 1.0, "test/caption")
    }

    #[test]
    fn stream_time_becomes_position() {
        let shifted = segment(3, Some(8), 10);
        let placed = |start, end| {
            let (pts, duration) = place(&shifted, seconds(start, end));
            (pts.seconds(), duration.seconds())
        };
        assert_eq!(placed(11, 13), (4, 2));
        assert_eq!(placed(0, 11), (3, 1), "before the segment");
        assert_eq!(placed(14, 99), (7, 1), "behind the segment");
    }

    #[test]
    fn a_segment_continues_if_it_says_the_same_or_goes_on_where_the_clips_ended() {
        let first = segment(0, None, 0);
        assert!(continues(&first, &segment(0, Some(9), 0), 4_000_000_000));
        assert!(continues(&first, &segment(7, None, 4), 4_000_000_000));
        assert!(!continues(&first, &segment(7, None, 5), 4_000_000_000));
        let mut looped = segment(0, None, 0);
        looped.set_base(ClockTime::from_seconds(4));
        assert!(!continues(&first, &looped, 4_000_000_000));
    }

    #[test]
    fn the_deadline_counts_from_when_the_clip_can_be_there() {
        assert_eq!(deadline_ns(Span::new(10, 14), 0, 2), 16);
        assert_eq!(deadline_ns(Span::new(10, 14), 5, 2), 17);
        assert_eq!(deadline_ns(Span::new(10, u64::MAX), 5, 2), u64::MAX);
    }

    #[test]
    fn overlapping_captions_come_one_after_the_other() {
        let mut progress = Progress::new(10);
        let said = [caption(0, 5, "past"), caption(12, 15, "a"), caption(14, 18, "b"), caption(15, 16, "inside")];
        let text = |start, end, text: &str| Item::Text(Span::new(start, end), text.into());
        assert_eq!(
            progress.captions(&said, 20),
            [Item::Gap(Span::new(10, 12)), text(12, 15, "a"), text(15, 18, "b"), Item::Gap(Span::new(18, 20))]
        );
    }

    proptest! {
        #[test]
        fn text_and_gaps_cover_time_without_overlap(
            start in 0u64..50,
            batches in proptest::collection::vec((proptest::collection::vec((0u64..100, 0u64..100), 0..4), 0u64..100), 0..6),
        ) {
            let (mut progress, mut at) = (Progress::new(start), start);
            for (spans, settled) in batches {
                let kinds = BTreeSet::from(Kind::ALL);
                let said = spans.into_iter().map(|(start, end)| caption(start, end, "x")).collect();
                for item in progress.captions(&tidy(said, &kinds, 0.0, Span::new(0, 90)), settled) {
                    let (Item::Gap(span) | Item::Text(span, _)) = item;
                    prop_assert_eq!(span.start_ns, at);
                    prop_assert!(!span.is_empty());
                    at = span.end_ns;
                }
                prop_assert!(at >= settled.min(start) && progress == Progress(at));
            }
        }

        #[test]
        fn what_goes_out_is_ordered_and_inside(spans in proptest::collection::vec((0u64..100, 0u64..100, 0usize..6, 0.0f32..1.0), 0..8)) {
            let said = spans.into_iter()
                .map(|(start, end, kind, sure)| Observation::new(Kind::ALL[kind], Span::new(start, end), "x", sure, "y"))
                .collect();
            let hull = Span::new(20, 80);
            let tidy = tidy(said, &BTreeSet::from([Kind::Caption, Kind::Scene]), 0.5, hull);
            prop_assert!(tidy.is_sorted_by_key(|one| (one.span.start_ns, one.kind)));
            for one in tidy {
                prop_assert!(matches!(one.kind, Kind::Caption | Kind::Scene) && one.confidence >= 0.5);
                prop_assert!(!one.span.is_empty() && one.span.intersect(hull) == one.span);
            }
        }
    }
}
