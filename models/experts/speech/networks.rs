//! The default pack's Whisper: two networks that were converted for it, with windows of any length.

use std::{collections::BTreeMap, path::PathBuf};

use ndarray::{Array2, Array5, Axis};
use ort::value::{DynValue, Tensor, TensorRef};

use super::{
    PIECE,
    rules::Decode,
    whisper::{Transcriber, failed, unexpected},
};
use crate::{
    Cancel, DescribeError, LoadError,
    experts::{
        files,
        mel::{HOP, WHISPER_BANDS, WhisperMel},
        tape::RATE,
    },
    runtime::{Model, RunSettings},
};

/// Frames of the encoder's longest window: 30 s.
const FRAMES: usize = 3_000;
/// Silence that must follow the sound in a shorter window, in samples: 3 s. With less, Whisper goes round in circles.
const TAIL: u64 = 3 * RATE as u64;
/// Layers, heads and width of a head of Whisper base.
const CACHE: [usize; 3] = [6, 8, 64];
/// Samples from one timestamp to the next: 0.02 s.
const TICK: u64 = 320;
/// Most tokens that the decoder has places for (`n_text_ctx`).
const ROOM: usize = 448;
/// Longest sound that fits, in samples.
const LONGEST: u64 = (FRAMES * HOP) as u64;

/// The files `encoder` and `decoder` of the pack.
pub struct Packed {
    encoder: Model,
    decoder: Model,
    mel: WhisperMel,
    size: usize,
}

impl Packed {
    /// Loads both; the timestamps start with the token `zero`.
    pub fn load(files: &BTreeMap<String, PathBuf>, zero: u32, run: &RunSettings) -> Result<Self, LoadError> {
        let [layers, heads, width] = CACHE.map(|size| size as i64);
        let cache: &[i64] = &[layers, -1, heads, -1, width];
        let size = zero as usize + FRAMES / 2 + 1;
        let encoder = Model::load(PIECE, files::role(PIECE, files, "encoder")?, run)?
            .expect(&[("mel", &[-1, WHISPER_BANDS as i64, -1])], &[("cross_k", cache), ("cross_v", cache)])?;
        let decoder = Model::load(PIECE, files::role(PIECE, files, "decoder")?, run)?.expect(
            &[("tokens", &[-1, -1]), ("past_k", cache), ("past_v", cache), ("cross_k", cache), ("cross_v", cache)],
            &[("logits", &[-1, size as i64]), ("k", cache), ("v", cache)],
        )?;
        Ok(Self { encoder, decoder, mel: WhisperMel::default(), size })
    }
}

impl Transcriber for Packed {
    fn listen<'a>(
        &'a mut self,
        samples: &[f32],
        shortest: u64,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Decode + 'a>, DescribeError> {
        let frames = window_frames(samples.len() as u64, shortest);
        let mel = self.mel.spectrum(samples, frames).insert_axis(Axis(0));
        let view = TensorRef::from_array_view(mel.view()).map_err(failed)?;
        let mut outputs = self.encoder.run(ort::inputs!["mel" => view], cancel)?;
        let (Some(cross_k), Some(cross_v)) = (outputs.remove("cross_k"), outputs.remove("cross_v")) else {
            return Err(unexpected("cross_k and cross_v", "less"));
        };
        Ok(Box::new(Decoder { model: &self.decoder, cross_k, cross_v, past: None, size: self.size, cancel }))
    }

    fn longest(&self) -> u64 {
        LONGEST
    }

    fn tick(&self) -> u64 {
        TICK
    }

    fn room(&self) -> usize {
        ROOM
    }
}

/// Even number of frames of the encoder's window for a sound of so many samples, where the window has `shortest` at least.
fn window_frames(samples: u64, shortest: u64) -> usize {
    let frames = (samples + TAIL).max(shortest).min(LONGEST).div_ceil(2 * HOP as u64) * 2;
    (frames as usize).min(FRAMES)
}

/// The decoder with what it keeps from token to token; ONNX Runtime's values go back in without being copied.
struct Decoder<'a> {
    model: &'a Model,
    cross_k: DynValue,
    cross_v: DynValue,
    past: Option<[DynValue; 2]>,
    size: usize,
    cancel: &'a Cancel,
}

impl Decode for Decoder<'_> {
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError> {
        let tokens = Array2::from_shape_fn((1, tokens.len()), |(_, i)| i64::from(tokens[i]));
        let [past_k, past_v] = match self.past.take() {
            Some(past) => past,
            None => [empty()?, empty()?],
        };
        let inputs = ort::inputs![
            "tokens" => TensorRef::from_array_view(tokens.view()).map_err(failed)?,
            "past_k" => past_k,
            "past_v" => past_v,
            "cross_k" => &self.cross_k,
            "cross_v" => &self.cross_v,
        ];
        let mut outputs = self.model.run(inputs, self.cancel)?;
        let (Some(k), Some(v)) = (outputs.remove("k"), outputs.remove("v")) else {
            return Err(unexpected("k and v", "less"));
        };
        self.past = Some([k, v]);
        let (_, scores) =
            outputs.value("logits").and_then(|scores| scores.try_extract_tensor::<f32>()).map_err(failed)?;
        if scores.len() != self.size {
            return Err(unexpected(&format!("{} scores", self.size), &scores.len().to_string()));
        }
        Ok(scores.to_vec())
    }

    fn rewind(&mut self, _length: usize) -> Result<usize, DescribeError> {
        self.past = None;
        Ok(0)
    }
}

/// No past: a cache of no tokens.
fn empty() -> Result<DynValue, DescribeError> {
    let [layers, heads, width] = CACHE;
    Tensor::from_array(Array5::<f32>::zeros((layers, 1, heads, 0, width))).map(|value| value.into_dyn()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_even_and_hold_the_sound_and_its_tail() {
        assert_eq!(window_frames(16_000, 160_000), 1_000);
        assert_eq!(window_frames(160_001, 160_000), 1_302);
        assert_eq!(window_frames(LONGEST, 160_000), 3_000);
        assert_eq!(window_frames(0, u64::MAX), 3_000);
    }
}
