//! Scaled pictures to the arrays of the encoders.

use ndarray::{Array2, Array3, Array4, ArrayD, IxDyn};

use super::{
    Layout, PictureError, PixelRule, Pixels, Way,
    resample::Rgb,
    sizes::{Grid, Patches, Size, Tiles},
};

/// One colour after the other: `rgb` bytes to `out`, as values of `shades`.
type Shades = [[f32; 256]; 3];

impl PixelRule {
    /// The arrays of `frames`, all of which have the size that `layout` was made for.
    pub(super) fn arrange<'a>(
        &self,
        layout: Layout,
        frames: impl ExactSizeIterator<Item = Rgb<'a>>,
    ) -> Result<Pixels, PictureError> {
        let count = frames.len();
        let target = (layout.width, layout.height);
        match self.way {
            Way::Patches(patches) => self.patches(patches, layout, frames),
            Way::Grid(grid) => self.grid(grid, layout, frames),
            Way::Tiles(tiles) => self.tiles(tiles, layout, frames),
            Way::Square { .. } => {
                let mut values = Vec::with_capacity(count * values_of(target));
                for frame in frames {
                    planes(&frame.resized(target, self.filter)?, (0, 0), target, &self.shades, &mut values);
                }
                Ok(plain(values, count, layout))
            }
            Way::Crop { scaled, .. } => {
                let mut values = Vec::with_capacity(count * values_of(target));
                for frame in frames {
                    let size = self.before_crop(scaled, (frame.width, frame.height));
                    middle(&frame.resized(size, self.filter)?, target, &self.shades, &mut values);
                }
                Ok(plain(values, count, layout))
            }
        }
    }

    fn patches<'a>(
        &self,
        rule: Patches,
        layout: Layout,
        frames: impl ExactSizeIterator<Item = Rgb<'a>>,
    ) -> Result<Pixels, PictureError> {
        let (count, most, side) = (frames.len(), rule.most(), rule.side);
        let patch = side as usize * side as usize * 3;
        let mut values = Vec::with_capacity(count * most * patch);
        let mut positions = Vec::with_capacity(count * most * 2);
        for (index, frame) in frames.enumerate() {
            let frame = frame.resized((layout.width, layout.height), self.filter)?;
            for row in 0..layout.rows {
                for col in 0..layout.cols {
                    positions.extend([i64::from(col), i64::from(row)]);
                    for y in row * side..(row + 1) * side {
                        interleaved(frame.row(y, col * side, side), &self.shades, &mut values);
                    }
                }
            }
            values.resize((index + 1) * most * patch, 0.0);
            positions.resize((index + 1) * most * 2, -1);
        }
        let positions = Array3::from_shape_vec((count, most, 2), positions).expect("each patch has two numbers");
        let shape = [count, most, patch];
        Ok(Pixels { positions: Some(positions), ..pixels(values, &shape, layout) })
    }

    fn tiles<'a>(
        &self,
        rule: Tiles,
        layout: Layout,
        frames: impl ExactSizeIterator<Item = Rgb<'a>>,
    ) -> Result<Pixels, PictureError> {
        let whole: Size = (rule.tile, rule.tile);
        let pictures = frames.len() * layout.pictures;
        let mut values = Vec::with_capacity(pictures * values_of(whole));
        for frame in frames {
            let steps = rule.steps((frame.width, frame.height));
            // The reference scales twice and rounds to bytes between; so do we.
            let first = frame.resized(steps.first, self.filter)?;
            let second = first.resized(steps.second, self.filter)?;
            for row in 0..layout.rows {
                for col in 0..layout.cols {
                    planes(&second, (col * rule.tile, row * rule.tile), whole, &self.shades, &mut values);
                }
            }
            planes(&second.resized(whole, self.filter)?, (0, 0), whole, &self.shades, &mut values);
        }
        let tile = rule.tile as usize;
        let mask = Array4::from_elem((1, pictures, tile, tile), true);
        Ok(Pixels { mask: Some(mask), ..pixels(values, &[1, pictures, 3, tile, tile], layout) })
    }

    fn grid<'a>(
        &self,
        rule: Grid,
        layout: Layout,
        frames: impl ExactSizeIterator<Item = Rgb<'a>>,
    ) -> Result<Pixels, PictureError> {
        let (count, side, merge) = (frames.len(), rule.side, rule.merge);
        let patches = layout.rows as usize * layout.cols as usize;
        let patch = 3 * rule.depth as usize * side as usize * side as usize;
        let mut values = Vec::with_capacity(count * patches * patch);
        // Squares of merge x merge patches, row by row; inside them patches row by row.
        let squares = (0..layout.rows / merge).flat_map(|row| (0..layout.cols / merge).map(move |col| (row, col)));
        let corners: Vec<Size> = squares
            .flat_map(|(row, col)| (0..merge * merge).map(move |i| (col * merge + i % merge, row * merge + i / merge)))
            .map(|(col, row)| (col * side, row * side))
            .collect();
        for frame in frames {
            let frame = frame.resized((layout.width, layout.height), self.filter)?;
            for &corner in &corners {
                for colour in 0..3 {
                    for _ in 0..rule.depth {
                        plane(&frame, corner, (side, side), colour, &self.shades, &mut values);
                    }
                }
            }
        }
        let size = [1, i64::from(layout.rows), i64::from(layout.cols)];
        let grid = Array2::from_shape_fn((count, 3), |(_, axis)| size[axis]);
        Ok(Pixels { grid: Some(grid), ..pixels(values, &[count * patches, patch], layout) })
    }
}

