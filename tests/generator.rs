//! Generator packs through the public surface: the command, gst-launch and the element.

mod common;
#[path = "../models/generator/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests")]
mod testing;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use common::{describe, film, launch, observations};
use describe_models::{
    Cancel, Clip, DescribeError, Describer, Frame, Kind, Observation, Sound, Span,
    generator::describer::{Evidence, Wishes},
    pack::{self, PackSettings},
    runtime::RunSettings,
};

const SECOND: u64 = 1_000_000_000;

/// Every pack that is a whole model: it reads text, and it sees or hears.
fn models() -> Vec<PathBuf> {
    let Some(folder) = testing::fixtures() else { return Vec::new() };
    let mut packs: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.retain(|path| path.join("chat_template.jinja").exists());
    packs.sort();
    packs
}

/// What every observation of a generator must be: in its clip, longer than nothing, with words.
#[track_caller]
fn assert_formed(said: &[Observation], length_ns: u64, source: &str) {
    let ours: Vec<&Observation> = said.iter().filter(|said| said.source == source).collect();
    assert!(!ours.is_empty(), "nothing was said by {source}: {said:?}");
    for said in ours {
        assert!(said.span.start_ns < said.span.end_ns && said.span.end_ns <= length_ns, "{said:?}");
        assert!(!said.text.trim().is_empty() && (0.0..=1.0).contains(&said.confidence), "{said:?}");
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_published_pack_describes_a_film_from_the_command() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "film.mp4", "mp4mux");
    for path in models() {
        let out = folder.path().join(name(&path));
        let arguments =
            ["film.mp4", "--pack", path.to_str().unwrap(), "--out", out.to_str().unwrap(), "--evidence", "none"];
        describe(folder.path(), arguments).expect(0, &[]);
        let said = observations(&out.join("film.jsonl"));
        assert_formed(&said, 11 * SECOND, &name(&path));
    }
}

#[test]
fn every_published_pack_describes_a_film_from_gst_launch() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "film.mp4", "mp4mux");
    let uri = format!("file://{}", folder.path().join("film.mp4").display());
    for path in models() {
        let line = format!(
            "uridecodebin uri={uri} name=d d. ! s.video d. ! s.audio clipsampler name=s ! queue \
             ! clipdescriber name=c evidence=none model-path={} c.src ! filesink location=out.jsonl \
             c.text ! fakesink",
            path.display()
        );
        launch(folder.path(), &line);
        assert_formed(&observations(&folder.path().join("out.jsonl")), 11 * SECOND, &name(&path));
    }
}

/// A clip of `frames` flat pictures and a tone.
fn clip(start: u64, shade: u8, frames: usize) -> Clip {
    let span = Span::new(start * SECOND, (start + 4) * SECOND);
    let frame = |index: usize| Frame {
        at_ns: span.start_ns + index as u64 * 4 * SECOND / frames as u64,
        width: 96,
        height: 64,
        rgb: (0..96 * 64 * 3).map(|i| (i % 251) as u8 ^ shade).collect::<Vec<u8>>().into(),
    };
    let samples = (0..64_000).map(|i| (i as f32 * 0.05 * f32::from(shade)).sin() * 0.3).collect();
    Clip {
        span,
        discont: start == 0,
        frames: (0..frames).map(frame).collect(),
        thumbnails: Default::default(),
        sound: Some(Sound::from_samples(16_000, start * 16_000, 0, samples)),
    }
}

fn load(path: &Path, wishes: Wishes) -> Box<dyn Describer> {
    let generator = Wishes { evidence: Evidence::None, ..wishes };
    let settings = PackSettings { path: Some(path.to_owned()), generator, ..PackSettings::default() };
    pack::load(&settings, &mut |_| ()).unwrap_or_else(|error| panic!("{}: {error}", path.display())).describer
}

fn told(describer: &mut dyn Describer, clip: &Clip, cancel: &Cancel) -> Vec<Observation> {
    let mut out = Vec::new();
    describer.describe(clip, cancel, &mut out).unwrap();
    out
}

fn stat(describer: &dyn Describer, name: &str) -> u64 {
    describer.stats().into_iter().find(|(has, _)| *has == name).map_or(0, |(_, count)| count)
}

