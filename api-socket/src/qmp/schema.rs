//! The types of arguments, returns and event data as tables, made from the Rust types.
//!
//! There is one source: the types of [`super::types`]. Their derived JSON Schema is read into a
//! `TypeTable`, which checks arguments here and is written out by `query-qmp-schema`. A table is
//! made when it is first needed: one small one per command that has arguments, and one of
//! everything for introspection. Called on the main thread.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use super::command::{COMMANDS, CommandSpec};
use super::error::QmpError;

/// A type's place in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeId(usize);

/// The range of an integer type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntegerKind {
    /// `i64`, QEMU's `int`.
    Int64,
    /// `u64`, QEMU's `uint64` and `size`.
    Uint64,
    /// `u32`.
    Uint32,
}

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Any,
    Bool,
    Integer(IntegerKind),
    Number,
    String,
    Enum(Vec<String>),
    Array(TypeId),
    Object(Object),
    /// One of several types, told apart by their JSON form.
    Alternate(Vec<TypeId>),
}

/// An object's members; with a tag, those of one of its variants are added.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Object {
    pub(super) members: Vec<Member>,
    pub(super) tag: Option<Tag>,
}

/// The member that chooses among variants.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tag {
    pub(super) name: String,
    /// Its type, an enumeration of the cases.
    pub(super) values: TypeId,
    /// The tag's values, each with the object that holds its members.
    pub(super) cases: Vec<(String, TypeId)>,
}

/// One member of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) id: TypeId,
    pub(super) optional: bool,
}

/// Types that refer to each other.
#[derive(Debug)]
pub(super) struct TypeTable {
    /// Name and type. Built-in types and arrays have no name of their own.
    types: Vec<(String, Type)>,
}

impl TypeTable {
    pub(super) fn get(&self, id: TypeId) -> &Type {
        self.types.get(id.0).map_or(&Type::Any, |(_, kind)| kind)
    }

    /// The Rust type's name (empty for built-in types and arrays), or `Outer.case` for a variant's members.
    #[cfg(test)]
    pub(super) fn name(&self, id: TypeId) -> &str {
        self.types.get(id.0).map_or("", |(name, _)| name)
    }

    /// Checks that `value` is of type `id`. `path` names it in errors.
    ///
    /// # Errors
    /// The first thing wrong, in the order of the type's members, in QEMU's words.
    pub(super) fn check(&self, id: TypeId, value: &Value, path: &Path) -> Result<(), QmpError> {
        match (self.get(id), value) {
            (Type::Any, _)
            | (Type::Bool, Value::Bool(_))
            | (Type::String, Value::String(_))
            | (Type::Number, Value::Number(_)) => Ok(()),
            (Type::Integer(kind), Value::Number(number)) => kind.check(number, path),
            (Type::Enum(values), Value::String(text)) => {
                if values.contains(text) {
                    return Ok(());
                }
                Err(QmpError::bad_value(path.last_name(), text))
            }
            (Type::Array(element), Value::Array(items)) => {
                items.iter().enumerate().try_for_each(|(index, item)| {
                    self.check(*element, item, &Path::Index(path, index))
                })
            }
            (Type::Object(object), Value::Object(members)) => {
                self.check_object(object, members, path)
            }
            (Type::Alternate(choices), _) => {
                if choices
                    .iter()
                    .any(|choice| self.check(*choice, value, path).is_ok())
                {
                    return Ok(());
                }
                Err(QmpError::wrong_type(&path.to_string(), "alternate"))
            }
            (expected, _) => Err(QmpError::wrong_type(
                &path.to_string(),
                expected.json_form(),
            )),
        }
    }

    /// As [`TypeTable::check`], for the members of an object: first those the type has, then
    /// whether there are others.
    pub(super) fn check_object(
        &self,
        object: &Object,
        members: &Map<String, Value>,
        path: &Path,
    ) -> Result<(), QmpError> {
        self.check_members(object, members, path)?;
        let variant = self.variant(object, members);
        let known = |name: &str| {
            object
                .members
                .iter()
                .chain(variant)
                .any(|member| member.name == name)
                || object.tag.as_ref().is_some_and(|tag| tag.name == name)
        };
        match members.keys().find(|name| !known(name)) {
            Some(name) => Err(QmpError::unexpected(&Path::Member(path, name).to_string())),
            None => Ok(()),
        }
    }

