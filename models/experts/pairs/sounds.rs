//! Stretches of sound against labels: CLAP.

use super::{Family, Pair, model::Asked, say};
use crate::{
    Cancel, Clip, DescribeError, Kind, LoadError, Observation, Span,
    experts::{
        Expert,
        tape::{Next, Tape},
    },
    generator::{
        folder::{Dtypes, Folder},
        sound::SoundRule,
    },
    runtime::RunSettings,
    time::time_of_sample,
};

/// Longest window, in seconds: what is heard in less has its time told better, and CLAP repeats short sounds.
const WINDOW_S: usize = 4;
/// A rest of the sound is listened to from one part in so many of a window.
const WORTH: u64 = 8;
/// Below this peak a window is silent and nothing is said of it: -60 dB.
const SILENCE: f32 = 1e-3;

/// Says which labels each window of the sound is like.
pub struct Sounds {
    pair: Pair,
    rule: SoundRule,
    /// Samples of a window; windows start at multiples of it on the grid of all samples.
    window: u64,
    tape: Tape,
    /// First sample that was not listened to yet.
    next: u64,
    settled_ns: u64,
}

impl Sounds {
    /// Loads a folder of the family.
    pub fn load(
        folder: &Folder,
        family: Family,
        asked: Asked,
        dtype: Option<&Dtypes>,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let file = if folder.processor.get("feature_extractor").is_some() {
            "processor_config.json"
        } else {
            "preprocessor_config.json"
        };
        let wrong = |reason: String| LoadError::Format { path: folder.path.join(file), reason };
        let part = folder
            .processor_part("feature_extractor")
            .ok_or_else(|| wrong("it is missing, so nobody can tell how the model hears".into()))?;
        let rule = SoundRule::read(part, &folder.processor, &folder.config).map_err(wrong)?;
        let shape = rule.features(&[]).values.shape().to_vec();
        let pair = Pair::load(folder, family, asked, &shape, dtype, run)?;
        let window = rule.longest().min(WINDOW_S * rule.rate() as usize).max(1) as u64;
        Ok(Self { pair, rule, window, tape: Tape::default(), next: 0, settled_ns: 0 })
    }

    /// Samples a second that it listens to.
    pub fn rate(&self) -> u32 {
        self.rule.rate()
    }

    /// The pair of encoders.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The embedding of a sound.
    pub fn embed(&self, samples: &[f32], cancel: &Cancel) -> Result<Vec<f32>, DescribeError> {
        let found = self.pair.embed(self.rule.features(samples).values, cancel)?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// Listens to the windows that are complete, at the end of the sound to the rest too.
    fn listen(&mut self, last: bool, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let rate = self.rule.rate();
        while self.tape.is_running() && self.next < self.tape.end() {
            let full = (self.next / self.window + 1) * self.window;
            let end = full.min(self.tape.end());
            if end < full && !last {
                break;
            }
            let from = std::mem::replace(&mut self.next, end);
            let mut samples = vec![0.0; (end - from) as usize];
            self.tape.read(from, &mut samples);
            self.tape.drop_before(end);
            let loud = samples.iter().any(|sample| sample.abs() > SILENCE);
            if loud && end - from >= self.window / WORTH {
                let embedding = self.embed(&samples, cancel)?;
                let span = Span::new(time_of_sample(from, rate), time_of_sample(end, rate));
                say(&self.pair, Kind::Sound, span, &embedding, out);
            }
        }
        Ok(())
    }

    fn end(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let result = self.listen(true, cancel, out);
        if self.tape.is_running() {
            self.settled_ns = self.settled_ns.max(time_of_sample(self.tape.end(), self.rule.rate()));
        }
        self.tape.clear();
        result
    }
}

impl Expert for Sounds {
    fn name(&self) -> &'static str {
        "sounds"
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let sound = clip.sound.as_ref().filter(|sound| sound.rate == self.rule.rate());
        let Some(sound) = sound else {
            if let Some(sound) = &clip.sound {
                tracing::warn!(
                    "sound at {} Hz is not listened to; clips must bring it at {} Hz",
                    sound.rate,
                    self.rate()
                );
            }
            let result = self.end(cancel, out);
            self.settled_ns = self.settled_ns.max(clip.span.end_ns);
            return result;
        };
        let ended = match self.tape.next(sound) {
            Next::Joined => Ok(()),
            Next::Apart => self.end(cancel, out),
        };
        if !self.tape.is_running() {
            self.next = sound.first;
        }
        self.tape.push(sound);
        ended.and(self.listen(false, cancel, out))
    }

    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.end(cancel, out)
    }

    fn reset(&mut self) {
        self.tape.clear();
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        match self.tape.is_running() {
            true => self.settled_ns.max(time_of_sample(self.next, self.rule.rate())),
            false => self.settled_ns,
        }
    }
}