#[test]
fn a_second_clip_reads_only_what_is_new_and_says_what_it_would_have_said_alone() {
    for path in models() {
        let mut one = load(&path, Wishes::default());
        let cancel = Cancel::new().unwrap();
        told(&mut *one, &clip(0, 3, 4), &cancel);
        let (read, reused) = (stat(&*one, "tokens-read"), stat(&*one, "tokens-reused"));
        let second = told(&mut *one, &clip(4, 90, 4), &cancel);
        assert!(stat(&*one, "tokens-reused") > reused, "{}", path.display());
        assert_eq!(stat(&*one, "frames-encoded"), 2, "equal frames of a clip are encoded once");
        println!("{}: first {read}, both {}", path.display(), stat(&*one, "tokens-read"));
        let mut alone = load(&path, Wishes::default());
        let mut next = clip(4, 90, 4);
        next.discont = true;
        assert_eq!(told(&mut *alone, &next, &cancel), second, "{}", path.display());
    }
}

#[test]
fn a_chat_over_clips_stays_within_its_tokens() {
    for path in models() {
        let wishes = Wishes { context_tokens: 1_500, max_tokens: 48, ..Wishes::default() };
        let mut chat = load(&path, wishes);
        let cancel = Cancel::new().unwrap();
        for index in 0..8 {
            let said = told(&mut *chat, &clip(index * 4, 7 + index as u8, 4), &cancel);
            assert!(said.iter().all(|said| said.span.start_ns >= index * 4 * SECOND), "{said:?}");
        }
        assert!(stat(&*chat, "tokens-reused") > 0);
    }
}

#[test]
fn cancelling_stops_within_50_ms_and_the_next_clip_is_right() {
    for path in models() {
        let wishes = Wishes {
            max_tokens: 4_000,
            schema: Some(r#"{"type":"string","minLength":9000}"#.into()),
            ..Wishes::default()
        };
        let settings = PackSettings {
            path: Some(path.clone()),
            generator: Wishes { max_tokens: 10_000, evidence: Evidence::None, ..wishes },
            ..PackSettings::default()
        };
        let Ok(loaded) = pack::load(&settings, &mut |_| ()) else { continue };
        let mut long = loaded.describer;
        let cancel = Cancel::new().unwrap();
        let (begun, wait) = mpsc::sync_channel(1);
        long.listen(Some(std::sync::Arc::new(move |_, text: &str| {
            if text.len() > 20 {
                let _ = begun.try_send(());
            }
        })));
        let switch = cancel.clone();
        let work = std::thread::spawn(move || {
            let mut out = Vec::new();
            let result = long.describe(&clip(0, 5, 4), &cancel, &mut out);
            (long, cancel, result, Instant::now())
        });
        wait.recv_timeout(Duration::from_secs(60)).expect("it answers");
        let asked = Instant::now();
        switch.cancel();
        let (mut long, cancel, result, ended) = work.join().unwrap();
        let took = ended.saturating_duration_since(asked);
        println!("{}: stopped within {took:?}", path.display());
        assert!(matches!(result, Err(DescribeError::Cancelled)), "{result:?}");
        assert!(took < Duration::from_millis(50), "{took:?}");
        drop(long.stats());
        // The same sessions answer a short question rightly afterwards.
        cancel.resume();
        long.reset();
        let (mut after, mut fresh) = (load(&path, Wishes::default()), load(&path, Wishes::default()));
        assert_eq!(told(&mut *after, &clip(0, 9, 4), &cancel), told(&mut *fresh, &clip(0, 9, 4), &cancel));
    }
}

#[test]
fn a_schema_of_the_user_holds_and_is_read() {
    for path in models() {
        let schema = r#"{"type":"object","properties":{"mood":{"enum":["calm","wild"]},"objects":{"type":"array","maxItems":2,
            "items":{"type":"object","properties":{"text":{"type":"string"},"start":{"type":"number"},"end":{"type":"number"}},
            "required":["text","start","end"],"additionalProperties":false}}},"required":["mood","objects"],
            "additionalProperties":false}"#;
        let mut describer = load(&path, Wishes { schema: Some(schema.into()), max_tokens: 60, ..Wishes::default() });
        let cancel = Cancel::new().unwrap();
        let mut out = Vec::new();
        describer.describe(&clip(0, 3, 2), &cancel, &mut out).unwrap();
        assert!(out.iter().all(|said| said.kind != Kind::Scene), "{out:?}");
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn two_describers_share_their_models() {
    for path in models() {
        let settings = RunSettings::default();
        let folder = describe_models::generator::folder::Folder::read(&path).unwrap();
        let file = folder.model("decoder_model_merged", None).unwrap();
        let one = describe_models::runtime::Model::load("one", &file, &settings).unwrap();
        let two = describe_models::runtime::Model::load("two", &file, &settings).unwrap();
        assert!(one.shares(&two));
        assert_ne!(one.piece(), two.piece());
    }
    let Some(path) = models().pop() else { return };
    let one = load(&path, Wishes::default());
    let before = resident();
    let two = load(&path, Wishes::default());
    let grown = resident().saturating_sub(before);
    println!("one process {before} bytes, the second describer took {grown}");
    assert!(grown * 5 <= before, "{grown} bytes for a second describer beside {before}");
    drop((one, two));
}

