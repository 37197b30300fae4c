//! Published models against the values of their reference implementation.
//!
//! The packs come from the folder that DESCRIBE_FIXTURES names, else from the shared fixtures, else from tests/data/packs.
//! Nothing here knows a pack by name: every folder with goldens goes through every gate that it has values for.

#[path = "../models/generator/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests")]
mod testing;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use describe_models::{
    Cancel, Frame, Span,
    generator::{
        choice::{Chooser, Sampling},
        decoder::{Decoder, Logits},
        describer::Engine,
        encoder::Eyes,
        folder::Folder,
        generate::{self, Question},
        grammar::{Grammar, Schema},
        picture::PixelRule,
        prompt::{Features, Medium, Prompt, Shown},
        template::{Message, Part},
    },
    runtime::{self, RunSettings},
};
use ndarray::{Array2, ArrayD, IxDyn};
use serde_json::Value;
use testing::Golden;

/// Bound of last-row logits and encoder outputs with stored features, where a pack names none.
const CLOSE: f32 = 1e-4;
/// Bound end to end, with our own preprocessing.
const NEAR: f32 = 1e-3;

/// A switch; its runs need ONNX Runtime started.
fn cancel() -> Cancel {
    runtime::start(&RunSettings::default()).unwrap();
    Cancel::new().unwrap()
}

/// A pack with its goldens.
struct Pack {
    path: PathBuf,
    golden: Golden,
}

impl Pack {
    fn name(&self) -> String {
        self.path.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn cases(&self) -> Vec<(String, Value)> {
        let cases = self.golden.index["cases"].as_object().unwrap();
        cases.iter().map(|(name, case)| (name.clone(), case.clone())).collect()
    }

    /// Cases that are one prompt.
    fn prompts(&self) -> Vec<(String, Value)> {
        self.cases().into_iter().filter(|(_, case)| case.get("kind").is_none()).collect()
    }

    fn bound(&self) -> f32 {
        self.golden.index["tolerance"]["abs"].as_f64().map_or(CLOSE, |bound| bound as f32)
    }

    fn engine(&self) -> Engine {
        let folder = Folder::read(&self.path).unwrap();
        Engine::load(folder, None, &RunSettings::default(), &mut |_| ())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    fn ids(&self, case: &Value) -> Vec<u32> {
        let (_, ids) = self.golden.i64(case["input_ids"].as_str().unwrap());
        ids.into_iter().map(|id| id as u32).collect()
    }

    /// The stored features of a medium: `[tokens, width]`.
    fn stored(&self, name: &str) -> Array2<f32> {
        let (shape, values) = self.golden.f32(name);
        let width = *shape.last().unwrap();
        Array2::from_shape_vec((values.len() / width, width), values).unwrap()
    }

    /// The prompt of a case with stored features.
    fn prompt(&self, engine: &Engine, case: &Value) -> Prompt {
        let split = case["note"].as_str().is_none_or(|note| !note.contains("splitting off"));
        let names = |key: &str| -> Vec<String> {
            case[key].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let mut features = Vec::new();
        let frames = names("images")
            .into_iter()
            .map(|name| (name, split))
            .chain(names("video").into_iter().map(|name| (name, false)));
        for (name, split) in frames {
            let tiled = format!("{name}/{}/image_features", if split { "split" } else { "single" });
            let whole = format!("{name}/image_features");
            features.push(self.stored(if self.golden.has(&whole) { &whole } else { &tiled }));
        }
        features.extend(names("audio").iter().map(|name| self.stored(&format!("{name}/audio_features"))));
        let features =
            features.into_iter().enumerate().map(|(key, rows)| Features { rows: Arc::new(rows), key: key as u64 });
        engine.prompter.place(self.ids(case), features.collect()).unwrap()
    }
}

fn all(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()) {
        match path.join("goldens/index.json").is_file() && path.join("config.json").is_file() {
            true => out.push(path),
            false => all(&path, out),
        }
    }
}

/// Every pack with goldens.
fn packs() -> Vec<Pack> {
    let mut paths = Vec::new();
    if let Some(folder) = testing::fixtures() {
        all(&folder, &mut paths);
        assert!(!paths.is_empty(), "no pack with goldens in {}", folder.display());
    }
    paths.sort();
    paths.into_iter().map(|path| Pack { golden: Golden::open(&path), path }).collect()
}

/// Packs with a tokenizer and a chat template: whole models.
fn models() -> Vec<Pack> {
    packs().into_iter().filter(|pack| pack.path.join("chat_template.jinja").exists()).collect()
}

/// Packs of a decoder only.
fn decoders() -> Vec<(Pack, Decoder)> {
    let only = packs().into_iter().filter(|pack| !pack.path.join("tokenizer.json").exists());
    only.map(|pack| {
        let folder = Folder::read(&pack.path).unwrap();
        let embed = folder.has("embed_tokens").then(|| folder.model("embed_tokens", None).unwrap());
        let decoder = folder.model("decoder_model_merged", None).unwrap();
        let decoder = Decoder::load(&decoder, embed.as_deref(), None, &RunSettings::default()).unwrap();
        (pack, decoder)
    })
    .collect()
}

#[track_caller]
fn assert_close(found: &[f32], wanted: &[f32], bound: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let worst = found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max);
    println!("{what}: {worst:.1e}");
    assert!(worst <= bound, "{what}: {worst} is more than {bound}");
}

fn best(scores: &[f32]) -> u32 {
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a))).unwrap() as u32
}

