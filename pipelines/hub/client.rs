//! The way to a Hugging Face endpoint and back.
//!
//! `hf-hub` knows the endpoint, its URLs and where a token lies. Its own download is not used: it appends whatever
//! answer comes to the part it has, compares no SHA-256, and hides the headers in which the endpoint tells it.
//! So requests are made here, redirects are followed here, and the token goes to the endpoint and nowhere else.

use std::{env, path::PathBuf, time::Duration};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder},
};
use ureq::{
    Agent, Body, RequestBuilder,
    http::{HeaderMap, Response, Uri},
    typestate::WithoutBody,
};

use super::listing::{Listing, is_hex, short};
use crate::exit::{Exit, Failure};

/// Longest time without a byte, where HF_HUB_DOWNLOAD_TIMEOUT says no other.
const PATIENCE: Duration = Duration::from_secs(30);
/// Redirects that are followed; the hub needs two.
const MAX_HOPS: usize = 5;
/// Longest list of files that is read, in bytes; large repositories have some hundred kB.
const MAX_LIST: u64 = 32 << 20;
/// Longest pause that a server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Why a request gave nothing.
#[derive(Debug)]
pub enum Fault {
    /// It may work when tried again, after the pause that the server asked for.
    Passing(String, Option<Duration>),
    /// The file cannot be sent from the byte that was asked for.
    Range,
    /// It will not.
    Final(Failure),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// What the endpoint says of a file in its headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The commit that the file is from.
    pub commit: Option<String>,
    /// Length in bytes.
    pub bytes: Option<u64>,
    /// SHA-256 of the content.
    pub sha256: Option<String>,
    /// Name of the content.
    pub etag: Option<String>,
}

/// The answer to a request for a file.
pub struct Reply {
    /// What the endpoint said on the way.
    pub facts: Facts,
    /// Place of the first byte, where only a part was sent.
    pub from: Option<u64>,
    /// Length of what is sent, where it is told.
    pub length: Option<u64>,
    /// The bytes.
    pub body: Body,
}

/// A repository at an endpoint.
pub struct Hub {
    agent: Agent,
    api: Api,
    /// `OWNER/NAME`.
    pub name: String,
    token: Option<String>,
    origin: (String, String),
}

impl Hub {
    /// The repository `name` at the endpoint of the environment: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME.
    pub fn from_env(name: &str) -> Result<Self, Failure> {
        let cache =
            Cache::new(variable("HF_HOME").map(PathBuf::from).or_else(home).unwrap_or(NOWHERE.into()).join("hub"));
        let token = token(&cache)?;
        let mut builder = ApiBuilder::from_cache(cache).with_token(None).with_progress(false);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let api = builder
            .build()
            .map_err(|error| Failure::new(Exit::Missing, format!("cannot start the download client: {error}")))?;
        let origin = origin(&api.model(name.to_owned()).url("")).ok_or_else(|| {
            Failure::new(Exit::Usage, "HF_ENDPOINT is no endpoint; it must look like https://HOST or https://HOST/PATH")
        })?;
        let patience = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok());
        let patience = patience.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(PATIENCE);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .user_agent(concat!("describe/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are those of the file, so it must come as it is.
            .accept_encoding("identity")
            .build();
        Ok(Self { agent: agent.into(), api, name: name.to_owned(), token, origin })
    }

    /// Whether a token is sent.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What the repository holds at `revision`: a branch, tag or commit.
    pub fn list(&self, revision: &str) -> Result<Listing, Fault> {
        let request = self.api.repo(self.at(revision)).info_request();
        let url = request.uri_ref().map(Uri::to_string).unwrap_or_default();
        let (mut response, _) = self.follow(&format!("{url}?blobs=true"), &format!("revision {revision}"), None)?;
        let text = response.body_mut().with_config().limit(MAX_LIST).read_to_vec().map_err(|error| broken(&error))?;
        Ok(Listing::parse(&text)?)
    }

    /// What the endpoint says of the file at `path` without sending it.
    pub fn ask(&self, commit: &str, path: &str) -> Result<Facts, Fault> {
        let mut url = self.api.repo(self.at(commit)).url(path);
        for _ in 0..MAX_HOPS {
            let response = self.send(self.agent.head(&url), &url)?;
            let facts = facts(&response);
            match target(&url, &response)? {
                // The store behind another host knows no more than the endpoint that sends there.
                Some(next) if facts.bytes.is_none() && self.is_home(&next) => url = next,
                None if !response.status().is_success() => return Err(self.refusal(&response, path)),
                _ => return Ok(facts),
            }
        }
        Err(Fault::Passing("it is sent on too often".into(), None))
    }

    /// The file at `path` from byte `from` on, or the whole of it where the server cannot send a part.
    pub fn get(&self, commit: &str, path: &str, from: u64) -> Result<Reply, Fault> {
        let url = self.api.repo(self.at(commit)).url(path);
        let (response, facts) = self.follow(&url, path, Some(from))?;
        let range = header(response.headers(), "content-range").and_then(first_byte);
        let partial = response.status().as_u16() == 206;
        if partial && range.is_none() {
            return Err(Fault::Passing("a part was sent without saying which".into(), None));
        }
        let length = header(response.headers(), "content-length").and_then(|text| text.parse().ok());
        // A length of packed bytes says nothing; the client unpacks them.
        let length = length.filter(|_| !response.headers().contains_key("content-encoding"));
        Ok(Reply { facts, from: range.filter(|_| partial), length, body: response.into_body() })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, revision.to_owned())
    }

