//! `query-qmp-schema`, `query-commands` and `query-events`: the tables written out for clients.
//!
//! Types are given numbers for names, as QEMU does, so that no client comes to rely on them.
//! Called on the main thread; the long answer is made once.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::command::COMMANDS;
use super::event::EVENTS;
use super::schema::{IntegerKind, Object, Type, TypeId, TypeTable, TypeTableBuilder};
use super::session::Reply;
use super::types::{
    CommandInfo, EventInfo, JsonType, SchemaInfo, SchemaInfoAlternateMember, SchemaInfoEnumMember,
    SchemaInfoObjectMember, SchemaInfoObjectVariant,
};

/// Every type the protocol uses, and where commands and events use them.
#[derive(Debug)]
pub(super) struct WholeTable {
    pub(super) types: TypeTable,
    /// Arguments and return of each of [`COMMANDS`].
    pub(super) commands: Vec<(TypeId, TypeId)>,
    /// Data of each of [`EVENTS`].
    pub(super) events: Vec<TypeId>,
    #[cfg(test)]
    pub(super) unsupported: Vec<String>,
}

impl WholeTable {
    pub(super) fn new() -> Self {
        let mut builder = TypeTableBuilder::default();
        let commands = COMMANDS
            .iter()
            .map(|spec| ((spec.arguments)(&mut builder), (spec.returns)(&mut builder)))
            .collect();
        let events = EVENTS
            .iter()
            .map(|spec| (spec.data)(&mut builder))
            .collect();
        #[cfg(test)]
        let unsupported = builder.unsupported().to_vec();
        Self {
            types: builder.finish(),
            commands,
            events,
            #[cfg(test)]
            unsupported,
        }
    }
}

/// The answer to `query-commands`.
pub fn query_commands() -> Reply {
    let names: Vec<_> = COMMANDS
        .iter()
        .map(|spec| CommandInfo {
            name: spec.name.into(),
        })
        .collect();
    Reply::of(&names)
}

/// The answer to `query-events`.
pub fn query_events() -> Reply {
    let names: Vec<_> = EVENTS
        .iter()
        .map(|spec| EventInfo {
            name: spec.name.into(),
        })
        .collect();
    Reply::of(&names)
}

/// The answer to `query-qmp-schema`.
pub fn query_qmp_schema() -> Reply {
    static ANSWER: OnceLock<Reply> = OnceLock::new();
    ANSWER
        .get_or_init(|| Reply::of(&introspect(&WholeTable::new())))
        .clone()
}

/// Lists commands, events, and the types they reach.
pub(super) fn introspect(whole: &WholeTable) -> Vec<SchemaInfo> {
    let mut masked = Masked {
        table: &whole.types,
        names: BTreeMap::new(),
        queue: Vec::new(),
    };
    let mut out = Vec::new();
    for (spec, (arguments, returns)) in COMMANDS.iter().zip(&whole.commands) {
        out.push(SchemaInfo::Command {
            name: spec.name.into(),
            arg_type: masked.name(*arguments),
            ret_type: masked.name(*returns),
            allow_oob: spec.oob.then_some(true),
        });
    }
    for (spec, data) in EVENTS.iter().zip(&whole.events) {
        out.push(SchemaInfo::Event {
            name: spec.name.into(),
            arg_type: masked.name(*data),
        });
    }
    let mut described = std::collections::BTreeSet::new();
    while let Some(id) = masked.queue.pop() {
        let info = masked.describe(id);
        // All integers are one built-in type on the wire.
        if described.insert(info.name().to_owned()) {
            out.push(info);
        }
    }
    out
}

/// Names for types, and the types named but not yet described.
struct Masked<'a> {
    table: &'a TypeTable,
    names: BTreeMap<TypeId, String>,
    queue: Vec<TypeId>,
}

impl Masked<'_> {
    fn name(&mut self, id: TypeId) -> String {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        let name = match self.table.get(id) {
            Type::Any => "any".into(),
            Type::Bool => "bool".into(),
            Type::Integer(IntegerKind::Int64 | IntegerKind::Uint64 | IntegerKind::Uint32) => {
                "int".into()
            }
            Type::Number => "number".into(),
            Type::String => "str".into(),
            Type::Array(element) => format!("[{}]", self.name(*element)),
            Type::Enum(_) | Type::Object(_) | Type::Alternate(_) => self.names.len().to_string(),
        };
        self.names.insert(id, name.clone());
        self.queue.push(id);
        name
    }

    fn describe(&mut self, id: TypeId) -> SchemaInfo {
        let name = self.name(id);
        let builtin = |name, json_type| SchemaInfo::Builtin { name, json_type };
        let table = self.table;
        match table.get(id) {
            Type::Any => builtin(name, JsonType::Value),
            Type::Bool => builtin(name, JsonType::Boolean),
            Type::Integer(_) => builtin(name, JsonType::Int),
            Type::Number => builtin(name, JsonType::Number),
            Type::String => builtin(name, JsonType::String),
            Type::Array(element) => SchemaInfo::Array {
                name,
                element_type: self.name(*element),
            },
            Type::Enum(values) => SchemaInfo::Enum {
                name,
                members: values
                    .iter()
                    .map(|value| SchemaInfoEnumMember {
                        name: value.clone(),
                    })
                    .collect(),
                values: values.clone(),
            },
            Type::Alternate(choices) => SchemaInfo::Alternate {
                name,
                members: choices
                    .iter()
                    .map(|choice| SchemaInfoAlternateMember {
                        kind: self.name(*choice),
                    })
                    .collect(),
            },
            Type::Object(object) => self.describe_object(name, object),
        }
    }

    fn describe_object(&mut self, name: String, object: &Object) -> SchemaInfo {
        let mut members: Vec<_> = object
            .members
            .iter()
            .map(|member| SchemaInfoObjectMember {
                name: member.name.clone(),
                kind: self.name(member.id),
                default: member.optional.then_some(serde_json::Value::Null),
            })
            .collect();
        let variants = object.tag.as_ref().map(|tag| {
            let cases = tag.cases.iter();
            let variants = cases.map(|(case, id)| SchemaInfoObjectVariant {
                case: case.clone(),
                kind: self.name(*id),
            });
            variants.collect()
        });
        if let Some(tag) = &object.tag {
            members.push(SchemaInfoObjectMember {
                name: tag.name.clone(),
                kind: self.name(tag.values),
                default: None,
            });
        }
        SchemaInfo::Object {
            name,
            members,
            tag: object.tag.as_ref().map(|t| t.name.clone()),
            variants,
        }
    }
}
