//! Random answers over the vocabularies of the fixtures: every one must be valid by its schema.

use std::{env, fs, path::PathBuf, time::Instant};

use rand_pcg::{
    Pcg64,
    rand_core::{Rng, SeedableRng},
};
use serde_json::{Value, json};

use super::*;
use crate::generator::choice::{Chooser, Sampling};

/// The folder of fixture packs; `None` (or a failure, where packs are required) if there is none.
fn fixtures() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let given = env::var_os("DESCRIBE_FIXTURES").map(PathBuf::from);
    let known = [here.join("../tests/data/packs"), here.join("../../shared/fixtures")];
    let found = given.into_iter().chain(known).find(|folder| folder.is_dir());
    if found.is_none() {
        assert!(env::var_os("DESCRIBE_REQUIRE_PACK").is_none_or(|value| value != "1"), "there are no fixture packs");
        eprintln!("SKIPPED: there are no fixture packs; set DESCRIBE_FIXTURES to their folder");
    }
    found
}

fn read(path: PathBuf) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The vocabulary of a pack with `more` logits than it has tokens, and the ids of its added tokens.
fn vocabulary(pack: &str, more: usize) -> Option<(Arc<Vocabulary>, Vec<u32>)> {
    let folder = fixtures()?.join(pack);
    let Ok(json) = fs::read(folder.join("tokenizer.json")) else {
        eprintln!("SKIPPED: the fixture {pack} is not there");
        return None;
    };
    let tokenizer: Value = serde_json::from_slice(&json).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let special: Vec<u32> = added.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect();
    let known = tokenizer["model"]["vocab"].as_object().unwrap().values().filter_map(Value::as_u64);
    let size = known.chain(special.iter().map(|&id| id.into())).max().unwrap() as usize + 1;
    let stops = match &read(folder.join("generation_config.json"))?["eos_token_id"] {
        Value::Array(ids) => ids.iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        id => vec![id.as_u64().unwrap() as u32],
    };
    Some((Vocabulary::from_json(&json, size + more, &stops).unwrap(), special))
}

fn user_schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "additionalProperties": false, "required": ["place", "mood"], "properties": {
            "place": {"type": "object", "properties": {"name": {"type": "string"}, "indoors": {"type": "boolean"}},
                      "required": ["name"], "additionalProperties": false},
            "mood": {"enum": ["calm", "tense", "über"]},
            "people": {"type": "integer", "minimum": 0, "maximum": 500}}}),
        json!({"type": "array", "minItems": 2, "maxItems": 5, "items": {"type": "number"}}),
        json!({"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            "note": {"type": "string", "minLength": 3, "maxLength": 12}}, "required": ["code", "note"]}),
        json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 17, "maximum": 99}}, "required": ["a"]}),
        json!({"anyOf": [{"type": "null"}, {"type": "array", "minItems": 30, "items": {"type": "integer"}}]}),
        json!({"type": "object", "properties": {"tree": {"$ref": "#/$defs/tree"}}, "required": ["tree"],
            "additionalProperties": false,
            "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}),
        json!({"type": "string", "pattern": "^[a-z]*z$"}),
        json!({"type": "number", "exclusiveMinimum": 0}),
        json!({"type": "integer"}),
        json!({}),
    ]
}

/// Logits that are not worth a model: all alike, or a few tokens (some of them special) far above the others.
fn babble(random: &mut Pcg64, logits: &mut [f32]) {
    let peaked = random.next_u32() % 4;
    for logit in logits.iter_mut() {
        *logit = (random.next_u32() >> 8) as f32 / (1 << 24) as f32;
    }
    for _ in 0..peaked * 20 {
        let at = random.next_u32() as usize % logits.len();
        logits[at] = 8.0;
    }
}

/// One answer of random tokens. Logits stay the same for some tokens, so that a model that repeats itself occurs too.
fn answer(grammar: &Grammar, max_tokens: usize, random: &mut Pcg64) -> (String, usize) {
    let mut logits = vec![0.0; grammar.vocabulary.logits()];
    let temperature = [0.0, 0.3, 1.0][random.next_u32() as usize % 3];
    let mut chooser = Chooser::new(Sampling { temperature, seed: random.next_u64(), ..Sampling::default() });
    let mut constraint = grammar.answer(max_tokens).unwrap();
    let mut tokens = 0;
    while !constraint.is_complete() {
        if random.next_u32().is_multiple_of(5) || tokens == 0 {
            babble(random, &mut logits);
        }
        let token = chooser.choose(&logits, Some(constraint.allowed()), &[]);
        let taken = constraint.push(token);
        tokens += usize::from(!grammar.vocabulary.stops().contains(&taken));
        assert!(tokens <= max_tokens, "{tokens} tokens where {max_tokens} are allowed");
    }
    (constraint.text().to_owned(), constraint.replaced())
}

