//! `include`: which files a pattern names, and what is asked of them.

use super::super::diagnostic::{Diagnostic, Log, Place, Source};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a file that is included.
const LARGEST: u64 = 64 << 20;
/// Files and alternatives of one pattern.
const MOST: usize = 10_000;

/// What must be true of the files. keepalived's `include` asks nothing: a file that is missing is not missed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Check {
    /// Every file that is found can be read.
    readable: bool,
    /// Some file is found, if the pattern names one or has braces.
    matches: bool,
    /// Also if it has wildcards.
    wildcard: bool,
    /// Each alternative in braces finds one.
    brace: bool,
}

impl Check {
    const ALL: Self = Self { readable: true, matches: true, wildcard: true, brace: true };

    /// That of a keyword, beside what holds for all; `None` if it includes nothing.
    pub fn with(self, keyword: &str) -> Option<Self> {
        match keyword {
            "include" => Some(self),
            "includer" => Some(Self { readable: true, ..self }),
            "includem" => Some(Self { matches: true, ..self }),
            "includew" => Some(Self { wildcard: true, ..self }),
            "includeb" => Some(Self { brace: true, ..self }),
            "includea" => Some(Self::ALL),
            _ => None,
        }
    }

    /// `include_check`: words set what is asked, words with a sign change it. The word that means nothing is given back.
    pub fn set<'a>(&mut self, words: &'a str) -> Result<(), &'a str> {
        if words.trim().is_empty() {
            *self = Self::ALL;
        } else if !words.trim_start().starts_with(['+', '-']) {
            *self = Self::default();
        }
        for word in words.split_whitespace() {
            let wanted = !word.starts_with('-');
            match word.trim_start_matches(['+', '-']) {
                "readable" => self.readable = wanted,
                "match" => self.matches = wanted,
                "wildcard_match" => self.wildcard = wanted,
                "brace_match" => self.brace = wanted,
                _ => return Err(word),
            }
        }
        Ok(())
    }
}

/// The files that `pattern` names beside `from`, in the order of their names.
pub(super) fn find(from: &Source, pattern: &str, check: Check, place: &Place, log: &Log) -> Vec<Arc<Source>> {
    let mut files = Vec::new();
    let alternatives = braces(pattern);
    let wild = |text: &str| text.contains(['*', '?', '[']);
    for alternative in &alternatives {
        let found = glob(&from.resolve(alternative));
        if found.is_empty() && check.brace && alternatives.len() > 1 {
            log.add(Diagnostic::error(place, format!("`{alternative}` names no file")));
        }
        files.extend(found);
    }
    if files.is_empty() {
        let message = format!("`{pattern}` names no file");
        if if wild(pattern) { check.wildcard } else { check.matches || check.readable } {
            log.add(Diagnostic::error(place, message));
        } else if !wild(pattern) {
            log.add(Diagnostic::warning(place, message + ": nothing is included, as by keepalived"));
        }
    }
    let read = |path: PathBuf| match open(&path) {
        Ok(text) => Some(Arc::new(Source { path, text })),
        Err(error) => {
            // keepalived goes on without it. Half a configuration looks healthy and is not.
            log.add(Diagnostic::error(place, format!("cannot read {}: {error}", path.display())));
            None
        }
    };
    files.into_iter().filter_map(read).collect()
}

fn open(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::other("it is too large"));
    }
    Ok(text)
}

/// `a{b,c{d,e}}` as the shell has it: every alternative.
fn braces(pattern: &str) -> Vec<String> {
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(text) = open.pop() {
        let parts = if open.len() + done.len() < MOST { alternatives(&text) } else { None };
        match parts {
            Some(parts) => open.extend(parts.into_iter().rev()),
            None => done.push(text),
        }
    }
    done
}

/// The alternatives of the first braces.
fn alternatives(text: &str) -> Option<Vec<String>> {
    let begin = text.find('{')?;
    let (mut depth, mut cuts) = (0, vec![begin]);
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < begin) {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => cuts.push(at),
            '}' if depth == 1 => {
                cuts.push(at);
                let part =
                    |cut: &[usize]| format!("{}{}{}", &text[..begin], &text[cut[0] + 1..cut[1]], &text[at + 1..]);
                return Some(cuts.windows(2).map(part).collect());
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The files, no directories, that a path with `*`, `?` and `[...]` names.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        if !name.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        let name: Vec<char> = name.chars().collect();
        let mut next = Vec::new();
        for directory in found {
            let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
            for entry in std::fs::read_dir(listed).into_iter().flatten().flatten().take(MOST) {
                let file = entry.file_name();
                let text: Vec<char> = file.to_string_lossy().chars().collect();
                // As in the shell a dot at the beginning is not matched by a wildcard.
                if matches(&name, &text) && (text.first() != Some(&'.') || name.first() == Some(&'.')) {
                    next.push(directory.join(file));
                }
            }
        }
        next.sort();
        next.truncate(MOST);
        found = next;
    }
    found.retain(|path| path.is_file());
    found
}

fn matches(pattern: &[char], text: &[char]) -> bool {
    // Where to go on after the latest star that takes one character more.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => None,
            Some('?') => Some(1),
            Some('[') => class(&pattern[p..], text[t]),
            Some(c) => (*c == text[t]).then_some(1),
        };
        match (step, star) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after, taken))) if taken < text.len() => {
                star = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
            (None, _) => return false,
        }
    }
}

/// The length of the `[...]` that begins the pattern, if it has the character.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let close = 2 + pattern.iter().skip(2).position(|c| *c == ']')?;
    let inside = &pattern[1..close];
    let (negated, inside) = match inside {
        ['!' | '^', rest @ ..] => (true, rest),
        _ => (false, inside),
    };
    let mut found = false;
    let mut rest = inside;
    while let [first, more @ ..] = rest {
        rest = match more {
            ['-', last, more @ ..] => {
                found |= (*first..=*last).contains(&c);
                more
            }
            _ => {
                found |= *first == c;
                more
            }
        };
    }
    (found != negated).then_some(close + 1)
}
