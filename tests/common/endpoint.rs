//! A Hugging Face endpoint on this machine, with a store at another address for large files, and with troubles.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Name of the only model.
pub const NAME: &str = "own/tiny-model";

/// Its first commit.
pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// Numbers without order, the same in every run.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        // Knuth's MMIX generator; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// A repository in the published layout; the contents mean nothing.
pub fn repo() -> Repo {
    let mut dice = Dice(7);
    let mut files: BTreeMap<String, Vec<u8>> = [
        (".gitattributes", 20),
        ("LICENSE", 900),
        ("README.md", 2_000),
        ("chat_template.jinja", 600),
        ("generation_config.json", 0),
        ("model.safetensors", 9_000),
        ("tokenizer.json", 60_000),
        ("onnx/decoder_model_merged.onnx", 17_000),
        ("onnx/decoder_model_merged.onnx_data", 300_000),
        ("onnx/decoder_model_merged.onnx_data_1", 80_000),
        ("onnx/decoder_model_merged_q4.onnx", 16_000),
        ("onnx/decoder_model_merged_q4.onnx_data", 150_000),
        ("onnx/decoder_model_merged_q4f16.onnx", 15_000),
        ("onnx/embed_tokens.onnx", 40_000),
        ("onnx/embed_tokens_int8.onnx", 20_000),
        ("onnx/vision_encoder.onnx", 50_000),
        ("onnx/vision_encoder_q4.onnx", 25_000),
    ]
    .into_iter()
    .map(|(path, count)| (path.to_owned(), dice.bytes(count)))
    .collect();
    let config = json!({"model_type": "gemma4", "transformers.js_config": {"dtype": {"decoder_model_merged": "q4"}}});
    files.insert("config.json".into(), config.to_string().into_bytes());
    Repo { files, commit: COMMIT.into(), ..Repo::default() }
}

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// This status, with these lines of header.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// A byte of the body is another.
    Spoil,
    /// A range is not heeded: all comes.
    Whole,
    /// The answer to a range is another part.
    OtherPart,
    /// The body has no length and too many bytes.
    TooLong,
    /// A byte comes every other millisecond.
    Slow,
    /// Nothing comes.
    Silent,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// `list`, or the path of the file.
    pub what: String,
    pub revision: String,
    /// Whether it came to the store.
    pub store: bool,
    /// First byte that was asked for.
    pub from: Option<usize>,
    pub token: Option<String>,
}

/// What is served.
#[derive(Debug, Clone, Default)]
pub struct Repo {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The commit of every revision.
    pub commit: String,
    /// Whether the list tells lengths and sums.
    pub terse: bool,
    /// The whole list, in place of the true one.
    pub list: Option<Value>,
    /// Token that is wanted.
    pub token: Option<String>,
}

impl Repo {
    /// Large files lie in the store, as Git LFS does it.
    fn is_large(path: &str) -> bool {
        path.contains(".onnx") || path.ends_with("tokenizer.json") || path.ends_with(".safetensors")
    }

    fn listing(&self) -> Value {
        if let Some(list) = &self.list {
            return list.clone();
        }
        let sibling = |(path, bytes): (&String, &Vec<u8>)| match (self.terse, Self::is_large(path)) {
            (true, _) => json!({"rfilename": path}),
            (false, false) => json!({"rfilename": path, "size": bytes.len(), "blobId": &sum(bytes)[..40]}),
            (false, true) => json!({"rfilename": path, "size": bytes.len(), "blobId": &sum(&bytes[..1])[..40],
                "lfs": {"sha256": sum(bytes), "size": bytes.len(), "pointerSize": 134}}),
        };
        json!({"id": NAME, "sha": self.commit, "gated": false, "tags": ["onnx", "license:apache-2.0"],
            "siblings": self.files.iter().map(sibling).collect::<Vec<_>>()})
    }
}

/// SHA-256 in hexadecimal.
pub fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct State {
    repo: Mutex<Repo>,
    troubles: Mutex<BTreeMap<String, VecDeque<Trouble>>>,
    log: Mutex<Vec<Request>>,
    over: AtomicBool,
}

/// The running endpoint; it ends when dropped.
pub struct Endpoint {
    state: Arc<State>,
    hub: SocketAddr,
    store: SocketAddr,
}

impl Endpoint {
    pub fn new(repo: Repo) -> Self {
        let state = Arc::new(State { repo: repo.into(), ..State::default() });
        let [hub, store] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let (here, there) = (hub.local_addr().unwrap(), store.local_addr().unwrap());
        for (listener, is_store) in [(hub, false), (store, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if state.over.load(Ordering::Relaxed) {
                        break;
                    }
                    let state = state.clone();
                    // A client that goes away is no fault of the server.
                    thread::spawn(move || drop(state.answer(stream, is_store, there)));
                }
            });
        }
        Self { state, hub: here, store: there }
    }

    pub fn address(&self) -> String {
        self.hub.to_string()
    }

    pub fn change(&self, change: impl FnOnce(&mut Repo)) {
        change(&mut self.state.repo.lock().unwrap());
    }

    /// What goes wrong next with `what`, in order.
    pub fn trouble(&self, what: &str, troubles: impl IntoIterator<Item = Trouble>) {
        self.state.troubles.lock().unwrap().entry(what.to_owned()).or_default().extend(troubles);
    }

    /// Whether all troubles came to pass.
    pub fn is_calm(&self) -> bool {
        self.state.troubles.lock().unwrap().values().all(VecDeque::is_empty)
    }

    /// The requests since the last call.
    pub fn log(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.log.lock().unwrap())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        for address in [self.hub, self.store] {
            let _ = TcpStream::connect(address);
        }
    }
}

