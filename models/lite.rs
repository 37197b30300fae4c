//! The default pack: experts that each say what they know, and captions put together from it.

use std::{collections::BTreeSet, panic, thread};

use crate::{
    Cancel, Clip, ClipShape, DescribeError, Describer, Kind, Observation, Span, caption::Composer, experts::Expert,
    time::SECOND,
};

/// Captions wait at most this long for an expert that is not done, in nanoseconds; it bounds what is kept as evidence.
///
/// The experts are done within about 30 s (the longest open sound and window of speech).
const PATIENCE_NS: u64 = 600 * SECOND;

/// Describes clips with single-purpose experts.
///
/// Scenes, sounds, speech and text are what the experts say; captions and objects are composed from all of it, a
/// segment of a shot at a time.
pub struct Lite {
    shape: ClipShape,
    kinds: BTreeSet<Kind>,
    /// Experts for the picture.
    eyes: Vec<Seat>,
    /// Experts for the sound.
    ears: Vec<Seat>,
    /// Only where captions or objects are wanted.
    composer: Option<Composer>,
    /// From the start of the first clip to the end of the last one, since the last jump.
    seen: Option<Span>,
    /// End of the stream that was flushed last.
    flushed_ns: u64,
    together: bool,
}

/// An expert, and whether it failed on the last clip.
struct Seat {
    expert: Box<dyn Expert>,
    failed: bool,
}

/// What a group of experts said, and the first error among them.
#[derive(Default)]
struct Answers {
    said: Vec<Observation>,
    error: Option<DescribeError>,
}

impl Answers {
    fn is_cancelled(&self) -> bool {
        matches!(self.error, Some(DescribeError::Cancelled))
    }

    fn and(mut self, other: Self) -> Self {
        let error = if other.is_cancelled() { other.error } else { self.error.or(other.error) };
        self.said.extend(other.said);
        Self { said: self.said, error }
    }
}

impl Lite {
    /// A describer of `experts` that says only `kinds`; `composer` makes the captions and objects.
    ///
    /// Without a composer there are no captions, and objects are what the experts say of each frame.
    pub fn new(
        shape: ClipShape,
        kinds: BTreeSet<Kind>,
        experts: Vec<Box<dyn Expert>>,
        composer: Option<Composer>,
    ) -> Self {
        let seats = experts.into_iter().map(|expert| Seat { expert, failed: false });
        let (ears, eyes) = seats.partition(|seat| matches!(seat.expert.name(), "sounds" | "voice" | "speech"));
        Self { shape, kinds, eyes, ears, composer, seen: None, flushed_ns: 0, together: false }
    }

    /// Lets the experts for the picture and those for the sound work at the same time, each group on its own thread.
    pub fn together(mut self, together: bool) -> Self {
        self.together = together;
        self
    }

    /// Has every expert do `step`; the answers come in the order of the experts, whichever was first.
    fn ask<F>(&mut self, step: F) -> Answers
    where
        F: Fn(&mut dyn Expert, &mut Vec<Observation>) -> Result<(), DescribeError> + Sync,
    {
        let (eyes, ears) = (&mut self.eyes, &mut self.ears);
        if !self.together || eyes.is_empty() || ears.is_empty() {
            let seen = each(eyes, &step);
            return if seen.is_cancelled() { seen } else { seen.and(each(ears, &step)) };
        }
        thread::scope(|scope| {
            // Logs of the other thread go where those of this one go.
            let log = tracing::dispatcher::get_default(Clone::clone);
            let step = &step;
            let ears = scope.spawn(move || tracing::dispatcher::with_default(&log, || each(ears, step)));
            let seen = each(eyes, step);
            seen.and(ears.join().unwrap_or_else(|cause| panic::resume_unwind(cause)))
        })
    }