    fn check_members(
        &self,
        object: &Object,
        members: &Map<String, Value>,
        path: &Path,
    ) -> Result<(), QmpError> {
        if let Some(tag) = &object.tag {
            let path = Path::Member(path, &tag.name);
            match members.get(&tag.name) {
                None => return Err(QmpError::missing(&path.to_string())),
                Some(Value::String(case)) if tag.cases.iter().any(|(name, _)| name == case) => {}
                Some(Value::String(case)) => return Err(QmpError::bad_value(&tag.name, case)),
                Some(_) => return Err(QmpError::wrong_type(&path.to_string(), "string")),
            }
        }
        for member in object.members.iter().chain(self.variant(object, members)) {
            let path = Path::Member(path, &member.name);
            match members.get(&member.name) {
                Some(value) => self.check(member.id, value, &path)?,
                None if member.optional => {}
                None => return Err(QmpError::missing(&path.to_string())),
            }
        }
        Ok(())
    }

    /// The members that `members`' tag adds to `object`.
    fn variant(&self, object: &Object, members: &Map<String, Value>) -> &[Member] {
        let Some(tag) = &object.tag else {
            return &[];
        };
        let case = members.get(&tag.name).and_then(Value::as_str);
        let found = tag
            .cases
            .iter()
            .find(|(name, _)| Some(name.as_str()) == case);
        match found.map(|(_, id)| self.get(*id)) {
            Some(Type::Object(variant)) => &variant.members,
            _ => &[],
        }
    }
}

impl Type {
    /// What error texts call it.
    fn json_form(&self) -> &'static str {
        match self {
            Self::Any => "value",
            Self::Bool => "boolean",
            Self::Integer(_) => "integer",
            Self::Number => "number",
            Self::String | Self::Enum(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
            Self::Alternate(_) => "alternate",
        }
    }
}

impl IntegerKind {
    fn check(self, number: &serde_json::Number, path: &Path) -> Result<(), QmpError> {
        let (fits, whole) = (number.is_i64() || number.is_u64(), number.as_u64());
        let expected = match self {
            Self::Int64 if number.is_i64() => return Ok(()),
            Self::Uint64 if number.is_u64() => return Ok(()),
            Self::Uint32 if whole.is_some_and(|whole| whole <= u64::from(u32::MAX)) => {
                return Ok(());
            }
            Self::Uint64 if fits => "uint64_t",
            Self::Uint32 if fits => "uint32_t",
            _ => return Err(QmpError::wrong_type(&path.to_string(), "integer")),
        };
        Err(QmpError::expects(path.last_name(), expected))
    }
}

/// Where in the arguments a value is; on the stack, written out only in errors.
#[derive(Debug)]
pub(super) enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The innermost name; QEMU's texts say `null` for an array's element.
    fn last_name(&self) -> &str {
        match self {
            Path::Member(_, name) => name,
            Path::Root | Path::Index(..) => "null",
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Member(Path::Root, name) => write!(f, "{name}"),
            Path::Member(outer, name) => write!(f, "{outer}.{name}"),
            Path::Index(outer, index) => write!(f, "{outer}[{index}]"),
        }
    }
}

/// Checks the arguments of `spec`, a command that has some.
///
/// # Errors
/// The first thing wrong.
pub(super) fn check_arguments(
    spec: &'static CommandSpec,
    arguments: &Map<String, Value>,
) -> Result<(), QmpError> {
    const TABLES: usize = 128;
    static CHECKS: [OnceLock<(TypeTable, TypeId)>; TABLES] = [const { OnceLock::new() }; TABLES];
    const { assert!(COMMANDS.len() <= TABLES) };
    let make = || {
        let mut builder = TypeTableBuilder::default();
        let id = (spec.arguments)(&mut builder);
        (builder.finish(), id)
    };
    let place = COMMANDS.iter().position(|other| std::ptr::eq(other, spec));
    let made;
    let (table, id) = match place.and_then(|place| CHECKS.get(place)) {
        Some(cell) => cell.get_or_init(make),
        None => {
            made = make();
            &made
        }
    };
    match table.get(*id) {
        Type::Object(object) => table.check_object(object, arguments, &Path::Root),
        _ => Ok(()),
    }
}

