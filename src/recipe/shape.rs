//! The shape of a recipe against its schema: unknown, missing and misspelt keys, wrong types, words and formats.
//!
//! Judges each value by itself. What several values must agree on is `rules`' business.

use std::collections::HashMap;

use super::fault::Fault;
use super::quantity::shown;
use super::schema::{Shape, TAG, listed};
use super::source::{Sources, Span};
use super::suggest::nearest;
use super::tree::{Entry, Node, Value};

/// Collects every fault of the shape of `root`.
pub(super) fn check(schema: &serde_json::Value, sources: &Sources<'_>, root: &Node) -> Vec<Fault> {
    let mut walk = Walk { top: Shape::root(schema), sources, faults: Vec::new() };
    walk.value(walk.top, root, "");
    walk.faults
}

struct Walk<'s, 't> {
    top: Shape<'s>,
    sources: &'t Sources<'t>,
    faults: Vec<Fault>,
}

impl<'s> Walk<'s, '_> {
    /// `path` is how a person names the value: `buildkitd.gc`, `step[3]`, empty for the whole recipe.
    fn value(&mut self, shape: Shape<'s>, node: &Node, path: &str) {
        let Some(one) = shape.taking(&node.value) else {
            self.wrong_type(shape, node, path);
            return;
        };
        match &node.value {
            Value::String(text) => self.string(shape, one, text, node.span, path),
            Value::Integer(number) => self.integer(one, *number, node.span, path),
            Value::Array(items) => self.array(one, items, node.span, path),
            Value::Table(entries) => {
                if let Some(one) = self.alternative(shape, one, node, path) {
                    self.table(one, node, entries, path);
                }
            }
            Value::Boolean(_) | Value::Other(_) => {}
        }
    }

    fn wrong_type(&mut self, shape: Shape<'s>, node: &Node, path: &str) {
        let expected = shape.expected();
        let mut fault = Fault::new(node.span, format!("`{path}` is {}", node.value.described())).expected(&expected);
        let raw = self.sources.slice(node.span);
        let header = raw.starts_with('[') && matches!(node.value, Value::Table(_));
        let several = raw.starts_with("[[");
        let takes = |kind: &str| shape.alternatives().iter().any(|one| one.kind() == kind);
        let help = match &node.value {
            Value::Table(_) if header && takes("array") => Some(format!("write `[[{path}]]`, once for each")),
            Value::Array(_) if several && takes("object") => Some(format!("there is only one: write `[{path}]`")),
            Value::Integer(_) | Value::Boolean(_) | Value::Other(_) if takes("string") => {
                Some(format!("strings are quoted: `\"{}\"`", shown(raw)))
            }
            Value::String(text) if takes("array") => Some(format!("in brackets: `[\"{}\"]`", shown(text))),
            Value::String(text) if takes("integer") && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some("numbers are not quoted".to_owned())
            }
            Value::String(text) if takes("boolean") && matches!(text.as_str(), "true" | "false") => {
                Some("`true` and `false` are not quoted".to_owned())
            }
            _ => None,
        };
        fault = fault.help(help);
        self.faults.push(fault);
    }

    fn string(&mut self, shape: Shape<'s>, one: Shape<'s>, text: &str, span: Span, path: &str) {
        let words: Vec<_> = shape.alternatives().iter().flat_map(|one| one.words()).collect();
        if !words.is_empty() {
            if !words.contains(&text) {
                let fault = Fault::new(span, format!("unknown value `{}` of `{path}`", shown(text)));
                self.faults.push(fault.expected(shape.expected()).did_you_mean(nearest(text, words)));
            }
        } else if let Some(format) = one.format()
            && let Err(invalid) = format.check(text)
        {
            self.faults
                .push(Fault::invalid(span, &invalid).label(format!("value of `{path}`")).expected(format.expected));
        }
    }

    fn integer(&mut self, one: Shape<'s>, number: i64, span: Span, path: &str) {
        let below = one.limit("minimum").is_some_and(|least| number < least);
        if below || one.limit("maximum").is_some_and(|most| number > most) {
            let raw = shown(self.sources.slice(span));
            let found = if raw.is_empty() { number.to_string() } else { raw };
            self.faults.push(
                Fault::new(span, format!("`{path}` is out of range"))
                    .label(format!("found {found}"))
                    .expected(one.expected()),
            );
        }
    }

    fn array(&mut self, one: Shape<'s>, items: &[Node], span: Span, path: &str) {
        if let Some(least) = one.limit("minItems")
            && (items.len() as i64) < least
        {
            self.faults.push(Fault::new(span, format!("`{path}` is empty")).expected(one.expected()));
        }
        let mut seen = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            if let Some(shape) = one.items() {
                self.value(shape, item, &format!("{path}[{index}]"));
            }
            if let (true, Some(text)) = (one.unique(), item.text())
                && seen.insert(text, index).is_some()
            {
                self.faults.push(Fault::new(item.span, format!("`{}` is in `{path}` twice", shown(text))));
            }
        }
    }

    /// The kind of a tagged union; `one` itself when there are no kinds.
    fn alternative(&mut self, shape: Shape<'s>, one: Shape<'s>, node: &Node, path: &str) -> Option<Shape<'s>> {
        let branches = shape.alternatives();
        let tags: Vec<_> = branches.iter().filter_map(|branch| branch.tag()).collect();
        if tags.is_empty() {
            return Some(one);
        }
        let Some(tag) = node.entry(TAG) else {
            let typed = node.entries().iter().find(|entry| nearest(&entry.key, [TAG]).is_some());
            self.faults.push(match typed {
                Some(entry) => unknown_key(entry, path).did_you_mean(Some(TAG)).expected(listed(&tags)),
                None => Fault::missing(node.span, format!("missing key `{TAG}` in `{path}`")).expected(listed(&tags)),
            });
            return None;
        };
        let Some(text) = tag.node.text() else {
            let found = tag.node.value.described();
            self.faults.push(Fault::new(tag.node.span, format!("`{path}.{TAG}` is {found}")).expected(listed(&tags)));
            return None;
        };
        let found = branches.into_iter().find(|branch| branch.tag() == Some(text));
        if found.is_none() {
            let guess = nearest(text, tags.iter().copied());
            let fault = Fault::new(tag.node.span, format!("unknown value `{}` of `{path}.{TAG}`", shown(text)));
            self.faults.push(fault.expected(listed(&tags)).did_you_mean(guess));
        }
        found
    }

    fn table(&mut self, one: Shape<'s>, node: &Node, entries: &[Entry], path: &str) {
        let keys = one.keys();
        let absent: Vec<_> = keys.iter().copied().filter(|key| node.entry(key).is_none()).collect();
        let mut meant = Vec::new();
        for entry in entries {
            let inner = dotted(path, &entry.key);
            if let Some(shape) = one.property(&entry.key) {
                if let Some(format) = one.key_format()
                    && let Err(invalid) = format.check(&entry.key)
                {
                    let fault = Fault::invalid(entry.key_span, &invalid).label(format!("key of `{path}`"));
                    self.faults.push(fault.expected(format.expected));
                }
                self.value(shape, &entry.node, &inner);
                continue;
            }
            // A key that is there already is not the one that was meant.
            let guess = nearest(&entry.key, absent.iter().copied());
            meant.extend(guess);
            let fault = unknown_key(entry, path).did_you_mean(guess);
            let help = guess.is_none().then(|| self.where_known(&entry.key, path, one)).flatten();
            let fault = if absent.is_empty() { fault } else { fault.expected(listed(&absent)) };
            self.faults.push(fault.help(help));
        }
        if entries.is_empty() && one.limit("minProperties").is_some() {
            self.faults.push(Fault::missing(node.span, format!("`{path}` is empty")).expected(one.expected()));
        }
        for key in one.required() {
            if node.entry(key).is_none() && !meant.contains(&key) {
                let expected = one.property(key).map(Shape::expected).unwrap_or_default();
                let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
                self.faults.push(Fault::missing(node.span, format!("missing key `{key}`{place}")).expected(expected));
            }
        }
    }

    /// Where else a key that is unknown here belongs: TOML's trap of a top-level key below a header, or another kind.
    fn where_known(&self, key: &str, path: &str, one: Shape<'s>) -> Option<String> {
        let kinds = self.top.property("step").and_then(Shape::items).map(Shape::alternatives).unwrap_or_default();
        if one.tag().is_some() {
            let owners: Vec<_> =
                kinds.iter().filter(|kind| kind.property(key).is_some()).filter_map(|kind| kind.tag()).collect();
            if !owners.is_empty() {
                return Some(format!("`{key}` belongs to steps of kind {}", listed(&owners)));
            }
        }
        if !path.is_empty() && self.top.property(key).is_some() {
            return Some(format!("`{key}` is a key of the recipe itself: put it above the first `[…]` header"));
        }
        let owner = self.top.keys().into_iter().find(|table| {
            let inside = self.top.property(table).and_then(|shape| shape.taking(&Value::Table(Vec::new())));
            *table != path && inside.is_some_and(|inside| inside.keys().contains(&key))
        })?;
        Some(format!("`{key}` is a key of `[{owner}]`"))
    }
}

fn unknown_key(entry: &Entry, path: &str) -> Fault {
    let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
    Fault::new(entry.key_span, format!("unknown key `{}`{place}", shown(&entry.key)))
}

/// `path.key`, the key quoted where TOML wants it.
pub(super) fn dotted(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let key = if bare { key.to_owned() } else { format!("\"{}\"", shown(key)) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
