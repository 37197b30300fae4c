//! `describe models fetch hf:OWNER/NAME`, against an endpoint on this machine that has all the troubles of a network.

mod common;
#[path = "common/endpoint.rs"]
mod endpoint;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Done, command, describe, finish, prepare, wait};
use endpoint::{COMMIT, Dice, Endpoint, NAME, Repo, Request, Trouble, repo, sum};
use serde_json::{Value, json};

/// What comes without `--dtype`: of the decoder what config.json says, of the others the smallest good one.
const DEFAULT: [&str; 10] = [
    "LICENSE",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "onnx/decoder_model_merged_q4.onnx",
    "onnx/decoder_model_merged_q4.onnx_data",
    "onnx/embed_tokens_int8.onnx",
    "onnx/vision_encoder_q4.onnx",
    "tokenizer.json",
];

struct Bench {
    endpoint: Endpoint,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(repo: Repo) -> Self {
        Self { endpoint: Endpoint::new(repo), folder: tempfile::tempdir().unwrap() }
    }

    /// Where the model goes without `--out`.
    fn home(&self) -> PathBuf {
        self.folder.path().join("data/describe/packs/own--tiny-model")
    }

    fn command(&self, options: &[&str]) -> Command {
        let model = format!("hf:{NAME}");
        let usual = ["models", "fetch", model.as_str(), "--retry-pause", "0.001"];
        let mut command = prepare(self.folder.path(), usual.iter().chain(options));
        command
            .env("HF_ENDPOINT", format!("http://{}", self.endpoint.address()))
            .env("XDG_DATA_HOME", self.folder.path().join("data"))
            .env("HF_HOME", self.folder.path().join("hf"));
        let others = ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DOWNLOAD_TIMEOUT", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"];
        for name in others.into_iter().chain(["all_proxy", "http_proxy", "https_proxy"]) {
            command.env_remove(name);
        }
        command
    }

    fn fetch(&self, options: &[&str]) -> Done {
        finish(self.command(options))
    }

    /// Panics unless exactly `paths` are in place, with the bytes of the repository and written down.
    #[track_caller]
    fn check(&self, paths: &[&str]) {
        let home = self.home();
        let mut expected: Vec<_> = paths.to_vec();
        expected.push("describe.lock.json");
        expected.sort_unstable();
        assert_eq!(files(&home), expected);
        let lock = self.lock();
        let mut repo = Repo::default();
        self.endpoint.change(|now| repo = now.clone());
        assert_eq!((&lock["repository"], &lock["commit"]), (&NAME.into(), &repo.commit.as_str().into()));
        assert_eq!(lock["complete"], true);
        assert_eq!(lock["files"].as_object().unwrap().len(), paths.len());
        for path in paths {
            let bytes = fs::read(home.join(path)).unwrap();
            assert!(bytes == repo.files[*path], "{path} has other bytes");
            let entry = &lock["files"][path];
            assert_eq!((&entry["bytes"], &entry["sha256"]), (&bytes.len().into(), &sum(&bytes).into()), "{path}");
        }
    }

    fn lock(&self) -> Value {
        serde_json::from_slice(&fs::read(self.home().join("describe.lock.json")).unwrap()).unwrap()
    }
}

/// Paths of all files below a folder, in order.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path()).into_iter().map(|path| format!("{name}/{path}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// What was sent from the start or on from somewhere: the paths in the order they came, without redirects.
fn sent(log: &[Request]) -> Vec<&str> {
    log.iter()
        .filter(|r| r.method == "GET" && r.revision.is_empty() && r.what != "list")
        .map(|r| r.what.as_str())
        .collect()
}

