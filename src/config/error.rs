//! What is wrong with a configuration, and where.

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

/// A file's name, its text, and the lines its syntax errors are on.
#[derive(Debug)]
struct Source {
    name: String,
    text: String,
    broken_lines: Vec<usize>,
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
        self.sources.push(Source {
            name,
            text,
            broken_lines: Vec::new(),
        });
        self.sources.len() - 1
    }

    /// The name of a file.
    pub(super) fn source_name(&self, file: usize) -> &str {
        self.sources.get(file).map_or("", |source| &source.name)
    }

    /// Something is not TOML. What the same line then seems to mean, or what seems to be absent, is not reported:
    /// it would be noise.
    pub(super) fn syntax(&mut self, at: Place, message: String) {
        let (line, _) = self.position(at);
        if let Some(source) = self.sources.get_mut(at.file) {
            source.broken_lines.push(line);
        }
        self.errors.push((at, message));
    }

    /// Something written is wrong.
    pub(super) fn wrong(&mut self, at: Place, message: impl Into<String>) {
        let (line, _) = self.position(at);
        let broken = self
            .sources
            .get(at.file)
            .is_some_and(|source| source.broken_lines.contains(&line));
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
            Error {
                file: self.source_name(at.file).to_owned(),
                line,
                column,
                message,
            }
        });
        Errors(located.collect())
    }

    /// Line and column, both from 1.
    fn position(&self, at: Place) -> (usize, usize) {
        let text = self.sources.get(at.file).map_or("", |source| &source.text);
        let before = text.get(..at.offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = 1 + before.bytes().filter(|&byte| byte == b'\n').count();
        (line, 1 + before[line_start..].chars().count())
    }
}
