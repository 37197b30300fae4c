//! The vocabulary of a Whisper: its tokenizer and what its special tokens mean.
//!
//! Inside, tokens are numbered so that words come first, then the end, other special tokens and last the timestamps, as
//! in the vocabularies of OpenAI; `Order` goes between that and a model that numbers them otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::rules::{Decode, LATEST_START, Rules};
use crate::{DescribeError, LoadError, experts::files, generator::folder::Folder};

/// Largest tokenizer file of the default pack that is read, in bytes; that of Whisper has two million.
const MAX_TOKENIZER: u64 = 16 << 20;
/// Most timestamps: two minutes.
const MOST_TIMES: u32 = 6_000;
/// Symbols that no voice says; `whisper/tokenizer.py` (`non_speech_tokens`) suppresses them.
const SYMBOLS: &str = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 << >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
/// Of these, the first byte alone is suppressed: several tokens make one note.
const NOTES: &str = "♩ ♪ ♫ ♬ ♭ ♮ ♯";

/// The tokens of a Whisper.
pub struct Words {
    tokenizer: Tokenizer,
    rules: Rules,
    start: u32,
    /// The token of the task; `None` of models that know one language only.
    transcribe: Option<u32>,
    no_speech: Option<u32>,
    /// Tokens of languages with their ISO 639-1 codes.
    languages: BTreeMap<u32, String>,
    order: Option<Order>,
}

