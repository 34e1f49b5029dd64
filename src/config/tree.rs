//! The files as one tree of values that remember where they were written.

use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

use super::error::{Place, Report};

/// No configuration is larger; what is, is another file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most parts of a dotted key; the longest there is has three.
const KEY_PARTS_MAX: usize = 8;

/// A value and where it was written.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// What was written.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    /// Numbers beyond `i128` are held at its ends: no setting reaches that far.
    Integer(i128),
    Boolean(bool),
    Float(f64),
    /// A date: no setting takes one.
    Other(&'static str),
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Integer(_) => "a number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(true) => "`true`",
            Value::Boolean(false) => "`false`",
            Value::Other(kind) => kind,
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// A table: `[header]`, `{ inline }`, or a whole file.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Its header, or its first mention.
    pub(super) at: Place,
    pub(super) entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Place,
    pub(super) node: Node,
}

impl Table {
    /// The entry of that name.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// The tree of one text.
pub(super) fn parse(name: &str, text: &str) -> (Table, Report) {
    let mut report = Report::default();
    let tree = parse_into(&mut report, name, text.to_owned());
    (tree, report)
}

/// The tree of a file and of the `conf.d/*.toml` beside it, merged in name order.
pub(super) fn load(path: &Path) -> (Table, Report) {
    let mut report = Report::default();
    let mut tree = Table::default();
    let advice = "; write the configuration there, or name another file with `--config`";
    if let Some(text) = read(&mut report, path, advice) {
        tree = parse_into(&mut report, &path.display().to_string(), text);
    }
    let folder = path.parent().unwrap_or(Path::new("")).join("conf.d");
    for part in parts(&mut report, &folder) {
        if let Some(text) = read(&mut report, &part, "") {
            let more = parse_into(&mut report, &part.display().to_string(), text);
            merge(&mut report, &mut tree, more);
        }
    }
    (tree, report)
}

/// The `*.toml` of a folder in name order; hidden files are not among them, as with the shell's `*`.
fn parts(report: &mut Report, folder: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            unreadable(report, folder, &error.to_string());
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => unreadable(report, folder, &error.to_string()),
        }
    }
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !hidden(path));
    paths.sort();
    paths
}

/// A file or folder that gives nothing: what else seems to be missing is not said.
fn unreadable(report: &mut Report, path: &Path, why: &str) {
    let file = report.add_source(path.display().to_string(), String::new());
    report.syntax(Place { file, offset: 0 }, format!("cannot be read: {why}"));
}

/// The text of a file.
fn read(report: &mut Report, path: &Path, advice: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    if let Err(error) = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)) {
        unreadable(report, path, &format!("{error}{advice}"));
        return None;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        unreadable(report, path, "it is larger than 16MiB");
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            let file = report.add_source(path.display().to_string(), text);
            let message = "this byte is not UTF-8: save the file as UTF-8".to_owned();
            report.syntax(Place { file, offset: valid }, message);
            None
        }
    }
}

/// Parses one text; what is not TOML goes into the report, the rest into the tree.
fn parse_into(report: &mut Report, name: &str, text: String) -> Table {
    let file = report.add_source(name.to_owned(), text.clone());
    if let Some(offset) = overlong_key(&text) {
        let message = format!("a key of more than {KEY_PARTS_MAX} parts: no key has that many");
        report.syntax(Place { file, offset }, message);
        return Table::default();
    }
    let (document, errors) = DeTable::parse_recoverable(&text);
    let tree = table(file, 0, document.get_ref());
    report_syntax(report, file, &text, document.get_ref(), &errors);
    tree
}

/// Where a dotted key has more parts than any could need. Each part is a table within a table, and these are
/// walked, and dropped, by recursion; the parser bounds the depth of brackets, but not of brackets times dots.
fn overlong_key(text: &str) -> Option<usize> {
    let mut parts = 1;
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => parts += 1,
            TokenKind::Atom | TokenKind::Whitespace | TokenKind::BasicString | TokenKind::LiteralString => {}
            _ => parts = 1,
        }
        if parts > KEY_PARTS_MAX {
            return Some(token.span().start());
        }
    }
    None
}

