//! Frames against labels: CLIP and SigLIP.

use super::{Family, Pair, model::Asked, say};
use crate::{
    Cancel, Clip, DescribeError, Frame, Kind, LoadError, Observation,
    experts::{Expert, frames::PerFrame},
    generator::{
        folder::{Dtypes, Folder},
        picture::PixelRule,
    },
    runtime::RunSettings,
};

/// Says which labels each frame shows.
pub struct Pictures {
    pair: Pair,
    rule: PixelRule,
    frames: PerFrame<Vec<f32>>,
    settled_ns: u64,
}

impl Pictures {
    /// Loads a folder of the family.
    pub fn load(
        folder: &Folder,
        family: Family,
        asked: Asked,
        dtype: Option<&Dtypes>,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let file = if folder.processor.get("image_processor").is_some() {
            "processor_config.json"
        } else {
            "preprocessor_config.json"
        };
        let wrong = |reason: String| LoadError::Format { path: folder.path.join(file), reason };
        let part = folder
            .processor_part("image_processor")
            .ok_or_else(|| wrong("it is missing, so nobody can tell how the model sees".into()))?;
        let rule = PixelRule::read(part).map_err(wrong)?;
        // Any frame has the shape that all have.
        let side = rule.frame_size_wish().max(1);
        let layout = rule.layout(side, side).map_err(|error| wrong(error.to_string()))?;
        if !rule.is_fixed() {
            return Err(wrong("its pictures have no fixed size, which this sort of model needs".into()));
        }
        let shape = [1, 3, layout.height as usize, layout.width as usize];
        let pair = Pair::load(folder, family, asked, &shape, dtype, run)?;
        Ok(Self { pair, rule, frames: PerFrame::default(), settled_ns: 0 })
    }

    /// Longest side of frames that it has a use for, in pixels.
    pub fn max_size(&self) -> u32 {
        self.rule.frame_size_wish()
    }

    /// The pair of encoders.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The embeddings of frames, which have one size or are embedded one by one.
    pub fn embed(&self, frames: &[&Frame], cancel: &Cancel) -> Result<Vec<Vec<f32>>, DescribeError> {
        let mut found = Vec::with_capacity(frames.len());
        for frame in frames {
            let pixels = self.rule.pixels(frame.width, frame.height, &frame.rgb);
            let pixels = pixels.map_err(|error| DescribeError::Output {
                piece: "objects".into(),
                expected: "a picture that the model takes".into(),
                found: error.to_string(),
            })?;
            found.extend(self.pair.embed(pixels.values, cancel)?);
        }
        Ok(found)
    }
}

impl Expert for Pictures {
    fn name(&self) -> &'static str {
        "objects"
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.settled_ns = self.settled_ns.max(clip.span.end_ns);
        let mut frames = std::mem::take(&mut self.frames);
        let said = frames.answers(clip, |new| self.embed(new, cancel));
        self.frames = frames;
        for (span, embedding) in said? {
            say(&self.pair, Kind::Object, span, &embedding, out);
        }
        Ok(())
    }

    fn flush(&mut self, _cancel: &Cancel, _out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.frames = PerFrame::default();
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        self.settled_ns
    }
}
