//! From messages and media to the tokens that the decoder reads, with places for the features of what was seen and heard.

use std::{collections::VecDeque, sync::Arc};

use ndarray::Array2;
use tokenizers::Tokenizer;

use super::{
    profile::{Frames, Marks, Profile},
    template::{Message, Part, Template},
};
use crate::{Span, time::SECOND};

/// Most tokens that a prompt may have.
pub const MAX_TOKENS: usize = 1 << 20;

/// Rows of an encoder's output, one a soft token, and what tells them from others.
#[derive(Debug, Clone)]
pub struct Features {
    /// `[tokens, width]`.
    pub rows: Arc<Array2<f32>>,
    /// Hash of what was encoded.
    pub key: u64,
}

/// Whether a medium is of one sort.
type IsMedium = fn(&Medium) -> bool;

/// How many soft tokens a picture has, and how it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Soft tokens of the picture, or of each tile of one that is cut.
    pub tokens: usize,
    /// Rows and columns of tiles, before the whole picture; `None` where it is not cut.
    pub tiles: Option<(usize, usize)>,
}

impl Shown {
    /// Soft tokens in all.
    pub fn total(self) -> usize {
        self.tokens * self.tiles.map_or(1, |(rows, cols)| rows * cols + 1)
    }
}

/// A medium that a message shows, in the order of the messages' parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// A picture.
    Image(Shown),
    /// Frames with their stream times, and how long the video is.
    Video {
        /// Frames in order of time.
        frames: Vec<(u64, Shown)>,
        /// Length of the video, in nanoseconds.
        length_ns: u64,
    },
    /// Soft tokens of a sound, one number for each piece of it.
    Audio(Vec<usize>),
}

/// Why there is no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The template failed.
    #[error("{0}")]
    Template(String),
    /// The tokenizer failed.
    #[error("the tokenizer cannot read the prompt: {0}; check tokenizer.json")]
    Tokenizer(String),
    /// The template wrote fewer or more places than there are media.
    #[error("the chat template shows {found} of {wanted} pictures, videos and sounds; it does not fit the model")]
    Places {
        /// Places in the text.
        found: usize,
        /// Media.
        wanted: usize,
    },
    /// The features do not fit the soft tokens.
    #[error(
        "the prompt has {tokens} soft tokens, and the encoders made {rows} rows; the processor files do not fit the model"
    )]
    Rows {
        /// Soft tokens in the prompt.
        tokens: usize,
        /// Rows of features.
        rows: usize,
    },
    /// More tokens than anything can read.
    #[error("the prompt has {0} tokens, more than {MAX_TOKENS}; use fewer frames or smaller ones")]
    TooLong(usize),
}

/// Tokens with features in the place of some.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Where features go: index of their first token, and the features.
    pub soft: Vec<(usize, Features)>,
}

/// What makes prompts for one model.
pub struct Prompter {
    /// What the folder says of prompts.
    pub profile: Profile,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; without one, words follow each other line by line.
    pub template: Option<Template>,
}

impl Prompter {
    /// The chat as the template writes it, every medium written out as its soft tokens.
    pub fn text(&self, messages: &[Message], media: &[Medium]) -> Result<String, PromptError> {
        let chat = match &self.template {
            Some(template) => template.render(messages).map_err(PromptError::Template)?,
            None => plain(messages),
        };
        self.expand(&chat, media)
    }