impl Words {
    /// The words of the default pack's tokenizer file.
    pub fn of_tokenizer(path: &Path) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::Format { path: path.to_owned(), reason };
        let tokenizer = Tokenizer::from_bytes(files::read(path, MAX_TOKENIZER)?).map_err(|e| wrong(e.to_string()))?;
        let id = |name: &str| tokenizer.token_to_id(name).ok_or_else(|| wrong(format!("it has no token {name}")));
        let (start, end, transcribe) = (id("<|startoftranscript|>")?, id("<|endoftext|>")?, id("<|transcribe|>")?);
        // The timestamps follow the last token that has a name.
        let zero = id("<|notimestamps|>")? + 1;
        let no_speech = Some(id("<|nospeech|>").or_else(|_| id("<|nocaptions|>"))?);
        let languages = language_tokens(&tokenizer, start, transcribe);
        let never = (end + 1..zero).chain(symbol_tokens(&tokenizer)).collect();
        let rules = Rules { end, zero, never, blank: ids(&tokenizer, " "), latest_start: LATEST_START };
        Ok(Self { tokenizer, rules, start, transcribe: Some(transcribe), no_speech, languages, order: None })
    }

    /// The words of a published folder, whose decoder scores `size` tokens: what generation_config.json says of them,
    /// else the names in tokenizer.json.
    pub fn of_folder(folder: &Folder, size: usize) -> Result<Self, LoadError> {
        let (path, bytes) = folder.tokenizer_bytes()?;
        let wrong = |reason: String| LoadError::Format { path: path.clone(), reason };
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| wrong(error.to_string()))?;
        let told =
            |key: &str| [&folder.generation, &folder.config].into_iter().find_map(|config| token(config.pointer(key)?));
        let id = |key: &str, names: &[&str]| {
            told(key)
                .or_else(|| names.iter().find_map(|name| tokenizer.token_to_id(name)))
                .filter(|id| (*id as usize) < size)
        };
        let needed = |key: &str, name: &str| {
            id(key, &[name]).ok_or_else(|| {
                wrong(format!("it has no token {name}, and generation_config.json does not name one at '{key}'"))
            })
        };
        let start = needed("/decoder_start_token_id", "<|startoftranscript|>")?;
        let end = match folder.stop_ids().first() {
            Some(&end) if (end as usize) < size => end,
            _ => needed("/eos_token_id", "<|endoftext|>")?,
        };
        let untimed = needed("/no_timestamps_token_id", "<|notimestamps|>")?;
        let transcribe = id("/task_to_id/transcribe", &["<|transcribe|>"]);
        let mut languages = told_languages(&folder.generation, size);
        if let (true, Some(transcribe)) = (languages.is_empty(), transcribe) {
            languages = language_tokens(&tokenizer, start, transcribe);
        }
        // Models of one language, English, are started with nothing but the start.
        let several = folder.generation.get("is_multilingual") != Some(&Value::Bool(false)) && !languages.is_empty();
        let transcribe = transcribe.filter(|_| several);
        if transcribe.is_none() {
            languages = [(start, "en".to_owned())].into();
        }
        let times = times(&tokenizer, untimed + 1, size);
        if times.is_empty() {
            return Err(wrong("it has no tokens for times behind <|notimestamps|>".into()));
        }
        let order = Order::new(&tokenizer, end, &times, size);
        let zero = (size - times.len()) as u32;
        let inward = |id: u32| order.as_ref().map_or(id, |order| order.inward(id));
        let list = |key: &str| {
            let all = folder.generation.get(key).or_else(|| folder.config.get(key))?.as_array()?;
            Some(all.iter().filter_map(token).filter(|id| (*id as usize) < size).map(inward).collect::<Vec<_>>())
        };
        let end = inward(end);
        let within = |found: Vec<u32>| found.into_iter().filter(|id| (*id as usize) < size).map(inward).collect();
        let never = list("suppress_tokens").unwrap_or_else(|| within(symbol_tokens(&tokenizer)));
        let blank = list("begin_suppress_tokens").unwrap_or_else(|| within(ids(&tokenizer, " ")));
        let latest = folder.generation.get("max_initial_timestamp_index").and_then(token).unwrap_or(LATEST_START);
        let never = (end + 1..zero).chain(never.into_iter().filter(|id| *id != end)).collect();
        Ok(Self {
            rules: Rules { end, zero, never, blank, latest_start: latest },
            start: inward(start),
            transcribe: transcribe.map(inward),
            no_speech: ["<|nospeech|>", "<|nocaptions|>"]
                .iter()
                .find_map(|name| tokenizer.token_to_id(name))
                .map(inward),
            languages: languages.into_iter().map(|(id, code)| (inward(id), code)).collect(),
            tokenizer,
            order,
        })
    }

    /// What may follow what.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The token that every transcript starts with.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The token whose score at the start says that nobody speaks.
    pub fn no_speech(&self) -> Option<u32> {
        self.no_speech
    }

    /// The tokens before a transcript with times.
    pub fn prompt(&self, language: u32) -> Vec<u32> {
        match self.transcribe {
            Some(transcribe) => vec![self.start, language, transcribe],
            None => vec![self.start],
        }
    }

    /// Token of a language by its ISO 639-1 code.
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages.iter().find(|(_, has)| *has == code).map(|(token, _)| *token)
    }

    /// ISO 639-1 code of a language by its token.
    pub fn language_code(&self, token: u32) -> Option<&str> {
        self.languages.get(&token).map(String::as_str)
    }

    /// All languages: their tokens and codes.
    pub fn languages(&self) -> &BTreeMap<u32, String> {
        &self.languages
    }

    /// The language of a model that knows no other.
    pub fn only_language(&self) -> Option<u32> {
        self.transcribe.is_none().then_some(self.start)
    }

    /// The text of `tokens`.
    pub fn text(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(&self.outward(tokens), true).unwrap_or_default()
    }

    /// The tokens of `text`, in the numbers of the model.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        ids(&self.tokenizer, text)
    }

    /// `tokens` in the numbers of the model.
    pub fn outward(&self, tokens: &[u32]) -> Vec<u32> {
        match &self.order {
            Some(order) => order.outward(tokens),
            None => tokens.to_vec(),
        }
    }

    /// A decoder that takes and scores tokens in the numbers used here.
    pub fn in_order<'a>(&'a self, decoder: Box<dyn Decode + 'a>) -> Box<dyn Decode + 'a> {
        match &self.order {
            Some(order) => Box::new(Ordered { order, decoder }),
            None => decoder,
        }
    }
}

