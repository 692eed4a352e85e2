//! Checks a tree against the JSON Schema that the recipe's types give: keys, types, required keys, and each value's kind.
//! Finds every fault and decides nothing about how values go together.

use serde_json::Value as Schema;

use super::fault::{Fault, Origin};
use super::kinds;
use super::tree::{Entry, Node, Value};

/// Every fault of `node` against `schema`. `schema` is the root; references are looked up in its `$defs`.
pub fn check(node: &Node, schema: &Schema) -> Vec<Fault> {
    let mut walk = Walk { root: schema, faults: Vec::new() };
    walk.value(node, schema, "", None);
    walk.faults
}

struct Walk<'s> {
    root: &'s Schema,
    faults: Vec<Fault>,
}

impl<'s> Walk<'s> {
    /// `place` is what a person calls the table or key; `kind` is inherited from the property.
    fn value(&mut self, node: &Node, schema: &'s Schema, place: &str, kind: Option<&'s str>) {
        let schema = self.resolve(schema);
        let kind = schema.get("x-amibake").and_then(Schema::as_str).or(kind);
        let branches = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Schema::as_array);
        if let Some(branches) = branches {
            return self.branch(node, branches, place, kind);
        }
        if let Some(words) = words(schema) {
            return self.one_of_words(node, &words, place);
        }
        if !accepts(schema, &node.value) {
            return self.wrong_type(node, &[schema], place, kind);
        }
        match &node.value {
            Value::Table(entries) => self.table(node, entries, schema, place, kind),
            Value::Array(items) => {
                if let Some(schema) = schema.get("items") {
                    for item in items {
                        self.value(item, schema, place, kind);
                    }
                }
            }
            Value::String(text) => self.string(node, text, place, kind),
            Value::Integer(number) => self.bounds(node, *number, schema, place),
            _ => {}
        }
    }

    fn resolve(&self, schema: &'s Schema) -> &'s Schema {
        let name = schema.get("$ref").and_then(Schema::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.root.get("$defs")?.get(name)).unwrap_or(schema)
    }

    fn branch(&mut self, node: &Node, branches: &'s [Schema], place: &str, kind: Option<&'s str>) {
        let branches: Vec<&'s Schema> = branches
            .iter()
            .map(|branch| self.resolve(branch))
            .filter(|branch| branch.get("type").and_then(Schema::as_str) != Some("null"))
            .collect();
        let all_words: Vec<&str> = branches.iter().filter_map(|branch| words(branch)).flatten().collect();
        let tagged = branches.iter().any(|branch| tag_of(branch).is_some());
        if tagged && matches!(node.value, Value::Table(_)) {
            return self.tagged(node, &branches, place);
        }
        let fitting: Vec<&&Schema> =
            branches.iter().filter(|branch| words(branch).is_none() && accepts(branch, &node.value)).collect();
        match (fitting.as_slice(), &node.value) {
            ([only], _) => self.value(node, only, place, kind),
            // Two kinds of table: the one whose keys are there.
            ([first, ..], _) => self.value(node, first, place, kind),
            ([], Value::String(_)) if !all_words.is_empty() => self.one_of_words(node, &all_words, place),
            ([], _) => self.wrong_type(node, &branches, place, kind),
        }
    }

    /// A table whose `kind` says which of several shapes it has.
    fn tagged(&mut self, node: &Node, branches: &[&'s Schema], place: &str) {
        let known: Vec<&str> = branches.iter().filter_map(|branch| tag_of(branch)).collect();
        let Some(tag) = node.get("kind") else {
            let fault = Fault::new(&node.origin, format!("{place} has no `kind`"));
            self.faults.push(fault.note(format!("expected one of: {}", list(&known))));
            return;
        };
        match tag.as_str().and_then(|tag| branches.iter().find(|branch| tag_of(branch) == Some(tag))) {
            Some(branch) => self.value(node, branch, place, None),
            None => self.one_of_words(tag, &known, &format!("`kind` of {place}")),
        }
    }

    fn table(&mut self, node: &Node, entries: &[Entry], schema: &'s Schema, place: &str, kind: Option<&'s str>) {
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Schema::as_object).unwrap_or(&empty);
        let more = schema.get("additionalProperties").filter(|more| more.is_object());
        for entry in entries {
            let name = if place.is_empty() { entry.key.clone() } else { format!("{place}.{}", entry.key) };
            match schema.get("properties").and_then(|properties| properties.get(&entry.key)).or(more) {
                Some(property) => {
                    let own = property.get("x-amibake").and_then(Schema::as_str);
                    self.value(&entry.node, property, &name, own.or(kind));
                }
                None => {
                    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                    let whose = if place.is_empty() { String::new() } else { format!(" in {place}") };
                    let fault = Fault::new(&entry.origin, format!("unknown key `{}`{whose}", entry.key))
                        .nearest(&entry.key, known.iter().copied())
                        .note(format!("expected one of: {}", list(&known)));
                    self.faults.push(fault);
                }
            }
        }
        for required in schema.get("required").and_then(Schema::as_array).into_iter().flatten() {
            let Some(required) = required.as_str() else { continue };
            if node.get(required).is_none() {
                let whose = if place.is_empty() { "the recipe" } else { place };
                self.faults.push(Fault::new(&node.origin, format!("{whose} has no `{required}`")));
            }
        }
    }

    fn string(&mut self, node: &Node, text: &str, place: &str, kind: Option<&str>) {
        let Some(kind) = kind.and_then(kinds::kind) else { return };
        let Err(why) = (kind.check)(text) else { return };
        let shown: String = text.chars().take(60).collect();
        let why = if why.is_empty() { why } else { format!(": {why}") };
        let fault = Fault::new(&node.origin, format!("`{shown}` does not serve as `{place}`{why}"));
        self.faults.push(fault.note(format!("expected {}", kind.expected)));
    }

    fn bounds(&mut self, node: &Node, number: i64, schema: &Schema, place: &str) {
        let bound = |key: &str| schema.get(key).and_then(Schema::as_i64);
        let least = bound("minimum");
        let most = bound("maximum").or(match schema.get("format").and_then(Schema::as_str) {
            Some("uint8") => Some(u8::MAX.into()),
            Some("uint16") => Some(u16::MAX.into()),
            Some("uint32") => Some(u32::MAX.into()),
            _ => None,
        });
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("from {least} to {most}"),
                (Some(least), None) => format!("of at least {least}"),
                _ => format!("of at most {}", most.unwrap_or_default()),
            };
            let fault = Fault::new(&node.origin, format!("{number} does not serve as `{place}`"));
            self.faults.push(fault.note(format!("expected a whole number {range}")));
        }
    }

    fn one_of_words(&mut self, node: &Node, known: &[&str], place: &str) {
        match &node.value {
            Value::String(text) if known.contains(&text.as_str()) => {}
            Value::String(text) => {
                let fault = Fault::new(&node.origin, format!("`{text}` does not serve as {}", quoted(place)))
                    .nearest(text, known.iter().copied())
                    .note(format!("expected one of: {}", list(known)));
                self.faults.push(fault);
            }
            other => {
                let fault = Fault::new(&node.origin, format!("{} is {}", quoted(place), other.kind()));
                self.faults.push(fault.note(format!("expected one of: {}", list(known))));
            }
        }
    }

    fn wrong_type(&mut self, node: &Node, schemas: &[&Schema], place: &str, kind: Option<&str>) {
        let mut expected: Vec<&str> = schemas.iter().flat_map(|schema| type_names(schema)).collect();
        expected.dedup();
        let mut expected = expected.join(" or ");
        if let Some(kind) = kind.and_then(kinds::kind) {
            expected = format!("{expected}: {}", kind.expected);
        }
        let fault = Fault::new(&node.origin, format!("{} is {}", quoted(place), node.value.kind()));
        self.faults.push(fault.note(format!("expected {expected}")));
    }
}