#[test]
fn only_the_chosen_files_come_and_only_once() {
    let bench = Bench::new(repo());
    let first =
        bench.fetch(&[]).expect(0, &["own/tiny-model at main (001122334455), licence: apache-2.0", "10 files, 0.3 MB"]);
    assert_eq!(first.out, format!("{} is ready\n", bench.home().display()));
    for row in [["decoder_model_merged", "q4 "], ["embed_tokens", "int8"], ["vision_encoder", "q4 "]] {
        assert!(first.err.lines().any(|line| row.iter().all(|word| line.contains(word))), "{row:?}: {first:#?}");
    }
    bench.check(&DEFAULT);
    let log = bench.endpoint.log();
    let mut once = sent(&log);
    once.sort_unstable();
    // An empty file needs no request.
    assert_eq!(once, DEFAULT.iter().copied().filter(|path| *path != "generation_config.json").collect::<Vec<_>>());
    assert!(log.iter().all(|request| request.method == "GET" && request.token.is_none()));
    assert!(
        log.iter()
            .filter(|request| request.what != "list" && !request.revision.is_empty())
            .all(|r| r.revision == COMMIT)
    );
    // Nothing is left to do.
    bench.fetch(&[]).expect(0, &["to download: 0 files"]);
    let log = bench.endpoint.log();
    assert_eq!((log.len(), log[0].what.as_str(), log[0].revision.as_str()), (1, "list", "main"));
    // Another format adds its own files and nothing else.
    bench
        .fetch(&["--dtype", "decoder_model_merged=fp32,vision_encoder=q4"])
        .expect(0, &["to download: 3 files, 0.4 MB"]);
    let decoder = [
        "onnx/decoder_model_merged.onnx",
        "onnx/decoder_model_merged.onnx_data",
        "onnx/decoder_model_merged.onnx_data_1",
    ];
    assert_eq!(sent(&bench.endpoint.log()), decoder);
    bench.check(&[DEFAULT.as_slice(), &decoder].concat());
    // What is damaged or gone comes anew.
    fs::write(bench.home().join("tokenizer.json"), "x").unwrap();
    fs::remove_file(bench.home().join("README.md")).unwrap();
    bench.fetch(&[]).expect(0, &["to download: 2 files"]);
    bench.check(&[DEFAULT.as_slice(), &decoder].concat());
}

#[test]
fn a_long_way_is_told_by_tenths() {
    let bench = Bench::new(repo());
    bench.endpoint.change(|repo| drop(repo.files.insert("onnx/vision_encoder_q4.onnx".into(), vec![1; 4_000_000])));
    let done = bench.fetch(&[]).expect(0, &["to download: 9 files, 4.2 MB", "100 %, 4.2 MB of 4.2 MB, "]);
    let lines = done.err.lines().filter(|line| line.contains(" % of ") || line.contains(" %, ")).count();
    assert!((2..=10).contains(&lines), "{done:#?}");
    bench.check(&DEFAULT);
}

#[test]
fn a_format_that_is_not_there_is_refused_before_anything_is_written() {
    let bench = Bench::new(repo());
    let refused = bench.fetch(&["--dtype", "q4f16"]);
    refused.expect(2, &[NAME, "embed_tokens is not there as q4f16, only as int8, fp32", "--dtype embed_tokens=int8"]);
    bench.fetch(&["--dtype", "audio_encoder=q4"]).expect(2, &["no session 'audio_encoder'", "vision_encoder"]);
    bench.fetch(&["--dtype", "q5"]).expect(2, &["'q5' is no dtype", "q4f16, q4"]);
    bench.endpoint.change(|repo| repo.files.retain(|path, _| !path.starts_with("onnx/")));
    bench.fetch(&[]).expect(65, &["no ONNX files", "onnx/"]);
    assert!(!bench.home().exists());
}

#[test]
fn wrong_usage_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let fetch = |options: &[&str]| describe(folder.path(), ["models", "fetch"].iter().chain(options));
    fetch(&["hf:only-a-name"]).expect(2, &["hf:OWNER/NAME"]);
    fetch(&["hf:../x"]).expect(2, &["hf:OWNER/NAME"]);
    fetch(&["hf:a/b", "--revision", "../x"]).expect(2, &["branch, tag or commit"]);
    fetch(&["hf:a/b", "--pack", "x"]).expect(2, &["cannot be used with"]);
    fetch(&["hf:a/b", "--piece", "tags"]).expect(2, &["cannot be used with"]);
    fetch(&["--dtype", "q4"]).expect(2, &["required", "hf:OWNER/NAME"]);
    fetch(&["--revision", "v1"]).expect(2, &["required", "hf:OWNER/NAME"]);
    let bench = Bench::new(repo());
    for endpoint in ["hub.invalid", "ftp://hub.invalid", "http://user:word@hub.invalid"] {
        let mut command = bench.command(&[]);
        command.env("HF_ENDPOINT", endpoint);
        let refused = finish(command).expect(2, &["HF_ENDPOINT", "https://HOST"]);
        assert!(!refused.err.contains("word"), "{refused:#?}");
    }
}