/// Values of a picture of this size.
fn values_of((width, height): Size) -> usize {
    width as usize * height as usize * 3
}

fn plain(values: Vec<f32>, count: usize, layout: Layout) -> Pixels {
    pixels(values, &[count, 3, layout.height as usize, layout.width as usize], layout)
}

fn pixels(values: Vec<f32>, shape: &[usize], layout: Layout) -> Pixels {
    let values = ArrayD::from_shape_vec(IxDyn(shape), values).expect("each picture gave all of its values");
    Pixels { values, positions: None, mask: None, grid: None, layout }
}

/// The bytes of a row, colours side by side.
fn interleaved(row: &[u8], shades: &Shades, out: &mut Vec<f32>) {
    out.extend(row.chunks_exact(3).flat_map(|rgb| {
        let [red, green, blue] = shades;
        [red[usize::from(rgb[0])], green[usize::from(rgb[1])], blue[usize::from(rgb[2])]]
    }));
}

/// A part of a picture, one colour after the other.
fn planes(picture: &Rgb, corner: Size, size: Size, shades: &Shades, out: &mut Vec<f32>) {
    for colour in 0..3 {
        plane(picture, corner, size, colour, shades, out);
    }
}

/// One colour of a part of a picture.
fn plane(picture: &Rgb, (x, y): Size, (width, height): Size, colour: usize, shades: &Shades, out: &mut Vec<f32>) {
    let shades = &shades[colour];
    for y in y..y + height {
        let row = picture.row(y, x, width);
        out.extend(row.chunks_exact(3).map(|rgb| shades[usize::from(rgb[colour])]));
    }
}

/// The middle of a picture; what is smaller stands in the middle of black.
fn middle(picture: &Rgb, size: Size, shades: &Shades, out: &mut Vec<f32>) {
    /// First pixel read, pixels of black before it, pixels read.
    fn along(have: u32, want: u32) -> (u32, u32, u32) {
        (have.saturating_sub(want) / 2, want.saturating_sub(have) / 2, have.min(want))
    }
    let (left, before, across) = along(picture.width, size.0);
    let (top, above, down) = along(picture.height, size.1);
    for (colour, shades) in shades.iter().enumerate() {
        for y in 0..size.1 {
            let end = out.len() + size.0 as usize;
            if (above..above + down).contains(&y) {
                out.resize(out.len() + before as usize, shades[0]);
                let row = picture.row(top + y - above, left, across);
                out.extend(row.chunks_exact(3).map(|rgb| shades[usize::from(rgb[colour])]));
            }
            out.resize(end, shades[0]);
        }
    }
}
