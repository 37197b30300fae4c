//! What a model gave, checked.

use crate::{DescribeError, runtime::Outputs};
use ndarray::ArrayViewD;

/// Output `name` of a run of `piece`: f32 of exactly `shape`.
pub fn tensor<'o>(
    piece: &str,
    outputs: &'o Outputs,
    name: &str,
    shape: &[usize],
) -> Result<ArrayViewD<'o, f32>, DescribeError> {
    let dims: Vec<Option<usize>> = shape.iter().copied().map(Some).collect();
    tensor_like(piece, outputs, name, &dims)
}

/// Output `name` of a run of `piece`: f32 of `shape`, where `None` stands for any size.
pub fn tensor_like<'o>(
    piece: &str,
    outputs: &'o Outputs,
    name: &str,
    shape: &[Option<usize>],
) -> Result<ArrayViewD<'o, f32>, DescribeError> {
    let wrong = |found: String| DescribeError::Output {
        piece: piece.to_owned(),
        expected: format!("'{name}' of shape {shape:?}"),
        found,
    };
    let value = outputs.get(name).ok_or_else(|| wrong("no such output".to_owned()))?;
    let array = value.try_extract_array::<f32>().map_err(|error| wrong(error.to_string()))?;
    let fits = array.ndim() == shape.len()
        && array.shape().iter().zip(shape).all(|(has, want)| want.is_none_or(|w| w == *has));
    if fits { Ok(array) } else { Err(wrong(format!("shape {:?}", array.shape()))) }
}
