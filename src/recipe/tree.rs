//! A recipe file as a tree of values that know where they stand, and what TOML itself finds wrong with it.
//!
//! Owns the reading of TOML, as far as possible past faults of syntax. Does not know what a recipe is.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, MOST_SHOWN};
use super::quantity::shown;
use super::source::{Sources, Span};

/// A value and its place. A table's place is its header, or the key that implied it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    String(String),
    /// Beyond 64 bits: the nearest that fits, which every key's range refuses.
    Integer(i64),
    Boolean(bool),
    /// What no key takes: a float or a date, by its name.
    Other(&'static str),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) node: Node,
}

impl Value {
    /// The JSON Schema type; TOML's own word for what JSON has not.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::Integer(_) => "integer",
            Value::Boolean(_) => "boolean",
            Value::Other(kind) => kind,
            Value::Array(_) => "array",
            Value::Table(_) => "object",
        }
    }

    /// `a string`, `an integer`, ….
    pub(super) fn described(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::Other("float") => "a float",
            Value::Other(_) => "a date or time",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

impl Node {
    /// The entry of `key`, in a table.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of `key`, in a table.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The value at a path of keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// A table's entries; none for what is no table.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// An array's items; none for what is no array.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The items of the array at `key`; none when there is no such array.
    pub(super) fn items_of(&self, key: &str) -> &[Node] {
        self.get(key).map_or(&[], Node::items)
    }

    /// The string, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The string at `key`.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Node::text)
    }

    /// As JSON, for serde.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::String(text) => text.clone().into(),
            Value::Integer(number) => (*number).into(),
            Value::Boolean(truth) => (*truth).into(),
            Value::Other(_) => serde_json::Value::Null,
            Value::Array(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
        }
    }

    /// `parsed`, moved to where `place` says its bytes lie.
    pub(super) fn from_toml(
        parsed: &Spanned<DeValue<'_>>,
        raw: &str,
        place: &impl Fn(std::ops::Range<usize>) -> Span,
    ) -> Self {
        let value = match parsed.get_ref() {
            DeValue::String(text) => {
                let raw = raw.get(parsed.span()).unwrap_or_default();
                // A recipe with CRLF line ends means LF in its scripts; an escape `\r` is meant as written.
                let crlf = raw.starts_with(r#"""""#) || raw.starts_with("'''");
                Value::String(if crlf { text.replace("\r\n", "\n") } else { text.clone().into_owned() })
            }
            DeValue::Integer(number) => {
                let beyond = if number.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
                Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(beyond))
            }
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Float(_) => Value::Other("float"),
            DeValue::Datetime(_) => Value::Other("datetime"),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| Self::from_toml(item, raw, place)).collect()),
            DeValue::Table(table) => Value::Table(entries(table, raw, place)),
        };
        Self { span: place(parsed.span()), value }
    }
}

fn entries(table: &DeTable<'_>, raw: &str, place: &impl Fn(std::ops::Range<usize>) -> Span) -> Vec<Entry> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().clone().into_owned(),
            key_span: place(key.span()),
            node: Node::from_toml(value, raw, place),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span);
    entries
}

/// How far a tree can be trusted when the text had faults of syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// All there.
    Whole,
    /// Lines are missing: what is there is right.
    Holes,
    /// Right up to this byte.
    Until(usize),
}

/// What could be read of a text.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Node,
    pub(super) syntax: Vec<Fault>,
    pub(super) trust: Trust,
}

/// Reads the file of `sources`.
pub(super) fn read(sources: &Sources<'_>) -> Document {
    let (table, errors) = DeTable::parse_recoverable(sources.text);
    let root = to_root(&table, sources.text);
    let mut seen = BTreeSet::new();
    let mut syntax = Vec::new();
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        // One slip makes the parser stumble several times; its first complaint about a line is the telling one.
        if seen.len() <= MOST_SHOWN && seen.insert(sources.line(span.start)) {
            syntax.push(told(sources, &root, error.message(), span));
        }
    }
    let broken = || errors.iter().filter(|error| !is_duplicate(error)).map(|error| error.span().unwrap_or(0..0).start);
    let Some(first) = broken().min() else { return Document { root, syntax, trust: Trust::Whole } };
    if let Some(patched) = without_lines(sources, broken().map(|start| sources.line(start)).collect()) {
        let (table, errors) = DeTable::parse_recoverable(&patched);
        if errors.iter().all(is_duplicate) {
            return Document { root: to_root(&table, &patched), syntax, trust: Trust::Holes };
        }
    }
    Document { root, syntax, trust: Trust::Until(sources.line_start(first)) }
}

fn to_root(table: &Spanned<DeTable<'_>>, raw: &str) -> Node {
    Node { span: Span::file(0..0), value: Value::Table(entries(table.get_ref(), raw, &Span::file)) }
}

fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}

