//! The schema is true, complete, frozen and documented.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::command::{COMMANDS, Command};
use super::event::EVENTS;
use super::introspect::{WholeTable, introspect, query_qmp_schema};
use super::schema::{Path, Type, TypeId, TypeTable};
use super::types::SchemaInfo;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// A value of type `id`, with every optional member or with none.
fn example(table: &TypeTable, id: TypeId, full: bool, depth: usize) -> Value {
    match table.get(id) {
        Type::Any => json!({"any": [1, null]}),
        Type::Bool => json!(true),
        Type::Integer(_) => json!(7),
        Type::Number => json!(0.5),
        Type::String => json!("text"),
        Type::Enum(values) => json!(values.first().unwrap()),
        Type::Array(element) if depth < 5 => json!([example(table, *element, full, depth + 1)]),
        Type::Array(_) => json!([]),
        Type::Alternate(choices) => example(table, *choices.first().unwrap(), full, depth),
        Type::Object(object) => {
            let mut out = Map::new();
            let mut members = object.members.clone();
            if let Some(tag) = &object.tag {
                let (case, variant) = tag.cases.last().unwrap();
                out.insert(tag.name.clone(), json!(case));
                let Type::Object(variant) = table.get(*variant) else {
                    panic!("no object")
                };
                members.extend(variant.members.clone());
            }
            for member in members {
                // Types that contain themselves do so in optional members.
                if !member.optional || (full && depth < 5) {
                    out.insert(member.name, example(table, member.id, full, depth + 1));
                }
            }
            Value::Object(out)
        }
    }
}

/// Members in any order, as JSON has them.
fn assert_same(before: &Value, after: &Value, what: &str) {
    assert_eq!(
        before, after,
        "{what} does not survive being read and written"
    );
}

#[test]
fn every_type_can_be_expressed() {
    let whole = WholeTable::new();
    assert_eq!(whole.unsupported, Vec::<String>::new());
    let any: Vec<_> = introspect(&whole)
        .into_iter()
        .filter_map(|info| match info {
            SchemaInfo::Object { members, .. } => Some(members),
            _ => None,
        })
        .flatten()
        .filter(|member| member.kind == "any")
        .map(|member| member.name)
        .collect();
    assert_eq!(
        any,
        ["default"],
        "only introspection's own marker may be anything"
    );
}

#[test]
fn every_example_fits_type_and_schema() {
    let whole = WholeTable::new();
    let table = &whole.types;
    for full in [false, true] {
        for (spec, (arguments, returns)) in COMMANDS.iter().zip(&whole.commands) {
            let value = example(table, *returns, full, 0);
            table.check(*returns, &value, &Path::Root).unwrap();
            let after = (spec.return_round_trip)(value.clone()).unwrap();
            assert_same(&value, &after, spec.name);
            table.check(*returns, &after, &Path::Root).unwrap();

            let value = example(table, *arguments, full, 0);
            let after = (spec.arguments_round_trip)(value.clone()).unwrap();
            assert_same(&value, &after, spec.name);
            let Value::Object(members) = value else {
                panic!("{} takes no object", spec.name)
            };
            assert_eq!(spec.command(members).unwrap().name(), spec.name);
        }
        for (spec, data) in EVENTS.iter().zip(&whole.events) {
            let value = example(table, *data, full, 0);
            let after = (spec.data_round_trip)(value.clone()).unwrap();
            assert_same(&value, &after, spec.name);
            assert_eq!(
                value.as_object().unwrap().is_empty(),
                !spec.has_data,
                "{}",
                spec.name
            );
        }
    }
}

#[test]
fn every_reference_resolves_and_nothing_is_said_twice() {
    let all = introspect(&WholeTable::new());
    let names: BTreeSet<_> = all.iter().map(SchemaInfo::name).collect();
    assert_eq!(names.len(), all.len());
    let mut used = BTreeSet::new();
    for info in &all {
        match info {
            SchemaInfo::Builtin { .. } | SchemaInfo::Enum { .. } => {}
            SchemaInfo::Array { element_type, .. } => drop(used.insert(element_type.as_str())),
            SchemaInfo::Object {
                members, variants, ..
            } => {
                used.extend(members.iter().map(|member| member.kind.as_str()));
                used.extend(
                    variants
                        .iter()
                        .flatten()
                        .map(|variant| variant.kind.as_str()),
                );
            }
            SchemaInfo::Alternate { members, .. } => {
                used.extend(members.iter().map(|member| member.kind.as_str()));
            }
            SchemaInfo::Command {
                arg_type, ret_type, ..
            } => {
                used.extend([arg_type.as_str(), ret_type.as_str()]);
            }
            SchemaInfo::Event { arg_type, .. } => drop(used.insert(arg_type.as_str())),
        }
    }
    let types: BTreeSet<_> = all
        .iter()
        .filter(|info| !matches!(info, SchemaInfo::Command { .. } | SchemaInfo::Event { .. }))
        .map(SchemaInfo::name)
        .collect();
    assert_eq!(
        used, types,
        "types that are used, and types that are described"
    );
}

