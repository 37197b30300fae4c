//! What the element does with a clip: describe it, or pass over it, and send what there is to say.

use std::time::Instant;

use describe_models::{Cancel, Clip, DescribeError, Describer, Observation, Span};
use gst::{prelude::*, subclass::prelude::*};

use super::{
    imp::{CAT, ClipDescriber},
    output::{Item, deadline_ns, place, tidy},
};
use crate::{bridge, clip, observation};

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

impl ClipDescriber {
    /// Calls the describer without a lock: a run takes seconds, and a seek must not wait for it.
    ///
    /// `None` where there is no describer.
    pub(super) fn with_describer<R>(&self, work: impl FnOnce(&mut dyn Describer, &Cancel) -> R) -> Option<R> {
        let (mut describer, cancel) = {
            let mut model = self.model();
            (model.describer.take()?, model.cancel.clone())
        };
        let result = bridge::with_bridge(|| work(&mut *describer, &cancel));
        self.model().describer = Some(describer);
        Some(result)
    }

    /// The chain function.
    pub(super) fn describe(&self, buffer: gst::Buffer) -> Flow {
        self.stream().stats.clips += 1;
        let mut clip = match clip::from_buffer(&buffer) {
            Ok(clip) => clip,
            Err(error) => {
                gst::element_imp_warning!(
                    self,
                    gst::StreamError::Decode,
                    ("A buffer was left out: {}; link clipsampler to the sink pad", error)
                );
                return self.lose();
            }
        };
        if let Some(late_ns) = self.lateness(clip.span) {
            return self.skip(clip.span, late_ns);
        }
        {
            let mut stream = self.stream();
            clip.discont |= std::mem::take(&mut stream.discont) | buffer.flags().contains(gst::BufferFlags::DISCONT);
            stream.open = true;
        }
        let (mut said, started) = (Vec::new(), Instant::now());
        let done = self.with_describer(|describer, cancel| {
            let result = describer.describe(&clip, cancel, &mut said);
            (result, describer.settled_ns())
        });
        // No describer: the state changes down.
        let (result, settled_ns) = done.ok_or(gst::FlowError::Flushing)?;
        self.count(&clip, started, &result);
        match result {
            Ok(()) => (),
            Err(DescribeError::Cancelled) => return Err(gst::FlowError::Flushing),
            Err(error) => {
                gst::element_imp_warning!(
                    self,
                    gst::StreamError::Failed,
                    (
                        "The clip from {} was not described: {}",
                        gst::ClockTime::from_nseconds(clip.span.start_ns),
                        error
                    )
                );
                self.lose()?;
            }
        }
        self.send(said, settled_ns)
    }

    fn count(&self, clip: &Clip, started: Instant, result: &Result<(), DescribeError>) {
        let spent = started.elapsed();
        gst::debug!(CAT, imp = self, "{:?} took {spent:?}: {result:?}", clip.span);
        let mut stream = self.stream();
        stream.seen_ns = clip.span.end_ns;
        stream.stats.processing += spent;
        stream.stats.described += u64::from(result.is_ok());
    }

    /// Counts a clip that is lost; the next one does not continue it.
    fn lose(&self) -> Flow {
        let mut stream = self.stream();
        stream.stats.failed += 1;
        stream.discont = true;
        Ok(gst::FlowSuccess::Ok)
    }

    /// By how many nanoseconds a live clip comes too late to be described.
    fn lateness(&self, span: Span) -> Option<u64> {
        let (skip_late, latency) = {
            let settings = self.settings();
            (settings.skip_late, settings.latency)
        };
        if !skip_late {
            return None;
        }
        let upstream = self.upstream();
        let now = self.obj().current_running_time().filter(|_| upstream.live)?;
        let running = {
            let segment = &self.stream().segment;
            let (start, duration) = place(segment, span);
            Span::new(segment.to_running_time(start)?.nseconds(), segment.to_running_time(start + duration)?.nseconds())
        };
        let late = now.nseconds().checked_sub(deadline_ns(running, upstream.latency_ns, latency))?;
        (late > 0).then_some(late)
    }