/// One message for each broken line, and one for a bracket never closed instead of all that follows from it.
fn report_syntax(
    report: &mut Report,
    file: usize,
    text: &str,
    document: &DeTable<'_>,
    errors: &[toml::de::Error],
) {
    let offset_of = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let unclosed = errors
        .iter()
        .filter(|error| {
            let what = error.message();
            what.starts_with("unclosed array,") || what.starts_with("unclosed inline table")
        })
        .filter_map(|error| opening(document, text, offset_of(error)))
        .min();
    let mut found: Vec<&toml::de::Error> = errors.iter().collect();
    found.sort_by_key(|error| offset_of(error));
    let mut line_last = None;
    for error in found {
        let offset = offset_of(error);
        if unclosed.is_some_and(|start| offset >= start) {
            break;
        }
        let at = Place { file, offset };
        let (line, _) = report.position(at);
        if line_last.replace(line) != Some(line) {
            report.syntax(at, explain(error, text));
        }
    }
    if let Some(offset) = unclosed {
        let bracket = &text[offset..=offset];
        let closing = if bracket == "[" { "]" } else { "}" };
        let message = format!("this `{bracket}` is never closed: write `{closing}` at its end");
        report.syntax(Place { file, offset }, message);
        report.ignore_from(Place { file, offset });
    }
}

/// Where the outermost bracket opens that is still open at `end`.
fn opening(table: &DeTable<'_>, text: &str, end: usize) -> Option<usize> {
    let written_end = text.get(..end).unwrap_or(text).trim_end().len();
    let inner = |value: &Spanned<DeValue<'_>>| {
        let span = value.span();
        let opens = text.get(span.clone()).is_some_and(|written| written.starts_with(['[', '{']));
        // A `[header]` opens with a bracket too, but its span ends at once.
        if opens && span.start < end && span.end >= written_end {
            return Some(span.start);
        }
        match value.get_ref() {
            DeValue::Table(inner) => opening(inner, text, end),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => opening(inner, text, end),
                _ => None,
            }),
            _ => None,
        }
    };
    table.values().filter_map(inner).min()
}

/// The parser's finding in words that say what to write.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let found = error.span().and_then(|span| text.get(span)).unwrap_or("").escape_debug().to_string();
    let message = error.message();
    if message == "duplicate key" && !found.is_empty() {
        format!("`{found}` is already set above: keep one of the two")
    } else if message.starts_with("string values must be quoted") {
        match found.as_str() {
            "" => "the value is missing: write one after `=`".to_owned(),
            _ => format!("`{found}` is not in quotes: write `\"{found}\"`"),
        }
    } else if message.starts_with("invalid basic string") && found.is_empty() {
        "the closing `\"` is missing".to_owned()
    } else if message.starts_with("unclosed table") {
        "the closing `]` of this header is missing".to_owned()
    } else if message.starts_with("unclosed array table") {
        "the closing `]]` of this header is missing".to_owned()
    } else if message.starts_with("key with no value") {
        "a key without a value: write `key = value`".to_owned()
    } else {
        format!("not TOML: {message}")
    }
}

/// The parser's table as ours.
fn table(file: usize, offset: usize, source: &DeTable<'_>) -> Table {
    let entries = source.iter().map(|(key, value)| Entry {
        key: key.get_ref().clone().into_owned(),
        at: Place { file, offset: key.span().start },
        node: node(file, value),
    });
    Table { at: Place { file, offset }, entries: entries.collect() }
}

/// The parser's value as ours.
fn node(file: usize, source: &Spanned<DeValue<'_>>) -> Node {
    let offset = source.span().start;
    let value = match source.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            let beyond = if integer.as_str().starts_with('-') { i128::MIN } else { i128::MAX };
            Value::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(beyond))
        }
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| node(file, item)).collect()),
        DeValue::Table(inner) => Value::Table(table(file, offset, inner)),
    };
    Node { at: Place { file, offset }, value }
}

/// Adds a later file's tables: lists of tables are appended, keys of single tables join, and what is set twice is
/// an error at the later place.
fn merge(report: &mut Report, base: &mut Table, more: Table) {
    for entry in more.entries {
        let Some(earlier) = base.entries.iter_mut().find(|earlier| earlier.key == entry.key) else {
            base.entries.push(entry);
            continue;
        };
        match (&mut earlier.node.value, entry.node.value) {
            (Value::Table(into), Value::Table(from)) => merge(report, into, from),
            (Value::Array(into), Value::Array(from)) if all_tables(into) && all_tables(&from) => {
                into.extend(from)
            }
            _ => {
                let place = report.describe(earlier.at);
                report.wrong(
                    entry.at,
                    format!("`{}` is already set at {place}: keep one of the two", entry.key),
                );
            }
        }
    }
}

/// Whether this list was, or could have been, written as `[[tables]]`.
fn all_tables(items: &[Node]) -> bool {
    items.iter().all(|item| matches!(item.value, Value::Table(_)))
}
