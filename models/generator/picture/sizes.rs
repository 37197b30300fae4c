//! To which size a picture is scaled: whole-number arithmetic of the published image processors, without pixels.
//!
//! Sizes are (width, height) in pixels. The order of the floating-point steps is that of the reference (`transformers`
//! 5.23), since a floor stands behind each of them.

/// Longest side that Idefics3 and SmolVLM scale to (`MAX_IMAGE_SIZE`).
pub(super) const TILES_LONGEST: u32 = 4096;
/// Longest to shortest side above which Qwen's `smart_resize` refuses.
const GRID_ASPECT: f64 = 200.0;

pub(super) type Size = (u32, u32);

pub(super) fn area((width, height): Size) -> u64 {
    u64::from(width) * u64::from(height)
}

/// Gemma 4: patches of `side` pixels, `pooling` by `pooling` of them one soft token, at most `budget` soft tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patches {
    pub(super) side: u32,
    pub(super) pooling: u32,
    pub(super) budget: u32,
}

impl Patches {
    /// Side of the square behind one soft token.
    fn step(&self) -> u32 {
        self.side * self.pooling
    }

    /// Patches that the encoder is given, padding and all.
    pub(super) fn most(&self) -> usize {
        self.budget as usize * (self.pooling * self.pooling) as usize
    }

    /// Soft tokens of a picture of this size.
    pub(super) fn tokens(&self, (width, height): Size) -> usize {
        (width / self.step()) as usize * (height / self.step()) as usize
    }

    /// Whether a picture of this size can be given as it is.
    pub(super) fn takes(&self, (width, height): Size) -> bool {
        let step = self.step();
        let tokens = self.tokens((width, height));
        width.is_multiple_of(step) && height.is_multiple_of(step) && (1..=self.budget as usize).contains(&tokens)
    }

    /// The largest size of nearly the same aspect whose sides are whole soft tokens, within the budget.
    ///
    /// `None` only where rounding leaves nothing.
    pub(super) fn target(&self, (width, height): Size) -> Option<Size> {
        let (w, h, step) = (f64::from(width), f64::from(height), f64::from(self.step()));
        let pixels = self.most() as f64 * f64::from(self.side * self.side);
        let factor = (pixels / (h * w)).sqrt();
        let steps = |side: f64| (factor * side / step).floor() as u32;
        let strip = |long: u32, short: u32| (long / short.max(1)).clamp(1, self.budget);
        let (across, down) = match (steps(w), steps(h)) {
            (0, 0) => return None,
            (_, 0) => (strip(width, height), 1),
            (0, _) => (1, strip(height, width)),
            both => both,
        };
        let size = (across * self.step(), down * self.step());
        self.takes(size).then_some(size)
    }
}

/// Idefics3 and SmolVLM: square tiles, row by row, and the whole picture in one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    pub(super) tile: u32,
    /// Longest side that pictures are scaled to first; `None` where they stay as they are.
    pub(super) longest: Option<u32>,
    pub(super) split: bool,
}

/// The sizes that a picture goes through until it is tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileSteps {
    pub(super) first: Size,
    pub(super) second: Size,
    /// Rows and columns of tiles; both 0 where the whole picture is the only one.
    pub(super) grid: (u32, u32),
}

impl Tiles {
    pub(super) fn steps(&self, size: Size) -> TileSteps {
        let first = self.longest.map_or(size, |longest| scaled_to(longest, size));
        let whole = (self.tile, self.tile);
        if !self.split {
            return TileSteps { first, second: whole, grid: (0, 0) };
        }
        let second = self.multiples(first);
        let grid = if second == whole { (0, 0) } else { (second.1 / self.tile, second.0 / self.tile) };
        TileSteps { first, second, grid }
    }

    /// Each side up to a multiple of the tile; the shorter one follows the longer one.
    fn multiples(&self, (width, height): Size) -> Size {
        let up = |side: u32| side.max(1).div_ceil(self.tile) * self.tile;
        let aspect = f64::from(width) / f64::from(height);
        if width >= height {
            let width = up(width);
            (width, up((f64::from(width) / aspect) as u32))
        } else {
            let height = up(height);
            (up((f64::from(height) * aspect) as u32), height)
        }
    }
}

/// The longer side becomes `longest`, the other one keeps the aspect and is even, at least 1.
fn scaled_to(longest: u32, (width, height): Size) -> Size {
    let aspect = f64::from(width) / f64::from(height);
    let even = |side: f64| (side as u32).next_multiple_of(2).max(1);
    if width >= height {
        (longest, even(f64::from(longest) / aspect))
    } else {
        (even(f64::from(longest) * aspect), longest)
    }
}

/// CLIP: the shorter side becomes `shortest`, the longer one keeps the aspect, cut to a whole number.
pub(super) fn shortest_edge(shortest: u32, (width, height): Size) -> Size {
    let (short, long) = (width.min(height), width.max(height));
    let long = (u64::from(shortest) * u64::from(long) / u64::from(short.max(1))).min(u64::from(u32::MAX)) as u32;
    if width <= height { (shortest, long) } else { (long, shortest) }
}

/// Qwen: patches of `side` pixels in squares of `merge` by `merge`, an area between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) side: u32,
    pub(super) merge: u32,
    /// Frames that one patch is deep; a still picture stands in all of them.
    pub(super) depth: u32,
    /// Least and most pixels of a scaled picture.
    pub(super) pixels: (u64, u64),
}

impl Grid {
    /// Side of the square behind one soft token.
    pub(super) fn step(&self) -> u32 {
        self.side * self.merge
    }

    /// `smart_resize`: both sides multiples of the step, the area within bounds; `None` for strips of 200 to 1.
    pub(super) fn target(&self, (width, height): Size) -> Option<Size> {
        let (w, h, step) = (f64::from(width), f64::from(height), f64::from(self.step()));
        let (least, most) = (self.pixels.0 as f64, self.pixels.1 as f64);
        if w.max(h) / w.min(h) > GRID_ASPECT {
            return None;
        }
        let near = |side: f64| (side / step).round_ties_even() * step;
        let (across, down) = (near(w), near(h));
        let (across, down) = if across * down > most {
            let beta = (h * w / most).sqrt();
            let floor = |side: f64| ((side / beta / step).floor() * step).max(step);
            (floor(w), floor(h))
        } else if across * down < least {
            let beta = (least / (h * w)).sqrt();
            let ceil = |side: f64| (side * beta / step).ceil() * step;
            (ceil(w), ceil(h))
        } else {
            (across, down)
        };
        Some((across as u32, down as u32))
    }
}
