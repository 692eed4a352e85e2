//! The JSON Schema of a recipe file: generated from the types, used by editors *and* by the shape check.
//!
//! Owns how the schema is asked (references, alternatives, what a value may be), so that the check and `--set` need
//! not know how schemars spells a Rust type. Judges no values itself.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Map, Value as Json};

use super::format;
use super::tree::Value;
use super::types::Recipe;

/// The JSON Schema of a recipe file (draft 2020-12), the same bytes for the same types.
///
/// Committed as `recipes/schema.json`. A recipe beside it points editors there (Taplo, Even Better TOML) with its
/// first line: `#:schema ./schema.json`.
#[must_use]
pub fn schema() -> Json {
    let mut generator = SchemaSettings::draft2020_12().with_transform(ForToml).into_generator();
    // Only named by `propertyNames`, where schemars does not look.
    let _ = generator.subschema_for::<format::TagKey>();
    let _ = generator.subschema_for::<format::RegistryHost>();
    let mut all = generator.into_root_schema_for::<Recipe>().to_value();
    let mut ordered = Map::new();
    // What the file is comes first, for who opens it; a title would only repeat the name of a Rust type.
    for key in ["$schema", "description", "type", "required", "additionalProperties", "properties", "$defs"] {
        if let Some(value) = all.get_mut(key) {
            ordered.insert(key.to_owned(), value.take());
        }
    }
    Json::Object(ordered)
}

/// Takes out what TOML does not know (null) and what no validator does (Rust's integer formats).
#[derive(Clone)]
struct ForToml;

impl Transform for ForToml {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        if let Some(fields) = schema.as_object_mut() {
            without_null(fields);
            if fields.get("format").and_then(Json::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            // Doc comments are wrapped for the source; editors wrap for themselves.
            if let Some(Json::String(description)) = fields.get_mut("description") {
                *description = description.replace('\n', " ");
            }
        }
        transform_subschemas(self, schema);
    }
}

fn without_null(fields: &mut Map<String, Json>) {
    if let Some(Json::Array(types)) = fields.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Json::Array(branches)) = fields.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|one| one != "null"));
        if let [Json::Object(only)] = branches.as_slice() {
            let only = only.clone();
            fields.remove("anyOf");
            // The field's own description wins over its type's.
            for (key, value) in only {
                fields.entry(key).or_insert(value);
            }
        }
    }
    if fields.get("default") == Some(&Json::Null) {
        fields.remove("default");
    }
}

/// A place in the schema: what a value there must be.
#[derive(Clone, Copy)]
pub(super) struct Shape<'s> {
    root: &'s Json,
    /// Without a `$ref`.
    here: &'s Json,
    /// Name of the definition, when reached by a reference.
    name: Option<&'s str>,
}

impl<'s> Shape<'s> {
    /// The whole recipe.
    pub(super) fn root(schema: &'s Json) -> Self {
        Self { root: schema, here: schema, name: None }
    }

    fn at(self, mut here: &'s Json) -> Self {
        let mut name = None;
        while let Some(target) = here.get("$ref").and_then(Json::as_str) {
            name = target.strip_prefix("#/$defs/");
            match name.and_then(|name| self.root.get("$defs")?.get(name)) {
                Some(definition) => here = definition,
                None => break,
            }
        }
        Self { root: self.root, here, name }
    }

    /// The alternatives, themselves without alternatives; the shape alone when it has none.
    pub(super) fn alternatives(self) -> Vec<Self> {
        match self.here.get("anyOf").or_else(|| self.here.get("oneOf")).and_then(Json::as_array) {
            Some(branches) => branches.iter().flat_map(|branch| self.at(branch).alternatives()).collect(),
            None => vec![self],
        }
    }

