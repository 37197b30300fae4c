//! One answer for each chosen frame of a clip, asking the models only about frames that show something new.

use super::pixels::Novelty;
use crate::{Clip, DescribeError, Frame, Span};

/// Frames in one question, which bounds memory.
const BATCH: usize = 8;

/// The answer to the last new frame, along the stream.
pub struct PerFrame<A> {
    novelty: Novelty,
    answer: Option<A>,
}

impl<A> Default for PerFrame<A> {
    fn default() -> Self {
        Self { novelty: Novelty::default(), answer: None }
    }
}

impl<A: Clone> PerFrame<A> {
    /// The answer to each frame of `clip`, with the span to the next frame or to the end of the clip.
    ///
    /// `ask` is given up to 8 frames and returns as many answers.
    pub fn answers(
        &mut self,
        clip: &Clip,
        mut ask: impl FnMut(&[&Frame]) -> Result<Vec<A>, DescribeError>,
    ) -> Result<Vec<(Span, A)>, DescribeError> {
        let is_new: Vec<bool> = clip.frames.iter().map(|frame| self.novelty.is_new(frame)).collect();
        let new: Vec<&Frame> =
            clip.frames.iter().zip(&is_new).filter(|(_, new)| **new).map(|(frame, _)| frame).collect();
        let mut fresh = Vec::with_capacity(new.len());
        for batch in new.chunks(BATCH) {
            fresh.extend(ask(batch).inspect_err(|_| *self = Self::default())?);
        }
        let (mut fresh, mut said) = (fresh.into_iter(), Vec::with_capacity(clip.frames.len()));
        let ends = clip.frames.iter().skip(1).map(|next| next.at_ns).chain([clip.span.end_ns]);
        for ((frame, end_ns), is_new) in clip.frames.iter().zip(ends).zip(is_new) {
            if is_new {
                self.answer = fresh.next();
            }
            if let Some(answer) = &self.answer {
                said.push((Span::new(frame.at_ns, end_ns), answer.clone()));
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thumbnails;

    fn clip(start_ns: u64, values: &[u8]) -> Clip {
        let frame = |(i, value): (usize, &u8)| {
            let (at_ns, rgb) = (start_ns + 10 * i as u64, vec![*value; 12].into());
            Frame { at_ns, width: 2, height: 2, rgb }
        };
        Clip {
            span: Span::new(start_ns, start_ns + 10 * values.len() as u64),
            discont: false,
            frames: values.iter().enumerate().map(frame).collect(),
            thumbnails: Thumbnails::default(),
            sound: None,
        }
    }

    #[test]
    fn a_frame_that_shows_nothing_new_has_the_answer_of_the_one_before() {
        let (mut frames, mut asked) = (PerFrame::default(), Vec::new());
        let mut ask = |new: &[&Frame]| {
            asked.extend(new.iter().map(|frame| frame.rgb[0]));
            Ok(new.iter().map(|frame| frame.rgb[0]).collect())
        };
        let first = frames.answers(&clip(0, &[5, 5, 90]), &mut ask).unwrap();
        assert_eq!(first, [(Span::new(0, 10), 5), (Span::new(10, 20), 5), (Span::new(20, 30), 90)]);
        let second = frames.answers(&clip(30, &[90, 5]), &mut ask).unwrap();
        assert_eq!(second, [(Span::new(30, 40), 90), (Span::new(40, 50), 5)]);
        assert_eq!(asked, [5, 90, 5]);
    }

    #[test]
    fn after_an_error_the_frame_is_asked_about_again() {
        let mut frames = PerFrame::default();
        assert!(frames.answers(&clip(0, &[5]), |_| Err(DescribeError::Cancelled)).is_err());
        assert_eq!(frames.answers(&clip(10, &[5]), |_| Ok(vec![1])).unwrap(), [(Span::new(10, 20), 1)]);
    }
}