    /// The tokens of a text in which special tokens may stand.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let encoding = self.tokenizer.encode(text, false).map_err(|error| PromptError::Tokenizer(error.to_string()))?;
        match encoding.len() {
            count if count > MAX_TOKENS => Err(PromptError::TooLong(count)),
            _ => Ok(encoding.get_ids().to_vec()),
        }
    }

    /// The prompt of a chat with the features of its media, in their order.
    pub fn prompt(
        &self,
        messages: &[Message],
        media: &[Medium],
        features: Vec<Features>,
    ) -> Result<Prompt, PromptError> {
        let ids = self.ids(&self.text(messages, media)?)?;
        self.place(ids, features)
    }

    /// Puts features, in order, where the soft tokens of `ids` stand.
    pub fn place(&self, ids: Vec<u32>, features: Vec<Features>) -> Result<Prompt, PromptError> {
        let soft = self.profile.soft_tokens();
        let places: Vec<usize> = (0..ids.len()).filter(|&at| soft.contains(&Some(ids[at]))).collect();
        let rows: usize = features.iter().map(|features| features.rows.nrows()).sum();
        if places.len() != rows {
            return Err(PromptError::Rows { tokens: places.len(), rows });
        }
        let mut next = 0;
        let mut prompt = Prompt { ids, soft: Vec::new() };
        for features in features {
            let count = features.rows.nrows();
            let run = &places[next..next + count];
            next += count;
            prompt.soft.extend(pieces(run, &features));
        }
        Ok(prompt)
    }

    /// Text that nobody meant as special tokens: what was heard or read must not end a turn or show a picture.
    pub fn harmless(&self, text: &str) -> String {
        let mut text = text.to_owned();
        loop {
            let special = self.tokenizer.get_added_tokens_decoder();
            let found = special.values().filter(|token| token.special && token.content.len() > 1);
            let Some(found) = found.map(|token| token.content.as_str()).find(|token| text.contains(token)) else {
                return text;
            };
            text = text.replace(found, " ");
        }
    }

    fn expand(&self, chat: &str, media: &[Medium]) -> Result<String, PromptError> {
        let Profile { image, video, audio, .. } = &self.profile;
        let marks: Vec<(&Marks, IsMedium)> = [
            (image, (|medium| matches!(medium, Medium::Image(_))) as IsMedium),
            (video, |medium| matches!(medium, Medium::Video { .. })),
            (audio, |medium| matches!(medium, Medium::Audio(_))),
        ]
        .into_iter()
        .filter_map(|(marks, is)| Some((marks.as_ref()?, is)))
        .collect();
        let mut waiting: VecDeque<&Medium> = media.iter().collect();
        let (mut rest, mut out, mut found) = (chat, String::with_capacity(chat.len()), 0);
        loop {
            let next = marks.iter().filter_map(|(marks, is)| Some((rest.find(&marks.placeholder)?, marks, is)));
            // Of two that begin at the same place the longer one is meant.
            let next = next.min_by_key(|(at, marks, _)| (*at, usize::MAX - marks.placeholder.len()));
            let Some((at, marks, is)) = next else { break };
            out.push_str(&rest[..at]);
            rest = &rest[at + marks.placeholder.len()..];
            found += 1;
            let medium = waiting.iter().position(|medium| is(medium)).and_then(|index| waiting.remove(index));
            let Some(medium) = medium else {
                return Err(PromptError::Places { found, wanted: media.len() });
            };
            self.write(medium, marks, &mut out);
        }
        out.push_str(rest);
        match waiting.len() {
            0 => Ok(out),
            left => Err(PromptError::Places { found: media.len() - left, wanted: media.len() }),
        }
    }

    fn write(&self, medium: &Medium, marks: &Marks, out: &mut String) {
        let sentence = self.profile.family.frames == Frames::Sentence;
        match medium {
            Medium::Image(shown) if sentence => tiles(*shown, marks, out),
            Medium::Image(shown) => repeat(shown.total(), marks, out),
            Medium::Audio(pieces) => pieces.iter().for_each(|tokens| repeat(*tokens, marks, out)),
            Medium::Video { frames, length_ns } if sentence => {
                let length = length_ns.div_ceil(SECOND);
                let (hours, minutes, seconds) = (length / 3600, length / 60 % 60, length % 60);
                let count = in_words(frames.len());
                out.push_str(&format!(
                    "You are provided the following series of {count} frames from a {hours}:{minutes:02}:{seconds:02} \
                     [H:MM:SS] video.\n"
                ));
                for (at_ns, shown) in frames {
                    out.push_str(&format!("\nFrame from {}:", clock(*at_ns)));
                    tiles(*shown, marks, out);
                }
                out.push_str("\n\n");
            }
            Medium::Video { frames, .. } => {
                for (index, (at_ns, shown)) in frames.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { " " });
                    out.push_str(&format!("{} ", clock(*at_ns)));
                    repeat(shown.total(), marks, out);
                }
            }
        }
    }

    /// The parts of a message that shows a clip, and its media: frames with their times, its sound, then the question.
    pub fn clip(
        &self,
        span: Span,
        frames: &[(u64, Shown)],
        sound: &[usize],
        words: Vec<Part>,
    ) -> (Vec<Part>, Vec<Medium>) {
        let (mut parts, mut media) = (Vec::new(), Vec::new());
        match self.profile.family.frames {
            _ if frames.is_empty() => {}
            Frames::None => {}
            Frames::Video | Frames::Sentence => {
                parts.push(Part::Video);
                media.push(Medium::Video { frames: frames.to_vec(), length_ns: span.end_ns - span.start_ns });
            }
            Frames::Pictures => {
                for (index, (at_ns, shown)) in frames.iter().enumerate() {
                    parts.push(Part::text(format!("{}{} ", if index == 0 { "" } else { " " }, clock(*at_ns))));
                    parts.push(Part::Image);
                    media.push(Medium::Image(*shown));
                }
            }
        }
        if !sound.is_empty() && self.profile.audio.is_some() {
            parts.push(Part::Audio);
            media.push(Medium::Audio(sound.to_vec()));
        }
        parts.extend(words);
        (parts, media)
    }
}