/// Between the numbers used here and those of a model.
struct Order {
    /// The model's number of each token here.
    outward: Vec<u32>,
    /// The number here of each token of the model.
    inward: Vec<u32>,
}

impl Order {
    /// `None` where the model numbers its `size` tokens as we do.
    fn new(tokenizer: &Tokenizer, end: u32, times: &[u32], size: usize) -> Option<Self> {
        let special: BTreeSet<u32> =
            tokenizer.get_added_tokens_decoder().iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let timed: BTreeSet<u32> = times.iter().copied().collect();
        let plain = |id: &u32| *id != end && !timed.contains(id);
        let rest = || (0..size as u32).filter(plain);
        let words = rest().filter(|id| !special.contains(id));
        let named = rest().filter(|id| special.contains(id));
        let outward: Vec<u32> = words.chain([end]).chain(named).chain(times.iter().copied()).collect();
        if outward.iter().enumerate().all(|(here, there)| here == *there as usize) {
            return None;
        }
        let mut inward = vec![0; outward.len()];
        for (here, there) in outward.iter().enumerate() {
            if let Some(place) = inward.get_mut(*there as usize) {
                *place = here as u32;
            }
        }
        Some(Self { outward, inward })
    }

    fn outward(&self, tokens: &[u32]) -> Vec<u32> {
        tokens.iter().map(|token| self.outward.get(*token as usize).copied().unwrap_or(*token)).collect()
    }

    fn inward(&self, token: u32) -> u32 {
        self.inward.get(token as usize).copied().unwrap_or(token)
    }
}

/// A decoder seen through an order.
struct Ordered<'a> {
    order: &'a Order,
    decoder: Box<dyn Decode + 'a>,
}

impl Decode for Ordered<'_> {
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError> {
        let scores = self.decoder.extend(&self.order.outward(tokens))?;
        let score = |there: &u32| scores.get(*there as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Ok(self.order.outward.iter().map(score).collect())
    }

    fn rewind(&mut self, length: usize) -> Result<usize, DescribeError> {
        self.decoder.rewind(length)
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).map(|text| text.get_ids().to_vec()).unwrap_or_default()
}

/// The tokens of the times from 0.00 s on: by their names, else all from `zero` on.
fn times(tokenizer: &Tokenizer, zero: u32, size: usize) -> Vec<u32> {
    let named = |tick: u32| tokenizer.token_to_id(&format!("<|{}.{:02}|>", tick / 50, tick % 50 * 2));
    let found: Vec<u32> = (0..MOST_TIMES).map_while(named).filter(|id| (*id as usize) < size).collect();
    if found.is_empty() { (zero..size as u32).take(MOST_TIMES as usize).collect() } else { found }
}

/// `lang_to_id` of a generation config: `{"<|en|>": 50259, …}`.
fn told_languages(generation: &Value, size: usize) -> BTreeMap<u32, String> {
    let told = generation.get("lang_to_id").and_then(Value::as_object);
    let language = |(name, id): (&String, &Value)| {
        let id = token(id).filter(|id| (*id as usize) < size)?;
        Some((id, name.trim_start_matches("<|").trim_end_matches("|>").to_owned()))
    };
    told.into_iter().flatten().filter_map(language).collect()
}

/// The tokens `<|xx|>` between the start and the tasks.
fn language_tokens(tokenizer: &Tokenizer, start: u32, transcribe: u32) -> BTreeMap<u32, String> {
    let code = |token: u32| {
        let name = tokenizer.id_to_token(token)?;
        let code = name.strip_prefix("<|")?.strip_suffix("|>")?;
        (code.len() <= 3).then(|| (token, code.to_owned()))
    };
    (start + 1..transcribe).filter_map(code).collect()
}

