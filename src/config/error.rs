//! What is wrong with a configuration, and where.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

/// One thing that is wrong, at the place where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    /// The file, as the caller named it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Everything that is wrong with a configuration; never empty. Displays one error to a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Where something was written: a file by its number, and a byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) offset: usize,
}

/// A file's name, its text, and what of it could not be read.
#[derive(Debug)]
struct Source {
    name: String,
    text: String,
    line_starts: Vec<usize>,
    broken_lines: BTreeSet<usize>,
    /// From this byte on nothing can be told: a bracket is never closed.
    lost_from: usize,
}

/// Gathers errors while files are read and checked.
#[derive(Debug, Default)]
pub(super) struct Report {
    sources: Vec<Source>,
    errors: Vec<(Place, String)>,
}

impl Report {
    /// Makes a file known; its number is for [`Place::file`].
    pub(super) fn add_source(&mut self, name: String, text: String) -> usize {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        let line_starts = std::iter::once(0).chain(after_newlines).collect();
        self.sources.push(Source {
            name,
            text,
            line_starts,
            broken_lines: BTreeSet::new(),
            lost_from: usize::MAX,
        });
        self.sources.len() - 1
    }

    /// The name of a file.
    pub(super) fn source_name(&self, file: usize) -> &str {
        self.sources.get(file).map_or("", |source| &source.name)
    }

    /// Something is not TOML. What the same line then seems to mean, what seems to be absent, and keys under a
    /// broken header are not reported: it would be noise.
    pub(super) fn syntax(&mut self, at: Place, message: String) {
        let (line, _) = self.position(at);
        if let Some(source) = self.sources.get_mut(at.file) {
            let is_header = |text: &str| text.trim_start().starts_with('[');
            let mut lines = source.text[source.line_starts[line - 1]..].lines();
            source.broken_lines.insert(line);
            if lines.next().is_some_and(is_header) {
                let below = lines.take_while(|text| !is_header(text)).count();
                source.broken_lines.extend(line + 1..=line + below);
            }
        }
        self.errors.push((at, message));
    }

    /// Nothing from `at` on is reported as wrong: it cannot be told what it belongs to.
    pub(super) fn ignore_from(&mut self, at: Place) {
        if let Some(source) = self.sources.get_mut(at.file) {
            source.lost_from = source.lost_from.min(at.offset);
        }
    }

    /// Something written is wrong.
    pub(super) fn wrong(&mut self, at: Place, message: impl Into<String>) {
        let (line, _) = self.position(at);
        let broken = self
            .sources
            .get(at.file)
            .is_some_and(|source| at.offset >= source.lost_from || source.broken_lines.contains(&line));
        if !broken {
            self.errors.push((at, message.into()));
        }
    }

    /// Something is absent; said only if all that was written could be read.
    pub(super) fn missing(&mut self, at: Place, message: impl Into<String>) {
        if self.sources.iter().all(|source| source.broken_lines.is_empty()) {
            self.errors.push((at, message.into()));
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// `file:line:column`.
    pub(super) fn describe(&self, at: Place) -> String {
        let (line, column) = self.position(at);
        format!("{}:{line}:{column}", self.source_name(at.file))
    }

    /// What was found, in the order of files and lines.
    pub(super) fn into_errors(mut self) -> Errors {
        let mut found = std::mem::take(&mut self.errors);
        found.sort();
        found.dedup();
        let located = found.into_iter().map(|(at, message)| {
            let (line, column) = self.position(at);
            Error { file: self.source_name(at.file).to_owned(), line, column, message }
        });
        Errors(located.collect())
    }

    /// Line and column, both from 1.
    pub(super) fn position(&self, at: Place) -> (usize, usize) {
        let Some(source) = self.sources.get(at.file) else {
            return (1, 1);
        };
        let line = source.line_starts.partition_point(|start| *start <= at.offset);
        let line_start = source.line_starts[line - 1];
        let before = source.text.get(line_start..at.offset).unwrap_or_default();
        (line, 1 + before.chars().count())
    }
}