#[test]
fn connections_that_break_anywhere_are_continued() {
    let mut dice = Dice(11);
    for _ in 0..4 {
        let bench = Bench::new(repo());
        let mut sizes = BTreeMap::new();
        bench
            .endpoint
            .change(|repo| sizes = repo.files.iter().map(|(path, bytes)| (path.clone(), bytes.len())).collect());
        for path in DEFAULT.iter().filter(|path| sizes[**path] > 0) {
            let cuts = (0..dice.below(4)).map(|_| Trouble::Cut(1 + dice.below(sizes[*path] / 4))).collect::<Vec<_>>();
            bench.endpoint.trouble(path, cuts);
        }
        bench.endpoint.trouble("list", [Trouble::Cut(100), Trouble::Status(503, "")]);
        bench.endpoint.trouble("tokenizer.json", [Trouble::Status(503, ""), Trouble::Cut(0), Trouble::Cut(1000)]);
        bench.fetch(&[]).expect(0, &["once more"]);
        assert!(bench.endpoint.is_calm());
        bench.check(&DEFAULT);
        // No byte came twice: each request goes on where the one before stopped.
        let log = bench.endpoint.log();
        assert!(log.iter().any(|request| request.store && request.from.is_some_and(|from| from > 0)), "{log:?}");
        for path in DEFAULT {
            let from: Vec<_> =
                log.iter().filter(|r| r.what == path && !r.revision.is_empty()).map(|r| r.from.unwrap_or(0)).collect();
            assert!(from.is_sorted(), "{path}: {from:?}");
        }
    }
}

#[test]
fn a_server_that_cannot_continue_sends_anew() {
    let bench = Bench::new(repo());
    let [decoder, embed, vision] = [DEFAULT[6], DEFAULT[7], DEFAULT[8]];
    bench.endpoint.trouble(decoder, [Trouble::Cut(70_000), Trouble::Whole]);
    bench.endpoint.trouble(embed, [Trouble::Cut(9_000), Trouble::OtherPart]);
    bench.endpoint.trouble(vision, [Trouble::Cut(9_000), Trouble::Status(416, "")]);
    bench.endpoint.trouble("tokenizer.json", [Trouble::TooLong, Trouble::Cut(5), Trouble::Status(403, "")]);
    bench.fetch(&[]).expect(0, &["nobody asked for", "cannot be continued", "more came than was promised"]);
    assert!(bench.endpoint.is_calm());
    // All of it is taken when it comes in place of a part.
    let times =
        |path: &str, log: &[Request]| log.iter().filter(|request| request.store && request.what == path).count();
    let log = bench.endpoint.log();
    assert_eq!([decoder, embed, vision].map(|path| times(path, &log)), [2, 3, 3]);
    bench.check(&DEFAULT);
}

#[test]
fn a_damaged_file_is_not_installed() {
    let bench = Bench::new(repo());
    let vision = "onnx/vision_encoder_q4.onnx";
    // Once is bad luck.
    bench.endpoint.trouble("tokenizer.json", [Trouble::Spoil]);
    bench.endpoint.trouble(vision, [Trouble::Cut(20_000), Trouble::Spoil, Trouble::Spoil]);
    bench.fetch(&[]).expect(65, &[vision, "damaged twice", "SHA-256", "HF_ENDPOINT"]);
    assert!(!bench.home().join(vision).exists());
    assert_eq!(bench.lock()["complete"], false);
    bench.endpoint.log();
    bench.fetch(&[]).expect(0, &[]);
    // The part with the wrong bytes was thrown away.
    let log = bench.endpoint.log();
    assert!(log.iter().all(|request| request.from.is_none()), "{log:?}");
    bench.check(&DEFAULT);
}

#[test]
fn a_part_of_an_earlier_run_is_continued_and_checked() {
    let bench = Bench::new(repo());
    let vision = "onnx/vision_encoder_q4.onnx";
    bench.endpoint.trouble(vision, [vec![Trouble::Cut(10_000)], vec![Trouble::Cut(0); 5]].concat());
    bench.fetch(&[]).expect(75, &[vision, "6 times in a row", "run again"]);
    let part = files(&bench.home()).into_iter().find(|path| path.ends_with(".part")).unwrap();
    assert_eq!(fs::metadata(bench.home().join(&part)).unwrap().len(), 10_000);
    bench.endpoint.log();
    // What lies there went bad in between, so it comes whole after all.
    let mut bytes = fs::read(bench.home().join(&part)).unwrap();
    bytes[0] ^= 1;
    fs::write(bench.home().join(&part), bytes).unwrap();
    bench.fetch(&[]).expect(0, &["its SHA-256 is not the promised one"]);
    let from: Vec<_> = bench.endpoint.log().iter().filter(|r| r.store && r.what == vision).map(|r| r.from).collect();
    assert_eq!(from, [Some(10_000), None]);
    bench.check(&DEFAULT);
}