/// Greedy tokens after `logits`, no stop tokens applied.
fn greedy(decoder: &mut Decoder, logits: Logits, count: usize) -> Vec<u32> {
    let cancel = cancel();
    let mut ids = vec![best(logits.last())];
    while ids.len() < count {
        let logits = decoder.step(&ids[ids.len() - 1..], 1, &cancel).unwrap();
        ids.push(best(logits.last()));
    }
    ids
}

fn messages(case: &Value) -> Vec<Message> {
    let part = |part: &Value| match part["type"].as_str().unwrap() {
        "text" => Part::text(part["text"].as_str().unwrap()),
        "image" => Part::Image,
        "video" => Part::Video,
        "audio" => Part::Audio,
        other => panic!("{other}"),
    };
    let message = |message: &Value| Message {
        role: match message["role"].as_str().unwrap() {
            "system" => "system",
            "assistant" => "assistant",
            _ => "user",
        },
        content: message["content"].as_array().unwrap().iter().map(part).collect(),
    };
    case["messages"].as_array().unwrap().iter().map(message).collect()
}

/// A picture among the goldens.
fn frame(pack: &Pack, name: &str) -> Frame {
    let about = &pack.golden.index["media"][name];
    let side = |key: &str| about[key].as_u64().unwrap() as u32;
    Frame {
        at_ns: 0,
        width: side("width"),
        height: side("height"),
        rgb: pack.golden.bytes(about["raw"].as_str().unwrap()).into(),
    }
}

/// A sound among the goldens, 16-bit WAV with the usual header.
fn samples(pack: &Pack, name: &str) -> Vec<f32> {
    let about = &pack.golden.index["media"][name];
    let wav = pack.golden.bytes(about["wav"].as_str().unwrap());
    let mut reader = hound::WavReader::new(wav.as_slice()).unwrap();
    reader.samples::<i16>().map(|sample| f32::from(sample.unwrap()) / 32768.0).collect()
}

