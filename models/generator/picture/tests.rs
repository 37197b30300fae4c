//! Pixels against the golden arrays of the fixture packs, and the arithmetic of sizes by properties.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::generator::testing::{self, Golden, packs};

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The rules of a pack for images and for frames of videos.
fn rules(pack: &Path) -> Option<(PixelRule, PixelRule)> {
    let processor = testing::json(pack, "processor_config.json");
    let image = processor.get("image_processor")?;
    let video = processor.get("video_processor").unwrap_or(image);
    Some((PixelRule::read(image).unwrap(), PixelRule::read(video).unwrap()))
}

/// Compares one picture; says how far it is off, in shades.
fn check(golden: &Golden, name: &str, rule: &PixelRule, medium: &Value) -> Option<f32> {
    let whole = |key: &str| medium[key].as_u64().unwrap() as u32;
    let (width, height) = (whole("width"), whole("height"));
    let raw = golden.bytes(medium["raw"].as_str().unwrap());
    let found = rule.pixels(width, height, &raw).unwrap();
    assert_eq!(found.layout, rule.layout(width, height).unwrap());
    if !golden.has(&format!("{name}/pixel_values")) {
        return None;
    }
    let (shape, wanted) = golden.f32(&format!("{name}/pixel_values"));
    assert_eq!(found.values.shape(), shape, "{name}");
    if golden.has(&format!("{name}/pixel_position_ids")) {
        let (shape, wanted) = golden.i64(&format!("{name}/pixel_position_ids"));
        let positions = found.positions.as_ref().unwrap();
        assert_eq!((positions.shape(), positions.as_slice().unwrap()), (&shape[..], &wanted[..]), "{name}");
    }
    if golden.has(&format!("{name}/pixel_attention_mask")) {
        let (shape, wanted) = golden.bool(&format!("{name}/pixel_attention_mask"));
        let mask = found.mask.as_ref().unwrap();
        assert_eq!((mask.shape(), mask.as_slice().unwrap()), (&shape[..], &wanted[..]), "{name}");
    }
    let steps = rule.shades[0][255] - rule.shades[0][0];
    let found = found.values.as_slice().unwrap();
    Some(difference(found, &wanted) / steps * 255.0)
}

#[test]
fn pixels_are_those_of_the_reference() {
    for pack in packs() {
        let Some((image, video)) = rules(&pack) else { continue };
        let golden = Golden::open(&pack);
        let mut largest = 0f32;
        for (name, medium) in golden.index["media"].as_object().unwrap() {
            if medium.get("raw").is_none() {
                continue;
            }
            let rule = if name.starts_with("video") { &video } else { &image };
            for (folder, rule) in [
                ("", rule.clone()),
                ("/split", rule.clone().with_split(true)),
                ("/single", rule.clone().with_split(false)),
            ] {
                largest = largest.max(check(&golden, &format!("{name}{folder}"), &rule, medium).unwrap_or(0.0));
            }
            let layout =
                rule.layout(medium["width"].as_u64().unwrap() as u32, medium["height"].as_u64().unwrap() as u32);
            let layout = layout.unwrap();
            if let Some(tokens) = layout.soft_tokens {
                assert_eq!(Some(tokens as u64), medium["soft_tokens"].as_u64(), "{name}");
                let grid = json!([layout.cols, layout.rows]);
                assert_eq!(grid, medium["patches_xy"], "{name}");
            }
            if let Some(rows) = medium.get("rows") {
                assert_eq!(
                    (Some(layout.rows.into()), Some(layout.cols.into())),
                    (rows.as_u64(), medium["cols"].as_u64())
                );
            }
        }
        eprintln!("{}: pixels differ by {largest:.1e} of 255 shades at most", pack.display());
        // Same filters, same order, same rounding: nothing but the last place of the scale may differ.
        assert!(largest <= 1e-4, "{}", pack.display());
    }
}

