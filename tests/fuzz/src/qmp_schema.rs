//! Commands of the control protocol with arguments that `query-qmp-schema` calls valid.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api_socket::qmp::session::query_qmp_schema;
use api_socket::qmp::types::{JsonType, SchemaInfo, SchemaInfoObjectMember};
use serde_json::{Map, Value};

use crate::source::Source;

/// Deepest nesting of optional members and array elements that is made.
const DEPTH: u32 = 4;

fn schema() -> &'static BTreeMap<String, SchemaInfo> {
    static SCHEMA: OnceLock<BTreeMap<String, SchemaInfo>> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let answer = query_qmp_schema();
        let list: Vec<SchemaInfo> =
            serde_json::from_slice(answer.as_bytes()).expect("the schema of the schema");
        list.into_iter()
            .map(|info| (info.name().to_owned(), info))
            .collect()
    })
}

/// The arguments of `command`, valid by the schema.
pub fn arguments(source: &mut Source<'_>, command: &str) -> Value {
    match schema().get(command) {
        Some(SchemaInfo::Command { arg_type, .. }) => value(source, arg_type, DEPTH),
        other => panic!("{command} is {other:?} in the schema"),
    }
}

fn value(source: &mut Source<'_>, name: &str, depth: u32) -> Value {
    let info = schema().get(name).expect("every type is described");
    match info {
        SchemaInfo::Builtin { json_type, .. } => builtin(source, *json_type),
        SchemaInfo::Enum { values, .. } => Value::from(values[source.below(values.len())].as_str()),
        SchemaInfo::Array { element_type, .. } => {
            let count = if depth == 0 { 0 } else { source.below(3) };
            (0..count)
                .map(|_| value(source, element_type, depth - 1))
                .collect()
        }
        SchemaInfo::Alternate { members, .. } => {
            let member = &members[source.below(members.len())];
            value(source, &member.kind, depth)
        }
        SchemaInfo::Object {
            members,
            tag,
            variants,
            ..
        } => {
            let mut object = Map::new();
            add(&mut object, source, members, depth);
            if let (Some(tag), Some(variants)) = (tag, variants) {
                let case = object.get(tag).and_then(Value::as_str).map(str::to_owned);
                let variant = variants.iter().find(|v| Some(&v.case) == case.as_ref());
                let info = variant.and_then(|variant| schema().get(&variant.kind));
                if let Some(SchemaInfo::Object { members, .. }) = info {
                    add(&mut object, source, members, depth);
                }
            }
            Value::Object(object)
        }
        SchemaInfo::Command { .. } | SchemaInfo::Event { .. } => panic!("{name} is no type"),
    }
}

fn add(
    object: &mut Map<String, Value>,
    source: &mut Source<'_>,
    members: &[SchemaInfoObjectMember],
    depth: u32,
) {
    for member in members {
        let optional = member.default.is_some();
        if optional && (depth == 0 || source.coin()) {
            continue;
        }
        let value = value(source, &member.kind, depth.saturating_sub(1));
        object.insert(member.name.clone(), value);
    }
}

fn builtin(source: &mut Source<'_>, kind: JsonType) -> Value {
    match kind {
        JsonType::String => Value::from(source.pick(&["disk0", "x", "", "é\"\\", "/tmp/x"])),
        // In the range of every integer type: all are one type to the schema.
        JsonType::Int => Value::from(source.u8() & 0x7f),
        JsonType::Number => Value::from(f64::from(source.u8()) / 4.0),
        JsonType::Boolean => Value::from(source.coin()),
        JsonType::Null | JsonType::Value => Value::Null,
        JsonType::Object => Value::Object(Map::new()),
        JsonType::Array => Value::Array(Vec::new()),
    }
}