    /// `string`, `integer`, `boolean`, `array`, `object`.
    pub(super) fn kind(self) -> &'s str {
        self.here.get("type").and_then(Json::as_str).unwrap_or("object")
    }

    /// The alternative that takes values like `value`, if one does.
    pub(super) fn taking(self, value: &Value) -> Option<Self> {
        self.alternatives().into_iter().find(|shape| shape.kind() == value.kind())
    }

    /// The words a string is limited to; empty when it is not.
    pub(super) fn words(self) -> Vec<&'s str> {
        if let Some(word) = self.here.get("const").and_then(Json::as_str) {
            return vec![word];
        }
        let several = self.here.get("enum").and_then(Json::as_array);
        several.into_iter().flatten().filter_map(Json::as_str).collect()
    }

    /// The format of a string.
    pub(super) fn format(self) -> Option<&'static format::Format> {
        self.name.and_then(format::Format::named)
    }

    /// A number of the schema: `minimum`, `maxItems`, ….
    pub(super) fn limit(self, keyword: &str) -> Option<i64> {
        self.here.get(keyword).and_then(Json::as_i64)
    }

    /// Whether an array's items must differ.
    pub(super) fn unique(self) -> bool {
        self.here.get("uniqueItems") == Some(&Json::Bool(true))
    }

    /// What an array's items must be.
    pub(super) fn items(self) -> Option<Self> {
        self.here.get("items").map(|items| self.at(items))
    }

    /// The keys a table is limited to, in the order of the types.
    pub(super) fn keys(self) -> Vec<&'s str> {
        let properties = self.here.get("properties").and_then(Json::as_object);
        properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect()
    }

    /// The keys a table must have.
    pub(super) fn required(self) -> Vec<&'s str> {
        let required = self.here.get("required").and_then(Json::as_array);
        required.into_iter().flatten().filter_map(Json::as_str).collect()
    }

    /// What the value of `key` must be: of a known key, or of any key where keys are free.
    pub(super) fn property(self, key: &str) -> Option<Self> {
        let known = self.here.get("properties").and_then(|properties| properties.get(key));
        known
            .or_else(|| self.here.get("additionalProperties").filter(|free| free.is_object()))
            .map(|found| self.at(found))
    }

    /// What a free key must look like.
    pub(super) fn key_format(self) -> Option<&'static format::Format> {
        self.here.get("propertyNames").and_then(|names| self.at(names).format())
    }

    /// The word that tells this alternative of a tagged union from the others.
    pub(super) fn tag(self) -> Option<&'s str> {
        self.here.get("properties")?.get(TAG)?.get("const")?.as_str()
    }

    /// What is expected here, in words.
    pub(super) fn expected(self) -> String {
        let branches = self.alternatives();
        let words: Vec<_> = branches.iter().flat_map(|branch| branch.words()).collect();
        let mut parts = Vec::new();
        if !words.is_empty() {
            parts.push(listed(&words));
        }
        for branch in branches.iter().filter(|branch| branch.words().is_empty()) {
            let part = branch.expected_alone();
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts.join(", or ")
    }

    fn expected_alone(self) -> String {
        if let Some(format) = self.format() {
            return format.expected.to_owned();
        }
        match self.kind() {
            "string" => "a string".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "integer" => match (self.limit("minimum"), self.limit("maximum")) {
                (Some(least), Some(most)) => format!("an integer from {least} to {most}"),
                _ => "an integer".to_owned(),
            },
            "array" => match self.items() {
                Some(items) if items.taking(&Value::Table(Vec::new())).is_none() => {
                    format!("an array, each item {}", items.expected())
                }
                _ => "an array of tables".to_owned(),
            },
            _ => match self.keys().as_slice() {
                keys if self.tag().is_none() && (1..=3).contains(&keys.len()) => {
                    format!("a table with {}", listed(keys))
                }
                _ => "a table".to_owned(),
            },
        }
    }
}

/// The key that tells the kinds of steps apart.
pub(super) const TAG: &str = "kind";

/// `` `a`, `b` or `c` ``.
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => quoted.concat(),
    }
}