/// Reads Rust types into a `TypeTable`, by way of their JSON Schema.
#[derive(Debug)]
pub struct TypeTableBuilder {
    generator: SchemaGenerator,
    types: Vec<(String, Type)>,
    named: BTreeMap<String, TypeId>,
    /// JSON Schema this cannot express; a test holds it empty.
    unsupported: Vec<String>,
}

impl Default for TypeTableBuilder {
    fn default() -> Self {
        Self {
            generator: SchemaSettings::draft2020_12().into_generator(),
            types: Vec::new(),
            named: BTreeMap::new(),
            unsupported: Vec::new(),
        }
    }
}

impl TypeTableBuilder {
    /// Adds `T` and all that it refers to.
    pub(super) fn add<T: JsonSchema>(&mut self) -> TypeId {
        let schema = self.generator.subschema_for::<T>().to_value();
        self.read(&schema, &T::schema_name())
    }

    pub(super) fn finish(self) -> TypeTable {
        TypeTable { types: self.types }
    }

    /// The types that could not be expressed.
    #[cfg(test)]
    pub(super) fn unsupported(&self) -> &[String] {
        &self.unsupported
    }

    /// Reads one schema; `name` is for types that have none of their own.
    fn read(&mut self, schema: &Value, name: &str) -> TypeId {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return self.read_definition(reference);
        }
        let kind = self.read_inline(schema, name);
        // Scalars, arrays and the like are the same type wherever they occur.
        let anonymous = !matches!(kind, Type::Object(_) | Type::Enum(_) | Type::Alternate(_));
        let same = |(name, other): &(String, Type)| name.is_empty() && *other == kind;
        if anonymous && let Some(at) = self.types.iter().position(same) {
            return TypeId(at);
        }
        let name = if anonymous { "" } else { name };
        self.types.push((name.to_owned(), kind));
        TypeId(self.types.len() - 1)
    }

    fn read_definition(&mut self, reference: &str) -> TypeId {
        let name = reference.rsplit('/').next().unwrap_or(reference).to_owned();
        if let Some(id) = self.named.get(&name) {
            return *id;
        }
        // The place is taken first: a type may refer to itself.
        let id = TypeId(self.types.len());
        self.types.push((name.clone(), Type::Any));
        self.named.insert(name.clone(), id);
        let definition = self
            .generator
            .definitions()
            .get(&name)
            .cloned()
            .unwrap_or_default();
        let kind = self.read_inline(&definition, &name);
        if let Some((_, place)) = self.types.get_mut(id.0) {
            *place = kind;
        }
        id
    }

    fn read_inline(&mut self, schema: &Value, name: &str) -> Type {
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            return match enum_values(choices) {
                Some(values) => Type::Enum(values),
                None => self.read_union(choices, name),
            };
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            let choices = choices
                .iter()
                .map(|choice| self.read(choice, name))
                .collect();
            return Type::Alternate(choices);
        }
        if let Some(values) = enum_values(std::slice::from_ref(schema)) {
            return Type::Enum(values);
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("boolean") => Type::Bool,
            Some("string") => Type::String,
            Some("number") => Type::Number,
            Some("integer") => self.read_integer(schema, name),
            Some("array") => {
                let element = schema.get("items").cloned().unwrap_or_default();
                Type::Array(self.read(&element, name))
            }
            Some("object") => Type::Object(Object {
                members: self.read_members(schema, name),
                tag: None,
            }),
            Some(_) => self.inexpressible(name, schema),
            // `true`, or nothing but a description.
            None => Type::Any,
        }
    }

    fn read_integer(&mut self, schema: &Value, name: &str) -> Type {
        match schema.get("format").and_then(Value::as_str) {
            Some("int64") => Type::Integer(IntegerKind::Int64),
            Some("uint64") => Type::Integer(IntegerKind::Uint64),
            Some("uint32") => Type::Integer(IntegerKind::Uint32),
            _ => self.inexpressible(name, schema),
        }
    }

    fn read_members(&mut self, schema: &Value, outer: &str) -> Vec<Member> {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Vec::new();
        };
        let required = schema.get("required").and_then(Value::as_array);
        let required = |name: &str| required.is_some_and(|list| list.iter().any(|r| r == name));
        let mut members = Vec::new();
        for (name, property) in properties {
            let id = self.read(&without_null(property), &format!("{outer}.{name}"));
            members.push(Member {
                name: name.clone(),
                id,
                optional: !required(name),
            });
        }
        members
    }

    /// An enum with a tag: every choice is an object with one constant member.
    fn read_union(&mut self, choices: &[Value], name: &str) -> Type {
        let Some((tag, _)) = choices.first().and_then(constant_member) else {
            return self.inexpressible(name, &Value::from(choices));
        };
        let mut variants = Vec::new();
        for choice in choices {
            let Some((_, case)) = constant_member(choice) else {
                return self.inexpressible(name, choice);
            };
            let mut members = self.read_members(choice, &format!("{name}.{case}"));
            members.retain(|member| member.name != tag);
            variants.push((case, members));
        }
        // Members that all variants share belong to the union itself.
        let mut shared = variants
            .first()
            .map(|(_, members)| members.clone())
            .unwrap_or_default();
        for (_, members) in &variants {
            shared.retain(|member| members.contains(member));
        }
        let mut cases = Vec::new();
        for (case, mut members) in variants {
            members.retain(|member| !shared.contains(member));
            self.types.push((
                format!("{name}.{case}"),
                Type::Object(Object { members, tag: None }),
            ));
            cases.push((case, TypeId(self.types.len() - 1)));
        }
        let values = cases.iter().map(|(case, _)| case.clone()).collect();
        self.types
            .push((format!("{name}.{tag}"), Type::Enum(values)));
        let values = TypeId(self.types.len() - 1);
        Type::Object(Object {
            members: shared,
            tag: Some(Tag {
                name: tag,
                values,
                cases,
            }),
        })
    }

    fn inexpressible(&mut self, name: &str, schema: &Value) -> Type {
        self.unsupported.push(format!("{name}: {schema}"));
        Type::Any
    }
}

