//! `--set key=value`: finds the place that a dotted key names, and puts the value there.
//!
//! Keys are those of the recipe file; tables of an array are named by their `name` or by their number from 0
//! (`volume.cache.size`, `step.3.timeout`). Only finds and places: the value is judged with the rest of the recipe, and
//! its faults point back here.

use toml::de::DeValue;

use super::fault::Fault;
use super::quantity::shown;
use super::schema::{Shape, TAG, listed};
use super::shape::dotted;
use super::source::{Sources, Span};
use super::suggest::nearest;
use super::tree::{Entry, Node, Value};

/// Applies every override of `sources` to `root`, in order; later ones win.
pub(super) fn apply(schema: &serde_json::Value, sources: &Sources<'_>, root: &mut Node) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, text) in sources.overrides.iter().enumerate() {
        let set = Set { source: index + 1, text };
        let outcome = set.segments().and_then(|(keys, value)| {
            let target = Target { node: root, shape: Shape::root(schema), path: String::new() };
            set.place(target, &keys, value)
        });
        faults.extend(outcome.err().map(|fault| *fault));
    }
    faults
}

/// One `key=value`.
struct Set<'t> {
    source: usize,
    text: &'t str,
}

/// A part of the dotted key.
struct Segment {
    key: String,
    span: Span,
}

/// Where the walk along the key has come to.
struct Target<'n, 's> {
    node: &'n mut Node,
    shape: Shape<'s>,
    path: String,
}