    fn skip(&self, span: Span, late_ns: u64) -> Flow {
        let (segment, stats) = {
            let mut stream = self.stream();
            stream.stats.skipped += 1;
            (stream.segment.clone(), stream.stats)
        };
        let (start, duration) = place(&segment, span);
        let buffers = gst::format::Buffers::from_u64;
        let message = gst::message::Qos::builder(true)
            .running_time(segment.to_running_time(start))
            .stream_time(gst::ClockTime::from_nseconds(span.start_ns))
            .timestamp(start)
            .duration(duration)
            .values(i64::try_from(late_ns).unwrap_or(i64::MAX), 1.0, 1_000_000)
            .stats(buffers(stats.described), buffers(stats.skipped))
            .src(&*self.obj())
            .build();
        let _ = self.obj().post_message(message);
        self.pass_over(span.end_ns)
    }

    /// Nothing is known of the time until `end_ns`: says what was open before, then that there is nothing more.
    pub(super) fn pass_over(&self, end_ns: u64) -> Flow {
        self.close()?;
        let mut stream = self.stream();
        stream.discont = true;
        stream.seen_ns = stream.seen_ns.max(end_ns);
        drop(stream);
        self.send(Vec::new(), end_ns)
    }

    /// Says what is still open at the end of the last clip; the describer starts anew after it.
    pub(super) fn close(&self) -> Flow {
        let seen_ns = {
            let mut stream = self.stream();
            if !std::mem::take(&mut stream.open) {
                return Ok(gst::FlowSuccess::Ok);
            }
            stream.seen_ns
        };
        let mut said = Vec::new();
        let result = self.with_describer(|describer, cancel| {
            let result = describer.flush(cancel, &mut said);
            describer.reset();
            result
        });
        match result.ok_or(gst::FlowError::Flushing)? {
            Ok(()) => (),
            Err(DescribeError::Cancelled) => return Err(gst::FlowError::Flushing),
            Err(error) => gst::element_imp_warning!(
                self,
                gst::StreamError::Failed,
                ("The end of the stream was not described: {}", error)
            ),
        }
        self.send(said, seen_ns)
    }

    /// Sends what was `said`, and that nothing more starts before `settled_ns`.
    fn send(&self, said: Vec<Observation>, settled_ns: u64) -> Flow {
        if self.text.check_reconfigure() {
            self.negotiate_text();
        }
        let (min_confidence, post_messages) = {
            let settings = self.settings();
            (settings.min_confidence as f32, settings.post_messages)
        };
        let kinds = self.model().kinds.clone();
        let (said, texts, gap) = {
            let mut stream = self.stream();
            let settled_ns = settled_ns.min(stream.seen_ns);
            let start_ns = stream.segment.time().unwrap_or_default().nseconds();
            let said = tidy(said, &kinds, min_confidence, Span::new(start_ns, stream.seen_ns));
            stream.stats.observations += said.len() as u64;
            let gap = stream.observations.gap(settled_ns).filter(|_| said.is_empty());
            let texts = stream.text.captions(&said, settled_ns);
            (said, texts, gap)
        };
        for one in &said {
            if post_messages {
                let message = gst::message::Element::builder(observation::structure(one)).src(&*self.obj()).build();
                let _ = self.obj().post_message(message);
            }
            self.push(&self.src, observation::json_buffer(one), one.span)?;
        }
        if let Some(gap) = gap {
            self.push_gap(&self.src, gap);
        }
        for item in texts {
            match item {
                Item::Gap(span) => self.push_gap(&self.text, span),
                Item::Text(span, text) => {
                    let format = self.stream().text_format;
                    self.push(&self.text, format.buffer(&text), span)?;
                }
            }
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn push(&self, pad: &gst::Pad, mut buffer: gst::Buffer, span: Span) -> Flow {
        let (pts, duration) = place(&self.stream().segment, span);
        let times = buffer.get_mut().expect("a new buffer has one owner");
        times.set_pts(pts);
        times.set_duration(duration);
        let flow = pad.push(buffer);
        self.stream().flows.update_pad_flow(pad, flow)
    }

    fn push_gap(&self, pad: &gst::Pad, span: Span) {
        let (pts, duration) = place(&self.stream().segment, span);
        pad.push_event(gst::event::Gap::builder(pts).duration(duration).build());
    }
}