/// Tokens of symbols that no voice says.
fn symbol_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    let mut found = Vec::new();
    for symbol in SYMBOLS.split(' ').chain(NOTES.split(' ')) {
        for text in [symbol.to_owned(), format!(" {symbol}")] {
            if let [first, rest @ ..] = ids(tokenizer, &text).as_slice()
                && (rest.is_empty() || NOTES.contains(symbol))
            {
                found.push(*first);
            }
        }
    }
    // A dash or a quote inside a word is fine, at its start it is not.
    found.extend([" -", " '"].into_iter().filter_map(|text| ids(tokenizer, text).first().copied()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::testing::pack_files;
    use proptest::prelude::*;

    #[test]
    fn the_symbols_that_are_never_said_are_those_of_the_model() {
        // `suppress_tokens` in the config.json of Whisper base, but for the special tokens.
        const WANTED: [u32; 82] = [
            1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93, 359, 503, 522, 542,
            873, 893, 902, 918, 922, 931, 1350, 1853, 1982, 2460, 2627, 3246, 3253, 3268, 3536, 3846, 3961, 4183, 4667,
            6585, 6647, 7273, 9061, 9383, 10428, 10929, 11938, 12033, 12331, 12562, 13793, 14157, 14635, 15265, 15618,
            16553, 16604, 18362, 18956, 20075, 21675, 22520, 26130, 26161, 26435, 28279, 29464, 31650, 32302, 32470,
            36865, 42863, 47425, 49870, 50254,
        ];
        let Some(files) = pack_files(&[("tokenizer", "speech_tokenizer.json")]) else { return };
        let tokenizer = Tokenizer::from_file(&files["tokenizer"]).unwrap();
        let mut found = symbol_tokens(&tokenizer);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, WANTED);
        assert_eq!(language_tokens(&tokenizer, 50_258, 50_359).len(), 99);
    }

    /// A tokenizer with these words, special ones in `<|…|>`, numbered as they stand.
    fn tokenizer(words: &[String]) -> Tokenizer {
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| (word.clone(), id.into())).collect();
        let added: Vec<Value> = words
            .iter()
            .enumerate()
            .filter(|(_, word)| word.starts_with("<|"))
            .map(|(id, word)| {
                serde_json::json!({"id": id, "content": word, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false})
            })
            .collect();
        let model = serde_json::json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0]});
        let all = serde_json::json!({"version": "1.0", "added_tokens": added, "model": model});
        Tokenizer::from_bytes(all.to_string()).unwrap()
    }

    proptest! {
        #[test]
        fn whatever_the_order_of_a_vocabulary_words_come_before_the_end_and_times_last(
            names in Just(["a", "b", "c", "<|end|>", "<|x|>", "<|0.00|>", "<|0.02|>", "<|0.04|>"].map(str::to_owned).to_vec()).prop_shuffle()
        ) {
            let tokenizer = tokenizer(&names);
            let end = tokenizer.token_to_id("<|end|>").unwrap();
            let times = times(&tokenizer, 0, names.len());
            let named: Vec<&str> = times.iter().map(|id| names[*id as usize].as_str()).collect();
            prop_assert_eq!(named, ["<|0.00|>", "<|0.02|>", "<|0.04|>"]);
            let here: Vec<u32> = (0..names.len() as u32).collect();
            let order = Order::new(&tokenizer, end, &times, names.len());
            let there = order.as_ref().map_or(here.clone(), |order| order.outward(&here));
            let named: Vec<&str> = there.iter().map(|id| names[*id as usize].as_str()).collect();
            prop_assert!(named[..3].iter().all(|name| !name.starts_with('<')));
            prop_assert_eq!(&named[3..], ["<|end|>", "<|x|>", "<|0.00|>", "<|0.02|>", "<|0.04|>"]);
            if let Some(order) = order {
                prop_assert!(there.iter().enumerate().all(|(here, there)| order.inward(*there) == here as u32));
            }
        }
    }
}
