//! What is wrong with a configuration, and where: collected, never thrown, and shown the way rustc does.

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// As it was named.
    pub path: PathBuf,
    /// Its whole text.
    pub text: String,
}

impl Source {
    pub(super) fn read(path: &Path) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self { path: path.to_owned(), text: std::fs::read_to_string(path)? }))
    }

    /// `path` as this file means it: relative to its own directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// A place in a file; without a span, the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub source: Arc<Source>,
    /// The bytes meant.
    pub span: Option<Range<usize>>,
}

impl Place {
    pub(super) fn at(source: &Arc<Source>, span: Range<usize>) -> Self {
        Self { source: source.clone(), span: Some(span) }
    }

    pub(super) fn file(source: &Arc<Source>) -> Self {
        Self { source: source.clone(), span: None }
    }

    /// Line and column of its beginning, from 1; the column counts characters.
    pub fn line_column(&self) -> (usize, usize) {
        let start = self.span.as_ref().map_or(0, |span| span.start);
        let before = self.source.text.get(..start).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Located<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Located<U> {
        Located { value: f(self.value), place: self.place }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing starts with it.
    Error,
    /// It works, and perhaps not as meant.
    Warning,
}

/// One thing to tell the operator. Its `Display` is the whole rendering, with the line it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What, in one sentence without a full stop.
    pub message: String,
    label: Option<String>,
    pub(super) help: Option<String>,
    /// Another place that has to do with it.
    other: Option<(Place, String)>,
}

impl Diagnostic {
    pub(super) fn error(place: &Place, message: impl Into<String>) -> Self {
        let (place, message) = (place.clone(), message.into());
        Self { severity: Severity::Error, place, message, label: None, help: None, other: None }
    }

    pub(super) fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(super) fn did_you_mean(self, nearest: Option<&str>) -> Self {
        match nearest {
            Some(nearest) => self.help(format!("did you mean `{nearest}`?")),
            None => self,
        }
    }

    pub(super) fn see(self, other: &Place, label: impl Into<String>) -> Self {
        Self { other: Some((other.clone(), label.into())), ..self }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let path = |place: &Place| place.source.path.to_string_lossy().into_owned();
        let title = level.primary_title(self.message.as_str());
        let mut group = match &self.place.span {
            Some(span) => {
                let here = AnnotationKind::Primary.span(span.clone()).label(self.label.as_deref());
                let mut shown =
                    Snippet::source(self.place.source.text.as_str()).path(path(&self.place)).annotation(here);
                let mut elsewhere = None;
                if let Some((other, label)) = &self.other
                    && let Some(span) = &other.span
                {
                    let there = AnnotationKind::Context.span(span.clone()).label(label.as_str());
                    if Arc::ptr_eq(&other.source, &self.place.source) {
                        shown = shown.annotation(there);
                    } else {
                        let snippet = Snippet::source(other.source.text.as_str()).path(path(other));
                        elsewhere = Some(snippet.annotation(there));
                    }
                }
                title.element(shown).elements(elsewhere)
            }
            None => title.element(Origin::path(path(&self.place))),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        f.write_str(&Renderer::plain().render(&[group]))
    }
}

/// Everything that is wrong, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// Each of them; there is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Where diagnostics are collected while files are read.
#[derive(Debug, Default)]
pub(super) struct Log(RefCell<Vec<Diagnostic>>);

impl Log {
    pub fn add(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    /// `value` with the warnings, or all errors.
    pub fn finish<T>(self, value: impl FnOnce(Vec<Diagnostic>) -> Option<T>) -> Result<T, Errors> {
        let mut all = self.0.into_inner();
        // By file in the order of reading, then by position: the way a person goes through them.
        let mut files: Vec<Arc<Source>> = Vec::new();
        for diagnostic in &all {
            if !files.iter().any(|file| Arc::ptr_eq(file, &diagnostic.place.source)) {
                files.push(diagnostic.place.source.clone());
            }
        }
        all.sort_by_key(|diagnostic| {
            let file = files.iter().position(|file| Arc::ptr_eq(file, &diagnostic.place.source));
            (file, diagnostic.place.span.as_ref().map(|span| span.start))
        });
        // What is wrong in a line that a sequence repeats is said once.
        all.dedup();
        let (errors, warnings): (Vec<_>, Vec<_>) = all.into_iter().partition(|d| d.severity == Severity::Error);
        match value(warnings) {
            Some(value) if errors.is_empty() => Ok(value),
            Some(_) | None => Err(Errors(errors)),
        }
    }
}

/// The known word that a misspelled one was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase());
    let (distance, candidate) = known.into_iter().map(|known| (distance(known), known)).min()?;
    (distance <= word.chars().count().max(3) / 3).then_some(candidate)
}