fn names(case: &Value, key: &str) -> Vec<String> {
    case[key].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The media of a case encoded by us, in the order of its messages: what the prompt shows and the features.
fn encoded(pack: &Pack, engine: &mut Engine, case: &Value) -> (Vec<Medium>, Vec<Features>) {
    let cancel = cancel();
    let split = case["note"].as_str().is_none_or(|note| !note.contains("splitting off"));
    let (mut media, mut features) = (Vec::new(), Vec::new());
    let images = names(case, "images");
    if !images.is_empty() {
        let part = engine.folder.processor_part("image_processor").unwrap();
        let rule = PixelRule::read(part).unwrap().with_split(split);
        let mut eyes = Eyes::new(engine.eyes.as_ref().unwrap().model().clone(), rule).unwrap();
        for name in &images {
            let (shown, rows) = eyes.see(&[frame(pack, name)], &cancel).unwrap().remove(0);
            media.push(Medium::Image(shown));
            features.push(rows);
        }
    }
    let video = names(case, "video");
    if !video.is_empty() {
        let frames: Vec<Frame> = video.iter().map(|name| frame(pack, name)).collect();
        let seen = engine.eyes.as_mut().unwrap().see(&frames, &cancel).unwrap();
        // The reference labelled the frames of this case from 0:58 on, one a second, and the next clip's from 1:02 on.
        let first = case["prompt_expanded"].as_str().map_or(0, first_clock);
        let shown: Vec<(u64, Shown)> =
            seen.iter().enumerate().map(|(i, (shown, _))| ((first + i as u64) * 1_000_000_000, *shown)).collect();
        let has_video = messages(case).iter().any(|message| message.content.contains(&Part::Video));
        match has_video {
            true => media.push(Medium::Video { length_ns: shown.len() as u64 * 1_000_000_000, frames: shown }),
            false => media.extend(shown.iter().map(|(_, shown)| Medium::Image(*shown))),
        }
        features.extend(seen.into_iter().map(|(_, rows)| rows));
    }
    for name in names(case, "audio") {
        let heard = engine.ears.as_ref().unwrap().hear(&samples(pack, &name), &cancel).unwrap();
        media.push(Medium::Audio(heard.iter().map(|rows| rows.rows.nrows()).collect()));
        features.extend(heard);
    }
    (media, features)
}

/// Seconds of the first `mm:ss` in a text.
fn first_clock(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let is_clock = |at: &usize| bytes[*at + 2] == b':' && [0, 1, 3, 4].iter().all(|i| bytes[*at + i].is_ascii_digit());
    let at = (0..bytes.len().saturating_sub(5)).rfind(|at| is_clock(at) && first_is(bytes, *at));
    let at = at.or_else(|| (0..bytes.len().saturating_sub(5)).find(is_clock)).unwrap();
    let number = |from: usize| text[from..from + 2].parse::<u64>().unwrap();
    number(at) * 60 + number(at + 3)
}

/// Whether no label of a frame stands before `at`: after a length such as 0:00:04 comes `[`.
fn first_is(bytes: &[u8], at: usize) -> bool {
    let label = |at: usize| {
        at >= 1
            && bytes[at - 1] != b':'
            && bytes[at + 2] == b':'
            && [0, 1, 3, 4].iter().all(|i| bytes[at + i].is_ascii_digit())
    };
    label(at) && !(1..at).any(label)
}

#[test]
fn prompts_become_the_tokens_of_the_reference() {
    for pack in models() {
        let mut engine = pack.engine();
        for (name, case) in pack.prompts() {
            let (media, features) = encoded(&pack, &mut engine, &case);
            let text = engine.prompter.text(&messages(&case), &media).unwrap();
            assert_eq!(text, case["prompt_expanded"].as_str().unwrap(), "{} {name}", pack.name());
            let prompt = engine.prompter.prompt(&messages(&case), &media, features).unwrap();
            assert_eq!(prompt.ids, pack.ids(&case), "{} {name}", pack.name());
        }
    }
}

#[test]
fn encoders_give_the_features_of_the_reference() {
    let cancel = cancel();
    for pack in models() {
        let engine = pack.engine();
        let tensors: Vec<String> = pack.golden.index["tensors"].as_object().unwrap().keys().cloned().collect();
        for name in tensors.iter().filter(|name| name.ends_with("pixel_values")) {
            let medium = name.strip_suffix("pixel_values").unwrap();
            let (shape, values) = pack.golden.f32(name);
            let Some(eyes) = &engine.eyes else { panic!("{} sees nothing", pack.name()) };
            let frame = frame(&pack, medium.split('/').next().unwrap());
            // The arrangement from our rule, the values from the goldens.
            let processors = ["image_processor", "video_processor"];
            let rules = processors
                .iter()
                .filter_map(|part| engine.folder.processor_part(part))
                .map(|part| PixelRule::read(part).unwrap());
            let rules = rules.flat_map(|rule| [true, false].map(|split| rule.clone().with_split(split)));
            let pixels = rules.map(|rule| rule.pixels(frame.width, frame.height, &frame.rgb).unwrap());
            let mut pixels = pixels.into_iter().find(|pixels| pixels.values.shape() == shape).unwrap();
            pixels.values = ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap();
            let rows = eyes.encode_pixels(pixels, &cancel).unwrap();
            let wanted = pack.stored(&format!("{medium}image_features"));
            assert_close(
                rows.as_slice().unwrap(),
                wanted.as_slice().unwrap(),
                CLOSE,
                &format!("{} {medium}", pack.name()),
            );
        }
        for name in tensors.iter().filter(|name| name.ends_with("input_features")) {
            let medium = name.strip_suffix("input_features").unwrap();
            let Some(ears) = &engine.ears else { continue };
            let (shape, values) = pack.golden.f32(name);
            let (mask_shape, mask) = pack.golden.bool(&format!("{name}_mask"));
            let mask = Array2::from_shape_vec((mask_shape[0], mask_shape[1]), mask).unwrap();
            let values = ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap();
            let rows = ears.encode_features(values, Some(mask), &cancel).unwrap();
            let wanted = pack.stored(&format!("{medium}audio_features"));
            assert_close(
                rows.as_slice().unwrap(),
                wanted.as_slice().unwrap(),
                CLOSE,
                &format!("{} {medium}", pack.name()),
            );
        }
    }
}

#[test]
fn scores_and_greedy_tokens_are_those_of_the_reference() {
    let cancel = cancel();
    for pack in models() {
        let mut engine = pack.engine();
        for (name, case) in pack.prompts() {
            let what = format!("{} {name}", pack.name());
            let prompt = pack.prompt(&engine, &case);
            let decoder = &mut engine.decoder;
            decoder.reset();
            let logits = decoder.feed(&prompt, 0, &cancel).unwrap();
            let (_, wanted) = pack.golden.f32(case["logits_last"].as_str().unwrap());
            assert_close(logits.last(), &wanted, pack.bound(), &what);
            let (_, ids) = pack.golden.i64(case["greedy_ids"].as_str().unwrap());
            let found = greedy(decoder, logits, ids.len());
            assert_eq!(found, ids.iter().map(|id| *id as u32).collect::<Vec<_>>(), "{what}");
        }
    }
}

#[test]
fn a_prompt_in_chunks_reads_as_a_whole_one() {
    let cancel = cancel();
    for pack in models() {
        let mut engine = pack.engine();
        for (name, case) in pack.prompts() {
            let prompt = pack.prompt(&engine, &case);
            let split = case["chunk_split"].as_u64().unwrap() as usize;
            let (_, wanted) = pack.golden.f32(case["logits_last_two_chunks"].as_str().unwrap());
            for chunk in [split, 7, 64] {
                engine.decoder.reset();
                let logits = engine.decoder.feed_in(&prompt, 0, chunk, &cancel).unwrap();
                assert_close(logits.last(), &wanted, pack.bound(), &format!("{} {name} by {chunk}", pack.name()));
            }
        }
    }
}

#[test]
fn our_own_pixels_and_mel_lead_to_the_same_scores() {
    let cancel = cancel();
    for pack in models() {
        let mut engine = pack.engine();
        for (name, case) in pack.prompts() {
            let (media, features) = encoded(&pack, &mut engine, &case);
            let prompt = engine.prompter.prompt(&messages(&case), &media, features).unwrap();
            engine.decoder.reset();
            let logits = engine.decoder.feed(&prompt, 0, &cancel).unwrap();
            let (_, wanted) = pack.golden.f32(case["logits_last"].as_str().unwrap());
            assert_close(logits.last(), &wanted, NEAR, &format!("{} {name} end to end", pack.name()));
        }
    }
}

#[test]
fn rewinding_reusing_and_going_on_are_a_fresh_run() {
    let cancel = cancel();
    for pack in models() {
        let mut engine = pack.engine();
        let cases = pack.cases();
        let Some((_, rewind)) = cases.iter().find(|(_, case)| case["kind"] == "rewind") else { continue };
        let case = |key: &str| cases.iter().find(|(name, _)| *name == rewind[key].as_str().unwrap()).unwrap().1.clone();
        let (base, next) = (pack.prompt(&engine, &case("base_case")), pack.prompt(&engine, &case("new_case")));
        // Features of the two cases have equal keys here although they differ: their hashes tell them apart in use.
        let mut next = next;
        next.soft.iter_mut().for_each(|(_, features)| features.key += 1000);
        let prefix = rewind["prefix_tokens"].as_u64().unwrap() as usize;
        let (_, wanted) = pack.golden.f32(rewind["logits_last"].as_str().unwrap());
        let decoder = &mut engine.decoder;
        // With the prefix kept, then by cutting the cache.
        for kept in [prefix, 0] {
            decoder.reset();
            decoder.feed(&base, kept, &cancel).unwrap();
            let before = decoder.work();
            let logits = decoder.feed(&next, kept, &cancel).unwrap();
            assert_close(logits.last(), &wanted, pack.bound(), &format!("{} rewind, {kept} kept", pack.name()));
            let read = (decoder.work().tokens - before.tokens) as usize;
            assert!(read <= next.ids.len() - prefix, "{read} tokens were read, {} are new", next.ids.len() - prefix);
            assert!(kept > 0 || decoder.work().copied > before.copied, "nothing was cut");
        }
        // The same prompt again, and a prompt that goes on.
        let again = decoder.feed(&next, 0, &cancel).unwrap();
        assert_close(again.last(), &wanted, pack.bound(), "again");
        let mut longer = next.clone();
        longer.ids.extend_from_slice(&base.ids[..5]);
        let on = decoder.feed(&longer, 0, &cancel).unwrap();
        decoder.reset();
        let fresh = decoder.feed(&longer, 0, &cancel).unwrap();
        assert_close(on.last(), fresh.last(), pack.bound(), "append");
    }
}

#[test]
fn odd_decoders_are_right() {
    let cancel = cancel();
    for (pack, mut decoder) in decoders() {
        let cases = pack.cases();
        for (name, case) in &cases {
            let what = format!("{} {name}", pack.name());
            let prompt = Prompt { ids: pack.ids(case), soft: Vec::new() };
            if case["kind"] == "rewind" {
                let base = &cases.iter().find(|(name, _)| *name == case["base_case"].as_str().unwrap()).unwrap().1;
                decoder.reset();
                decoder.feed(&Prompt { ids: pack.ids(base), soft: Vec::new() }, 0, &cancel).unwrap();
                let logits = decoder.feed(&prompt, 0, &cancel).unwrap();
                let (_, wanted) = pack.golden.f32(case["logits_last"].as_str().unwrap());
                assert_close(logits.last(), &wanted, pack.bound(), &what);
                continue;
            }
            let (shape, wanted) = pack.golden.f32(case["logits_all"].as_str().unwrap());
            let wanted = &wanted[(shape[1] - 1) * shape[2]..];
            let split = case["chunk_split"].as_u64().unwrap() as usize;
            for chunk in [usize::MAX >> 1, split, 1] {
                decoder.reset();
                let logits = decoder.feed_in(&prompt, 0, chunk, &cancel).unwrap();
                assert_close(logits.last(), wanted, pack.bound(), &what);
            }
            decoder.reset();
            let logits = decoder.feed(&prompt, 0, &cancel).unwrap();
            let (_, ids) = pack.golden.i64(case["greedy_ids"].as_str().unwrap());
            assert_eq!(
                greedy(&mut decoder, logits, ids.len()),
                ids.iter().map(|id| *id as u32).collect::<Vec<_>>(),
                "{what}"
            );
            // All rows at once, as guessing ahead needs them.
            decoder.reset();
            decoder.feed(&Prompt { ids: prompt.ids[..split].to_vec(), soft: Vec::new() }, 0, &cancel).unwrap();
            let rows = decoder.step(&prompt.ids[split..], prompt.ids.len() - split, &cancel).unwrap();
            assert_eq!(rows.len(), prompt.ids.len() - split);
            assert_close(rows.last(), wanted, pack.bound(), &what);
        }
    }
}

/// However the cache is kept, in place or made anew: a prefix stays until it is written over, and room is made for more.
#[test]
fn a_prefix_outlives_other_prompts_but_not_being_written_over() {
    let cancel = cancel();
    for (pack, mut decoder) in decoders() {
        let Some((name, case)) = pack.cases().into_iter().find(|(_, case)| case["kind"] != "rewind") else { continue };
        let ids = pack.ids(&case);
        let (prefix, last) = (ids.len() / 2, ids.len() - 1);
        let prompt = |ids: Vec<u32>| Prompt { ids, soft: Vec::new() };
        let mut early = ids.clone();
        early[prefix - 1] = ids[last];
        early.truncate(last);
        let mut late = ids.clone();
        late[prefix] = ids[0];
        let mut fresh = |ids: &[u32]| {
            decoder.reset();
            decoder.feed(&prompt(ids.to_vec()), 0, &cancel).unwrap().last().to_vec()
        };
        let wanted = [&ids, &late, &early, &ids].map(|ids| fresh(ids));
        decoder.reset();
        // The third keeps no prefix of its own.
        for ((ids, prefix), wanted) in [(&ids, prefix), (&late, prefix), (&early, 0), (&ids, 0)].into_iter().zip(wanted)
        {
            let logits = decoder.feed(&prompt(ids.clone()), prefix, &cancel).unwrap();
            assert_close(logits.last(), &wanted, pack.bound(), &format!("{} {name}", pack.name()));
            decoder.clear();
        }
        // Beyond the room that there is at first.
        let long: Vec<u32> = ids.iter().cycle().take(240).copied().collect();
        decoder.reset();
        let Ok(whole) = decoder.feed(&prompt(long.clone()), 0, &cancel) else { continue };
        decoder.reset();
        let parts = decoder.feed_in(&prompt(long), 0, 40, &cancel).unwrap();
        assert_close(parts.last(), whole.last(), pack.bound(), "240 tokens in parts");
    }
}

#[test]
fn two_prompts_in_one_run_read_as_one_by_one() {
    let cancel = cancel();
    for pack in models() {
        let engine = pack.engine();
        let cases = pack.cases();
        let Some((_, batch)) = cases.iter().find(|(_, case)| case["kind"] == "batch_left_padded") else { continue };
        let rows: Vec<&Value> =
            names(batch, "rows").iter().map(|row| &cases.iter().find(|(name, _)| name == row).unwrap().1).collect();
        let prompts: Vec<Prompt> = rows.iter().map(|case| pack.prompt(&engine, case)).collect();
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.ids.len()).collect();
        if !engine.decoder.can_batch(&lengths) {
            println!("{}: prompts of {lengths:?} tokens have no mask to be padded with", pack.name());
            let refused = engine.decoder.read_together(&prompts, &cancel).unwrap_err().to_string();
            assert!(refused.contains("cannot be read in one run"), "{refused}");
            continue;
        }
        let together = engine.decoder.read_together(&prompts, &cancel).unwrap();
        for (case, found) in rows.iter().zip(&together) {
            let (_, wanted) = pack.golden.f32(case["logits_last"].as_str().unwrap());
            assert_close(found, &wanted, pack.bound(), &format!("{} in a batch", pack.name()));
        }
    }
    // Graphs that take right padding only: prompts of one length.
    for (pack, decoder) in decoders() {
        let (_, case) = pack.prompts().remove(0);
        let prompt = Prompt { ids: pack.ids(&case), soft: Vec::new() };
        let (shape, wanted) = pack.golden.f32(case["logits_all"].as_str().unwrap());
        let found = decoder.read_together(&[prompt.clone(), prompt], &cancel).unwrap();
        for row in found {
            assert_close(&row, &wanted[(shape[1] - 1) * shape[2]..], pack.bound(), &format!("{} twice", pack.name()));
        }
    }
}

