//! What is asked of a web server, and what must be in its answer.

use super::tls::{self, Tls};
use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::config::reader::{Section, Value};
use regex::bytes::Regex;
use std::fmt;
use std::ops::RangeInclusive;

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Begins with a slash.
    pub path: String,
    /// The name of the site; by default the address.
    pub host: Option<String>,
    /// What the request says it speaks.
    pub version: HttpVersion,
    /// The answers that count as alive.
    pub status: Vec<RangeInclusive<u16>>,
    /// The MD5 of the body. An oracle for change, as keepalived has it, and not for trust.
    pub digest: Option<[u8; 16]>,
    /// What the beginning of the body must match.
    pub regex: Option<Pattern>,
    /// What the beginning of the body must not match.
    pub no_regex: Option<Pattern>,
    /// Inside TLS.
    pub tls: Option<Tls>,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0, without `Connection: close`.
    Old,
    /// HTTP/1.0 with `Connection: close`; keepalived's `1.0C`.
    OldClosing,
    /// HTTP/1.1 with `Connection: close`.
    New,
}

/// By their names.
pub(in crate::config) const VERSIONS: [(&str, HttpVersion); 3] =
    [("1.0", HttpVersion::Old), ("1.0C", HttpVersion::OldClosing), ("1.1", HttpVersion::New)];

/// A regular expression over bytes, in the syntax of Rust's `regex`: no look-around and no back references.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let regex = Regex::new(text).map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Whether it matches anywhere.
    pub fn is_match(&self, body: &[u8]) -> bool {
        self.regex.is_match(body)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

pub(super) fn read(section: Section<'_>, secure: bool, log: &Log) -> Option<Http> {
    let path = section.required("path").and_then(Value::string);
    let host = section.get("host").and_then(Value::string).map(|host| host.value);
    let version = section.get("version").and_then(|value| value.choice(&VERSIONS));
    let status = section.get("status").and_then(Value::string);
    let digest = section.get("digest").map(|value| digest(&value.string()?, log));
    let pattern = |key| section.get(key).map(|value| pattern(&value.string()?, log));
    let (regex, no_regex) = (pattern("regex"), pattern("no_regex"));
    let tls = secure.then(|| tls::read(&section, host.as_deref(), log));
    section.close();
    let status = match &status {
        None => Some(vec![200..=299]),
        Some(text) => {
            let ranges: Option<Vec<_>> = text.value.split(',').map(|text| status_range(text.trim())).collect();
            if ranges.is_none() {
                let error =
                    Diagnostic::error(&text.place, format!("`{}` is no range of HTTP status codes", text.value));
                log.add(error.help("for example \"200-299\" or \"200, 204\""));
            }
            ranges
        }
    };
    let path = path?;
    check_path(&path, log);
    Some(Http {
        path: path.value,
        host,
        version: version.map_or(HttpVersion::New, |version| version.value),
        status: status?,
        digest: whole(digest)?,
        regex: whole(regex)?,
        no_regex: whole(no_regex)?,
        tls: whole(tls)?,
    })
}

/// What was not given is fine, and what was given wrong is not.
fn whole<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| value.map(Some))
}

/// What a request line can hold.
pub(in crate::config) fn check_path(path: &Located<String>, log: &Log) {
    if !path.value.starts_with('/') {
        log.add(Diagnostic::error(&path.place, "the path of an HTTP check begins with `/`"));
    } else if let Err(error) = path.value.parse::<hyper::http::uri::PathAndQuery>() {
        let error = Diagnostic::error(&path.place, format!("a request cannot have this path: {error}"));
        log.add(error.help("write a space as %20"));
    }
}

/// `200` or `200-299`.
pub(in crate::config) fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let range = code(first)?..=code(last)?;
    (!range.is_empty()).then_some(range)
}

/// 32 hexadecimal digits, as `genhash` and `md5sum` print them.
pub(in crate::config) fn digest(text: &Located<String>, log: &Log) -> Option<[u8; 16]> {
    let fits = text.value.len() == 32 && text.value.bytes().all(|digit| digit.is_ascii_hexdigit());
    let digest = u128::from_str_radix(&text.value, 16).ok().filter(|_| fits);
    if digest.is_none() {
        let error = Diagnostic::error(&text.place, "a digest is the MD5 of a page, 32 hexadecimal digits");
        log.add(error.help("for example from `curl -s URL | md5sum`"));
    }
    digest.map(u128::to_be_bytes)
}

pub(in crate::config) fn pattern(text: &Located<String>, log: &Log) -> Option<Pattern> {
    let pattern = Pattern::new(&text.value);
    if let Err(why) = &pattern {
        // The last line says what; those before repeat the pattern and point into it.
        let what = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let error = Diagnostic::error(&text.place, format!("no regular expression: {what}"));
        log.add(error.help("the syntax is that of Rust's `regex`, which has no look-around and no back references"));
    }
    pattern.ok()
}