#[test]
fn the_answer_reads_back_as_its_own_type_and_fits_old_clients() {
    let answer = query_qmp_schema();
    // Go's line scanner gives up at 64 KiB.
    assert!(
        answer.as_bytes().len() < 60_000,
        "{} bytes",
        answer.as_bytes().len()
    );
    let value: Value = serde_json::from_slice(answer.as_bytes()).unwrap();
    let read: Vec<SchemaInfo> = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), value);
    let entry = |name: &str| {
        value
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["name"] == name)
            .unwrap()
    };
    assert_eq!(entry("query-yank")["allow-oob"], true);
    assert!(entry("stop").get("allow-oob").is_none());
    let getfd = entry(entry("add-fd")["arg-type"].as_str().unwrap());
    assert_eq!(
        getfd["members"],
        json!([
            {"name": "fdset-id", "type": "int", "default": null},
            {"name": "opaque", "type": "str", "default": null},
        ])
    );
    let stats = entry(entry("query-stats")["arg-type"].as_str().unwrap());
    assert_eq!(stats["tag"], "target");
    assert_eq!(stats["members"][0]["name"], "providers");
}

fn arguments_error(name: &str, arguments: Value) -> String {
    let Value::Object(arguments) = arguments else {
        panic!("an object")
    };
    Command::spec(name)
        .unwrap()
        .command(arguments)
        .unwrap_err()
        .desc
}

#[test]
fn argument_errors_are_qemus() {
    for (name, arguments, text) in [
        (
            "query-status",
            json!({"x": 1}),
            "Parameter 'x' is unexpected",
        ),
        ("getfd", json!({}), "Parameter 'fdname' is missing"),
        ("getfd", json!({"y": 1}), "Parameter 'fdname' is missing"),
        (
            "getfd",
            json!({"fdname": "a", "z": 1}),
            "Parameter 'z' is unexpected",
        ),
        (
            "getfd",
            json!({"fdname": 1}),
            "Invalid parameter type for 'fdname', expected: string",
        ),
        (
            "getfd",
            json!({"fdname": null}),
            "Invalid parameter type for 'fdname', expected: string",
        ),
        (
            "add-fd",
            json!({"opaque": null}),
            "Invalid parameter type for 'opaque', expected: string",
        ),
        (
            "balloon",
            json!({"value": 1.0}),
            "Invalid parameter type for 'value', expected: integer",
        ),
        (
            "balloon",
            json!({"value": u64::MAX}),
            "Invalid parameter type for 'value', expected: integer",
        ),
        (
            "query-named-block-nodes",
            json!({"flat": "yes"}),
            "Invalid parameter type for 'flat', expected: boolean",
        ),
        (
            "pmemsave",
            json!({"val": -1, "size": 1, "filename": "f"}),
            "Parameter 'val' expects uint64_t",
        ),
        (
            "set-action",
            json!({"reboot": "x"}),
            "Parameter 'reboot' does not accept value 'x'",
        ),
        (
            "qmp_capabilities",
            json!({"enable": ["foo"]}),
            "Parameter 'null' does not accept value 'foo'",
        ),
        ("query-stats", json!({}), "Parameter 'target' is missing"),
        (
            "query-stats",
            json!({"target": "x"}),
            "Parameter 'target' does not accept value 'x'",
        ),
        (
            "query-stats",
            json!({"target": "vm", "vcpus": ["a"]}),
            "Parameter 'vcpus' is unexpected",
        ),
        (
            "query-stats",
            json!({"target": "vcpu", "vcpus": [1]}),
            "Invalid parameter type for 'vcpus[0]', expected: string",
        ),
        (
            "query-stats",
            json!({"target": "vm", "providers": 5}),
            "Invalid parameter type for 'providers', expected: array",
        ),
        (
            "query-stats",
            json!({"target": "vm", "providers": [{}]}),
            "Parameter 'providers[0].provider' is missing",
        ),
        (
            "query-stats",
            json!({"target": "vm", "providers": [{"provider": "kvm", "q": 1}]}),
            "Parameter 'providers[0].q' is unexpected",
        ),
        (
            "query-stats",
            json!({"target": "vm", "providers": [{"provider": "zz"}]}),
            "Parameter 'provider' does not accept value 'zz'",
        ),
        (
            "yank",
            json!({"instances": [{"type": "chardev"}]}),
            "Parameter 'instances[0].id' is missing",
        ),
    ] {
        assert_eq!(arguments_error(name, arguments), text, "{name}");
    }
    let error = Command::spec("nope").unwrap_err();
    assert_eq!(error.desc, "The command nope has not been found");
}