/// 10,000 answers in all, shared among the four packs and the schemas; half of them by the default schema.
#[test]
fn answers_of_any_model_are_valid_by_their_schema() {
    let (mut answers, mut replaced, mut tight) = (0, 0, 0);
    let started = Instant::now();
    for (pack, more) in [("tiny-gemma4", 0), ("tiny-gemma3n", 13), ("tiny-smolvlm2", 64), ("trained-rain", 1)] {
        let Some((vocabulary, _)) = vocabulary(pack, more) else { continue };
        let users = user_schemas();
        let each = 1250 / users.len();
        let schemas = users.into_iter().map(|schema| (schema, each)).chain([(Schema::default().value().clone(), 1250)]);
        for (schema, count) in schemas {
            let validator = jsonschema::validator_for(&schema).unwrap();
            let grammar = Grammar::new(&vocabulary, &Schema::parse(&schema.to_string()).unwrap()).unwrap();
            let smallest = grammar.smallest();
            for seed in 0..count as u64 {
                let mut random = Pcg64::seed_from_u64(seed * 4 + pack.len() as u64);
                // A third in very few tokens, where closing in time is all that matters.
                let room = if seed % 3 == 0 { 12 } else { 301 - smallest };
                // The smaller of two numbers: short answers end in more places for the same time.
                let spare = (random.next_u32() as usize % room).min(random.next_u32() as usize % room);
                let max_tokens = smallest + spare;
                let (text, closed) = answer(&grammar, max_tokens, &mut random);
                let value =
                    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{pack} {schema} {seed}: {e} in {text}"));
                assert!(validator.is_valid(&value), "{pack} {schema} {seed}: {text}");
                answers += 1;
                replaced += closed;
                tight += usize::from(max_tokens == smallest);
            }
        }
    }
    eprintln!(
        "{answers} answers, {replaced} tokens replaced, {tight} without a token to spare, {:.1?}",
        started.elapsed()
    );
}

#[test]
fn answers_of_a_trained_pack_are_taken_token_by_token() {
    let Some((vocabulary, _)) = vocabulary("trained-rain", 0) else { return };
    let folder = fixtures().unwrap().join("trained-rain");
    let tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    let samples = read(folder.join("samples/samples.json")).unwrap();
    let grammar = Grammar::new(&vocabulary, &Schema::default()).unwrap();
    for clip in samples["clips"].as_array().unwrap() {
        let expected = clip["expected"].as_str().unwrap();
        let tokens = tokenizer.encode(expected, false).unwrap().get_ids().to_vec();
        let mut constraint = grammar.answer(128).unwrap();
        for &token in &tokens {
            assert!(!constraint.is_complete());
            assert!(constraint.allowed()[token as usize / 32] >> (token % 32) & 1 == 1, "{token} in {expected}");
            assert_eq!(constraint.push(token), token);
        }
        assert!(constraint.is_complete());
        assert_eq!((constraint.text(), constraint.replaced()), (expected, 0));
        assert_eq!(constraint.left(), 128 - tokens.len());
        for stop in vocabulary.stops() {
            assert!(constraint.allowed()[*stop as usize / 32] >> (stop % 32) & 1 == 1);
        }
    }
}

#[test]
fn special_tokens_and_padding_are_never_allowed() {
    for (pack, more) in [("tiny-gemma4", 40), ("tiny-smolvlm2", 3), ("trained-rain", 0)] {
        let Some((vocabulary, special)) = vocabulary(pack, more) else { continue };
        let grammar = Grammar::new(&vocabulary, &Schema::default()).unwrap();
        let padding = (vocabulary.logits() - more) as u32..vocabulary.logits() as u32;
        let mut random = Pcg64::seed_from_u64(1);
        let mut constraint = grammar.answer(300).unwrap();
        let mut chooser = Chooser::new(Sampling { temperature: 1.0, ..Sampling::default() });
        while !constraint.is_complete() {
            let mask = constraint.allowed().to_vec();
            for id in special.iter().copied().chain(padding.clone()) {
                assert!(mask[id as usize / 32] >> (id % 32) & 1 == 0, "{pack} allows {id} after {}", constraint.text());
            }
            // A model that asks for them all the same gets another token, and the answer goes on.
            let id = special[random.next_u32() as usize % special.len()];
            let text = constraint.text().len();
            if random.next_u32().is_multiple_of(20) {
                assert_ne!(constraint.clone_for_test().push(id), id, "{pack}: {id} was taken after {text} bytes");
            }
            constraint.push(chooser.choose(&vec![0.0; vocabulary.logits()], Some(&mask), &[]));
        }
    }
}

impl Constraint {
    fn clone_for_test(&self) -> Self {
        Self {
            vocabulary: self.vocabulary.clone(),
            matcher: self.matcher.deep_clone(),
            mask: self.mask.clone(),
            closing: self.closing.clone(),
            text: self.text.clone(),
            ..*self
        }
    }
}