fn gemma4(budget: u32) -> PixelRule {
    PixelRule::read(&json!({ "image_processor_type": "Gemma4ImageProcessor", "max_soft_tokens": budget })).unwrap()
}

/// A picture without edges in it, so that nothing depends on the last bits of a filter.
fn slope(width: u32, height: u32) -> Vec<u8> {
    let shade = |x: u32, most: u32| (x * 255 / most.max(1)) as u8;
    (0..height).flat_map(|y| (0..width).flat_map(move |x| [shade(x, width), shade(y, height), 128])).collect()
}

#[test]
fn gemma4_counts_what_the_reference_counts() {
    for ((width, height), tokens) in [((640, 480), 266), ((612, 408), 260), ((224, 224), 256), ((1280, 640), 253)] {
        let layout = gemma4(280).layout(width, height).unwrap();
        assert_eq!(layout.soft_tokens, Some(tokens), "{width}x{height}");
        let found = gemma4(280).pixels(width, height, &slope(width, height)).unwrap();
        assert_eq!(found.values.shape(), [1, 2520, 768]);
    }
    let rgb = slope(96, 54);
    assert_eq!(gemma4(70).batch(96, 54, &[&rgb, &rgb]).unwrap().values.shape(), [2, 630, 768]);
    // Strips: one side stays one soft token, the other one stays in the budget.
    assert_eq!(gemma4(70).layout(16_000, 10).unwrap().soft_tokens, Some(70));
    assert_eq!(gemma4(70).layout(2, 150).unwrap().soft_tokens, Some(70));
}

