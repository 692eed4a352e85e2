//! TOML with the place of every key and value: what a recipe is checked on, with `--set` already in it.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin, nearest};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the value is.
    pub origin: Origin,
    /// The value.
    pub value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub enum Value {
    /// A string.
    String(String),
    /// An integer, as far as 64 bits go.
    Integer(i64),
    /// Anything else that no recipe has: what it is called.
    Other(&'static str),
    /// A boolean.
    Boolean(bool),
    /// An array.
    Array(Vec<Node>),
    /// A table, in the file's order.
    Table(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key is.
    pub origin: Origin,
    /// Its value.
    pub node: Node,
}

impl Value {
    /// What a person calls it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Other(kind) => kind,
            Value::Boolean(_) => "a boolean",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

impl Node {
    /// The value of `key`, if this is a table that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Where `path` is, or the nearest part of it that the file has.
    #[must_use]
    pub fn locate(&self, path: &[&str]) -> Origin {
        let mut node = self;
        for key in path {
            match node.get(key) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.origin.clone()
    }

    /// Without places: what serde decodes. `broken` says which keys and values to leave out.
    pub fn plain(&self, broken: &dyn Fn(&Origin) -> bool) -> toml::Value {
        match &self.value {
            Value::String(text) => toml::Value::String(text.clone()),
            Value::Integer(number) => toml::Value::Integer(*number),
            Value::Other(_) => toml::Value::String(String::new()),
            Value::Boolean(truth) => toml::Value::Boolean(*truth),
            Value::Array(items) => toml::Value::Array(items.iter().map(|item| item.plain(broken)).collect()),
            Value::Table(entries) => toml::Value::Table(
                entries
                    .iter()
                    .filter(|entry| !broken(&entry.origin) && !broken(&entry.node.origin))
                    .map(|entry| (entry.key.clone(), entry.node.plain(broken)))
                    .collect(),
            ),
        }
    }
}

/// Reads `text`; syntax faults do not hide the rest.
#[must_use]
pub fn parse(text: &str) -> (Node, Vec<Fault>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            Fault::new(&Origin::File(span), error.message())
        })
        .collect();
    let node = table_node(table.get_ref(), table.span(), &mut faults);
    (node, faults)
}

fn table_node(table: &DeTable<'_>, span: Range<usize>, faults: &mut Vec<Fault>) -> Node {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            origin: Origin::File(key.span()),
            node: value_node(value.get_ref(), value.span(), faults),
        })
        .collect();
    entries.sort_by_key(|entry| match &entry.origin {
        Origin::File(span) => span.start,
        Origin::Set(_) => 0,
    });
    Node { origin: Origin::File(span), value: Value::Table(entries) }
}

fn value_node(value: &DeValue<'_>, span: Range<usize>, faults: &mut Vec<Fault>) -> Node {
    let value = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                faults.push(Fault::new(&Origin::File(span.clone()), "this integer needs more than 64 bits"));
                Value::Integer(0)
            }
        },
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| value_node(item.get_ref(), item.span(), faults)).collect())
        }
        DeValue::Table(table) => return table_node(table, span, faults),
    };
    Node { origin: Origin::File(span), value }
}

/// Puts the nth override into the tree. Arrays of tables are addressed by their elements' `name` or by number, from 0.
///
/// # Errors
/// The fault, when the override has no value or its path leads nowhere.
pub fn set(root: &mut Node, number: usize, given: &str) -> Result<(), Fault> {
    let origin = Origin::Set(number);
    let Some((path, text)) = given.split_once('=') else {
        return Err(
            Fault::new(&origin, "there is no value").note("expected `key=value`, for example `machine.memory=4GiB`")
        );
    };
    let path: Vec<&str> = path.trim().split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(
            Fault::new(&origin, "the key is empty").note("expected `key=value`, for example `machine.memory=4GiB`")
        );
    }
    let mut node = root;
    for (depth, part) in path.iter().enumerate() {
        node = child(node, part, &path[..depth], &origin)?;
    }
    let value = override_value(text.trim(), &node.value);
    *node = Node { origin: origin.clone(), value: with_origin(value, &origin) };
    Ok(())
}

fn child<'n>(node: &'n mut Node, part: &str, parents: &[&str], origin: &Origin) -> Result<&'n mut Node, Fault> {
    let parent = parents.join(".");
    match &mut node.value {
        Value::Table(entries) => {
            if let Some(at) = entries.iter().position(|entry| entry.key == part) {
                return Ok(&mut entries[at].node);
            }
            // Made here; whether the recipe may have it is the shape's business.
            let node = Node { origin: origin.clone(), value: Value::Table(Vec::new()) };
            entries.push(Entry { key: part.to_owned(), origin: origin.clone(), node });
            let last = entries.len() - 1;
            Ok(&mut entries[last].node)
        }
        Value::Array(items) => {
            let named = items.iter().position(|item| item.get("name").and_then(Node::as_str) == Some(part));
            let at = named.or_else(|| part.parse::<usize>().ok().filter(|at| *at < items.len()));
            match at {
                Some(at) => Ok(&mut items[at]),
                None => {
                    let names: Vec<&str> = items.iter().filter_map(|item| item.get("name")?.as_str()).collect();
                    let mut fault = Fault::new(origin, format!("`{parent}` has no element `{part}`"));
                    fault = fault.note(format!("expected a name or a number below {}", items.len()));
                    Err(match nearest(part, names) {
                        Some(near) => fault.note(format!("did you mean `{near}`?")),
                        None => fault,
                    })
                }
            }
        }
        other => Err(Fault::new(origin, format!("`{parent}` is {} and has no `{part}`", other.kind()))),
    }
}

/// `text` as TOML if it reads as TOML and what stands there is not a string; as a string otherwise: `4GiB` needs no
/// quotes, and a name that looks like a number stays a name.
fn override_value(text: &str, replaced: &Value) -> Value {
    let quoted = text.starts_with(['"', '\'']);
    if !matches!(replaced, Value::String(_)) || quoted {
        let line = format!("value = {text}");
        let (root, faults) = parse(&line);
        if faults.is_empty()
            && let Some(node) = root.get("value")
            && matches!(&root.value, Value::Table(entries) if entries.len() == 1)
        {
            return node.value.clone();
        }
    }
    Value::String(text.to_owned())
}

fn with_origin(value: Value, origin: &Origin) -> Value {
    let again = |node: Node| Node { origin: origin.clone(), value: with_origin(node.value, origin) };
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(again).collect()),
        Value::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|entry| Entry { key: entry.key, origin: origin.clone(), node: again(entry.node) })
                .collect(),
        ),
        plain => plain,
    }
}