/// The runs of neighbouring places, each with its rows.
fn pieces(places: &[usize], features: &Features) -> Vec<(usize, Features)> {
    let mut out = Vec::new();
    let mut start = 0;
    for end in 1..=places.len() {
        if end == places.len() || places[end] != places[end - 1] + 1 {
            let whole = start == 0 && end == places.len();
            let rows = match whole {
                true => features.rows.clone(),
                false => Arc::new(features.rows.slice(ndarray::s![start..end, ..]).to_owned()),
            };
            // The key tells what was encoded; a part of it is told by where it begins too.
            out.push((places[start], Features { rows, key: features.key.wrapping_add(start as u64) }));
            start = end;
        }
    }
    out
}

fn repeat(tokens: usize, marks: &Marks, out: &mut String) {
    out.push_str(&marks.around[0]);
    out.extend(std::iter::repeat_n(marks.text.as_str(), tokens));
    out.push_str(&marks.around[1]);
}

/// A picture as SmolVLM has it: its tiles row by row where it is cut, then all of it.
fn tiles(shown: Shown, marks: &Marks, out: &mut String) {
    const FAKE: &str = "<fake_token_around_image>";
    let soft = |out: &mut String| out.extend(std::iter::repeat_n(marks.text.as_str(), shown.tokens));
    if let Some((rows, cols)) = shown.tiles {
        for row in 1..=rows {
            for col in 1..=cols {
                out.push_str(&format!("{FAKE}<row_{row}_col_{col}>"));
                soft(out);
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out.push_str(&format!("{FAKE}<global-img>"));
    soft(out);
    out.push_str(FAKE);
}

/// Minutes and seconds of a stream time.
pub fn clock(at_ns: u64) -> String {
    let seconds = at_ns / SECOND;
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// A number as English words, up to 999; digits beyond.
fn in_words(number: usize) -> String {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    match number {
        0..20 => SMALL[number].to_owned(),
        20..100 if number.is_multiple_of(10) => TENS[number / 10].to_owned(),
        20..100 => format!("{}-{}", TENS[number / 10], SMALL[number % 10]),
        100..1000 if number.is_multiple_of(100) => format!("{} hundred", SMALL[number / 100]),
        100..1000 => format!("{} hundred and {}", SMALL[number / 100], in_words(number % 100)),
        _ => number.to_string(),
    }
}

fn plain(messages: &[Message]) -> String {
    let words = messages.iter().flat_map(|message| &message.content).filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        _ => None,
    });
    words.collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_num2words_does() {
        let said = [4, 15, 20, 32, 64, 100, 121].map(in_words);
        assert_eq!(
            said,
            ["four", "fifteen", "twenty", "thirty-two", "sixty-four", "one hundred", "one hundred and twenty-one"]
        );
    }

    #[test]
    fn clocks_count_minutes_beyond_the_hour() {
        assert_eq!([0, 61_999_999_999, 6_000 * SECOND].map(clock), ["00:00", "01:01", "100:00"]);
    }

    #[test]
    fn features_are_cut_where_text_stands_between_their_places() {
        let rows = Array2::from_shape_fn((5, 1), |(row, _)| row as f32);
        let features = Features { rows: Arc::new(rows), key: 10 };
        let cut = pieces(&[3, 4, 7, 8, 9], &features);
        let found: Vec<(usize, Vec<f32>)> = cut.iter().map(|(at, f)| (*at, f.rows.iter().copied().collect())).collect();
        assert_eq!(found, [(3, vec![0.0, 1.0]), (7, vec![2.0, 3.0, 4.0])]);
    }
}
