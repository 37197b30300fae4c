//! The arithmetic around the text models: lines in a probability map (DB, arXiv:1911.08947) and characters in class scores (CTC).

/// Pixels of the map below which a box is no line, before and after it is grown.
const LEAST_SIDE: usize = 3;
const LEAST_GROWN: f32 = 5.0;
/// Lines that are read at most in one picture, which bounds the time of a hostile one.
const MAX_LINES: usize = 32;

/// How lines are found in the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapSettings {
    /// Probability above which a pixel is text.
    pub pixel_threshold: f32,
    /// Mean probability above which a box is a line.
    pub box_threshold: f32,
    /// A box grows on each side by this times its area over its perimeter: the map shows lines shrunken.
    pub unclip: f32,
}

/// Boxes (left, top, right, bottom as parts of the map, 0 to 1) around the lines in `map` (rows of `width`, 0 to 1), from
/// the top to the bottom.
pub fn lines(map: &[f32], width: usize, settings: &MapSettings) -> Vec<[f32; 4]> {
    let height = map.len().checked_div(width).unwrap_or(0);
    // A letter's parts are often a pixel apart: each text pixel also covers its right and lower neighbours.
    let is_text = |x: usize, y: usize| map[y * width + x] > settings.pixel_threshold;
    let mut open: Vec<bool> = (0..width * height)
        .map(|i| (i % width, i / width))
        .map(|(x, y)| (x.saturating_sub(1)..=x).any(|x| (y.saturating_sub(1)..=y).any(|y| is_text(x, y))))
        .collect();
    let mut found = Vec::new();
    for start in 0..open.len() {
        if found.len() < MAX_LINES
            && open[start]
            && let Some(line) = grow(&component(&mut open, start, width), map, width, height, settings)
        {
            found.push(line);
        }
    }
    found.sort_by(|a, b| a[1].total_cmp(&b[1]).then(a[0].total_cmp(&b[0])));
    found
}

/// Takes the pixels connected to `start` (by sides or corners) out of `open`.
fn component(open: &mut [bool], start: usize, width: usize) -> Vec<usize> {
    let height = open.len() / width;
    let mut pixels = vec![start];
    open[start] = false;
    let mut next = 0;
    while let Some(&pixel) = pixels.get(next) {
        next += 1;
        let (x, y) = (pixel % width, pixel / width);
        for y in y.saturating_sub(1)..(y + 2).min(height) {
            for x in x.saturating_sub(1)..(x + 2).min(width) {
                if std::mem::take(&mut open[y * width + x]) {
                    pixels.push(y * width + x);
                }
            }
        }
    }
    pixels
}

/// The grown box around `pixels` as parts of the map, where it is a line.
fn grow(pixels: &[usize], map: &[f32], width: usize, height: usize, settings: &MapSettings) -> Option<[f32; 4]> {
    let columns = || pixels.iter().map(|pixel| pixel % width);
    let rows = || pixels.iter().map(|pixel| pixel / width);
    let (left, right) = (columns().min()?, columns().max()? + 1);
    let (top, bottom) = (rows().min()?, rows().max()? + 1);
    let sure = pixels.iter().map(|&pixel| map[pixel]).sum::<f32>() / pixels.len() as f32;
    if (right - left).min(bottom - top) < LEAST_SIDE || sure <= settings.box_threshold {
        return None;
    }
    let (across, down) = ((right - left) as f32, (bottom - top) as f32);
    let by = across * down * settings.unclip / (2.0 * (across + down));
    let part = |at: f32, size: usize| (at / size as f32).clamp(0.0, 1.0);
    (across.min(down) + 2.0 * by >= LEAST_GROWN).then(|| {
        [
            part(left as f32 - by, width),
            part(top as f32 - by, height),
            part(right as f32 + by, width),
            part(bottom as f32 + by, height),
        ]
    })
}

/// The characters in `scores` (for each step a probability of each class) and their mean probability, 0 to 1.
///
/// Class 0 is the blank, class i the character `keys[i - 1]`, the class after the last key a space. The surest class of
/// each step counts, a class that goes on over several steps once.
pub fn characters<'s>(scores: impl Iterator<Item = &'s [f32]>, keys: &[String]) -> (String, f32) {
    let (mut text, mut sum, mut count, mut last) = (String::new(), 0.0, 0u16, 0);
    for step in scores {
        let best = step.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        let Some((class, sure)) = best else { continue };
        if class != 0 && class != last {
            text.push_str(keys.get(class - 1).map_or(" ", String::as_str));
            sum += sure;
            count = count.saturating_add(1);
        }
        last = class;
    }
    (text.trim().to_owned(), if count == 0 { 0.0 } else { (sum / f32::from(count)).clamp(0.0, 1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: MapSettings = MapSettings { pixel_threshold: 0.3, box_threshold: 0.5, unclip: 1.6 };

    /// A map of 100 x 50 in which these boxes (left, top, right, bottom) have this probability.
    fn map(boxes: &[(usize, usize, usize, usize, f32)]) -> Vec<f32> {
        let mut map = vec![0.0; 100 * 50];
        for &(left, top, right, bottom, p) in boxes {
            (top..bottom).for_each(|y| map[y * 100 + left..y * 100 + right].fill(p));
        }
        map
    }

    #[test]
    fn a_line_is_grown_by_its_area_over_its_perimeter() {
        // 39 x 9 pixels and one more by the neighbours: 40 * 10 * 1.6 / 100 = 6.4 on each side.
        let found = lines(&map(&[(20, 20, 59, 29, 0.9)]), 100, &MapSettings { box_threshold: 0.4, ..SETTINGS });
        let wanted = [0.136, 0.272, 0.664, 0.728];
        assert_eq!(found.len(), 1);
        assert!(found[0].iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
    }

    #[test]
    fn parts_that_touch_are_one_line_and_weak_or_tiny_ones_are_none() {
        let map = map(&[
            (50, 30, 60, 38, 0.9),
            (61, 30, 70, 38, 0.9),
            (5, 5, 30, 12, 0.9),
            (5, 40, 30, 48, 0.4),
            (90, 5, 91, 6, 1.0),
        ]);
        let found = lines(&map, 100, &SETTINGS);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0][1] < 0.2 && found[1][0] < 0.5 && found[1][2] > 0.7, "{found:?}");
    }

    #[test]
    fn repeats_are_one_character_unless_a_blank_is_between() {
        let keys = ["a", "b"].map(str::to_owned);
        let step = |class: usize, sure: f32| {
            let mut step = vec![0.0; 4];
            step[class] = sure;
            step
        };
        let steps = [step(1, 0.8), step(1, 0.9), step(0, 1.0), step(1, 0.6), step(3, 1.0), step(2, 0.8), step(0, 1.0)];
        let (text, sure) = characters(steps.iter().map(Vec::as_slice), &keys);
        assert_eq!(text, "aa b");
        assert!((sure - 0.8).abs() < 1e-6);
        assert_eq!(characters(std::iter::empty(), &keys), (String::new(), 0.0));
    }

    proptest! {
        #[test]
        fn nothing_breaks_whatever_the_models_say(values in proptest::collection::vec(any::<f32>(), 0..400), width in 0usize..20) {
            for line in lines(&values, width, &SETTINGS) {
                prop_assert!(line[0] < line[2] && line[1] < line[3] && line.iter().all(|part| (0.0..=1.0).contains(part)));
            }
            let (_, sure) = characters(values.chunks(width.max(1)), &["x".to_owned()]);
            prop_assert!((0.0..=1.0).contains(&sure) || sure.is_nan());
        }
    }
}