#[test]
fn guessing_ahead_changes_no_answer() {
    let cancel = cancel();
    for pack in models() {
        let mut engine = pack.engine();
        let grammar = Grammar::new(&engine.vocabulary, &Schema::default()).unwrap();
        let mut guessed = 0;
        for (name, case) in pack.prompts() {
            let prompt = pack.prompt(&engine, &case);
            let mut say = |drafts: bool, held: bool| {
                let question = Question {
                    prompt: &prompt,
                    prefix: 0,
                    constraint: held.then(|| grammar.answer(96).unwrap()),
                    stops: engine.vocabulary.stops(),
                    most: 96,
                    drafts,
                };
                let mut chooser = Chooser::new(Sampling::default());
                generate::answer(&mut engine.decoder, question, &mut chooser, &cancel, &mut |_| ()).unwrap()
            };
            for held in [true, false] {
                let (plain, fast) = (say(false, held), say(true, held));
                assert_eq!(plain.ids, fast.ids, "{} {name}", pack.name());
                guessed += fast.guessed;
            }
        }
        println!("{}: {guessed} tokens guessed rightly", pack.name());
        assert!(guessed > 0, "{}", pack.name());
    }
}

#[test]
fn broken_packs_name_the_file_and_the_cause_at_once() {
    let Some(folder) = testing::fixtures() else { return };
    let index = folder.join("broken/index.json");
    let Ok(index) = fs::read(&index) else { return };
    let index: Value = serde_json::from_slice(&index).unwrap();
    for (name, about) in index.as_object().unwrap() {
        let path = folder.join("broken").join(name);
        if !path.is_dir() {
            continue;
        }
        let started = Instant::now();
        let loaded =
            Folder::read(&path).and_then(|folder| Engine::load(folder, None, &RunSettings::default(), &mut |_| ()));
        let error = loaded.err().unwrap_or_else(|| panic!("{name} was loaded")).to_string();
        println!("{name}: {error}");
        assert!(started.elapsed() < Duration::from_secs(2), "{name} took {:?}", started.elapsed());
        let expected = about["expected"].as_str().unwrap();
        // The file that the description names first, in the message.
        let file = expected
            .split([' ', ',', ':', '`'])
            .find(|word| word.contains(".onnx") || word.contains(".json") || word.contains(".jinja"));
        if let Some(file) = file {
            let file = Path::new(file).file_name().unwrap().to_string_lossy().into_owned();
            assert!(error.contains(&file), "{name}: '{file}' is not named in: {error}");
        }
    }
}