#[test]
fn ctrl_c_keeps_what_came() {
    let bench = Bench::new(repo());
    bench.endpoint.trouble("tokenizer.json", [Trouble::Slow]);
    let child = bench.command(&[]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let part = || files(&bench.home()).into_iter().find(|path| path.starts_with("tokenizer.json."));
    let length = || part().and_then(|part| fs::metadata(bench.home().join(part)).ok()).map_or(0, |about| about.len());
    let started = Instant::now();
    while length() == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing comes");
        thread::sleep(Duration::from_millis(5));
    }
    // Only one fetch works in a folder.
    bench.fetch(&[]).expect(75, &["another fetch is at work"]);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    wait(child).expect(75, &["interrupted", "run again"]);
    let kept = length() as usize;
    assert!(kept > 0);
    bench.endpoint.log();
    bench.fetch(&[]).expect(0, &[]);
    let log = bench.endpoint.log();
    assert!(log.iter().any(|request| request.store && request.what == "tokenizer.json" && request.from == Some(kept)));
    bench.check(&DEFAULT);
}

#[test]
fn a_full_disk_is_said_and_what_came_is_kept() {
    let bench = Bench::new(repo());
    let fetch = bench.command(&[]);
    let mut limited = Command::new("sh");
    // Files may have 100 blocks of 512 bytes; a write beyond that must fail, not kill.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]).arg(command()).args(fetch.get_args());
    limited.current_dir(bench.folder.path());
    for (name, value) in fetch.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    finish(limited).expect(75, &["the disk is full", "--out", "run again"]);
    assert!(!bench.home().join(DEFAULT[6]).exists());
    bench.fetch(&[]).expect(0, &[]);
    assert!(bench.endpoint.log().iter().any(|request| request.from.is_some_and(|from| from > 0)));
    bench.check(&DEFAULT);
}

#[test]
fn refusals_say_what_helps() {
    let bench = Bench::new(repo());
    for (status, headers, code, words) in [
        (401, "", 69, ["gated or private", "HF_TOKEN"]),
        (401, "X-Error-Code: GatedRepo\r\n", 69, ["gated model", "accept the licence"]),
        (403, "X-Error-Code: GatedRepo\r\n", 69, ["gated model", "HF_TOKEN"]),
        (403, "", 69, ["to this account", "accept the licence"]),
        (404, "X-Error-Code: RepoNotFound\r\n", 65, ["no model own/tiny-model", "check the name"]),
        (404, "X-Error-Code: RevisionNotFound\r\n", 65, ["revision main", "--revision"]),
        (418, "", 75, ["418", "try later"]),
    ] {
        bench.endpoint.trouble("list", [Trouble::Status(status, headers)]);
        bench.fetch(&[]).expect(code, &words);
    }
    assert!(!bench.home().exists());
    bench.endpoint.trouble("list", vec![Trouble::Status(503, ""); 6]);
    bench.fetch(&[]).expect(75, &["the endpoint has a problem (503), 6 times in a row", "run again later"]);
    bench.endpoint.trouble("list", [Trouble::Status(429, "Retry-After: 0\r\n"), Trouble::Status(503, "")]);
    bench.endpoint.trouble("config.json", [Trouble::Status(429, "")]);
    bench.fetch(&[]).expect(0, &["asks for patience (429)"]);
    bench.check(&DEFAULT);
    // A file that vanished from under its list.
    let bench = Bench::new(repo());
    let mut list = json!({"sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": 5, "blobId": COMMIT}]});
    list["siblings"].as_array_mut().unwrap().push(json!({"rfilename": "onnx/gone.onnx", "size": 5, "blobId": COMMIT}));
    bench.endpoint.change(|repo| repo.list = Some(list));
    bench.endpoint.change(|repo| drop(repo.files.insert("config.json".into(), b"{   }".to_vec())));
    bench.fetch(&[]).expect(65, &["does not find onnx/gone.onnx"]);
}

