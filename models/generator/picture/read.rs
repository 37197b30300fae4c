//! Processor files to rules.

use serde_json::Value;

use super::{
    MOST_PIXELS, PixelRule, Scaled, Way,
    resample::Filter,
    sizes::{Grid, Patches, Size, TILES_LONGEST, Tiles, area},
};
use crate::generator::fields::Fields;

/// Longest side of anything a file may ask for, in pixels.
const LONGEST: u32 = 8192;
/// Most patches of one picture.
const MOST_PATCHES: u64 = 1 << 16;
/// Largest side of a patch, largest pooling.
const LARGEST_PATCH: u32 = 128;
/// Soft tokens of Gemma 4 for an image and for a frame of a video.
const IMAGE_TOKENS: u32 = 280;
const VIDEO_TOKENS: u32 = 70;
/// Most tiles of one picture.
const MOST_TILES: u64 = 1 << 10;

/// Mean and deviation of CLIP (`OPENAI_CLIP_MEAN`, `OPENAI_CLIP_STD`).
const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
const HALF: [f64; 3] = [0.5; 3];

const SUPPORTED: &str = "Gemma4, Siglip, ViT, Gemma3, SmolVLM, Idefics3, CLIP, Qwen2VL, Qwen2_5_VL and Qwen3VL";

/// What a family does where its file says nothing: the class attributes of `transformers`.
struct Defaults {
    filter: Filter,
    normalise: bool,
    mean: [f64; 3],
    std: [f64; 3],
}

/// The families by the name of their class, without `ImageProcessor`, `VideoProcessor` and `Fast`.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Gemma4,
    Square,
    Tiles,
    Clip,
    Qwen,
}

impl Family {
    fn of_class(class: &str) -> Option<Self> {
        let name = ["Fast", "Pil"].iter().fold(class, |name, end| name.strip_suffix(end).unwrap_or(name));
        let ends = ["ImageProcessor", "VideoProcessor", "FeatureExtractor"];
        let name = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        Some(match name {
            "Gemma4" => Self::Gemma4,
            "Siglip" | "ViT" | "Gemma3" | "Gemma3n" => Self::Square,
            "SmolVLM" | "Idefics3" => Self::Tiles,
            "CLIP" => Self::Clip,
            "Qwen2VL" | "Qwen2_5_VL" | "Qwen2_5VL" | "Qwen3VL" => Self::Qwen,
            _ => return None,
        })
    }

    fn defaults(self, class: &str) -> Defaults {
        let vit = class.starts_with("ViT");
        match self {
            Self::Gemma4 => Defaults { filter: Filter::Bicubic, normalise: false, mean: [0.0; 3], std: [1.0; 3] },
            Self::Square if vit => Defaults { filter: Filter::Bilinear, normalise: true, mean: HALF, std: HALF },
            Self::Square => Defaults { filter: Filter::Bicubic, normalise: true, mean: HALF, std: HALF },
            Self::Tiles => Defaults { filter: Filter::Lanczos, normalise: true, mean: HALF, std: HALF },
            Self::Clip | Self::Qwen => {
                Defaults { filter: Filter::Bicubic, normalise: true, mean: CLIP_MEAN, std: CLIP_STD }
            }
        }
    }
}