/// The whole of a NumPy archive's array.
fn array<T: ndarray_npy::ReadableElement>(archive: &Path, name: &str) -> ArrayD<T> {
    let mut archive = ndarray_npy::NpzReader::new(fs::File::open(archive).unwrap()).unwrap();
    let name =
        if archive.names().unwrap().iter().any(|has| has == name) { name.to_owned() } else { format!("{name}.npy") };
    archive.by_name(&name).unwrap()
}

/// A clip that a trained pack has the answer to: frames, sound, and what it is to say.
struct Sample {
    frames: Vec<Frame>,
    sound: Vec<f32>,
    expected: String,
}

/// The samples of every trained pack.
fn samples_of(folder: &Path) -> Vec<Sample> {
    let Ok(index) = fs::read(folder.join("samples/samples.json")) else { return Vec::new() };
    let index: Value = serde_json::from_slice(&index).unwrap();
    let sample = |about: &Value| {
        let archive = folder.join("samples").join(about["file"].as_str().unwrap());
        let frames: ArrayD<u8> = array(&archive, "frames");
        let seconds: ArrayD<f32> = array(&archive, "frame_seconds");
        let sound: ArrayD<i16> = array(&archive, "pcm");
        let (height, width) = (frames.shape()[1] as u32, frames.shape()[2] as u32);
        let pictures = frames.outer_iter().zip(&seconds);
        Sample {
            frames: pictures
                .map(|(rgb, at)| Frame {
                    at_ns: (f64::from(*at) * 1e9) as u64,
                    width,
                    height,
                    rgb: rgb.iter().copied().collect::<Vec<u8>>().into(),
                })
                .collect(),
            sound: sound.iter().map(|sample| f32::from(*sample) / 32768.0).collect(),
            expected: about["expected"].as_str().unwrap().to_owned(),
        }
    };
    index["clips"].as_array().unwrap().iter().map(sample).collect()
}

