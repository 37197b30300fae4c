//! Boxes as models write them: location tokens in text and numbers in JSON.

use serde_json::Value;

/// Most boxes taken from one answer.
pub(super) const MAX_BOXES: usize = 256;

/// In what the members `bbox_2d`, `bbox` and `box` of an answer count.
///
/// Their order is left, top, right, bottom (Qwen-VL). `box_2d` (Gemma) is always top, left, bottom, right of 1,000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BoxUnit {
    /// Thousandths of the picture's width and height (Qwen3-VL).
    #[default]
    Thousandths,
    /// Pixels of the picture of this width and height that the model saw (Qwen2.5-VL).
    Pixels(u32, u32),
}

/// A box and what is in it: left, top, right, bottom as parts of the picture, 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Boxed {
    pub label: String,
    /// `None` where nothing of the box lies in the picture.
    pub bounds: Option<[f32; 4]>,
}

/// The box of a member of an answer; `None` where it has none.
pub(super) fn of_member(member: &Value, unit: BoxUnit) -> Option<Option<[f32; 4]>> {
    if let Some([top, left, bottom, right]) = four(member.get("box_2d")) {
        return Some(bounds([left, top, right, bottom], [1000.0; 2], 0.0));
    }
    let corners = ["bbox_2d", "bbox", "box"].into_iter().find_map(|name| four(member.get(name)))?;
    let scale = match unit {
        BoxUnit::Thousandths => [1000.0; 2],
        BoxUnit::Pixels(width, height) => [width, height].map(f64::from),
    };
    Some(bounds(corners, scale, 0.0))
}

fn four(value: Option<&Value>) -> Option<[f64; 4]> {
    let numbers: Option<Vec<f64>> = value?.as_array()?.iter().take(5).map(Value::as_f64).collect();
    numbers?.try_into().ok()
}

/// Clamped to the picture; `offset` is added to each corner before it is divided by the scale of its axis.
fn bounds(corners: [f64; 4], [width, height]: [f64; 2], offset: f64) -> Option<[f32; 4]> {
    let part = |corner: f64, size: f64| ((corner + offset) / size.max(1.0)).clamp(0.0, 1.0) as f32;
    let [left, top, right, bottom] = corners;
    let found = [part(left, width), part(top, height), part(right, width), part(bottom, height)];
    (found[0] < found[2] && found[1] < found[3]).then_some(found)
}

/// A location token, or the text between two.
enum Piece<'a> {
    Text(&'a str),
    Location { value: f64, digits: usize },
}

/// Boxes of a text with location tokens; empty where it has none.
///
/// PaliGemma: four tokens of four digits, top, left, bottom, right of 1,024, then the label, up to a semicolon.
/// Florence-2: the label, then left, top, right, bottom of 1,000 bins of which the middle is meant, for one or more boxes.
pub(super) fn of_text(text: &str) -> Vec<Boxed> {
    let (mut found, mut corners, mut widest) = (Vec::new(), Vec::with_capacity(4), 0);
    let mut before = String::new();
    // A box of the first kind whose label is still to come.
    let mut open: Option<Option<[f32; 4]>> = None;
    for piece in pieces(text) {
        if found.len() >= MAX_BOXES {
            break;
        }
        match piece {
            Piece::Text(words) => {
                let (first, _) = words.split_once(';').unwrap_or((words, ""));
                if let Some(bounds) = open.take() {
                    found.push(Boxed { label: first.to_owned(), bounds });
                }
                before = words.rsplit([';', '>']).next().unwrap_or_default().to_owned();
                corners.clear();
                widest = 0;
            }
            Piece::Location { value, digits } => {
                corners.push(value);
                widest = widest.max(digits);
                if let Ok([a, b, c, d]) = <[f64; 4]>::try_from(&corners[..]) {
                    if widest >= 4 {
                        open = Some(bounds([b, a, d, c], [1024.0; 2], 0.0));
                    } else {
                        found.push(Boxed { label: before.clone(), bounds: bounds([a, b, c, d], [1000.0; 2], 0.5) });
                    }
                    corners.clear();
                    widest = 0;
                }
            }
        }
    }
    if let Some(bounds) = open {
        found.push(Boxed { label: String::new(), bounds });
    }
    found
}

/// Cuts a text at its location tokens, `<loc_0123>` or `<loc0123>`.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((value, digits, after)) = location(rest) {
            rest = after;
            return Some(Piece::Location { value, digits });
        }
        let end = rest.match_indices("<loc").map(|(at, _)| at).find(|&at| at > 0 && location(&rest[at..]).is_some());
        let (words, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(Piece::Text(words))
    })
}

/// The location token that a text begins with: its value, how many digits it has, and what follows.
fn location(text: &str) -> Option<(f64, usize, &str)> {
    let (digits, after) = text.strip_prefix("<loc")?.trim_start_matches('_').split_once('>')?;
    let fits = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| fits)?, digits.len(), after))
}
