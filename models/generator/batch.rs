//! Several prompts in one run of the decoder: for the first scores of many short prompts, such as clips of several streams.

use half::f16;
use ndarray::Array2;
use ort::value::{DynValue, Tensor, TensorElementType};

use super::{decoder::Decoder, prompt::Prompt};
use crate::{Cancel, DescribeError};

/// Position of what is padding; any would do, as nothing looks at it (Transformers.js `decoder_forward`).
const NOWHERE: i64 = 1;

impl Decoder {
    /// Whether prompts of these lengths can be read in one run: of any lengths where the model takes a mask and positions;
    /// GroupQueryAttention cannot look past padding on the left, so there only of one length.
    pub fn can_batch(&self, lengths: &[usize]) -> bool {
        let equal = lengths.windows(2).all(|pair| pair[0] == pair[1]);
        equal || (self.takes("attention_mask") && self.takes("position_ids") && !self.uses("GroupQueryAttention"))
    }

    /// The scores after the last token of each prompt, read in one run from nothing; the cache is left alone.
    ///
    /// Shorter prompts are padded on the left.
    pub fn read_together(&self, prompts: &[Prompt], cancel: &Cancel) -> Result<Vec<Vec<f32>>, DescribeError> {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.ids.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 || lengths.contains(&0) || !self.can_batch(&lengths) {
            return Err(
                self.failed(ort::Error::new(format!("prompts of {lengths:?} tokens cannot be read in one run")))
            );
        }
        let run = || -> ort::Result<Vec<(String, DynValue)>> {
            let count = prompts.len();
            let mut inputs = self.empty_caches(count)?;
            let real = |row: usize, at: usize| at >= longest - lengths[row];
            if self.takes("attention_mask") {
                let mask = Array2::from_shape_fn((count, longest), |(row, at)| i64::from(real(row, at)));
                inputs.push(("attention_mask".into(), Tensor::from_array(mask)?.into_dyn()));
            }
            if self.takes("position_ids") {
                let position = |(row, at): (usize, usize)| match real(row, at) {
                    true => self.first_position() + (at - (longest - lengths[row])) as i64,
                    false => NOWHERE,
                };
                let positions = Array2::from_shape_fn((count, longest), position);
                inputs.push(("position_ids".into(), Tensor::from_array(positions)?.into_dyn()));
            }
            inputs.extend(self.constants(1, false)?);
            Ok(inputs)
        };
        let mut inputs = run().map_err(|error| self.failed(error))?;
        let rows: Vec<Vec<(String, DynValue)>> =
            prompts.iter().map(|prompt| self.read_in(prompt, cancel)).collect::<Result<_, _>>()?;
        inputs.extend(padded(&rows, longest).map_err(|error| self.failed(error))?);
        let outputs = self.run_on(inputs, cancel)?;
        let value = outputs.value("logits").map_err(|error| self.failed(error))?;
        let sizes: Vec<usize> = value.shape().iter().map(|size| *size as usize).collect();
        let &[_, kept, width] = sizes.as_slice() else {
            return Err(self.failed(ort::Error::new(format!("logits have the shape {sizes:?}"))));
        };
        let values: Vec<f32> = match value.try_extract_tensor::<f32>() {
            Ok((_, values)) => values.to_vec(),
            Err(_) => {
                let values = value.try_extract_tensor::<f16>().map_err(|error| self.failed(error))?;
                values.1.iter().map(|value| value.to_f32()).collect()
            }
        };
        // Padding is on the left, so the last row of each is that of its last token.
        Ok(values.chunks_exact((kept * width).max(1)).map(|rows| rows[(kept - 1) * width..].to_vec()).collect())
    }
}

/// Inputs of single prompts, `[1, length, …]` each, as `[prompts, longest, …]` with zeros on the left.
fn padded(rows: &[Vec<(String, DynValue)>], longest: usize) -> ort::Result<Vec<(String, DynValue)>> {
    let names =
        rows.first().map(|row| row.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()).unwrap_or_default();
    let pad = |index: usize, name: &str| -> ort::Result<DynValue> {
        let mut shape: Vec<usize> = rows[0][index].1.shape().iter().map(|size| *size as usize).collect();
        let inner: usize = shape[2..].iter().product();
        (shape[0], shape[1]) = (rows.len(), longest);
        macro_rules! join {
            ($kind:ty, $zero:expr) => {{
                let mut values = vec![$zero; rows.len() * longest * inner];
                for (row, whole) in rows.iter().zip(values.chunks_exact_mut((longest * inner).max(1))) {
                    let (_, from) = row[index].1.try_extract_tensor::<$kind>()?;
                    whole[longest * inner - from.len()..].copy_from_slice(from);
                }
                Ok(Tensor::from_array((shape, values))?.into_dyn())
            }};
        }
        match rows[0][index].1.dtype().tensor_type() {
            Some(TensorElementType::Float16) => join!(f16, f16::ZERO),
            Some(TensorElementType::Float32) => join!(f32, 0f32),
            Some(TensorElementType::Int64) => join!(i64, 0i64),
            other => Err(ort::Error::new(format!("'{name}' holds {other:?}"))),
        }
    };
    names.into_iter().enumerate().map(|(index, name)| pad(index, &name).map(|value| (name, value))).collect()
}
