//! Typed reading of TOML that goes on after a fault: every fault is noted with its place, and what could not be read
//! is `None`. A section knows the keys it was asked for, so whatever is left over is unknown.

use super::diagnostic::{Diagnostic, Located, Log, Place, Source, nearest};
use super::duration;
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// A table of a TOML file.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    name: String,
    place: Place,
    log: &'a Log,
    asked: RefCell<Vec<&'static str>>,
}

/// A value of a TOML file.
pub(super) struct Value<'a> {
    value: &'a DeValue<'a>,
    name: String,
    pub place: Place,
    log: &'a Log,
}

/// The tables of a file, or `None` after its syntax errors were noted.
pub(super) fn parse<'a>(source: &'a Arc<Source>, log: &Log) -> Option<DeTable<'a>> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let place = error.span().map_or_else(|| Place::file(source), |span| Place::at(source, span));
        log.add(Diagnostic::error(&place, error.message()));
    }
    errors.is_empty().then(|| table.into_inner())
}

impl<'a> Section<'a> {
    pub fn root(table: &'a DeTable<'a>, source: &Arc<Source>, log: &'a Log) -> Self {
        Self { table, name: String::new(), place: Place::file(source), log, asked: RefCell::default() }
    }

    /// Where the section begins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        let value = self.table.get(key)?;
        let place = Place::at(&self.place.source, value.span());
        Some(Value { value: value.get_ref(), name: self.path(key), place, log: self.log })
    }

    pub fn required(&self, key: &'static str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let message = if self.name.is_empty() {
                format!("section [{key}] is missing")
            } else {
                format!("`{}` needs `{key}`", self.name)
            };
            self.log.add(Diagnostic::error(&self.place, message));
        }
        value
    }

    /// The table under `key`; its place is that of the key.
    pub fn section(&self, key: &'static str) -> Option<Self> {
        self.get(key)?.section(self.table.get_key_value(key)?.0.span())
    }

    /// Every key with its value, whatever they are called, in the order of the file.
    pub fn entries(&self) -> Vec<(Located<String>, Value<'a>)> {
        let entry = |(key, value): (&'a toml::Spanned<toml::de::DeString<'a>>, &'a toml::Spanned<DeValue<'a>>)| {
            let at = |span| Place::at(&self.place.source, span);
            let value = Value {
                value: value.get_ref(),
                name: self.path(key.get_ref()),
                place: at(value.span()),
                log: self.log,
            };
            (Located { value: key.get_ref().to_string(), place: at(key.span()) }, value)
        };
        let mut entries: Vec<_> = self.table.iter().map(entry).collect();
        entries.sort_by_key(|(key, _)| key.place.span.as_ref().map(|span| span.start));
        entries
    }

    /// The sections under each key, with their names.
    pub fn sections(&self) -> Vec<(Located<String>, Self)> {
        let section = |(key, value): (Located<String>, Value<'a>)| {
            let span = key.place.span.clone()?;
            Some((key, value.section(span)?))
        };
        self.entries().into_iter().filter_map(section).collect()
    }

    /// Notes the keys that nobody asked for.
    pub fn close(self) {
        let asked = self.asked.borrow();
        for (key, value) in self.entries() {
            if !asked.contains(&key.value.as_str()) {
                let what = if value.value.is_table() && self.name.is_empty() { "section" } else { "key" };
                let message = format!("unknown {what} `{}`", self.path(&key.value));
                let meant = nearest(&key.value, asked.iter().copied());
                self.log.add(Diagnostic::error(&key.place, message).did_you_mean(meant));
            }
        }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

impl<'a> Value<'a> {
    fn section(self, key: std::ops::Range<usize>) -> Option<Section<'a>> {
        let place = Place::at(&self.place.source, key);
        match self.value.as_table() {
            Some(table) => Some(Section { table, name: self.name, place, log: self.log, asked: RefCell::default() }),
            None => self.expected("a table"),
        }
    }

    /// An inline table; its place is the whole of it.
    pub fn table(self) -> Option<Section<'a>> {
        let span = self.place.span.clone()?;
        self.section(span)
    }

    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub fn is_boolean(&self) -> bool {
        self.value.as_bool().is_some()
    }

    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub fn list(self) -> Option<Vec<Self>> {
        let Some(array) = self.value.as_array() else {
            return self.expected("a list");
        };
        let item = |(i, value): (usize, &'a toml::Spanned<DeValue<'a>>)| Value {
            value: value.get_ref(),
            name: format!("{}[{i}]", self.name),
            place: Place::at(&self.place.source, value.span()),
            log: self.log,
        };
        Some(array.iter().enumerate().map(item).collect())
    }

    /// Itself, or what is in a list, which must not be empty.
    pub fn one_or_more(self) -> Vec<Self> {
        match self.value.as_array() {
            None => vec![self],
            Some(array) if array.is_empty() => self.expected("one, or a list of at least one").unwrap_or_default(),
            Some(_) => self.list().unwrap_or_default(),
        }
    }

    pub fn string(self) -> Option<Located<String>> {
        match self.value.as_str() {
            Some(text) => Some(Located { value: text.to_owned(), place: self.place }),
            None => self.expected("a string"),
        }
    }

    pub fn boolean(self) -> Option<Located<bool>> {
        match self.value.as_bool() {
            Some(value) => Some(Located { value, place: self.place }),
            None => self.expected("true or false"),
        }
    }

    pub fn integer<T>(self, range: RangeInclusive<T>) -> Option<Located<T>>
    where
        T: PartialOrd + TryFrom<i64> + std::fmt::Display,
    {
        let Some(integer) = self.value.as_integer() else {
            return self.expected("a whole number");
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| T::try_from(n).ok());
        match number {
            Some(value) if range.contains(&value) => Some(Located { value, place: self.place }),
            Some(_) | None => {
                let message = format!("`{}` must be between {} and {}", self.name, range.start(), range.end());
                self.fault(Diagnostic::error(&self.place, message))
            }
        }
    }

    pub fn duration(self) -> Option<Located<Duration>> {
        let Some(text) = self.value.as_str() else {
            return self.expected("a duration such as \"1s\" or \"200ms\"");
        };
        match duration::parse(text) {
            Ok(value) => Some(Located { value, place: self.place }),
            Err(reason) => {
                let message = format!("`{}` is not a duration: {reason}", self.name);
                self.fault(Diagnostic::error(&self.place, message).help("write \"1s\", \"200ms\", \"1.5s\" or \"2m\""))
            }
        }
    }

    /// A string that `T` can be read from; `like` is an example of one.
    pub fn parsed<T: FromStr>(self, what: &str, like: &str) -> Option<Located<T>> {
        let Some(text) = self.value.as_str() else {
            return self.expected(&format!("{what} such as \"{like}\""));
        };
        match text.parse() {
            Ok(value) => Some(Located { value, place: self.place }),
            Err(_) => {
                let message = format!("`{}` is not {what}", self.name);
                self.fault(Diagnostic::error(&self.place, message).help(format!("for example \"{like}\"")))
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(self, choices: &[(&'static str, T)]) -> Option<Located<T>> {
        let Some(text) = self.value.as_str() else {
            return self.expected("a string");
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(Located { value: *value, place: self.place });
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let all = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let message = format!("`{}` cannot be \"{text}\"", self.name);
        let error = Diagnostic::error(&self.place, message).label(format!("one of {all}"));
        self.fault(error.did_you_mean(nearest(text, words)))
    }

    /// Notes that the value is something else.
    pub fn expected<T>(&self, what: &str) -> Option<T> {
        let found = self.value.type_str();
        let article = if found.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
        let message = format!("`{}` must be {what}", self.name);
        self.fault(Diagnostic::error(&self.place, message).label(format!("this is {article} {found}")))
    }

    fn fault<T>(&self, error: Diagnostic) -> Option<T> {
        self.log.add(error);
        None
    }
}