#[test]
fn silence_and_closed_doors_are_temporary() {
    let bench = Bench::new(repo());
    bench.endpoint.trouble("list", vec![Trouble::Silent; 6]);
    let mut impatient = bench.command(&[]);
    impatient.env("HF_HUB_DOWNLOAD_TIMEOUT", "0.01");
    finish(impatient).expect(75, &["the endpoint is silent", "run again later"]);
    let mut nobody = bench.command(&[]);
    // Port 9 is for discarding; nobody listens.
    nobody.env("HF_ENDPOINT", "http://127.0.0.1:9");
    finish(nobody).expect(75, &["the connection", "run again later"]);
    let mut encrypted = bench.command(&[]);
    encrypted.env("HF_ENDPOINT", format!("https://{}", bench.endpoint.address()));
    finish(encrypted).expect(75, &["the connection", "run again later"]);
}

#[test]
fn hostile_lists_write_nothing() {
    let bench = Bench::new(repo());
    for name in ["../x", "/x", "onnx/../../x", "onnx\\x.onnx", "a\0b", "onnx//x.onnx"] {
        let list = json!({"sha": COMMIT, "siblings": [
            {"rfilename": "config.json", "size": 5, "blobId": COMMIT},
            {"rfilename": name, "size": 5, "blobId": COMMIT},
        ]});
        bench.endpoint.change(|repo| repo.list = Some(list));
        bench.fetch(&[]).expect(65, &["lists a file whose name", "HF_ENDPOINT"]);
    }
    bench.endpoint.change(|repo| repo.list = Some(json!({"sha": "../../x", "siblings": []})));
    bench.fetch(&[]).expect(65, &["commit"]);
    bench.endpoint.change(|repo| repo.list = Some("<html>log in</html>".into()));
    bench.fetch(&[]).expect(65, &["cannot be read"]);
    assert_eq!(files(bench.folder.path()), [""; 0]);
    assert!(bench.endpoint.log().iter().all(|request| request.what == "list"));
}

#[test]
fn promises_are_kept_to_the_byte() {
    let bench = Bench::new(repo());
    // The list promises less than the endpoint itself tells of the file.
    let sibling = |path: &str, size: usize| json!({"rfilename": path, "size": size});
    let large = "onnx/vision_encoder.onnx";
    let list = |size| {
        let mut config = 0;
        bench.endpoint.change(|repo| config = repo.files["config.json"].len());
        json!({"sha": COMMIT, "siblings": [sibling("config.json", config), sibling(large, size)]})
    };
    bench.endpoint.change(|repo| drop(repo.list.take()));
    let short = list(10_000);
    bench.endpoint.change(|repo| repo.list = Some(short));
    bench.fetch(&[]).expect(65, &[large, "another length"]);
    assert!(!bench.home().join(large).exists());
    // Another commit than was asked for.
    let right = list(50_000);
    bench.endpoint.change(|repo| repo.list = Some(right));
    bench.endpoint.change(|repo| repo.commit = "f".repeat(40));
    bench.fetch(&[]).expect(65, &[large, "another commit"]);
    assert!(!bench.home().join(large).exists());
    // More bytes than promised, without end.
    bench.endpoint.change(|repo| repo.commit = COMMIT.into());
    bench.endpoint.trouble(large, vec![Trouble::TooLong; 6]);
    bench.fetch(&[]).expect(75, &["more came than was promised"]);
    assert!(!bench.home().join(large).exists());
}

#[test]
fn a_terse_list_is_asked_file_by_file() {
    let bench = Bench::new(Repo { terse: true, ..repo() });
    bench.fetch(&[]).expect(0, &["10 files, 0.3 MB"]);
    bench.check(&DEFAULT);
    let log = bench.endpoint.log();
    let asked: Vec<_> = log.iter().filter(|request| request.method == "HEAD").collect();
    assert!(asked.iter().all(|request| !request.store), "the store need not be asked");
    assert!(DEFAULT.iter().all(|path| asked.iter().any(|request| request.what == *path)));
    // The linked sums are heeded although the list had none.
    bench.fetch(&[]).expect(0, &["to download: 0 files"]);
    assert!(sent(&bench.endpoint.log()).is_empty());
    fs::remove_file(bench.home().join(DEFAULT[7])).unwrap();
    bench.endpoint.trouble(DEFAULT[7], vec![Trouble::Spoil; 2]);
    bench.fetch(&[]).expect(65, &["damaged twice"]);
}