    /// Passes on what is wanted of `said`, and the captions that follow from it.
    fn say(&mut self, said: Vec<Observation>, clip: Option<&Clip>, out: &mut Vec<Observation>) {
        let Some(seen) = self.seen else { return };
        let known_ns = self.known_ns(seen);
        let said: Vec<Observation> = said.into_iter().filter_map(|observation| within(observation, seen)).collect();
        let composes = self.composer.is_some();
        let is_final = |o: &&Observation| !(composes && matches!(o.kind, Kind::Caption | Kind::Object));
        let mut answers: Vec<Observation> = said.iter().filter(is_final).cloned().collect();
        if let Some(composer) = &mut self.composer {
            match clip {
                Some(clip) => {
                    composer.take(clip, said);
                    answers.extend(composer.compose(known_ns, None));
                }
                None => {
                    composer.hear(said);
                    answers.extend(composer.compose(u64::MAX, Some(seen.end_ns)));
                }
            }
        }
        answers.retain(|observation| self.kinds.contains(&observation.kind));
        answers.sort_by(Observation::canonical_cmp);
        out.extend(answers);
    }

    /// The time up to which all experts have said everything.
    ///
    /// An expert that failed on the last clip is not waited for, nor one that is very late.
    fn known_ns(&self, seen: Span) -> u64 {
        let seats = self.eyes.iter().chain(&self.ears).filter(|seat| !seat.failed);
        let slowest = seats.map(|seat| seat.expert.settled_ns()).min().unwrap_or(seen.end_ns);
        slowest.max(seen.end_ns.saturating_sub(PATIENCE_NS)).clamp(seen.start_ns, seen.end_ns)
    }
}

/// Has every expert do `step`; one that fails keeps no other from working, a cancelled one is the last.
fn each<F>(seats: &mut [Seat], step: &F) -> Answers
where
    F: Fn(&mut dyn Expert, &mut Vec<Observation>) -> Result<(), DescribeError>,
{
    let mut answers = Answers::default();
    for seat in seats {
        let result = step(&mut *seat.expert, &mut answers.said);
        seat.failed = false;
        match result {
            Ok(()) => {}
            Err(DescribeError::Cancelled) => {
                answers.error = Some(DescribeError::Cancelled);
                break;
            }
            Err(error) => {
                tracing::warn!("{error}");
                seat.failed = true;
                answers.error.get_or_insert(error);
            }
        }
    }
    answers
}

/// `observation` cut to `seen`; `None` where it says nothing or lies outside.
fn within(mut observation: Observation, seen: Span) -> Option<Observation> {
    observation.span = observation.span.intersect(seen);
    if !observation.confidence.is_finite() {
        observation.confidence = 0.0;
    }
    (!observation.span.is_empty() && !observation.text.trim().is_empty()).then_some(observation)
}

impl Describer for Lite {
    fn shape(&self) -> ClipShape {
        self.shape
    }

    fn describe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        cancel.check()?;
        let jumped = self.seen.is_some_and(|seen| clip.discont || clip.span.start_ns > seen.end_ns);
        let ended = if jumped { self.flush(cancel, out) } else { Ok(()) };
        if matches!(ended, Err(DescribeError::Cancelled)) {
            return ended;
        }
        let new = self.seen.map_or_else(|| clip.clone(), |seen| clip.after(seen.end_ns));
        if new.span.is_empty() {
            return ended;
        }
        let start_ns = self.seen.map_or(new.span.start_ns, |seen| seen.start_ns);
        self.seen = Some(Span::new(start_ns, new.span.end_ns));
        let answers = self.ask(|expert, out| expert.observe(&new, cancel, out));
        self.say(answers.said, Some(&new), out);
        ended.and(answers.error.map_or(Ok(()), Err))
    }

    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let Some(seen) = self.seen else { return Ok(()) };
        let answers = self.ask(|expert, out| expert.flush(cancel, out));
        self.say(answers.said, None, out);
        self.reset();
        self.flushed_ns = seen.end_ns;
        answers.error.map_or(Ok(()), Err)
    }

    fn reset(&mut self) {
        for seat in self.eyes.iter_mut().chain(&mut self.ears) {
            seat.expert.reset();
            seat.failed = false;
        }
        if let Some(composer) = &mut self.composer {
            composer.reset();
        }
        self.seen = None;
        self.flushed_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        let Some(seen) = self.seen else { return self.flushed_ns };
        let next_ns = self.composer.as_ref().and_then(Composer::next_ns);
        self.known_ns(seen).min(next_ns.unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests;
