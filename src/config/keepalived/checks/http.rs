//! `HTTP_GET` and `SSL_GET`: each `url` is a check.

use super::super::lvs::{choice, count};
use super::super::syntax::{Statement, Word};
use super::super::{argument, block, check_leaf, unknown};
use super::{Asking, Elsewhere, lines, truth};
use crate::config::check::{self, Check, Files, Http, HttpVersion, Pattern, Probe, Tls};
use crate::config::diagnostic::{Diagnostic, Located, Log};
use std::time::Duration;

pub(super) fn http_get(
    statement: &Statement,
    mut asking: Asking,
    host: Option<&str>,
    elsewhere: &Elsewhere<'_>,
    log: &Log,
) -> Vec<Check> {
    const KNOWN: [&str; 6] = ["url", "http_protocol", "virtualhost", "enable_sni", "sni_name", "fast_recovery"];
    let secure = statement.keyword.text == "SSL_GET";
    let (mut urls, mut version, mut host) = (Vec::new(), HttpVersion::Old, host.map(str::to_owned));
    let (mut sni, mut sni_name) = (false, None);
    lines(statement, &KNOWN, &mut asking, log, |line| {
        match line.keyword.text.as_str() {
            "url" => urls.push(line),
            "http_protocol" => version = choice(line, &check::VERSIONS, log).unwrap_or(version),
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            "enable_sni" => sni = true,
            "sni_name" => sni_name = argument(line, log).map(|name| name.value),
            // Both are so in any case: one url does not wait for another, and a connection that just ends has ended.
            "fast_recovery" | "tls_compliant" => {}
            _ => return false,
        }
        true
    });
    urls.retain(|url| {
        let has_path = url.block.iter().flatten().any(|line| line.keyword.text == "path");
        if !has_path {
            let message = "a `url` without `path` is ignored, as by keepalived";
            log.add(Diagnostic::warning(&url.keyword.place, message));
        }
        has_path
    });
    if urls.is_empty() {
        let message = format!("`{}` without a `url` asks nothing, as with keepalived", statement.keyword.text);
        log.add(Diagnostic::warning(&statement.keyword.place, message));
    }
    let check = |url: &Statement| {
        let mut http = read_url(url, host.clone(), version, log)?;
        if secure {
            let site = http.host.as_ref().map(|host| host.split(':').next().unwrap_or_default().to_owned());
            let name = sni_name.clone().or(site).filter(|_| sni || sni_name.is_some());
            match Tls::new(name, Files { ca: None, own: elsewhere.own.clone() }) {
                Ok(tls) => http.tls = Some(tls),
                Err(why) => log.add(Diagnostic::error(&url.keyword.place, why)),
            }
        }
        Some(asking.check(Probe::Http(http), Duration::from_secs(3)))
    };
    urls.into_iter().filter_map(check).collect()
}

fn read_url(statement: &Statement, mut host: Option<String>, version: HttpVersion, log: &Log) -> Option<Http> {
    const KNOWN: [&str; 10] = [
        "path",
        "status_code",
        "virtualhost",
        "digest",
        "regex",
        "regex_no_match",
        "regex_options",
        "regex_stack",
        "regex_min_offset",
        "regex_max_offset",
    ];
    // Without one it has not come here, and one without a value is an error already.
    let (mut path, mut status, mut digest) = (None, vec![200..=299], Some(None));
    let mut body = Body::default();
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "path" => path = argument(line, log),
            "virtualhost" => host = argument(line, log).map(|host| host.value),
            "digest" => digest = argument(line, log).and_then(|text| check::digest(&text, log)).map(Some),
            "status_code" => status = status_codes(line, log),
            _ if body.read(line, log) => {}
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let path = path?;
    check::check_path(&path, log);
    let pattern = body.pattern(log)?;
    let (regex, no_regex) = if body.unwanted { (None, pattern) } else { (pattern, None) };
    Some(Http { path: path.value, host, version, status, digest: digest?, regex, no_regex, tls: None })
}

fn status_codes(line: &Statement, log: &Log) -> Vec<std::ops::RangeInclusive<u16>> {
    let range = |word: &Word| {
        let range = check::status_range(&word.text);
        if range.is_none() {
            let message = format!("`{}` is no range of HTTP status codes", word.text);
            log.add(Diagnostic::error(&word.place, message).help("for example 200 or 200-299"));
        }
        range
    };
    if line.arguments.is_empty() {
        log.add(Diagnostic::error(&line.keyword.place, "`status_code` needs a value"));
    }
    line.arguments.iter().filter_map(range).collect()
}

/// `regex` and what goes with it, as the flags and the beginning of one pattern.
#[derive(Default)]
struct Body {
    regex: Option<Located<String>>,
    unwanted: bool,
    flags: String,
    unicode: bool,
    offset: (usize, Option<usize>),
}

impl Body {
    /// PCRE2's options that mean something here, and those that only say how it is to work.
    const OPTIONS: [(&str, Option<char>); 12] = [
        ("caseless", Some('i')),
        ("multiline", Some('m')),
        ("dotall", Some('s')),
        ("extended", Some('x')),
        ("ungreedy", Some('U')),
        ("utf", Some('u')),
        ("ucp", Some('u')),
        ("never_ucp", None),
        ("never_utf", None),
        ("no_auto_possess", None),
        ("no_dotstar_anchor", None),
        ("no_start_optimize", None),
    ];

    fn read(&mut self, line: &Statement, log: &Log) -> bool {
        let offset = |line| count(line, 65_535, log).and_then(|offset| usize::try_from(offset).ok());
        match line.keyword.text.as_str() {
            "regex" => self.regex = argument(line, log),
            "regex_no_match" => self.unwanted = truth(line, log),
            "regex_min_offset" => self.offset.0 = offset(line).unwrap_or(0),
            "regex_max_offset" => self.offset.1 = offset(line),
            // The time and the memory of a pattern are bounded here.
            "regex_stack" => {}
            "regex_options" => {
                for word in &line.arguments {
                    match Self::OPTIONS.iter().find(|(name, _)| *name == word.text) {
                        Some((_, Some('u'))) => self.unicode = true,
                        Some((_, flag)) => self.flags.extend(flag),
                        None => {
                            let message = format!("the option `{}` is not supported by this version", word.text);
                            log.add(Diagnostic::error(&word.place, message));
                        }
                    }
                }
            }
            _ => return false,
        }
        true
    }

    /// An inner `None` without one; an outer after a fault.
    fn pattern(&self, log: &Log) -> Option<Option<Pattern>> {
        let Some(regex) = &self.regex else { return Some(None) };
        let bytes = if self.unicode { "" } else { "-u" };
        let before = match self.offset {
            (0, None) => String::new(),
            (least, None) => format!(r"\A(?s-u:.{{{least},}})"),
            (least, Some(most)) => format!(r"\A(?s-u:.{{{least},{most}}})"),
        };
        let flags = format!("(?{}{bytes})", self.flags);
        let flags = if flags == "(?)" { String::new() } else { flags };
        let text = format!("{before}{flags}{}", regex.value);
        check::pattern(&Located { value: text, place: regex.place.clone() }, log).map(Some)
    }
}