#[test]
fn the_token_goes_to_the_endpoint_and_nowhere_else() {
    for way in ["variable", "file", "home"] {
        let bench = Bench::new(Repo { token: Some("hf_secret".into()), ..repo() });
        bench.fetch(&[]).expect(69, &["HF_TOKEN"]);
        let mut command = bench.command(&[]);
        let file = |name: &str| {
            let path = bench.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "hf_secret\n").unwrap();
            path
        };
        match way {
            "variable" => command.env("HF_TOKEN", "hf_secret"),
            "file" => command.env("HF_TOKEN_PATH", file("my-token")),
            _ => command.env("HF_HOME", file("hf/token").parent().unwrap()),
        };
        bench.endpoint.log();
        let done = finish(command).expect(0, &[]);
        assert!(!done.err.contains("secret"), "{done:#?}");
        bench.check(&DEFAULT);
        let log = bench.endpoint.log();
        assert!(log.iter().any(|request| request.store));
        assert!(log.iter().all(|request| request.token.is_some() != request.store), "{way}: {log:?}");
        let mut wrong = bench.command(&[]);
        wrong.env("HF_TOKEN", "hf_old");
        finish(wrong).expect(69, &["does not take the token"]);
        let mut odd = bench.command(&[]);
        odd.env("HF_TOKEN", "two\nlines");
        let refused = finish(odd).expect(2, &["HF_TOKEN"]);
        assert!(!refused.err.contains("lines"), "{refused:#?}");
    }
}

#[test]
fn a_revision_is_a_commit_and_moves_only_when_asked() {
    let bench = Bench::new(repo());
    bench.fetch(&["--revision", "refs/pr/1"]).expect(0, &["at refs/pr/1 (001122334455)"]);
    let log = bench.endpoint.log();
    assert_eq!(log[0].revision, "refs%2Fpr%2F1");
    assert_eq!(bench.lock()["revision"], "refs/pr/1");
    // The next commit: one file is new, one is gone, one is under another name, the rest is as it was.
    bench.endpoint.change(|repo| {
        repo.commit = "a".repeat(40);
        // As long as it was: only its name in git tells.
        repo.files.insert("README.md".into(), vec![b'x'; 2_000]);
        let embed = repo.files.remove("onnx/embed_tokens_int8.onnx").unwrap();
        repo.files.insert("onnx/embed_tokens_quantized.onnx".into(), embed);
        repo.files.remove("LICENSE");
    });
    bench.fetch(&[]).expect(0, &["to download: 2 files", "removed LICENSE", "removed onnx/embed_tokens_int8.onnx"]);
    let mut now: Vec<_> = DEFAULT.iter().copied().filter(|path| *path != "LICENSE").collect();
    now.iter_mut()
        .filter(|path| **path == "onnx/embed_tokens_int8.onnx")
        .for_each(|path| *path = "onnx/embed_tokens_quantized.onnx");
    bench.check(&now);
}

#[test]
fn other_peoples_folders_are_left_alone() {
    let bench = Bench::new(repo());
    let out = bench.folder.path().join("mine");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("README.md"), "my own notes").unwrap();
    bench.fetch(&["--out", "mine"]).expect(2, &["another README.md", "--out"]);
    assert_eq!(files(&out), ["README.md"]);
    fs::remove_file(out.join("README.md")).unwrap();
    fs::write(out.join("describe.json"), "{}").unwrap();
    let done = bench.fetch(&["--out", "mine"]).expect(0, &[]);
    assert_eq!(done.out, "mine is ready\n");
    assert!(out.join("onnx/vision_encoder_q4.onnx").is_file() && out.join("describe.json").is_file());
    // A folder is for one model.
    let lock = fs::read_to_string(out.join("describe.lock.json")).unwrap();
    fs::write(out.join("describe.lock.json"), lock.replace(NAME, "own/other")).unwrap();
    bench.fetch(&["--out", "mine"]).expect(2, &["holds own/other", "--out"]);
    fs::write(out.join("describe.lock.json"), "{").unwrap();
    bench.fetch(&["--out", "mine"]).expect(65, &["describe.lock.json", "--out"]);
}