#[test]
fn the_default_schema_takes_any_order_and_nothing_else() {
    let Some((vocabulary, _)) = vocabulary("tiny-smolvlm2", 0) else { return };
    let grammar = Grammar::new(&vocabulary, &Schema::default()).unwrap();
    let taken = |text: &str| {
        let mut constraint = grammar.answer(2000).unwrap();
        // One byte a token: what text is allowed does not depend on how it is cut.
        text.bytes().all(|byte| {
            let token = vocabulary.single[usize::from(byte)].unwrap();
            constraint.push(token) == token
        }) && constraint.is_complete()
    };
    let event = r#"{"start":0,"end":12.25,"text":"a \"b\" \\ é 漢"}"#;
    for order in [
        format!(r#"{{"caption":"A dog.","events":[{event}],"sounds":[]}}"#),
        format!(r#"{{"caption":"A dog.","sounds":[{event},{event}],"events":[]}}"#),
        format!(r#"{{"events":[{event}],"caption":"","sounds":[]}}"#),
        format!(r#"{{"events":[],"sounds":[{event}],"caption":""}}"#),
        r#"{"sounds":[],"caption":"","events":[]}"#.to_owned(),
        r#"{"sounds":[],"events":[],"caption":"x\ny"}"#.to_owned(),
    ] {
        assert!(taken(&order), "{order}");
    }
    for wrong in [
        r#"{"caption":"A dog.","events":[]}"#,
        r#"{"caption":"A dog.","caption":"","events":[],"sounds":[]}"#,
        r#"{"caption":"A dog.","events":[],"sounds":[],"more":1}"#,
        r#"{"caption":"A dog.","events":[{"start":-1,"end":2,"text":""}],"sounds":[]}"#,
        r#"{"caption":"A dog.","events":[{"start":1e3,"end":2,"text":""}],"sounds":[]}"#,
        r#"{"caption": "A dog.","events":[],"sounds":[]}"#,
    ] {
        assert!(!taken(wrong), "{wrong}");
    }
}

#[test]
fn too_few_tokens_are_refused_with_the_number_needed() {
    let Some((vocabulary, _)) = vocabulary("tiny-gemma4", 0) else { return };
    let grammar = Grammar::new(&vocabulary, &Schema::default()).unwrap();
    let error = grammar.answer(grammar.smallest() - 1).err().unwrap().to_string();
    assert!(error.contains(&format!("max-tokens to {}", grammar.smallest())), "{error}");
    let mut tight = grammar.answer(grammar.smallest()).unwrap();
    while !tight.is_complete() {
        tight.push(0);
    }
    assert_eq!(tight.left(), 0);
    assert!(serde_json::from_str::<Value>(tight.text()).is_ok(), "{}", tight.text());
}

#[test]
fn schemas_that_cannot_be_held_are_refused() {
    let Some((vocabulary, _)) = vocabulary("tiny-gemma4", 0) else { return };
    for bad in [
        json!({"type": "strin"}),
        json!({"type": "object", "if": {}, "then": {}}),
        json!({"$ref": "#/$defs/nowhere"}),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"type": "string", "pattern": "("}),
        json!({"$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}, "$ref": "#/$defs/a"}),
        json!({"type": "array", "minItems": 100_000, "items": {"type": "string"}}),
    ] {
        let error = Grammar::new(&vocabulary, &Schema::parse(&bad.to_string()).unwrap()).err();
        let error = error.unwrap_or_else(|| panic!("{bad} was taken")).to_string();
        assert!(error.contains("schema is not usable") && !error.contains('\n'), "{bad}: {error}");
    }
}

#[test]
fn a_broken_tokenizer_is_an_error() {
    let Some(folder) = fixtures() else { return };
    let Ok(json) = fs::read(folder.join("broken/bad-tokenizer/tokenizer.json")) else {
        return eprintln!("SKIPPED: the fixture broken/bad-tokenizer is not there");
    };
    let error = Vocabulary::from_json(&json, 640, &[1]).err().unwrap().to_string();
    assert!(error.contains("tokenizer is not usable"), "{error}");
}

#[test]
fn fewer_logits_than_tokens_and_no_stop_ids_are_possible() {
    let Some((whole, _)) = vocabulary("trained-rain", 0) else { return };
    let json = fs::read(fixtures().unwrap().join("trained-rain/tokenizer.json")).unwrap();
    let narrow = Vocabulary::from_json(&json, whole.logits() - 40, &[u32::MAX]).unwrap();
    assert!(narrow.stops().is_empty());
    let grammar = Grammar::new(&narrow, &Schema::default()).unwrap();
    let (text, _) = answer(&grammar, 100, &mut Pcg64::seed_from_u64(3));
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    let number = Grammar::new(&narrow, &Schema::parse(r#"{"type":"number"}"#).unwrap()).unwrap();
    let (text, _) = answer(&number, 10, &mut Pcg64::seed_from_u64(4));
    assert!(serde_json::from_str::<f64>(&text).is_ok(), "{text}");
}

#[test]
fn what_must_follow_is_told_in_advance() {
    let Some((vocabulary, _)) = vocabulary("trained-rain", 0) else { return };
    let schema =
        Schema::parse(r#"{"type":"object","properties":{"a":{"const":"rain falls"}},"required":["a"]}"#).unwrap();
    let mut constraint = Grammar::new(&vocabulary, &schema).unwrap().answer(100).unwrap();
    let likely = constraint.likely();
    let text: Vec<u8> = likely.iter().flat_map(|&token| vocabulary.bytes(token)).copied().collect();
    assert!(text.starts_with(br#"{"a":"rain falls""#), "{}", String::from_utf8_lossy(&text));
    let forced = constraint.forced(100);
    assert!(forced.iter().zip(&likely).all(|(a, b)| a == b), "forced tokens are the only ones");
    for &token in &likely {
        assert_eq!(constraint.push(token), token);
    }
}

/// A byte-level vocabulary of `size` made-up words, with and without a space before them.
fn made_up_tokenizer(size: usize) -> Vec<u8> {
    let mut random = Pcg64::seed_from_u64(7);
    let mut vocab: Vec<String> = (0..0x144).filter_map(char::from_u32).map(String::from).collect();
    let mut seen: std::collections::HashSet<String> = vocab.iter().cloned().collect();
    vocab.extend(["{\"", "\":", "\",\"", "\"}", "\"}],\"", "\":[", "]}", "}]"].map(String::from));
    while vocab.len() < size {
        let length = 2 + random.next_u32() % 9;
        let mut word: String = (0..length).map(|_| char::from(b'a' + (random.next_u32() % 26) as u8)).collect();
        match random.next_u32() % 8 {
            0..4 => word.insert(0, 'Ġ'),
            4 => word.push_str([".", ",", "\"", "\",", "}", "0"][random.next_u32() as usize % 6]),
            _ => {}
        }
        if seen.insert(word.clone()) {
            vocab.push(word);
        }
    }
    let vocab: serde_json::Map<String, Value> =
        vocab.into_iter().enumerate().map(|(id, word)| (word, id.into())).collect();
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "added_tokens": [], "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}})
    .to_string()
    .into_bytes()
}

/// Prints what the steps of an answer cost over a vocabulary as large as the largest published ones.
#[test]
#[ignore = "a measurement; run it alone, with --ignored --nocapture"]
fn speed_over_a_large_vocabulary() {
    let json = made_up_tokenizer(262_144);
    let micros = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
    let begun = Instant::now();
    let vocabulary = Vocabulary::from_json(&json, 262_144, &[1]).unwrap();
    eprintln!("vocabulary {:.0} ms", micros(begun) / 1e3);
    let begun = Instant::now();
    let grammar = Grammar::new(&vocabulary, &Schema::default()).unwrap();
    eprintln!("grammar {:.1} ms", micros(begun) / 1e3);
    let (mut opening, mut masking, mut choosing, mut pushing) = (vec![], vec![], vec![], vec![]);
    let mut random = Pcg64::seed_from_u64(2);
    let mut logits = vec![0.0; 262_144];
    let mut chooser = Chooser::new(Sampling::default());
    for _ in 0..8 {
        let begun = Instant::now();
        let mut constraint = grammar.answer(200).unwrap();
        opening.push(micros(begun));
        while !constraint.is_complete() {
            babble(&mut random, &mut logits);
            // Bytes of structure are likely now and then, so that events come and go.
            for (byte, often) in [(b'"', 12), (b'{', 2), (b'}', 2), (b',', 2), (b'1', 3)] {
                if random.next_u32().is_multiple_of(often) {
                    logits[vocabulary.single[usize::from(byte)].unwrap() as usize] = 9.0;
                }
            }
            let begun = Instant::now();
            let mask = constraint.allowed();
            masking.push(micros(begun));
            let begun = Instant::now();
            let token = chooser.choose(&logits, Some(mask), &[]);
            choosing.push(micros(begun));
            let begun = Instant::now();
            constraint.push(token);
            pushing.push(micros(begun));
        }
    }
    for (name, mut times) in [("answer", opening), ("mask", masking), ("choose", choosing), ("push", pushing)] {
        times.sort_unstable_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        eprintln!(
            "{name}: mean {mean:.0} us, median {:.0}, 95 % {:.0}, most {:.0}, of {}",
            at(0.5),
            at(0.95),
            at(1.0),
            times.len()
        );
    }
}
