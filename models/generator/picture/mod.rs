//! Frames to pixels, as the processor files of a published model ask for them.
//!
//! A [`PixelRule`] is one `image_processor` or `video_processor` object. [`PixelRule::layout`] is its arithmetic alone,
//! [`PixelRule::batch`] gives the arrays that the vision encoder takes. Nothing here needs ONNX Runtime.

mod arrange;
mod lanczos;
mod read;
mod resample;
mod sizes;
#[cfg(test)]
mod tests;

use ndarray::{Array2, Array3, Array4, ArrayD};
use serde_json::Value;

use self::{
    resample::{Filter, Rgb},
    sizes::{Grid, Patches, Size, Tiles, area, shortest_edge},
};

/// Longest side of a frame.
const LONGEST: u32 = 16_384;
/// Most pixels of one scaled picture: 4096x4096, 200 MB of f32.
const MOST_PIXELS: u64 = 1 << 24;
/// Aspect of the widest usual frames; what is wider may lose detail.
const USUAL_ASPECT: f64 = 2.0;

/// Why a frame could not become pixels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// The bytes are not `width * height * 3`.
    #[error(
        "a frame of {width}x{height} RGB does not fit its {bytes} bytes: the stream is broken or lies about its size"
    )]
    Bytes {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes that came.
        bytes: usize,
    },
    /// The size does not go with the rule.
    #[error("the model takes no frame of {width}x{height}: {reason}")]
    Shape {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The frames could not be scaled.
    #[error("a frame could not be scaled to {width}x{height}: {reason}")]
    Resize {
        /// Width in pixels that was asked for.
        width: u32,
        /// Height in pixels that was asked for.
        height: u32,
        /// What the scaler said.
        reason: String,
    },
    /// A batch without frames.
    #[error("there is no frame to make pixels of: give one or more")]
    Empty,
}

/// How one frame is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Width in pixels after scaling (and cropping).
    pub width: u32,
    /// Height in pixels after scaling (and cropping).
    pub height: u32,
    /// Rows of tiles, or of patches before pooling; 0 where the picture is given whole.
    pub rows: u32,
    /// Columns of tiles, or of patches before pooling; 0 where the picture is given whole.
    pub cols: u32,
    /// Pictures that the encoder sees for this frame: tiles and the whole one, else 1.
    pub pictures: usize,
    /// Soft tokens of the frame, where the size of the picture decides; else the encoder or its config knows.
    pub soft_tokens: Option<usize>,
}

/// What the vision encoder takes for N frames of one size.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// Values; `[N, P, side * side * 3]` of patches, `[N, 3, H, W]` of squares and crops, `[1, N * pictures, 3, t, t]`
    /// of tiles, `[N * rows * cols, 3 * depth * side * side]` of grids.
    pub values: ArrayD<f32>,
    /// Column and row of each patch, -1 where there is none, `[N, P, 2]`; only of patches.
    pub positions: Option<Array3<i64>>,
    /// Whether a pixel is part of the picture, `[1, N * pictures, t, t]`, all true; only of tiles.
    pub mask: Option<Array4<bool>>,
    /// Frames, rows and columns of patches of each frame, `[N, 3]`; only of grids.
    pub grid: Option<Array2<i64>>,
    /// How each of the frames is laid out.
    pub layout: Layout,
}

/// How a picture is scaled before it is cropped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaled {
    ShortestEdge(u32),
    To(Size),
}

/// What becomes of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Patches(Patches),
    Square { width: u32, height: u32 },
    Tiles(Tiles),
    Crop { scaled: Scaled, crop: Size },
    Grid(Grid),
}

/// The preprocessing of one published image or video processor.
#[derive(Debug, Clone)]
pub struct PixelRule {
    way: Way,
    resize: bool,
    filter: Filter,
    /// Value of each byte, per colour.
    shades: Box<[[f32; 256]; 3]>,
}

impl PixelRule {
    /// Reads an `image_processor` or `video_processor` object of processor_config.json, or a preprocessor_config.json.
    ///
    /// The error is one sentence that names the field, what it is and what it may be.
    pub fn read(processor: &Value) -> Result<Self, String> {
        read::rule(processor, false)
    }

    /// The rule for frames of videos: of a `video_processor` object, or of the object for images where there is no other.
    ///
    /// Frames are never split into tiles; of Gemma 4 each takes 70 soft tokens where only the budget of images is given.
    pub fn read_video(processor: &Value) -> Result<Self, String> {
        read::rule(processor, true)
    }

    /// The same rule with or without splitting into tiles; other rules stay as they are.
    pub fn with_split(mut self, split: bool) -> Self {
        if let Way::Tiles(tiles) = &mut self.way {
            tiles.split = split;
        }
        self
    }