#[test]
fn a_trained_model_answers_its_samples_word_for_word() {
    let Some(folder) = testing::fixtures() else { return };
    let packs = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    for path in packs.filter(|path| path.join("samples/samples.json").exists()) {
        let cancel = cancel();
        let mut engine =
            Engine::load(Folder::read(&path).unwrap(), None, &RunSettings::default(), &mut |_| ()).unwrap();
        let grammar = Grammar::new(&engine.vocabulary, &Schema::default()).unwrap();
        let samples = samples_of(&path);
        for sample in &samples {
            let seen = engine.eyes.as_mut().unwrap().see(&sample.frames, &cancel).unwrap();
            let heard = engine.ears.as_ref().unwrap().hear(&sample.sound, &cancel).unwrap();
            let shown: Vec<(u64, Shown)> =
                sample.frames.iter().zip(&seen).map(|(frame, (shown, _))| (frame.at_ns, *shown)).collect();
            let counts: Vec<usize> = heard.iter().map(|heard| heard.rows.nrows()).collect();
            let span = Span::new(0, 4_000_000_000);
            let question = vec![Part::text("Describe the clip in JSON.")];
            let (content, media) = engine.prompter.clip(span, &shown, &counts, question);
            let features = seen.into_iter().map(|(_, rows)| rows).chain(heard).collect();
            let messages = [Message { role: "user", content }];
            let prompt = engine.prompter.prompt(&messages, &media, features).unwrap();
            let question = Question {
                prompt: &prompt,
                prefix: 0,
                constraint: Some(grammar.answer(128).unwrap()),
                stops: engine.vocabulary.stops(),
                most: 128,
                drafts: true,
            };
            let mut chooser = Chooser::new(Sampling::default());
            let said = generate::answer(&mut engine.decoder, question, &mut chooser, &cancel, &mut |_| ()).unwrap();
            assert_eq!(said.text, sample.expected);
        }
        assert!(!samples.is_empty());
    }
}

#[path = "fixtures/whisper.rs"]
mod whisper;