    /// Gets `url`, wherever the endpoint sends; only the endpoint is asked for facts and sees the token.
    fn follow(&self, url: &str, what: &str, from: Option<u64>) -> Result<(Response<Body>, Facts), Fault> {
        let (mut url, mut known) = (url.to_owned(), Facts::default());
        for _ in 0..MAX_HOPS {
            let home = self.is_home(&url);
            let mut request = self.agent.get(&url);
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = self.send(request, &url)?;
            if home {
                let Facts { commit, bytes, sha256, etag } = facts(&response);
                known = Facts {
                    commit: known.commit.or(commit),
                    // The length of an answer is not that of the file; only what is said of the linked file counts.
                    bytes: known.bytes.or(bytes.filter(|_| response.headers().contains_key("x-linked-size"))),
                    sha256: known.sha256.or(sha256),
                    etag: known.etag.or(etag),
                };
            }
            match target(&url, &response)? {
                Some(next) => url = next,
                None if response.status().is_success() => return Ok((response, known)),
                None if response.status().as_u16() == 416 => return Err(Fault::Range),
                None if home => return Err(self.refusal(&response, what)),
                // Its links are good for minutes only; the endpoint gives a new one.
                None => {
                    return Err(Fault::Passing(
                        format!("the store answers {}", response.status().as_u16()),
                        pause(response.headers()),
                    ));
                }
            }
        }
        Err(Fault::Passing("it is sent on too often".into(), None))
    }

    /// Sends a request to `url`, with the token where it may go.
    fn send(&self, mut request: RequestBuilder<WithoutBody>, url: &str) -> Result<Response<Body>, Fault> {
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| broken(&error))
    }

    fn is_home(&self, url: &str) -> bool {
        origin(url).as_ref() == Some(&self.origin)
    }

    /// What an answer that is no success means, and what helps.
    fn refusal(&self, response: &Response<Body>, what: &str) -> Fault {
        let (name, host) = (&self.name, &self.origin.1);
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let licence =
            format!("accept the licence on the page of {name}, make a token that may read it, and set HF_TOKEN");
        let fail = |exit, message: String| Fault::Final(Failure::new(exit, message));
        match (response.status().as_u16(), code) {
            (401 | 403, "GatedRepo") => fail(Exit::Missing, format!("{name} is a gated model: {licence}")),
            (401, _) if self.has_token() => {
                fail(Exit::Missing, format!("{host} does not take the token for {name}: set HF_TOKEN to a valid one"))
            }
            (401, _) => fail(
                Exit::Missing,
                format!(
                    "{host} wants to know who asks for {name}: if the name is right, the model is gated or private; \
                     {licence}"
                ),
            ),
            (403, _) => fail(Exit::Missing, format!("{host} does not give {name} to this account: {licence}")),
            (404, "RepoNotFound") | (410, _) => {
                fail(Exit::BadInput, format!("{host} has no model {name}; check the name"))
            }
            (404, _) => fail(
                Exit::BadInput,
                format!(
                    "{host} does not find {what} of {name}; check the name and --revision, and set HF_TOKEN if it is private"
                ),
            ),
            (429, _) => Fault::Passing("the endpoint asks for patience (429)".into(), pause(response.headers())),
            (status @ (408 | 500..), _) => {
                Fault::Passing(format!("the endpoint has a problem ({status})"), pause(response.headers()))
            }
            (status, _) => {
                fail(Exit::Temporary, format!("{host} answers {status} to a request for {what} of {name}; try later"))
            }
        }
    }
}

/// A folder that cannot be, for people without a home.
const NOWHERE: &str = "/dev/null";

fn home() -> Option<PathBuf> {
    variable("HOME").map(|home| PathBuf::from(home).join(".cache/huggingface"))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The token of the environment, else that of the file that `hf auth login` writes.
fn token(cache: &Cache) -> Result<Option<String>, Failure> {
    let file = |path: String| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let token = variable("HF_TOKEN").or_else(|| variable("HF_TOKEN_PATH").and_then(file)).or_else(|| cache.token());
    match token.filter(|token| !token.is_empty()) {
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Failure::new(Exit::Usage, "the Hugging Face token has characters that no token has; set HF_TOKEN anew"))
        }
        token => Ok(token),
    }
}