#[test]
fn names_are_unique_and_documented() {
    let commands: BTreeSet<_> = COMMANDS.iter().map(|spec| spec.name).collect();
    assert_eq!(commands.len(), COMMANDS.len());
    let events: BTreeSet<_> = EVENTS.iter().map(|spec| spec.name).collect();
    assert_eq!(events.len(), EVENTS.len());
    for doc in COMMANDS
        .iter()
        .map(|spec| spec.doc)
        .chain(EVENTS.iter().map(|spec| spec.doc))
    {
        assert!(doc.trim_end().ends_with('.'), "{doc}");
    }
}

// ---- Golden files -------------------------------------------------------------------------

/// A type as people write it: `int`, `[CpuInfoFast]`, a name, or the values of a small choice.
fn spelled(table: &TypeTable, id: TypeId) -> String {
    match table.get(id) {
        Type::Any => "any".into(),
        Type::Bool => "bool".into(),
        Type::Integer(kind) => format!("{kind:?}").to_lowercase(),
        Type::Number => "number".into(),
        Type::String => "str".into(),
        Type::Array(element) => format!("[{}]", spelled(table, *element)),
        Type::Enum(_) | Type::Object(_) | Type::Alternate(_) => table.name(id).into(),
    }
}

/// Adds the named types that `id` reaches to `out`.
fn describe(table: &TypeTable, id: TypeId, out: &mut Map<String, Value>) {
    let name = table.name(id).to_owned();
    if out.contains_key(&name) && !name.is_empty() {
        return;
    }
    match table.get(id) {
        Type::Array(element) => describe(table, *element, out),
        Type::Enum(values) => {
            let values = values
                .iter()
                .map(|value| (value.clone(), json!(true)))
                .collect();
            out.insert(name, Value::Object(values));
        }
        Type::Alternate(choices) => {
            let choices = choices
                .iter()
                .map(|choice| (spelled(table, *choice), json!(true)));
            out.insert(name, Value::Object(choices.collect()));
        }
        Type::Object(object) => {
            out.insert(name.clone(), Value::Null);
            let mut members = Map::new();
            for member in &object.members {
                describe(table, member.id, out);
                let mark = if member.optional { "*" } else { "" };
                let text = format!("{mark}{}", spelled(table, member.id));
                members.insert(member.name.clone(), text.into());
            }
            if let Some(tag) = &object.tag {
                let mut cases = Map::new();
                for (case, variant) in &tag.cases {
                    describe(table, *variant, out);
                    cases.insert(case.clone(), table.name(*variant).into());
                }
                members.insert(tag.name.clone(), Value::Object(cases));
            }
            out.insert(name, Value::Object(members));
        }
        _ => {}
    }
}

/// The whole protocol by name, sorted, for the golden file.
fn frozen() -> Value {
    let whole = WholeTable::new();
    let table = &whole.types;
    let (mut commands, mut events, mut types) = (Map::new(), Map::new(), Map::new());
    for (spec, (arguments, returns)) in COMMANDS.iter().zip(&whole.commands) {
        describe(table, *arguments, &mut types);
        describe(table, *returns, &mut types);
        let entry = json!({
            "arguments": spelled(table, *arguments),
            "returns": spelled(table, *returns),
            "oob": spec.oob,
        });
        commands.insert(spec.name.into(), entry);
    }
    for (spec, data) in EVENTS.iter().zip(&whole.events) {
        describe(table, *data, &mut types);
        events.insert(spec.name.into(), spelled(table, *data).into());
    }
    for map in [&mut commands, &mut events, &mut types] {
        map.sort_keys();
    }
    json!({"commands": commands, "events": events, "types": types})
}

/// What `golden` has and `now` has not, or has differently.
fn lost(golden: &Value, now: &Value, path: &str, out: &mut Vec<String>) {
    match (golden, now) {
        (Value::Object(golden), Value::Object(now)) => {
            for (name, value) in golden {
                match now.get(name) {
                    Some(other) => lost(value, other, &format!("{path}/{name}"), out),
                    None => out.push(format!("{path}/{name} is gone")),
                }
            }
        }
        (golden, now) if golden != now => out.push(format!("{path} was {golden}, is {now}")),
        _ => {}
    }
}