/// The rule of one image or video processor; with `video`, for frames whatever the object is for.
pub(super) fn rule(processor: &Value, video: bool) -> Result<PixelRule, String> {
    let types = ["image_processor_type", "video_processor_type", "feature_extractor_type"];
    let fields = Fields::new(processor, "image processor");
    let class = types
        .iter()
        .find_map(|key| fields.text(key))
        .ok_or_else(|| format!("the image processor has no `image_processor_type`: it must name one of {SUPPORTED}"))?;
    let family = Family::of_class(class).ok_or_else(|| {
        let class: String = class.chars().take(60).collect();
        format!("the image processor `{class}` is not known here; known are {SUPPORTED}")
    })?;
    let resize = fields.flag("do_resize", true)?;
    let own = fields.text("video_processor_type").is_some();
    let video = video || own;
    let way = match family {
        Family::Gemma4 => Way::Patches(patches(&fields, video, own)?),
        Family::Square => square(&fields)?,
        Family::Tiles => Way::Tiles(tiles(&fields, video, resize)?),
        Family::Clip => crop(&fields)?,
        Family::Qwen => Way::Grid(grid(&fields, class)?),
    };
    let defaults = family.defaults(class);
    let filter = match fields.maybe_whole("resample", 0..=5)? {
        Some(code) => Filter::of_code(code.into()).unwrap_or(defaults.filter),
        None => defaults.filter,
    };
    Ok(PixelRule { way, resize, filter, shades: shades(&fields, &defaults)? })
}

/// The value of each of the 256 shades of each colour.
///
/// In single precision and with the scale drawn into mean and deviation, as `rescale_and_normalize` of the reference does.
fn shades(fields: &Fields, defaults: &Defaults) -> Result<Box<[[f32; 256]; 3]>, String> {
    let rescale = fields.flag("do_rescale", true)?;
    let normalise = fields.flag("do_normalize", defaults.normalise)?;
    let factor = fields.number("rescale_factor", 1.0 / 255.0, 1e-9..=1e9)?;
    let mean = fields.numbers("image_mean", 3)?.unwrap_or(defaults.mean.to_vec());
    let std = fields.numbers("image_std", 3)?.unwrap_or(defaults.std.to_vec());
    if normalise && std.iter().any(|s| s.abs() < 1e-9) {
        return Err(fields.wrong("image_std", "three numbers other than 0"));
    }
    let scale = if rescale { (1.0 / factor) as f32 } else { 1.0 };
    let mut shades = Box::new([[0.0; 256]; 3]);
    for (colour, (mean, std)) in shades.iter_mut().zip(mean.iter().zip(&std)) {
        for (byte, shade) in colour.iter_mut().enumerate() {
            let byte = byte as f32;
            *shade = match (rescale, normalise) {
                (_, true) => (byte - *mean as f32 * scale) / (*std as f32 * scale),
                (true, false) => byte * factor as f32,
                (false, false) => byte,
            };
        }
    }
    Ok(shades)
}

/// A side or an edge.
fn side(fields: &Fields, key: &str, default: u32) -> Result<u32, String> {
    fields.whole(key, default, 1..=LONGEST)
}

fn patches(fields: &Fields, video: bool, own: bool) -> Result<Patches, String> {
    let default = if video { VIDEO_TOKENS } else { IMAGE_TOKENS };
    let budget = fields.whole("max_soft_tokens", default, 1..=MOST_PATCHES as u32)?;
    let rule = Patches {
        side: fields.whole("patch_size", 16, 1..=LARGEST_PATCH)?,
        pooling: fields.whole("pooling_kernel_size", 3, 1..=LARGEST_PATCH)?,
        // The budget in an object for images is theirs.
        budget: if video && !own { budget.min(VIDEO_TOKENS) } else { budget },
    };
    let patches = u64::from(rule.budget) * u64::from(rule.pooling).pow(2);
    if patches > MOST_PATCHES || patches * u64::from(rule.side).pow(2) > MOST_PIXELS {
        let wanted = "small enough for 65536 patches and 4096x4096 pixels a picture";
        return Err(fields.wrong("max_soft_tokens", wanted));
    }
    Ok(rule)
}

/// Width and height under `key`: two numbers in an object, or one for both.
fn rectangle(fields: &Fields, key: &str, default: u32) -> Result<Size, String> {
    let size = match fields.get(key).is_some_and(Value::is_number) {
        true => [key.to_owned(), key.to_owned()],
        false => [format!("{key}.width"), format!("{key}.height")],
    };
    let size = (side(fields, &size[0], default)?, side(fields, &size[1], default)?);
    if area(size) <= MOST_PIXELS { Ok(size) } else { Err(fields.wrong(key, "at most 4096x4096 pixels")) }
}