/// A place in back-ticks, unless it has some.
fn quoted(place: &str) -> String {
    if place.contains('`') { place.to_owned() } else { format!("`{place}`") }
}

fn list(words: &[&str]) -> String {
    words.join(", ")
}

/// The strings that `schema` admits, if it is a choice of strings.
fn words(schema: &Schema) -> Option<Vec<&str>> {
    if let Some(word) = schema.get("const") {
        return word.as_str().map(|word| vec![word]);
    }
    schema.get("enum")?.as_array()?.iter().map(Schema::as_str).collect()
}

/// What `kind` must be for this table.
fn tag_of(schema: &Schema) -> Option<&str> {
    schema.get("properties")?.get("kind")?.get("const")?.as_str()
}

fn types(schema: &Schema) -> Vec<&str> {
    match schema.get("type") {
        Some(Schema::String(one)) => vec![one.as_str()],
        Some(Schema::Array(many)) => many.iter().filter_map(Schema::as_str).collect(),
        _ => Vec::new(),
    }
}

fn accepts(schema: &Schema, value: &Value) -> bool {
    let name = match value {
        Value::String(_) => "string",
        Value::Integer(_) => "integer",
        Value::Boolean(_) => "boolean",
        Value::Array(_) => "array",
        Value::Table(_) => "object",
        Value::Other(_) => return false,
    };
    let types = types(schema);
    types.is_empty() || types.contains(&name)
}

fn type_names(schema: &Schema) -> Vec<&'static str> {
    types(schema)
        .into_iter()
        .filter_map(|name| match name {
            "string" => Some("a string"),
            "integer" => Some("a whole number"),
            "boolean" => Some("true or false"),
            "array" => Some("an array"),
            "object" => Some("a table"),
            _ => None,
        })
        .collect()
}

/// Whether `origin` is that of one of `faults`.
pub fn is_faulty(faults: &[Fault], origin: &Origin) -> bool {
    faults.iter().any(|fault| fault.origin == *origin)
}
