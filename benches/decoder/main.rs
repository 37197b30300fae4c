//! Our side of the decoder bench: `decoder FOLDER`, told what to do on stdin, answers in JSON lines.
//!
//! Run by compare.py next to the other sides (loop.py). It prints a line when it is ready. `measure` does what loop.py
//! does: a prompt of 512 tokens, a prompt of 256 and 64 tokens after it, one by one, the likeliest each, and a second
//! prompt of 320 that begins with those 256. *Outside* is the share of the time of those 64 that is not inside ONNX
//! Runtime, by the spans of `Model::run`. `speculate` lets it answer in a schema's form twice, without and with guesses,
//! after a prompt that holds such an answer already.

use std::{
    error::Error,
    io::BufRead,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use describe_models::{
    Cancel,
    generator::{
        choice::{Chooser, Sampling},
        decoder::Decoder,
        generate::{Question, Said, answer},
        grammar::{Grammar, Schema, Vocabulary},
        prompt::Prompt,
    },
    runtime::RunSettings,
};
use serde_json::{Value, json};

#[path = "../job/runs.rs"]
mod runs;

use runs::Runs;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PROMPT: usize = 512;
const PREFIX: usize = 256;
const MORE: usize = 64;
const ANSWER: usize = 64;
/// Tokens of an answer in a schema's form.
const LONGEST: usize = 96;

fn main() -> ExitCode {
    // `cargo bench` runs it too, and names no folder.
    let Some(folder) = std::env::args().skip(1).find(|word| word != "--bench") else {
        eprintln!("decoder: needs the folder of a decoder; run 'make bench-decoder'");
        return ExitCode::SUCCESS;
    };
    match serve(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("decoder: {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(folder: &Path) -> Outcome<()> {
    let runs = Runs::listen();
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let vocabulary = config["vocabulary"].as_u64().ok_or("config.json does not say how many tokens there are")?;
    let file = |name: &str| -> PathBuf { folder.join("onnx").join(format!("{name}.onnx")) };
    let settings = RunSettings::default();
    let decoder = Decoder::load(&file("decoder_model_merged"), Some(&file("embed_tokens")), None, &settings)?;
    let mut side = Side { decoder, runs, vocabulary, folder: folder.to_owned(), cancel: Cancel::new()? };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let said = match line?.as_str() {
            "measure" => side.measure()?,
            "speculate" => side.speculate()?,
            other => return Err(format!("'{other}' is no order; use measure or speculate").into()),
        };
        println!("{said}");
    }
    Ok(())
}

struct Side {
    decoder: Decoder,
    runs: Runs,
    vocabulary: u64,
    folder: PathBuf,
    cancel: Cancel,
}

impl Side {
    /// Tokens that are not in the order of any text; equal in loop.py.
    fn tokens(&self, seed: u64, length: usize) -> Vec<u32> {
        (0..length as u64).map(|index| ((index * 7919 + seed) % (self.vocabulary - 1)) as u32).collect()
    }

    fn measure(&mut self) -> Outcome<Value> {
        let mut chooser = Chooser::new(Sampling::default());
        self.decoder.reset();
        self.decoder.feed(&prompt(self.tokens(5, 8)), 0, &self.cancel)?;
        self.decoder.reset();
        let started = Instant::now();
        self.decoder.feed(&prompt(self.tokens(1, PROMPT)), 0, &self.cancel)?;
        let prefill = started.elapsed();
        let first = self.tokens(2, PREFIX);
        let mut logits = self.decoder.feed(&prompt(first.clone()), PREFIX, &self.cancel)?;
        let before = self.decoder.work();
        let mut found = Vec::new();
        self.runs.take();
        let started = Instant::now();
        while found.len() < ANSWER {
            found.push(chooser.choose(logits.last(), None, &found));
            logits = self.decoder.step(&found[found.len() - 1..], 1, &self.cancel)?;
        }
        let (decode, inside) = (started.elapsed(), self.runs.take());
        let answered = self.decoder.work();
        let second = [first, self.tokens(3, MORE)].concat();
        let started = Instant::now();
        self.decoder.feed(&prompt(second), PREFIX, &self.cancel)?;
        let again = started.elapsed();
        let after = self.decoder.work();
        Ok(json!({
            "prefill": prefill.as_secs_f64(),
            "decode": decode.as_secs_f64(),
            "outside": 1.0 - inside.as_secs_f64() / decode.as_secs_f64(),
            "second": again.as_secs_f64(),
            "second_tokens": after.tokens - answered.tokens,
            "copied": (answered.copied - before.copied) as f64 / ANSWER as f64,
            "copied_second": after.copied - answered.copied,
            "answer": found,
        }))
    }

    fn speculate(&mut self) -> Outcome<Value> {
        let tokenizer = std::fs::read(self.folder.join("tokenizer.json"))?;
        let stop = self.vocabulary as u32 - 1;
        let vocabulary = Vocabulary::from_json(&tokenizer, self.vocabulary as usize, &[stop])?;
        let grammar = Grammar::new(&vocabulary, &Schema::default())?;
        let example = self.answer(&grammar, &self.tokens(2, PREFIX), false)?.0;
        let asked = [self.tokens(2, PREFIX), example.ids, self.tokens(3, 8)].concat();
        let (plain, slow) = self.answer(&grammar, &asked, false)?;
        let (guessed, fast) = self.answer(&grammar, &asked, true)?;
        Ok(json!({
            "tokens": plain.ids.len(),
            "guessed": guessed.guessed,
            "same": plain.ids == guessed.ids,
            "plain": slow,
            "speculation": fast,
        }))
    }

    /// An answer in the schema's form, and the seconds it took after its prompt was read.
    fn answer(&mut self, grammar: &Grammar, asked: &[u32], drafts: bool) -> Outcome<(Said, f64)> {
        let prompt = prompt(asked.to_vec());
        self.decoder.reset();
        self.decoder.feed(&prompt, 0, &self.cancel)?;
        let stop = [self.vocabulary as u32 - 1];
        let constraint = Some(grammar.answer(LONGEST)?);
        let question = Question { prompt: &prompt, prefix: 0, constraint, stops: &stop, most: LONGEST, drafts };
        let started = Instant::now();
        let mut chooser = Chooser::new(Sampling::default());
        let said = answer(&mut self.decoder, question, &mut chooser, &self.cancel, &mut |_| {})?;
        Ok((said, started.elapsed().as_secs_f64()))
    }
}

fn prompt(ids: Vec<u32>) -> Prompt {
    Prompt { ids, soft: Vec::new() }
}