impl Set<'_> {
    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span { source: self.source, start: range.start, end: range.end }
    }

    fn fault(&self, range: std::ops::Range<usize>, message: impl Into<String>) -> Fault {
        Fault::new(self.span(range), message)
    }

    /// The parts of the key, and where the value starts.
    fn segments(&self) -> Result<(Vec<Segment>, usize), Box<Fault>> {
        let form = "`key=value`, such as `machine.memory=4GiB`";
        let mut segments = Vec::new();
        let (mut start, mut quoted, mut equals) = (0, false, None);
        for (at, c) in self.text.char_indices() {
            match c {
                '"' => quoted = !quoted,
                '.' | '=' if !quoted => {
                    segments.push(self.segment(start..at)?);
                    start = at + 1;
                    if c == '=' {
                        equals = Some(at);
                        break;
                    }
                }
                _ => {}
            }
        }
        match equals {
            Some(at) => Ok((segments, at + 1)),
            None => Err(Box::new(self.fault(0..self.text.len(), "an override without `=`").expected(form))),
        }
    }

    fn segment(&self, range: std::ops::Range<usize>) -> Result<Segment, Box<Fault>> {
        let raw = &self.text[range.clone()];
        let trimmed = raw.trim();
        let start = range.start + (raw.len() - raw.trim_start().len());
        let span = self.span(start..start + trimmed.len());
        let key = trimmed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(trimmed);
        if key.is_empty() {
            return Err(Box::new(
                self.fault(range, "an empty key").expected("`key=value`, such as `machine.memory=4GiB`"),
            ));
        }
        Ok(Segment { key: key.to_owned(), span })
    }

    fn place(&self, mut target: Target<'_, '_>, keys: &[Segment], value_at: usize) -> Result<(), Box<Fault>> {
        for segment in keys {
            target = self.descend(target, segment)?;
        }
        *target.node = self.value(target.shape, value_at);
        Ok(())
    }

    fn descend<'n, 's>(&self, target: Target<'n, 's>, segment: &Segment) -> Result<Target<'n, 's>, Box<Fault>> {
        let shape = target.shape;
        let takes = |kind: &str| shape.alternatives().into_iter().find(|one| one.kind() == kind);
        match (takes("array").and_then(Shape::items), takes("object")) {
            (Some(items), _) if matches!(target.node.value, Value::Array(_)) => self.item(target, items, segment),
            (_, Some(object)) => self.key(target, object, segment),
            (Some(_), None) => {
                let path = &target.path;
                Err(Box::new(Fault::missing(segment.span, format!("the recipe has no `{path}`"))))
            }
            (None, None) => {
                let fault = Fault::new(segment.span, format!("`{}` has no keys", target.path));
                Err(Box::new(fault.expected(shape.expected())))
            }
        }
    }

    fn item<'n, 's>(
        &self,
        target: Target<'n, 's>,
        items: Shape<'s>,
        segment: &Segment,
    ) -> Result<Target<'n, 's>, Box<Fault>> {
        let list = target.node.items();
        let named = list.iter().position(|item| item.text_of("name") == Some(&segment.key));
        let Some(index) = named.or_else(|| segment.key.parse().ok().filter(|index| *index < list.len())) else {
            let names: Vec<_> = list.iter().filter_map(|item| item.text_of("name")).collect();
            let fault = Fault::missing(segment.span, format!("no `{}` in `{}`", shown(&segment.key), target.path));
            let expected = match (list.len(), names.as_slice()) {
                (0, _) => "nothing: it is empty".to_owned(),
                (count, []) => format!("a number from 0 to {}", count - 1),
                (1, names) => format!("{}, or `0`", listed(names)),
                (count, names) => format!("{}, or a number from 0 to {}", listed(names), count - 1),
            };
            return Err(Box::new(fault.expected(expected).did_you_mean(nearest(&segment.key, names))));
        };
        let path = format!("{}[{index}]", target.path);
        match &mut target.node.value {
            Value::Array(list) => Ok(Target { node: &mut list[index], shape: items, path }),
            _ => Err(Box::new(Fault::new(segment.span, format!("`{path}` is no array")))),
        }
    }

    fn key<'n, 's>(
        &self,
        target: Target<'n, 's>,
        object: Shape<'s>,
        segment: &Segment,
    ) -> Result<Target<'n, 's>, Box<Fault>> {
        let Target { node, shape, path } = target;
        let kind = node.text_of(TAG);
        let kinds = shape.alternatives();
        let object = kinds.into_iter().find(|one| kind.is_some() && one.tag() == kind).unwrap_or(object);
        let Some(inner) = object.property(&segment.key) else {
            let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
            let fault = Fault::new(segment.span, format!("unknown key `{}`{place}", shown(&segment.key)));
            let guess = nearest(&segment.key, object.keys());
            return Err(Box::new(fault.expected(listed(&object.keys())).did_you_mean(guess)));
        };
        let path = dotted(&path, &segment.key);
        if !matches!(node.value, Value::Table(_)) {
            if shape.taking(&node.value).is_none() {
                let found = node.value.described();
                return Err(Box::new(Fault::new(
                    segment.span,
                    format!("the key above is {found} in the recipe, not a table"),
                )));
            }
            // `image = "a"` with `image.amd64=b`: the other architecture keeps what it had.
            let keep = |key: &str| Entry { key: key.to_owned(), key_span: node.span, node: node.clone() };
            let entries = object.keys().into_iter().map(keep).collect();
            *node = Node { span: node.span, value: Value::Table(entries) };
        }
        let Value::Table(entries) = &mut node.value else {
            return Err(Box::new(Fault::new(segment.span, format!("`{path}` is no table"))));
        };
        let position = entries.iter().position(|entry| entry.key == segment.key).unwrap_or_else(|| {
            let node = Node { span: segment.span, value: empty(inner) };
            entries.push(Entry { key: segment.key.clone(), key_span: segment.span, node });
            entries.len() - 1
        });
        Ok(Target { node: &mut entries[position].node, shape: inner, path })
    }

    /// The value: as TOML where that gives what the key takes, else the text as it stands.
    fn value(&self, shape: Shape<'_>, at: usize) -> Node {
        let raw = &self.text[at..];
        let start = at + (raw.len() - raw.trim_start().len());
        let trimmed = raw.trim();
        let span = self.span(start..start + trimmed.len());
        let parsed = DeValue::parse(trimmed).ok().map(|parsed| {
            let place = |range: std::ops::Range<usize>| self.span(start + range.start..start + range.end);
            Node { span, ..Node::from_toml(&parsed, trimmed, &place) }
        });
        let text = || Node { span, value: Value::String(trimmed.to_owned()) };
        match parsed {
            Some(node) if shape.taking(&node.value).is_some() => node,
            Some(node) if shape.taking(&Value::String(String::new())).is_none() => node,
            _ => text(),
        }
    }
}

/// What a key that the recipe lacks starts as, on the way to a key below it.
fn empty(shape: Shape<'_>) -> Value {
    match shape.taking(&Value::Table(Vec::new())) {
        Some(_) => Value::Table(Vec::new()),
        None => Value::Array(Vec::new()),
    }
}