/// `bytes=5-` as 5.
fn first_byte(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

impl State {
    fn answer(&self, mut stream: TcpStream, store: bool, there: SocketAddr) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut line, mut headers) = (String::new(), BTreeMap::new());
        reader.read_line(&mut line)?;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut words = line.split(' ');
        let (method, url) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let repo = self.repo.lock().unwrap().clone();
        let (what, revision) = place(url);
        let request = Request {
            method: method.to_owned(),
            what: what.clone(),
            revision,
            store,
            from: headers.get("range").and_then(|range| first_byte(range)),
            token: headers.get("authorization").and_then(|token| token.strip_prefix("Bearer ")).map(String::from),
        };
        self.log.lock().unwrap().push(request.clone());
        let here = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        if !store && repo.token.is_some() && repo.token != request.token {
            return write!(stream, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        if what == "list" {
            let text = repo.listing().to_string();
            return match self.next("list") {
                None => write!(stream, "{here}Content-Length: {}\r\n\r\n{text}", text.len()),
                Some(trouble) => trouble.befall(&mut stream, &mut reader, text.as_bytes(), None),
            };
        }
        self.answer_file(&mut stream, &mut reader, &repo, &request, url.starts_with("/api/resolve-cache/"), there)
    }

    /// The file itself, or the way to where it lies.
    fn answer_file(
        &self,
        stream: &mut TcpStream,
        reader: &mut impl Read,
        repo: &Repo,
        Request { method, what, store, from, .. }: &Request,
        cached: bool,
        there: SocketAddr,
    ) -> std::io::Result<()> {
        let here = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        let Some(bytes) = repo.files.get(what) else {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let known = format!("X-Repo-Commit: {}\r\n", repo.commit);
        let is_last = match Repo::is_large(what) {
            true => *store,
            false => cached,
        };
        if !is_last {
            let (status, to, linked) = match Repo::is_large(what) {
                true => ("302 Found", format!("http://{there}/{what}?signature=secret"), bytes.len()),
                false => ("307 Temporary Redirect", format!("/api/resolve-cache/{what}"), bytes.len()),
            };
            let tag = if Repo::is_large(what) { sum(bytes) } else { sum(bytes)[..40].to_owned() };
            return write!(
                stream,
                "HTTP/1.1 {status}\r\n{known}Location: {to}\r\nX-Linked-Size: {linked}\r\nX-Linked-ETag: \"{tag}\"\r\n\
                 Content-Length: 4\r\nConnection: close\r\n\r\n{}",
                if method == "HEAD" { "" } else { "gone" }
            );
        }
        match (method.as_str(), self.next(what)) {
            ("HEAD", _) => {
                write!(
                    stream,
                    "{here}{known}Content-Length: {}\r\nETag: \"{}\"\r\n\r\n",
                    bytes.len(),
                    &sum(bytes)[..40]
                )
            }
            (_, Some(trouble)) => trouble.befall(stream, reader, bytes, *from),
            (_, None) => send(stream, bytes, *from, bytes.len()),
        }
    }

    fn next(&self, what: &str) -> Option<Trouble> {
        self.troubles.lock().unwrap().get_mut(what)?.pop_front()
    }
}

/// What a URL asks for, and the revision in it.
fn place(url: &str) -> (String, String) {
    let path = url.split('?').next().unwrap_or_default();
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{NAME}/revision/")) {
        return ("list".to_owned(), revision.to_owned());
    }
    let resolved = path.strip_prefix(&format!("/{NAME}/resolve/")).and_then(|rest| rest.split_once('/'));
    match resolved {
        Some((revision, file)) => (file.to_owned(), revision.to_owned()),
        None => (path.trim_start_matches("/api/resolve-cache").trim_start_matches('/').to_owned(), String::new()),
    }
}

/// Sends from byte `from` on, but at most `most` bytes of what it promises.
fn send(stream: &mut TcpStream, bytes: &[u8], from: Option<usize>, most: usize) -> std::io::Result<()> {
    let (total, start) = (bytes.len(), from.unwrap_or(0));
    if start >= total && from.is_some() {
        return write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", total - start)?;
    if from.is_some() {
        write!(stream, "Content-Range: bytes {start}-{}/{total}\r\n", total - 1)?;
    }
    stream.write_all(b"\r\n")?;
    let end = total.min(start + most);
    stream.write_all(&bytes[start..end])
}

impl Trouble {
    fn befall(
        self,
        stream: &mut TcpStream,
        reader: &mut impl Read,
        bytes: &[u8],
        from: Option<usize>,
    ) -> std::io::Result<()> {
        match self {
            Self::Status(status, headers) => {
                write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
            }
            Self::Cut(most) => send(stream, bytes, from, most),
            Self::Spoil => {
                let mut spoilt = bytes.to_owned();
                if let Some(byte) = spoilt.last_mut() {
                    *byte ^= 1;
                }
                send(stream, &spoilt, from, usize::MAX / 2)
            }
            Self::Whole => send(stream, bytes, None, bytes.len()),
            Self::OtherPart => {
                let start = from.unwrap_or(0) / 2;
                send(stream, bytes, Some(start), bytes.len())
            }
            Self::TooLong => {
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                stream.write_all(bytes)?;
                stream.write_all(b"more")
            }
            Self::Slow => {
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
                for byte in bytes {
                    stream.write_all(&[*byte])?;
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            }
            // Until the client gives up.
            Self::Silent => reader.read(&mut [0]).map(drop),
        }
    }
}