/// Scheme, and host with port: who sees what is sent to `url`.
fn origin(url: &str) -> Option<(String, String)> {
    let url: Uri = url.parse().ok()?;
    let scheme = url.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let host = authority.host().to_ascii_lowercase();
    let host = match authority.port_u16() {
        Some(port) if (scheme, port) != ("http", 80) && (scheme, port) != ("https", 443) => format!("{host}:{port}"),
        _ => host,
    };
    Some((scheme.to_owned(), host)).filter(|(_, host)| !host.is_empty())
}

/// Where a redirect leads; `None` for any other answer.
fn target(url: &str, response: &Response<Body>) -> Result<Option<String>, Fault> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let wrong = || Fault::Passing("the endpoint sends on to no place".into(), None);
    let location = header(response.headers(), "location").ok_or_else(wrong)?;
    let (scheme, host) = origin(url).ok_or_else(wrong)?;
    let next = match location {
        path if path.starts_with("//") => format!("{scheme}:{path}"),
        path if path.starts_with('/') => format!("{scheme}://{host}{path}"),
        other => other.to_owned(),
    };
    match origin(&next) {
        None => Err(wrong()),
        Some((weaker, _)) if scheme == "https" && weaker != "https" => {
            let message =
                "the endpoint sends on from https to http, where anyone can listen; nothing was fetched there";
            Err(Failure::new(Exit::BadInput, message).into())
        }
        Some(_) => Ok(Some(next)),
    }
}

fn facts(response: &Response<Body>) -> Facts {
    let get = |name| header(response.headers(), name);
    let bare = |tag: &str| tag.trim_start_matches("W/").trim_matches('"').to_owned();
    let length = get("content-length").filter(|_| response.status().is_success());
    Facts {
        commit: get("x-repo-commit").filter(|commit| is_hex(commit, &[40, 64])).map(String::from),
        bytes: get("x-linked-size").or(length).and_then(|text| text.parse().ok()),
        // A plain ETag may be of any kind; the linked one is that of Git LFS, which is the SHA-256.
        sha256: get("x-linked-etag").map(bare).filter(|tag| is_hex(tag, &[64])).map(|sum| sum.to_ascii_lowercase()),
        etag: get("x-linked-etag").or_else(|| get("etag")).map(bare).map(|tag| short(&tag)),
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = header(headers, "retry-after")?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_PAUSE))
}

/// A request that found no answer, without the URL: that of a store is signed.
pub fn broken(error: &ureq::Error) -> Fault {
    let why = match error {
        ureq::Error::HostNotFound => "the endpoint's name is not known here; is there a network?".to_owned(),
        ureq::Error::Timeout(_) => "the endpoint is silent".to_owned(),
        ureq::Error::Io(error) => format!("the connection broke ({error})"),
        ureq::Error::BodyExceedsLimit(limit) => format!("it has more than {limit} bytes"),
        ureq::Error::BadUri(_) => "the endpoint sends on to no place".to_owned(),
        error => format!("the connection failed ({error})"),
    };
    Fault::Passing(why, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scheme: &str, host: &str) -> Option<(String, String)> {
        Some((scheme.into(), host.into()))
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://HUB.example/a?b"), of("https", "hub.example"));
        assert_eq!(origin("https://hub.example:443"), origin("https://hub.example/x"));
        assert_ne!(origin("http://hub.example:81"), origin("http://hub.example"));
        assert_ne!(origin("http://hub.example.evil"), origin("http://hub.example"));
        for wrong in ["hub.example", "ftp://hub.example", "https://user:word@hub.example", "https://", "/x", ""] {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
    }

    fn sent_on(url: &str, location: &str) -> Result<Option<String>, Fault> {
        let response = Response::builder().status(302).header("location", location);
        target(url, &response.body(Body::builder().data("")).unwrap())
    }

    #[test]
    fn redirects_lead_on_but_not_into_the_open() {
        let lead = |location| sent_on("https://hub.example/a/b", location).unwrap().unwrap();
        assert_eq!(lead("/c?d"), "https://hub.example/c?d");
        assert_eq!(lead("//store.example/c"), "https://store.example/c");
        assert_eq!(lead("https://store.example/c"), "https://store.example/c");
        assert!(matches!(sent_on("https://hub.example/", "http://store.example/"), Err(Fault::Final(_))));
        assert!(matches!(sent_on("https://hub.example/", "file:///etc/passwd"), Err(Fault::Passing(..))));
    }

    #[test]
    fn headers_tell_of_the_linked_file_first() {
        let sum = "AB".repeat(32);
        let response = Response::builder()
            .status(302)
            .header("content-length", "1300")
            .header("etag", "\"other\"")
            .header("x-linked-size", "9000")
            .header("x-linked-etag", format!("\"{sum}\""))
            .body(Body::builder().data(""))
            .unwrap();
        let sum = sum.to_ascii_lowercase();
        let facts = facts(&response);
        assert_eq!((facts.bytes, facts.sha256), (Some(9000), Some(sum)));
        assert_eq!(first_byte("bytes 5-9/10"), Some(5));
        assert_eq!(first_byte("bytes */10"), None);
    }
}
