//! Reading one table strictly: each key by name and type, with its bounds, and nothing unknown left over.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{Place, Report};
use super::secret;
use super::similar::nearest;
use super::tree::{Node, Table, Value};
use super::units::{Size, Span, parse_duration, parse_size};

/// A value and where it was written, for checks against other values.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: Place,
}

/// A number as it was written, unless it was longer than is worth repeating.
struct Number(i128);

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            i128::MIN | i128::MAX => f.write_str("beyond all bounds"),
            number => write!(f, "{number}"),
        }
    }
}

/// One table being read. A getter gives what is there and right; what is there and wrong it reports.
pub(super) struct Section<'t, 'r> {
    table: &'t Table,
    /// How messages say where: ``in `[admin]` ``.
    whereabouts: &'static str,
    known: Vec<&'static str>,
    later: Vec<&'static str>,
    pub(super) report: &'r mut Report,
}

impl<'t, 'r> Section<'t, 'r> {
    pub(super) fn new(table: &'t Table, whereabouts: &'static str, report: &'r mut Report) -> Self {
        Section { table, whereabouts, known: Vec::new(), later: Vec::new(), report }
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> Place {
        self.table.at
    }

    /// Something this table should have is absent.
    pub(super) fn missing(&mut self, message: impl Into<String>) {
        self.report.missing(self.table.at, message);
    }

    fn entry(&mut self, key: &'static str) -> Option<&'t Node> {
        self.known.push(key);
        self.table.get(key).map(|entry| &entry.node)
    }

    /// Where the key was written, if it was.
    pub(super) fn key_at(&self, key: &str) -> Option<Place> {
        self.table.get(key).map(|entry| entry.at)
    }

    /// Whether the key holds a number, for keys that take a number or a text.
    pub(super) fn is_number(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|entry| matches!(entry.node.value, Value::Integer(_)))
    }

    /// Whether the key holds a list of nothing.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let is_empty = |value: &Value| matches!(value, Value::Array(items) if items.is_empty());
        self.table.get(key).is_some_and(|entry| is_empty(&entry.node.value))
    }