/// The text with the given lines blanked, every other byte where it was. `None` when a header is among them: what
/// follows would belong to another table.
fn without_lines(sources: &Sources<'_>, lines: BTreeSet<usize>) -> Option<String> {
    let mut patched = String::with_capacity(sources.text.len());
    for (number, line) in sources.text.split_inclusive('\n').enumerate() {
        if !lines.contains(&(number + 1)) {
            patched.push_str(line);
            continue;
        }
        if line.trim_start().starts_with('[') {
            return None;
        }
        let body = line.trim_end_matches(['\n', '\r']);
        patched.extend(std::iter::repeat_n(' ', body.len()));
        patched.push_str(&line[body.len()..]);
    }
    Some(patched)
}

/// A complaint of the TOML parser, in words that help.
fn told(sources: &Sources<'_>, root: &Node, message: &str, range: std::ops::Range<usize>) -> Fault {
    let span = Span::file(range);
    if message == "duplicate key" {
        let key = sources.slice(span);
        let fault = Fault::new(span, format!("duplicate key `{}`", shown(key)));
        return match earlier(root, key, span).or_else(|| same_header(sources, span)) {
            Some(first) => fault.label(format!("first given in line {}", sources.line(first))),
            None => fault,
        };
    }
    if message.starts_with("invalid multi-line") {
        return unclosed(sources, message, span);
    }
    let message = message.strip_suffix(", expected nothing").unwrap_or(message);
    let line = sources.line_start(span.start);
    let before = sources.text.get(line..span.start).unwrap_or_default();
    let rest = sources.text.get(span.start..).unwrap_or_default();
    let value = rest.lines().next().unwrap_or_default().split('#').next().unwrap_or_default().trim_end();
    let is_value = before.trim_end().ends_with('=');
    if is_value && value.is_empty() {
        return Fault::new(span, "a key without a value").expected("a value after `=`");
    }
    // `null` and `none` are taken for the beginnings of numbers.
    let word = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '~');
    if is_value && (word || message.starts_with("string values must be quoted")) {
        let help = match value.to_lowercase().as_str() {
            "true" | "yes" | "on" => "write `true`".to_owned(),
            "false" | "no" | "off" => "write `false`".to_owned(),
            "null" | "none" | "~" | "nil" => "TOML has no empty value: leave the key out".to_owned(),
            _ => format!("strings are quoted: `\"{}\"`", shown(value)),
        };
        return Fault::new(span, format!("`{}` is not a value", shown(value))).help(Some(help));
    }
    let message = match message {
        "invalid basic string, expected `\"`" => "a string without its closing `\"`",
        "invalid literal string, expected `'`" => "a string without its closing `'`",
        other => other,
    };
    let fault = Fault::new(span, message);
    if is_value && value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return fault.help(Some(format!("a mode is a string: `\"{value}\"`")));
    }
    match before.trim().strip_suffix(':').filter(|key| message.starts_with("key with no value") && !key.contains(' ')) {
        Some(key) => fault.help(Some(format!("TOML, not YAML: `{} = …`", shown(key)))),
        None => fault,
    }
}

/// A multi-line string without an end: the parser points to the end of the file, the reader looks for its start.
fn unclosed(sources: &Sources<'_>, message: &str, span: Span) -> Fault {
    let delimiter = if message.contains("literal") { "'''" } else { "\"\"\"" };
    let end = sources.text.floor_char_boundary(span.start);
    match sources.text[..end].rfind(delimiter) {
        Some(start) if sources.text[end..].trim().is_empty() => {
            Fault::new(Span::file(start..start + delimiter.len()), "a multi-line string without an end")
                .expected(format!("`{delimiter}` where the text ends"))
        }
        _ => Fault::new(span, message),
    }
}

/// Where the `[table]` that `span`'s key closes stood before.
fn same_header(sources: &Sources<'_>, span: Span) -> Option<usize> {
    let start = sources.line_start(span.start);
    let header = sources.text.get(start..)?.lines().next()?.split_inclusive(']').next()?.trim();
    if !header.starts_with('[') {
        return None;
    }
    let mut at = 0;
    for line in sources.text[..start].split_inclusive('\n') {
        if line.trim_start().starts_with(header) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// Where `key` was given before `span` in the same table: only when that is beyond doubt.
fn earlier(root: &Node, key: &str, span: Span) -> Option<usize> {
    fn walk(node: &Node, key: &str, span: Span, header: &mut usize, found: &mut Vec<usize>) {
        let children = node.entries().iter().map(|entry| (Some(entry), &entry.node));
        for (entry, child) in children.chain(node.items().iter().map(|item| (None, item))) {
            if let Some(entry) = entry.filter(|entry| entry.key == key && entry.key_span < span) {
                found.push(entry.key_span.start);
            }
            if matches!(child.value, Value::Table(_)) && child.span < span {
                *header = (*header).max(child.span.start);
            }
            walk(child, key, span, header, found);
        }
    }
    let (mut header, mut found) = (0, Vec::new());
    walk(root, key, span, &mut header, &mut found);
    found.retain(|start| *start >= header);
    match found.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
