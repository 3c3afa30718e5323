//! The preprocessor of keepalived.conf: comments, conditional lines, definitions, sequences, lists and includes.
//!
//! It turns files into the lines that are left, each character with the place it was written at; one that came out of a
//! definition has the place of the reference. So an error points to where a person would have to look.
//!
//! As in keepalived everything here is text: a definition is replaced where it is used, with what it means there.

use super::super::diagnostic::{Diagnostic, Log, Place, Source};
use super::include::{self, Check};
use super::rounds::{Rounds, is_name};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Lines that sequences, lists, definitions and included files may make in all. keepalived's own largest example makes 400 thousand.
const MOST_LINES: usize = 500_000;
/// Files that are included in all, one that is included again counted again.
const MOST_FILES: usize = 10_000;
/// Replacements in one line, and its length in characters: a definition that needs more does not end.
const MOST_REPLACEMENTS: usize = 1_000;
const LONGEST_LINE: usize = 65_536;
/// Definitions of lines within such definitions, and files within files.
const DEEPEST: usize = 32;

/// What a configuration is read with.
#[derive(Clone, Debug)]
pub(in crate::config) struct Setting {
    /// What `@id` lines are compared with; keepalived's `-i`.
    pub id: String,
    /// Whether keepalived itself serves what is in the file.
    pub guard: bool,
}

impl Setting {
    /// With this id; without one it is keepalived's default, the first part of the machine's name.
    pub fn new(id: Option<&str>, guard: bool) -> Self {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let first = || host().split('.').next().unwrap_or_default().to_owned();
        Self { id: id.map_or_else(first, str::to_owned), guard }
    }
}

/// A character, and the bytes it was written as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glyph {
    pub c: char,
    from: u32,
    to: u32,
}

/// What is left of a line, and the file it stands in.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub text: Vec<Glyph>,
    pub source: Arc<Source>,
    /// Definitions of several lines, or files, around it.
    depth: usize,
}

impl Line {
    /// Where these characters were written.
    pub fn place(&self, glyphs: &[Glyph]) -> Place {
        let from = glyphs.iter().map(|glyph| glyph.from).min().unwrap_or(0);
        let to = glyphs.iter().map(|glyph| glyph.to).max().unwrap_or(0);
        Place::at(&self.source, from as usize..to as usize)
    }
}

/// What is still to be read: the last first.
enum Work {
    /// The rest of a file, from a byte on.
    File {
        source: Arc<Source>,
        at: usize,
        depth: usize,
    },
    Line(Line),
    /// A line for each round.
    Repeat {
        rounds: Rounds,
        rest: Line,
    },
}

/// The lines of a file and of all that it includes.
pub(super) struct Lines<'a> {
    setting: &'a Setting,
    log: &'a Log,
    work: Vec<Work>,
    definitions: BTreeMap<String, String>,
    check: Check,
    made: usize,
    files: usize,
    /// Undefined names that were told about.
    told: BTreeSet<String>,
}

impl<'a> Lines<'a> {
    pub fn new(source: &Arc<Source>, setting: &'a Setting, log: &'a Log) -> Self {
        let work = vec![Work::File { source: source.clone(), at: 0, depth: 0 }];
        let (definitions, told) = (BTreeMap::new(), BTreeSet::new());
        Self { setting, log, work, definitions, check: Check::default(), made: 0, files: 0, told }
    }

    fn error(&self, place: &Place, message: impl Into<String>) {
        self.log.add(Diagnostic::error(place, message));
    }

    /// Counts a line that was made, and gives up on everything at the bound.
    fn made(&mut self, place: &Place) -> bool {
        self.made += 1;
        if self.made > MOST_LINES {
            self.error(place, format!("the configuration becomes more than {MOST_LINES} lines here"));
            self.work.clear();
        }
        self.made <= MOST_LINES
    }