    /// Whether all frames take the same place whatever their size: no tiles and no budget.
    pub fn is_fixed(&self) -> bool {
        self.resize && matches!(self.way, Way::Square { .. } | Way::Crop { .. })
    }

    /// Longest side in pixels that frames should have so that nothing is lost, up to frames twice as wide as high.
    pub fn frame_size_wish(&self) -> u32 {
        let of_area = |pixels: f64| (pixels * USUAL_ASPECT).sqrt().ceil() as u32;
        let of_short = |side: u32| (f64::from(side) * USUAL_ASPECT).ceil() as u32;
        match self.way {
            Way::Patches(patches) => of_area(patches.most() as f64 * f64::from(patches.side).powi(2)),
            Way::Square { width, height } => of_short(width.max(height)),
            Way::Tiles(Tiles { tile, longest, split: false }) => of_short(tile).min(longest.unwrap_or(u32::MAX)),
            Way::Tiles(Tiles { tile, longest, .. }) => longest.unwrap_or(of_short(tile)).max(tile),
            Way::Crop { scaled: Scaled::ShortestEdge(side), .. } => of_short(side),
            Way::Crop { scaled: Scaled::To((width, height)), .. } => of_short(width.max(height)),
            Way::Grid(grid) => of_area(grid.pixels.1 as f64),
        }
    }

    /// How a frame of this size is laid out, without touching pixels.
    pub fn layout(&self, width: u32, height: u32) -> Result<Layout, PictureError> {
        let refuse = |reason| PictureError::Shape { width, height, reason };
        if width == 0 || height == 0 || width.max(height) > LONGEST {
            return Err(refuse("each side must be 1 to 16384 pixels"));
        }
        let size = (width, height);
        let plain = |(width, height): Size| Layout { width, height, rows: 0, cols: 0, pictures: 1, soft_tokens: None };
        Ok(match self.way {
            Way::Square { width, height } => plain(if self.resize { (width, height) } else { size }),
            Way::Crop { scaled, crop } => {
                let (width, height) = self.before_crop(scaled, size);
                if area((width, height)) > MOST_PIXELS {
                    return Err(refuse("it is too long and thin to be cropped in the middle"));
                }
                plain(crop)
            }
            Way::Patches(patches) => {
                let target = match self.resize {
                    true => patches.target(size),
                    false => Some(size).filter(|&size| patches.takes(size)),
                };
                let target = target.ok_or_else(|| refuse("its sides are no whole patches within the budget"))?;
                let (cols, rows) = (target.0 / patches.side, target.1 / patches.side);
                Layout { rows, cols, soft_tokens: Some(patches.tokens(target)), ..plain(target) }
            }
            Way::Tiles(tiles) => {
                let steps = tiles.steps(size);
                if area(steps.second) > MOST_PIXELS {
                    return Err(refuse("it would make too many tiles"));
                }
                let (rows, cols) = steps.grid;
                let pictures = rows as usize * cols as usize + 1;
                Layout { rows, cols, pictures, ..plain(steps.second) }
            }
            Way::Grid(grid) => {
                let target = if self.resize { grid.target(size) } else { Some(size) };
                let whole = |&(width, height): &Size| {
                    width.min(height) > 0
                        && width.is_multiple_of(grid.step())
                        && height.is_multiple_of(grid.step())
                        && u64::from(width) * u64::from(height) <= grid.pixels.1
                };
                let target =
                    target.filter(whole).ok_or_else(|| refuse("it is too long and thin, or no whole patches"))?;
                let (cols, rows) = (target.0 / grid.side, target.1 / grid.side);
                let soft_tokens = Some((rows * cols / grid.merge.pow(2)) as usize);
                Layout { rows, cols, soft_tokens, ..plain(target) }
            }
        })
    }

    /// The arrays of one frame; `rgb` is `width * height * 3` bytes, rows from top to bottom.
    pub fn pixels(&self, width: u32, height: u32, rgb: &[u8]) -> Result<Pixels, PictureError> {
        self.batch(width, height, &[rgb])
    }

    /// The arrays of several frames of one size, in one batch.
    pub fn batch(&self, width: u32, height: u32, frames: &[&[u8]]) -> Result<Pixels, PictureError> {
        let layout = self.layout(width, height)?;
        if frames.is_empty() {
            return Err(PictureError::Empty);
        }
        let bytes = width as usize * height as usize * 3;
        if let Some(frame) = frames.iter().find(|frame| frame.len() != bytes) {
            return Err(PictureError::Bytes { width, height, bytes: frame.len() });
        }
        let frames = frames.iter().map(|rgb| Rgb::new(width, height, rgb));
        self.arrange(layout, frames)
    }

    fn before_crop(&self, scaled: Scaled, size: Size) -> Size {
        match scaled {
            _ if !self.resize => size,
            Scaled::ShortestEdge(side) => shortest_edge(side, size),
            Scaled::To(size) => size,
        }
    }
}