/// The values of an enumeration, however its schema spells them: `enum` where variants have no
/// documentation, `const` where they have.
fn enum_values(choices: &[Value]) -> Option<Vec<String>> {
    let mut values = Vec::new();
    for choice in choices {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match (
            choice.get("const"),
            choice.get("enum").and_then(Value::as_array),
        ) {
            (Some(value), _) => values.push(text(value)?),
            (None, Some(list)) => {
                for value in list {
                    values.push(text(value)?);
                }
            }
            (None, None) => return None,
        }
    }
    Some(values)
}

/// The member of an object schema that has only one value: its name and that value.
fn constant_member(schema: &Value) -> Option<(String, String)> {
    schema
        .get("properties")?
        .as_object()?
        .iter()
        .find_map(|(name, property)| {
            let value = property.get("const")?.as_str()?;
            Some((name.clone(), value.to_owned()))
        })
}

/// The schema of an `Option`'s content. That it may be absent is said elsewhere, and `null` is not
/// how QMP says it.
fn without_null(schema: &Value) -> Value {
    let is_null = |choice: &Value| choice.get("type").is_some_and(|kind| kind == "null");
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let mut rest = choices.iter().filter(|choice| !is_null(choice));
        if choices.iter().any(is_null)
            && let (Some(only), None) = (rest.next(), rest.next())
        {
            return only.clone();
        }
    }
    let mut schema = schema.clone();
    if let Some(Value::Array(kinds)) = schema.get("type")
        && let Some(only) = kinds.iter().find(|kind| *kind != "null").cloned()
        && let Some(object) = schema.as_object_mut()
    {
        object.insert("type".into(), only);
    }
    schema
}