    /// What is left of a line after its conditions, definitions and references; `None` if nothing is, here and now.
    fn expand(&mut self, mut line: Line) -> Option<Line> {
        loop {
            trim(&mut line.text);
            match line.text.first()?.c {
                '@' => self.condition(&mut line)?,
                '~' if starts(&line.text, "~SEQ") || starts(&line.text, "~LST") => {
                    self.repeat(line);
                    return None;
                }
                '$' => match definition(&line.text) {
                    Some((name, value)) => {
                        self.definitions.insert(name, value);
                        return None;
                    }
                    None => {
                        if !self.replace(&mut line)? {
                            return Some(line);
                        }
                    }
                },
                _ => {
                    if !self.replace(&mut line)? {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// `@id` and `@^id`: the rest of the line, on the machines that are meant.
    fn condition(&self, line: &mut Line) -> Option<()> {
        let end = line.text.iter().position(|glyph| glyph.c.is_whitespace()).unwrap_or(line.text.len());
        let word: String = line.text.drain(..end).skip(1).map(|glyph| glyph.c).collect();
        let matches = match word.strip_prefix('^') {
            Some(others) => others != self.setting.id,
            None => word == self.setting.id,
        };
        matches.then_some(())
    }

    /// Replaces every reference. `None`: the line became several, which are read next. False: there was none.
    fn replace(&mut self, line: &mut Line) -> Option<bool> {
        let (mut at, mut replaced) = (0, 0);
        while let Some((range, name)) = reference(&line.text, at) {
            let place = line.place(&line.text[range.clone()]);
            let Some(value) = self.value(&name, &line.source, &place) else {
                at = range.end;
                continue;
            };
            at = range.start;
            replaced += 1;
            let (first, last) = (line.text[range.start], line.text[range.end - 1]);
            let (from, to) = (first.from.min(last.from), first.to.max(last.to));
            let lines = value.contains('\n');
            // What stands for a sign that begins a comment, or another reference, is not looked at again.
            if ["_HASH", "_BANG"].contains(&name.as_str()) {
                at += value.chars().count();
            }
            line.text.splice(range, value.chars().map(|c| Glyph { c, from, to }));
            if replaced > MOST_REPLACEMENTS || line.text.len() > LONGEST_LINE || line.depth > DEEPEST {
                self.error(&place, format!("what `{name}` stands for has no end"));
                return None;
            }
            if lines {
                let parts: Vec<_> = line.text.split(|glyph| glyph.c == '\n').map(<[Glyph]>::to_vec).collect();
                let depth = line.depth + 1;
                for text in parts.into_iter().rev().filter(|text| !text.is_empty()) {
                    if !self.made(&place) {
                        break;
                    }
                    self.work.push(Work::Line(Line { text, source: line.source.clone(), depth }));
                }
                return None;
            }
        }
        Some(replaced > 0)
    }

    /// What a name stands for here.
    fn value(&mut self, name: &str, source: &Source, place: &Place) -> Option<String> {
        let mut words = name.split_whitespace();
        let (head, argument) = (words.next()?, words.next());
        let value = match (head, argument) {
            ("_PWD", None) => {
                let directory = source.path.parent().unwrap_or(Path::new(""));
                Some(std::path::absolute(directory).unwrap_or(directory.into()).to_string_lossy().into_owned())
            }
            ("_INSTANCE", None) => Some(self.setting.id.clone()),
            ("_HASH", None) => Some("#".to_owned()),
            ("_BANG", None) => Some("!".to_owned()),
            ("_ENV", Some(variable)) => std::env::var(variable).ok(),
            ("_RANDOM", _) => {
                if self.told.insert(head.to_owned()) {
                    let error =
                        Diagnostic::error(place, "`_RANDOM` is refused: each reading would be another configuration");
                    self.log.add(error.help("write the number that you want"));
                }
                None
            }
            (name, None) => self.definitions.get(name).cloned(),
            (_, Some(_)) => None,
        };
        if value.is_none() && head != "_RANDOM" && self.told.insert(name.to_owned()) {
            let message = format!("`{name}` is not defined: it stays as it is written, as in keepalived");
            self.log.add(Diagnostic::warning(place, message));
        }
        value
    }

    /// `~SEQ(...)` and `~LST(...)`: the rest of the line, once for each value.
    fn repeat(&mut self, mut line: Line) {
        let place = line.place(&line.text);
        let Some(close) = closing(&line.text) else {
            self.error(&place, "the parenthesis of this sequence is never closed");
            return;
        };
        let rest = Line { text: line.text.split_off(close + 1), ..line.clone() };
        line.text.pop();
        let place = line.place(&line.text);
        if self.replace(&mut line).is_none() {
            self.error(&place, "a sequence cannot be made of several lines");
            return;
        }
        let text: String = line.text.iter().map(|glyph| glyph.c).collect();
        match Rounds::parse(&text) {
            Some(rounds) => self.work.push(Work::Repeat { rounds, rest }),
            None => {
                let help =
                    "~SEQ(NAME, START, STEP, END), ~LST(NAME, VALUE, ...) or ~LST({NAME, ...}, {VALUE, ...}, ...)";
                self.log.add(Diagnostic::error(&place, "this is no sequence that comes to an end").help(help));
            }
        }
    }

    /// Whether this file is being read: one of those that include the present line, or their includers.
    fn is_open(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or(path.to_owned());
        // One that has not been begun is a neighbour, still to come.
        let open = |work: &Work| match work {
            Work::File { source, at, .. } if *at > 0 => real(&source.path) == real(path),
            Work::File { .. } | Work::Line(_) | Work::Repeat { .. } => false,
        };
        self.work.iter().any(open)
    }

    /// `include` and its kin, and the statement that sets what is asked of them. False: it is none of them.
    fn include(&mut self, line: &Line) -> bool {
        let text: String = line.text.iter().map(|glyph| glyph.c).collect();
        let (keyword, pattern) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        if keyword == "include_check" {
            if let Err(word) = self.check.set(pattern) {
                let error = Diagnostic::error(&line.place(&line.text), format!("`{word}` is no check of includes"));
                self.log.add(error.help("readable, match, wildcard_match or brace_match, with + or - before it"));
            }
            return true;
        }
        let Some(check) = self.check.with(keyword) else { return false };
        let place = line.place(&line.text);
        let pattern = pattern.trim().trim_matches(['"', '\'']);
        if pattern.is_empty() {
            self.error(&place, format!("`{keyword}` needs the name of a file"));
            return true;
        }
        if line.depth >= DEEPEST {
            self.error(&place, "files include each other too deeply");
            return true;
        }
        let found = include::find(&line.source, pattern, check, &place, self.log);
        for source in found.into_iter().rev() {
            if self.is_open(&source.path) {
                self.error(&place, format!("{} would be read within itself", source.path.display()));
                continue;
            }
            self.files += 1;
            if self.files > MOST_FILES {
                self.error(&place, format!("the configuration includes more than {MOST_FILES} files here"));
                self.work.clear();
                break;
            }
            self.work.push(Work::File { source, at: 0, depth: line.depth + 1 });
        }
        true
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            let line = match self.work.pop()? {
                Work::Line(line) => line,
                Work::File { source, mut at, depth } => {
                    let Some(text) = read(&source, &mut at) else { continue };
                    self.work.push(Work::File { source: source.clone(), at, depth });
                    let line = Line { text, source, depth };
                    // What is included may be so many times.
                    if depth > 0 && !self.made(&line.place(&line.text)) {
                        continue;
                    }
                    line
                }
                Work::Repeat { mut rounds, rest } => {
                    let Some(values) = rounds.next() else { continue };
                    self.definitions.extend(values);
                    if !self.made(&rest.place(&rest.text)) {
                        continue;
                    }
                    self.work.push(Work::Repeat { rounds, rest: rest.clone() });
                    rest
                }
            };
            if let Some(line) = self.expand(line)
                && !self.include(&line)
            {
                return Some(line);
            }
        }
    }
}

/// One line of the file without its comment; a definition with all its lines. `None` at the end.
fn read(source: &Source, at: &mut usize) -> Option<Vec<Glyph>> {
    let mut text = physical(source, at)?;
    let continued = |text: &mut Vec<Glyph>| {
        let more = text.pop_if(|glyph| glyph.c == '\\').is_some();
        trim(text);
        more
    };
    let mut body = text.clone();
    while starts(&body, "@") {
        let end = body.iter().position(|glyph| glyph.c.is_whitespace()).unwrap_or(body.len());
        body.drain(..end);
        trim(&mut body);
    }
    if definition(&body).is_none() || !continued(&mut text) {
        return Some(text);
    }
    loop {
        let begin = *at;
        let Some(mut more) = physical(source, at) else { return Some(text) };
        if more.is_empty() {
            // An empty line ends it, and a comment does not.
            if source.text[begin..*at].trim_end_matches(['\r', '\n']).is_empty() {
                return Some(text);
            }
            continue;
        }
        let goes_on = continued(&mut more);
        let end = more.first().map_or(0, |glyph| glyph.from);
        text.push(Glyph { c: '\n', from: end, to: end });
        text.extend(more);
        if !goes_on {
            return Some(text);
        }
    }
}

/// A line as it is written, without its comment and the white space around it. Only double quotes keep a comment from
/// beginning, and outside of them a backslash.
fn physical(source: &Source, at: &mut usize) -> Option<Vec<Glyph>> {
    let rest = source.text.get(*at..).filter(|rest| !rest.is_empty())?;
    let line = rest.split_inclusive('\n').next()?;
    let begin = *at;
    *at += line.len();
    let (mut text, mut quoted, mut escaped): (Vec<Glyph>, _, _) = (Vec::new(), false, false);
    for (offset, c) in line.trim_end().char_indices() {
        match c {
            '#' | '!' if !quoted && !escaped => break,
            '#' | '!' if !quoted => drop(text.pop()),
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        let from = begin + offset;
        // Files are far smaller than 4 GiB, see `include::LARGEST`.
        let [from, to] = [from, from + c.len_utf8()].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        text.push(Glyph { c, from, to });
    }
    trim(&mut text);
    Some(text)
}

fn trim(text: &mut Vec<Glyph>) {
    while text.pop_if(|glyph| glyph.c.is_whitespace()).is_some() {}
    let begin = text.iter().position(|glyph| !glyph.c.is_whitespace()).unwrap_or(text.len());
    text.drain(..begin);
}

fn starts(text: &[Glyph], with: &str) -> bool {
    text.len() >= with.len() && text.iter().zip(with.chars()).all(|(glyph, c)| glyph.c == c)
}

/// `$NAME=VALUE`; a value of several lines begins on the next.
fn definition(text: &[Glyph]) -> Option<(String, String)> {
    let equals = text.iter().position(|glyph| glyph.c == '=')?;
    let name: String = text.get(1..equals)?.iter().map(|glyph| glyph.c).collect();
    if text.first()?.c != '$' || !is_name(&name) {
        return None;
    }
    let value: String = text[equals + 1..].iter().map(|glyph| glyph.c).collect();
    let value = value.trim_start_matches([' ', '\t']);
    Some((name, value.strip_prefix('\n').unwrap_or(value).to_owned()))
}

/// The first `${NAME}`, `${_ENV NAME}` or `$NAME` before white space from there on.
fn reference(text: &[Glyph], from: usize) -> Option<(std::ops::Range<usize>, String)> {
    let find = |at: usize| {
        let braced = text.get(at + 1)?.c == '{';
        let begin = at + if braced { 2 } else { 1 };
        let ends = |glyph: &Glyph| if braced { glyph.c == '}' } else { glyph.c.is_whitespace() };
        let length = text[begin..].iter().position(ends);
        let end = match length {
            Some(length) => begin + length,
            None if braced => return None,
            None => text.len(),
        };
        let name: String = text[begin..end].iter().map(|glyph| glyph.c).collect();
        let mut words = name.split_whitespace();
        let head = words.next()?;
        let known = is_name(head) && (braced || words.next().is_none());
        known.then_some((at..end + usize::from(braced), name))
    };
    (from..text.len()).filter(|at| text[*at].c == '$').find_map(find)
}

/// Where the first parenthesis is closed.
fn closing(text: &[Glyph]) -> Option<usize> {
    let mut depth = 0;
    for (at, glyph) in text.iter().enumerate() {
        match glyph.c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}