    /// A text, perhaps kept elsewhere.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let node = self.entry(key)?;
        self.text_of(key, node, "a text in quotes")
    }

    /// A list of texts; one text alone is a list of one.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<Located<String>>> {
        let node = self.entry(key)?;
        match &node.value {
            Value::Array(items) => {
                Some(items.iter().filter_map(|item| self.text_of(key, item, "a text in quotes")).collect())
            }
            _ => self.text_of(key, node, "a text in quotes, or a list of them").map(|text| vec![text]),
        }
    }

    /// A text that means something: `parse` says what, or what is wrong with it.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let text = self.text(key)?;
        self.parse_one(key, text, &parse)
    }

    /// A list of such texts. What is wrong is left out, and reported.
    pub(super) fn parsed_list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Located<T>>> {
        let texts = self.texts(key)?;
        Some(texts.into_iter().filter_map(|text| self.parse_one(key, text, &parse)).collect())
    }

    fn parse_one<T>(
        &mut self,
        key: &str,
        text: Located<String>,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        match parse(&text.value) {
            Ok(value) => Some(Located { value, at: text.at }),
            Err(why) => {
                self.report.wrong(text.at, format!("`{key}`: {why}"));
                None
            }
        }
    }

    fn text_of(&mut self, key: &str, node: &Node, wanted: &str) -> Option<Located<String>> {
        match &node.value {
            Value::Text(text) => Some(Located { value: text.clone(), at: node.at }),
            Value::Table(table) => self.secret(key, table).map(|value| Located { value, at: node.at }),
            other => {
                self.report.wrong(node.at, format!("`{key}` takes {wanted}, not {}", other.kind()));
                None
            }
        }
    }

    fn secret(&mut self, key: &str, table: &Table) -> Option<String> {
        let read = match table.entries.as_slice() {
            [entry] => match (entry.key.as_str(), &entry.node.value) {
                ("file", Value::Text(path)) => {
                    Some(secret::from_file(path, self.report.source_name(table.at.file)))
                }
                ("env", Value::Text(name)) => Some(secret::from_environment(name)),
                _ => None,
            },
            _ => None,
        };
        let read = read
            .unwrap_or_else(|| Err("write a text, `{ file = \"path\" }` or `{ env = \"NAME\" }`".to_owned()));
        read.map_err(|why| self.report.wrong(table.at, format!("`{key}`: {why}"))).ok()
    }

    /// One of a few words. `later` are words of versions to come.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        now: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, value)) = now.iter().find(|(word, _)| *word == text.value) {
            return Some(*value);
        }
        let words: Vec<String> = now.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
        let write = match words.split_last() {
            Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            _ => words.concat(),
        };
        let value = text.value.escape_debug();
        let message = match later.contains(&text.value.as_str()) {
            true => format!("`{key} = \"{value}\"` is not available in this version: write {write}"),
            false => format!("`{key}` cannot be `\"{value}\"`: write {write}"),
        };
        self.report.wrong(text.at, message);
        None
    }

    /// A whole number within bounds.
    pub(super) fn count(&mut self, key: &'static str, default: u32, bounds: RangeInclusive<u32>) -> u32 {
        let Some(node) = self.entry(key) else {
            return default;
        };
        let Value::Integer(number) = node.value else {
            self.report.wrong(node.at, format!("`{key}` takes a whole number, not {}", node.value.kind()));
            return default;
        };
        let value = u32::try_from(number).ok().filter(|value| bounds.contains(value));
        value.unwrap_or_else(|| {
            self.out_of_bounds(node.at, key, &Number(number), bounds.start(), bounds.end());
            default
        })
    }

    /// A share from 0 to 1, in thousandths.
    pub(super) fn share(&mut self, key: &'static str, default_permille: u16) -> u16 {
        let Some(node) = self.entry(key) else { return default_permille };
        let share = match node.value {
            Value::Integer(number) => Some(number as f64),
            Value::Float(number) => Some(number),
            _ => None,
        };
        if let Some(share) = share.filter(|share| (0.0..=1.0).contains(share)) {
            return (share * 1000.0).round() as u16;
        }
        self.report.wrong(node.at, format!("`{key}` takes a share from 0 to 1, like `0.3`"));
        default_permille
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let wrong = |found: &str| {
            format!(
                "`{key}` takes a duration like `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"2h\"`, `\"7d\"`, not {found}"
            )
        };
        let Some(node) = self.entry(key) else {
            return default;
        };
        let parsed = match &node.value {
            Value::Text(text) => {
                parse_duration(text).ok_or_else(|| wrong(&format!("`\"{}\"`", text.escape_debug())))
            }
            Value::Integer(number) => Err(wrong(&format!("`{number}`, which has no unit"))),
            other => Err(wrong(other.kind())),
        };
        match parsed {
            Ok(duration) if bounds.contains(&duration) => return duration,
            Ok(duration) => {
                let (least, most) = (Span(*bounds.start()), Span(*bounds.end()));
                self.out_of_bounds(node.at, key, &Span(duration), &least, &most);
            }
            Err(message) => self.report.wrong(node.at, message),
        }
        default
    }

    /// A size in bytes within bounds.
    pub(super) fn size(&mut self, key: &'static str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let wrong = |found: &str| {
            format!(
                "`{key}` takes a size like `\"64KiB\"`, `\"25MiB\"`, `\"2GiB\"` or a number of bytes, not {found}"
            )
        };
        let Some(node) = self.entry(key) else {
            return default;
        };
        let parsed = match &node.value {
            Value::Text(text) => {
                parse_size(text).ok_or_else(|| wrong(&format!("`\"{}\"`", text.escape_debug())))
            }
            Value::Integer(number) => u64::try_from(*number).map_err(|_| {
                let (least, most) = (Size(*bounds.start()), Size(*bounds.end()));
                format!("`{key}` is {}: write a value from {least} to {most}", Number(*number))
            }),
            other => Err(wrong(other.kind())),
        };
        match parsed {
            Ok(size) if bounds.contains(&size) => return size,
            Ok(size) => {
                let (least, most) = (Size(*bounds.start()), Size(*bounds.end()));
                self.out_of_bounds(node.at, key, &Size(size), &least, &most);
            }
            Err(message) => self.report.wrong(node.at, message),
        }
        default
    }

    fn out_of_bounds(
        &mut self,
        at: Place,
        key: &str,
        found: &dyn Display,
        least: &dyn Display,
        most: &dyn Display,
    ) {
        self.report.wrong(at, format!("`{key}` is {found}: write a value from {least} to {most}"));
    }

    /// A switch.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.entry(key) {
            Some(Node { value: Value::Boolean(on), .. }) => return *on,
            Some(Node { at, value }) => {
                self.report.wrong(*at, format!("`{key}` takes `true` or `false`, not {}", value.kind()));
            }
            None => {}
        }
        default
    }

    /// A switch that has only its off position in this version.
    pub(super) fn only_false(&mut self, key: &'static str) {
        match self.entry(key) {
            Some(Node { value: Value::Boolean(false), .. }) | None => {}
            Some(Node { at, value: Value::Boolean(true) }) => {
                let message = format!("`{key} = true` is not available in this version: write `false`");
                self.report.wrong(*at, message);
            }
            Some(Node { at, value }) => {
                self.report.wrong(*at, format!("`{key}` takes `true` or `false`, not {}", value.kind()));
            }
        }
    }

    /// A key of versions to come.
    pub(super) fn later(&mut self, key: &'static str, advice: &str) {
        let at = self.key_at(key);
        self.later.push(key);
        if let Some(at) = at {
            self.report.wrong(at, format!("`{key}` is not available in this version: {advice}"));
        }
    }

    /// A table within this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<&'t Table> {
        let node = self.entry(key)?;
        match &node.value {
            Value::Table(table) => Some(table),
            other => {
                let message = format!("`{key}` takes a table `[{key}]`, not {}", other.kind());
                self.report.wrong(node.at, message);
                None
            }
        }
    }

    /// A list of tables within this one, at most `most`. `path` is how their headers are written.
    pub(super) fn tables(&mut self, key: &'static str, path: &str, most: usize) -> Vec<&'t Table> {
        let Some(node) = self.entry(key) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        let items = match &node.value {
            Value::Array(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        for item in items {
            match &item.value {
                Value::Table(table) if matches!(node.value, Value::Array(_)) => tables.push(table),
                Value::Table(_) => {
                    let message = format!("there can be several: write `[[{path}]]`, not `[{path}]`");
                    self.report.wrong(item.at, message);
                }
                other => {
                    let message = format!("`{key}` takes tables `[[{path}]]`, not {}", other.kind());
                    self.report.wrong(item.at, message);
                }
            }
        }
        if let Some(beyond) = tables.get(most) {
            self.report
                .wrong(beyond.at, format!("more than {most} `[[{path}]]`: {most} is the most there can be"));
        }
        tables
    }

    /// Reports what no getter has asked for.
    pub(super) fn close(self, elsewhere: &[&str]) {
        for entry in &self.table.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) || self.later.contains(&key) {
                continue;
            }
            let unknown = format!("unknown key `{}` {}", key.escape_debug(), self.whereabouts);
            let all = [self.known.as_slice(), &self.later].concat();
            let advice = match nearest(key, &all) {
                Some(word) => format!("did you mean `{word}`?"),
                None if elsewhere.contains(&key) => {
                    "it belongs at the top of the file, before the first `[section]`".to_owned()
                }
                None => format!("it takes {}", self.known.join(", ")),
            };
            self.report.wrong(entry.at, format!("{unknown}; {advice}"));
        }
    }
}