#[test]
fn a_batch_is_its_frames_one_by_one() {
    let processors = [
        json!({ "image_processor_type": "Gemma4ImageProcessor", "max_soft_tokens": 9 }),
        json!({ "image_processor_type": "SiglipImageProcessor", "size": { "height": 32, "width": 24 } }),
        json!({ "image_processor_type": "SmolVLMImageProcessor", "size": { "longest_edge": 64 },
            "max_image_size": { "longest_edge": 32 } }),
        json!({ "image_processor_type": "CLIPImageProcessor", "size": { "shortest_edge": 32 },
            "crop_size": { "height": 24, "width": 40 } }),
        json!({ "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12_544 }),
    ];
    let (first, second) = (slope(70, 40), slope(70, 40).iter().rev().copied().collect::<Vec<u8>>());
    for processor in processors {
        let rule = PixelRule::read(&processor).unwrap();
        let both = rule.batch(70, 40, &[&first, &second]).unwrap();
        let one = rule.pixels(70, 40, &first).unwrap();
        let other = rule.pixels(70, 40, &second).unwrap();
        let joined: Vec<f32> = one.values.iter().chain(&other.values).copied().collect();
        assert!(both.values.iter().eq(&joined), "{processor}");
        assert_eq!(both.layout, one.layout);
    }
}

#[test]
fn crops_are_from_the_middle() {
    let processor = json!({ "image_processor_type": "CLIPFeatureExtractor", "size": 8, "crop_size": 4, "resample": 3,
        "do_normalize": false, "do_rescale": false });
    let rule = PixelRule::read(&processor).unwrap();
    let rgb: Vec<u8> = (0..8).flat_map(|y| (0..16).flat_map(move |x| [x, y, 7])).collect();
    let found = rule.pixels(16, 8, &rgb).unwrap().values;
    assert_eq!(found.shape(), [1, 3, 4, 4]);
    assert_eq!((found[[0, 0, 0, 0]], found[[0, 0, 0, 3]]), (6.0, 9.0));
    assert_eq!((found[[0, 1, 0, 0]], found[[0, 1, 3, 0]], found[[0, 2, 1, 1]]), (2.0, 5.0, 7.0));
    // What is smaller than the crop stands in black.
    let processor = json!({ "image_processor_type": "CLIPImageProcessor", "do_resize": false, "do_normalize": false,
        "crop_size": { "height": 4, "width": 6 }, "do_rescale": false });
    let found = PixelRule::read(&processor).unwrap().pixels(3, 2, &[9; 18]).unwrap().values;
    let lit: Vec<usize> = found.iter().take(24).enumerate().filter(|(_, v)| **v == 9.0).map(|(i, _)| i).collect();
    assert_eq!(lit, [7, 8, 9, 13, 14, 15]);
}

#[test]
fn shades_follow_the_file() {
    let check = |fields: Value, wanted: [f32; 3]| {
        let mut processor = json!({ "image_processor_type": "ViTImageProcessor", "size": 1 });
        processor.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let found = PixelRule::read(&processor).unwrap().pixels(1, 1, &[255, 0, 51]).unwrap().values;
        assert!(difference(found.as_slice().unwrap(), &wanted) < 1e-6, "{found} is not {wanted:?}");
    };
    check(json!({ "do_normalize": false }), [1.0, 0.0, 0.2]);
    check(json!({}), [1.0, -1.0, -0.6]);
    check(json!({ "do_normalize": false, "do_rescale": false }), [255.0, 0.0, 51.0]);
    check(json!({ "do_rescale": false, "image_mean": [5, 0, 1], "image_std": [2, 1, 10] }), [125.0, 0.0, 5.0]);
}

#[test]
fn qwen_patches_lie_in_squares() {
    let processor = json!({ "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 2, "merge_size": 2,
        "temporal_patch_size": 2, "min_pixels": 16, "max_pixels": 64, "do_normalize": false, "do_rescale": false });
    let rule = PixelRule::read(&processor).unwrap();
    let rgb: Vec<u8> = (0..32u8).flat_map(|i| [i, 100 + i, 200 + i / 2]).collect();
    let found = rule.pixels(8, 4, &rgb).unwrap();
    assert_eq!(found.grid.unwrap().as_slice().unwrap(), [1, 2, 4]);
    assert_eq!((found.values.shape(), found.layout.soft_tokens), (&[8, 24][..], Some(2)));
    let row = |patch: usize| found.values.slice(ndarray::s![patch, ..]).iter().map(|&v| v as u32).collect::<Vec<_>>();
    // Red of two frames, then green; patch 2 is below patch 0, patch 4 starts the next square.
    assert_eq!(row(0)[..12], [0, 1, 8, 9, 0, 1, 8, 9, 100, 101, 108, 109]);
    assert_eq!((row(1)[0], row(2)[0], row(4)[0]), (2, 16, 4));
}

#[test]
fn what_cannot_be_is_said() {
    let fault = |processor: Value| PixelRule::read(&processor).unwrap_err();
    assert!(fault(json!({})).contains("image_processor_type"));
    assert!(fault(json!({ "image_processor_type": "Phi3VImageProcessor" })).contains("Phi3VImageProcessor"));
    for (class, key, value) in [
        ("Gemma4", "patch_size", json!(0)),
        ("Gemma4", "max_soft_tokens", json!(70_000)),
        ("Gemma4", "pooling_kernel_size", json!(100)),
        ("Siglip", "size", json!({ "height": 9000, "width": 8 })),
        ("Siglip", "size", json!({ "height": 8192, "width": 8192 })),
        ("Siglip", "size", json!({ "shortest_edge": 8 })),
        ("Siglip", "image_std", json!([0.5, 0.0, 0.5])),
        ("Siglip", "resample", json!(9)),
        ("SmolVLM", "size", json!({ "longest_edge": 0 })),
        ("SmolVLM", "max_image_size", json!({ "longest_edge": 1 })),
        ("CLIP", "crop_size", json!(8192)),
        ("CLIP", "crop_size", json!({ "height": -1, "width": 8 })),
        ("Qwen2VL", "max_pixels", json!(1u64 << 40)),
    ] {
        let mut processor = json!({ "image_processor_type": format!("{class}ImageProcessor") });
        processor[key] = value;
        let said = fault(processor);
        // The budget of Gemma 4 is the product of three fields.
        assert!(said.contains(key) || said.contains("max_soft_tokens"), "{said}");
    }
    assert!(
        fault(json!({ "image_processor_type": "SmolVLMImageProcessor", "size": { "longest_edge": 4096 },
            "max_image_size": { "longest_edge": 4095 } }))
        .contains("max_image_size")
    );
    let rule = gemma4(70);
    assert!(matches!(rule.pixels(4, 4, &[0; 47]), Err(PictureError::Bytes { bytes: 47, .. })));
    assert!(matches!(rule.layout(0, 4), Err(PictureError::Shape { .. })));
    assert_eq!(rule.batch(4, 4, &[]).unwrap_err(), PictureError::Empty);
}

#[test]
fn wishes_are_what_the_rules_can_use() {
    // 70 soft tokens of 48x48: at 2 to 1, 568x284.
    assert_eq!(gemma4(70).frame_size_wish(), 568);
    let smol = json!({ "image_processor_type": "SmolVLMImageProcessor", "size": { "longest_edge": 2048 },
        "max_image_size": { "longest_edge": 512 } });
    let smol = PixelRule::read(&smol).unwrap();
    assert_eq!((smol.frame_size_wish(), smol.with_split(false).frame_size_wish()), (2048, 1024));
}

#[test]
fn one_file_for_both_gives_smaller_frames_of_videos() {
    let gemma = json!({ "image_processor_type": "Gemma4ImageProcessor", "max_soft_tokens": 280 });
    assert_eq!(PixelRule::read_video(&gemma).unwrap().layout(1280, 640).unwrap().soft_tokens, Some(55));
    let video = json!({ "video_processor_type": "Gemma4VideoProcessor", "max_soft_tokens": 280 });
    assert_eq!(PixelRule::read_video(&video).unwrap().layout(1280, 640).unwrap().soft_tokens, Some(253));
    let smol = json!({ "image_processor_type": "SmolVLMImageProcessor", "size": { "longest_edge": 2048 },
        "max_image_size": { "longest_edge": 512 }, "video_sampling": { "video_size": { "longest_edge": 512 } } });
    let video = PixelRule::read_video(&smol).unwrap();
    assert_eq!((video.layout(640, 360).unwrap().pictures, video.frame_size_wish()), (1, 512));
    assert_eq!(PixelRule::read(&smol).unwrap().layout(640, 360).unwrap().pictures, 4 * 3 + 1);
}

proptest! {
    #[test]
    fn gemma4_keeps_to_its_budget(width in 1u32..5000, height in 1u32..5000, side in 1u32..33, pooling in 1u32..5,
                                  budget in 1u32..1000) {
        let processor = json!({ "image_processor_type": "Gemma4ImageProcessor", "max_soft_tokens": budget,
            "patch_size": side, "pooling_kernel_size": pooling });
        let rule = PixelRule::read(&processor).unwrap();
        let layout = rule.layout(width, height).unwrap();
        let step = side * pooling;
        prop_assert!(layout.width > 0 && layout.height > 0);
        prop_assert!(layout.width.is_multiple_of(step) && layout.height.is_multiple_of(step));
        let tokens = (layout.width / step) * (layout.height / step);
        prop_assert_eq!(layout.soft_tokens, Some(tokens as usize));
        prop_assert!(tokens <= budget);
        prop_assert_eq!((layout.cols * side, layout.rows * side), (layout.width, layout.height));
        // Each side is the one of the very same aspect, cut to a step; except strips, which are one step high.
        let ideal = |a: u32, b: u32| (f64::from(budget) * f64::from(a) / f64::from(b)).sqrt();
        let (across, down) = (ideal(width, height), ideal(height, width));
        if across >= 1.001 && down >= 1.001 {
            prop_assert!((f64::from(layout.width / step) - across).abs() <= 1.0 + 1e-9);
            prop_assert!((f64::from(layout.height / step) - down).abs() <= 1.0 + 1e-9);
        }
    }

    #[test]
    fn tiles_are_whole(width in 1u32..5000, height in 1u32..5000, tile in 8u32..600, times in 1u32..5, split: bool) {
        let longest = (tile * times).min(4096);
        let processor = json!({ "image_processor_type": "SmolVLMImageProcessor", "size": { "longest_edge": longest },
            "max_image_size": { "longest_edge": tile }, "do_image_splitting": split });
        let layout = PixelRule::read(&processor).unwrap().layout(width, height).unwrap();
        prop_assert_eq!(layout.pictures, (layout.rows * layout.cols + 1) as usize);
        if layout.rows == 0 {
            prop_assert_eq!((layout.width, layout.height, layout.cols), (tile, tile, 0));
            prop_assert!(!split || times == 1);
        } else {
            prop_assert_eq!((layout.width, layout.height), (layout.cols * tile, layout.rows * tile));
            prop_assert_eq!(layout.cols.max(layout.rows), longest.div_ceil(tile));
            // The longer side stays the longer one, and the shorter one is the next multiple.
            let (long, short) = (f64::from(width.max(height)), f64::from(width.min(height)));
            let ideal = f64::from(longest.div_ceil(tile)) * short / long;
            prop_assert!((f64::from(layout.cols.min(layout.rows)) - ideal).abs() <= 1.0 + 2.0 / f64::from(tile));
        }
    }

    #[test]
    fn qwen_stays_in_its_bounds(width in 1u32..5000, height in 1u32..5000, side in 4u32..20, least in 1u32..40, more in 1u32..2000) {
        let step = u64::from(side * 2);
        let (least, most) = (u64::from(least) * step * step, u64::from(least + more) * step * step);
        let processor = json!({ "image_processor_type": "Qwen2VLImageProcessor", "patch_size": side,
            "min_pixels": least, "max_pixels": most });
        let rule = PixelRule::read(&processor).unwrap();
        if let Ok(layout) = rule.layout(width, height) {
            prop_assert!(layout.width > 0 && layout.height > 0);
            prop_assert!(u64::from(layout.width).is_multiple_of(step) && u64::from(layout.height).is_multiple_of(step));
            prop_assert!(u64::from(layout.width) * u64::from(layout.height) <= most);
        } else {
            // Only strips are refused: one side of one step with the other one out of bounds.
            prop_assert!(width.max(height) as u64 > 3 * width.min(height) as u64 || more < 40);
        }
    }

    #[test]
    fn strange_numbers_never_panic(family in 0usize..5, key in 0usize..9, value in prop_oneof![
        any::<i64>().prop_map(|n| json!(n)), any::<f64>().prop_map(|n| json!(n)), (0i64..300).prop_map(|n| json!(n)),
        any::<u16>().prop_map(|n| json!({ "height": n, "width": 9, "longest_edge": n, "shortest_edge": n })),
    ], width in 0u32..40, height in 0u32..40) {
        let class = ["Gemma4", "Siglip", "SmolVLM", "CLIP", "Qwen2VL"][family];
        let keys = ["size", "crop_size", "max_image_size", "patch_size", "pooling_kernel_size", "max_soft_tokens",
            "rescale_factor", "image_std", "merge_size"];
        let mut processor = json!({ "image_processor_type": format!("{class}ImageProcessor"), "do_resize": width % 2 == 0 });
        processor[keys[key]] = value;
        if let Ok(rule) = PixelRule::read(&processor) {
            prop_assert!(rule.frame_size_wish() > 0);
            let layout = rule.layout(width, height);
            if layout.is_ok_and(|layout| layout.width * layout.height < 1 << 18 && layout.pictures < 9) {
                let rgb = vec![77; (width * height * 3) as usize];
                let found = rule.pixels(width, height, &rgb).unwrap();
                prop_assert!(!found.values.is_empty());
            }
        }
    }
}