/// Argument types that gained a mandatory member: a change clients notice.
fn newly_mandatory(golden: &Value, now: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for command in golden["commands"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, entry)| entry)
    {
        let name = command["arguments"].as_str().unwrap_or_default();
        for (member, text) in now["types"][name].as_object().into_iter().flatten() {
            let known = golden["types"][name].get(member).is_some();
            if !known && !text.as_str().unwrap_or("*").starts_with('*') {
                out.push(format!("{name}/{member} is new and mandatory"));
            }
        }
    }
    out
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDENS").is_some()
}

#[test]
fn wire_names_are_never_removed() {
    let path = repository("resources/schema/qmp.json");
    let now = frozen();
    let text = std::fs::read_to_string(&path);
    if let Ok(text) = &text {
        let golden: Value = serde_json::from_str(text).unwrap();
        let mut broken = newly_mandatory(&golden, &now);
        lost(&golden, &now, "", &mut broken);
        assert!(
            broken.is_empty(),
            "clients rely on these; a removal that is meant is made in {path:?} by hand: {broken:#?}"
        );
    }
    let wanted = serde_json::to_string_pretty(&now).unwrap() + "\n";
    if updating() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    assert_eq!(
        text.ok(),
        Some(wanted),
        "{path:?} is out of date: run with UPDATE_GOLDENS=1"
    );
}

#[test]
fn a_removal_would_be_noticed() {
    let golden = frozen();
    let mut now = golden.clone();
    now["types"]["StatusInfo"]
        .as_object_mut()
        .unwrap()
        .shift_remove("running");
    now["types"]["RunState"]
        .as_object_mut()
        .unwrap()
        .shift_remove("paused");
    now["commands"]
        .as_object_mut()
        .unwrap()
        .shift_remove("stop");
    now["types"]["GetfdArguments"]["more"] = json!("str");
    let mut broken = newly_mandatory(&golden, &now);
    lost(&golden, &now, "", &mut broken);
    assert_eq!(
        broken,
        [
            "GetfdArguments/more is new and mandatory",
            "/commands/stop is gone",
            "/types/RunState/paused is gone",
            "/types/StatusInfo/running is gone",
        ]
    );
}

/// The tables of docs/control-socket.md.
fn documented() -> (String, String) {
    let whole = WholeTable::new();
    let table = &whole.types;
    let members = |id: TypeId| match table.get(id) {
        Type::Object(object) => {
            let mut out = Vec::new();
            for member in &object.members {
                let mark = if member.optional { "*" } else { "" };
                out.push(format!(
                    "`{mark}{}`: {}",
                    member.name,
                    spelled(table, member.id)
                ));
            }
            for (case, variant) in object.tag.iter().flat_map(|tag| &tag.cases) {
                let Type::Object(variant) = table.get(*variant) else {
                    panic!("no object")
                };
                let names: Vec<_> = variant
                    .members
                    .iter()
                    .map(|m| format!("`*{}`", m.name))
                    .collect();
                let tag = &object.tag.as_ref().unwrap().name;
                out.push(
                    format!("`{tag}`: {case} {}", names.join(", "))
                        .trim_end()
                        .to_owned(),
                );
            }
            out.join(", ")
        }
        _ => String::new(),
    };
    let mut commands =
        "| command | arguments (`*` may be absent) | returns | what it does |\n|---|---|---|---|\n"
            .to_owned();
    for (spec, (arguments, returns)) in COMMANDS.iter().zip(&whole.commands) {
        let oob = if spec.oob { " (OOB)" } else { "" };
        let returns = match spelled(table, *returns) {
            name if name == "Empty" => "`{}`".to_owned(),
            name => name,
        };
        commands += &format!(
            "| `{}`{oob} | {} | {returns} | {} |\n",
            spec.name,
            members(*arguments),
            spec.doc.trim()
        );
    }
    let mut events = "| event | data | when |\n|---|---|---|\n".to_owned();
    for (spec, data) in EVENTS.iter().zip(&whole.events) {
        events += &format!(
            "| `{}` | {} | {} |\n",
            spec.name,
            members(*data),
            spec.doc.trim()
        );
    }
    (commands, events)
}

#[test]
fn the_documentation_lists_every_command_and_event() {
    let path = repository("docs/control-socket.md");
    let mut text = std::fs::read_to_string(&path).expect("docs/control-socket.md is there");
    let (commands, events) = documented();
    for (name, table) in [("commands", commands), ("events", events)] {
        let (begin, end) = (
            format!("<!-- {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let from = text.find(&begin).expect("the table's beginning is marked") + begin.len();
        let to = text.find(&end).expect("the table's end is marked");
        if updating() {
            text.replace_range(from..to, &table);
        } else {
            assert_eq!(&text[from..to], table, "run with UPDATE_GOLDENS=1");
        }
    }
    if updating() {
        std::fs::write(&path, text).unwrap();
    }
}