/// Shows the pictures of a sample as film and its sound as AAC: what a camera would have made of it.
fn encode(folder: &Path, index: usize, frames: &[u8], sound: &[u8]) -> PathBuf {
    let (pictures, pcm) = (folder.join("frames.rgb"), folder.join("sound.pcm"));
    fs::write(&pictures, frames).unwrap();
    fs::write(&pcm, sound).unwrap();
    let film = folder.join(format!("clip{index}.mp4"));
    let mut command = std::process::Command::new("ffmpeg");
    command
        .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "144x144", "-r", "3/2", "-i"])
        .arg(&pictures);
    command.args(["-f", "s16le", "-ar", "16000", "-ac", "1", "-i"]).arg(&pcm);
    command.args("-r 25 -c:v libx264 -crf 16 -pix_fmt yuv420p -c:a aac -b:a 128k -t 4".split(' ')).arg(&film);
    assert!(command.status().expect("ffmpeg is installed (make system-test)").success());
    film
}

#[test]
fn a_trained_model_names_what_it_sees_and_hears_in_encoded_media() {
    let packs: Vec<PathBuf> = models().into_iter().filter(|path| path.join("samples/samples.json").exists()).collect();
    for path in packs {
        let folder = tempfile::tempdir().unwrap();
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(path.join("samples/samples.json")).unwrap()).unwrap();
        let clips = index["clips"].as_array().unwrap();
        let mut films = Vec::new();
        for (number, about) in clips.iter().enumerate() {
            let archive = path.join("samples").join(about["file"].as_str().unwrap());
            let mut archive = ndarray_npy::NpzReader::new(fs::File::open(archive).unwrap()).unwrap();
            let mut bytes = |name: &str| -> Vec<u8> {
                match name {
                    "frames" => archive
                        .by_name::<ndarray::OwnedRepr<u8>, ndarray::IxDyn>("frames")
                        .unwrap()
                        .iter()
                        .copied()
                        .collect(),
                    _ => {
                        let pcm: ndarray::ArrayD<i16> = archive.by_name(name).unwrap();
                        pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect()
                    }
                }
            };
            let (frames, sound) = (bytes("frames"), bytes("pcm"));
            films.push(encode(folder.path(), number, &frames, &sound));
        }
        let mut arguments: Vec<String> = films.iter().map(|film| film.display().to_string()).collect();
        arguments
            .extend(["--pack", path.to_str().unwrap(), "--out", "out", "--kinds", "caption,sound"].map(str::to_owned));
        describe(folder.path(), &arguments).expect(0, &[]);
        let mut wrong = Vec::new();
        for (number, about) in clips.iter().enumerate() {
            let expected: serde_json::Value = serde_json::from_str(about["expected"].as_str().unwrap()).unwrap();
            let said = observations(&folder.path().join(format!("out/clip{number}.jsonl")));
            let texts = |kind: Kind| -> Vec<String> {
                said.iter()
                    .filter(|said| said.kind == kind && said.span.start_ns < 4 * SECOND)
                    .map(|said| said.text.clone())
                    .collect()
            };
            let sounds: Vec<&str> =
                expected["sounds"].as_array().unwrap().iter().map(|sound| sound["text"].as_str().unwrap()).collect();
            println!("{}: {:?} {:?}", about["file"], texts(Kind::Caption), texts(Kind::Sound));
            if texts(Kind::Sound) != sounds || texts(Kind::Caption) != [expected["caption"].as_str().unwrap()] {
                wrong.push((about["file"].clone(), said));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