fn square(fields: &Fields) -> Result<Way, String> {
    if fields.get("size.height").is_none() && fields.get("size").is_some_and(|size| !size.is_number()) {
        return Err(fields.wrong("size", "an object with `height` and `width`"));
    }
    if fields.flag("do_pan_and_scan", false)? {
        return Err(fields.wrong("do_pan_and_scan", "false, panning is not supported"));
    }
    let (width, height) = rectangle(fields, "size", 224)?;
    Ok(Way::Square { width, height })
}

fn tiles(fields: &Fields, video: bool, resize: bool) -> Result<Tiles, String> {
    let tile = fields.whole("max_image_size.longest_edge", 364, 1..=TILES_LONGEST)?;
    // The video processor takes the size out of its sampling settings where there are any.
    let size = match video && fields.get("video_sampling.video_size").is_some() {
        true => "video_sampling.video_size",
        false => "size",
    };
    let key = format!("{size}.longest_edge");
    if fields.get(size).is_some() && fields.get(&key).is_none() {
        return Err(fields.wrong(size, "an object with `longest_edge`"));
    }
    let longest = fields.whole(&key, 4 * 364, 1..=TILES_LONGEST)?;
    let split = !video && fields.flag("do_image_splitting", true)?;
    let across = longest.div_ceil(tile);
    if split && (area((across, across)) > MOST_TILES || area((across * tile, across * tile)) > MOST_PIXELS) {
        let wanted = "of a size that makes at most 1024 tiles and 4096x4096 pixels a picture";
        return Err(fields.wrong("max_image_size", wanted));
    }
    Ok(Tiles { tile, longest: resize.then_some(longest), split })
}

fn crop(fields: &Fields) -> Result<Way, String> {
    let crops = fields.flag("do_center_crop", true)?;
    let crop = rectangle(fields, "crop_size", 224)?;
    let size = fields.get("size");
    let scaled = if size.is_some_and(|size| size.get("height").is_some()) {
        Scaled::To(rectangle(fields, "size", 224)?)
    } else {
        let key = if size.is_some_and(Value::is_number) { "size" } else { "size.shortest_edge" };
        Scaled::ShortestEdge(side(fields, key, 224)?)
    };
    match (crops, scaled) {
        (true, _) => Ok(Way::Crop { scaled, crop }),
        (false, Scaled::To((width, height))) => Ok(Way::Square { width, height }),
        (false, Scaled::ShortestEdge(_)) => {
            Err(fields.wrong("do_center_crop", "true where `size` names only the shortest edge"))
        }
    }
}

fn grid(fields: &Fields, class: &str) -> Result<Grid, String> {
    let patch = if class.starts_with("Qwen3") { 16 } else { 14 };
    let pixels = |keys: [&str; 2], default: u32| {
        let bounds = 1..=MOST_PIXELS as u32;
        let first = fields.maybe_whole(keys[0], bounds.clone())?;
        Ok::<_, String>(u64::from(first.map_or_else(|| fields.whole(keys[1], default, bounds), Ok)?))
    };
    let rule = Grid {
        side: fields.whole("patch_size", patch, 1..=LARGEST_PATCH)?,
        merge: fields.whole("merge_size", 2, 1..=16)?,
        depth: fields.whole("temporal_patch_size", 2, 1..=4)?,
        pixels: (
            pixels(["min_pixels", "size.shortest_edge"], 56 * 56)?,
            pixels(["max_pixels", "size.longest_edge"], 28 * 28 * 1280)?,
        ),
    };
    if rule.pixels.1 < u64::from(rule.step()).pow(2).max(rule.pixels.0) {
        return Err(fields.wrong("size", "a range of pixels that holds one soft token or more"));
    }
    if rule.pixels.1 / u64::from(rule.side).pow(2) > MOST_PATCHES {
        return Err(fields.wrong("size", "small enough for 65536 patches a picture"));
    }
    Ok(rule)
}
