//! What `query-qmp-schema` promises, a running guest keeps: each reply and event is of the type
//! that the schema gives for it, without a member more or less.

use std::collections::BTreeMap;

use api_socket::qmp::error::ErrorClass;
use harness::skip;
use serde_json::{Value, json};

use crate::control_queries::furnished;

/// The schema, by name.
struct Schema(BTreeMap<String, Value>);

impl Schema {
    fn new(answer: &Value) -> Self {
        let entries = answer.as_array().unwrap().iter();
        let named = entries.map(|entry| (text(&entry["name"]).to_owned(), entry.clone()));
        Self(named.collect())
    }

    /// The entries of a kind: "command", "event".
    fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.0
            .iter()
            .filter(move |(_, entry)| entry["meta-type"] == kind)
    }

    #[track_caller]
    fn entry(&self, name: &str) -> &Value {
        match self.0.get(name) {
            Some(entry) => entry,
            None => panic!("the schema refers to {name}, which it does not have"),
        }
    }

    /// Why `value` is not of the type called `name`; `at` is where it stands.
    fn mismatch(&self, name: &str, value: &Value, at: &str) -> Option<String> {
        let entry = self.entry(name);
        let wrong = |fits: bool| (!fits).then(|| format!("{at}: {value} is no {entry}"));
        match text(&entry["meta-type"]) {
            "builtin" => wrong(match text(&entry["json-type"]) {
                "string" => value.is_string(),
                "number" => value.is_number(),
                "int" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "object" => value.is_object(),
                "array" => value.is_array(),
                _ => true,
            }),
            "enum" => wrong(members(entry).any(|member| member["name"] == *value)),
            "array" => match value.as_array() {
                None => wrong(false),
                Some(items) => items.iter().enumerate().find_map(|(index, item)| {
                    let at = format!("{at}[{index}]");
                    self.mismatch(text(&entry["element-type"]), item, &at)
                }),
            },
            "alternate" => wrong(
                members(entry)
                    .any(|member| self.mismatch(text(&member["type"]), value, at).is_none()),
            ),
            "object" => self.object_mismatch(entry, value, at),
            other => Some(format!("{at}: {name} is a {other} and no type")),
        }
    }

    fn object_mismatch(&self, entry: &Value, value: &Value, at: &str) -> Option<String> {
        let Some(object) = value.as_object() else {
            return Some(format!("{at}: {value} is no object"));
        };
        let mut all: Vec<&Value> = members(entry).collect();
        if let Some(tag) = entry.get("tag") {
            let chosen = object.get(text(tag));
            let variants = entry["variants"].as_array().into_iter().flatten();
            for variant in variants.filter(|variant| Some(&variant["case"]) == chosen) {
                all.extend(members(self.entry(text(&variant["type"]))));
            }
        }
        let known = |name: &String| all.iter().any(|member| member["name"] == **name);
        if let Some(unknown) = object.keys().find(|name| !known(name)) {
            return Some(format!("{at}: {unknown} is not in the schema: {value}"));
        }
        all.into_iter().find_map(|member| {
            let name = text(&member["name"]);
            let at = format!("{at}.{name}");
            match object.get(name) {
                Some(inner) => self.mismatch(text(&member["type"]), inner, &at),
                None if member.get("default").is_some() => None,
                None => Some(format!("{at} is missing")),
            }
        })
    }

    /// Whether a command can be asked without arguments.
    fn asks_for_nothing(&self, command: &Value) -> bool {
        let arguments = self.entry(text(&command["arg-type"]));
        arguments.get("tag").is_none()
            && members(arguments).all(|member| member.get("default").is_some())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn members(entry: &Value) -> impl Iterator<Item = &Value> {
    entry["members"].as_array().into_iter().flatten()
}

#[test]
fn every_query_answers_with_what_its_schema_says() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = furnished();
    let schema = Schema::new(&client.execute("query-qmp-schema", Value::Null));
    let mut questions: Vec<(String, Value)> = schema
        .of_kind("command")
        .filter(|(name, entry)| {
            (name.starts_with("query-") || name.starts_with("x-thimble-query-"))
                && schema.asks_for_nothing(entry)
        })
        .map(|(name, _)| (name.clone(), Value::Null))
        .collect();
    assert!(questions.len() >= 25, "{questions:?}");
    for (name, arguments) in [
        ("query-stats", json!({"target": "vm"})),
        ("query-stats", json!({"target": "vcpu"})),
        ("query-blockstats", json!({"query-nodes": true})),
        ("query-named-block-nodes", json!({"flat": true})),
        ("query-command-line-options", json!({"option": "name"})),
        (
            "human-monitor-command",
            json!({"command-line": "info status"}),
        ),
        ("stop", Value::Null),
        ("query-status", Value::Null),
        ("system_reset", Value::Null),
        ("cont", Value::Null),
    ] {
        questions.push((name.to_owned(), arguments));
    }
    for (name, arguments) in questions {
        // There is no balloon to be asked about.
        if name == "query-balloon" {
            continue;
        }
        let reply = client.execute(&name, arguments);
        let of = text(&schema.entry(&name)["ret-type"]);
        if let Some(mismatch) = schema.mismatch(of, &reply, &name) {
            panic!("{mismatch}");
        }
    }
    // The events of the above.
    let told = client.session().take_events();
    assert!(told.len() >= 3, "{told:?}");
    for event in told {
        let of = text(&schema.entry(&event.event)["arg-type"]);
        let data = if event.data.is_null() {
            json!({})
        } else {
            event.data
        };
        if let Some(mismatch) = schema.mismatch(of, &data, &event.event) {
            panic!("{mismatch}");
        }
    }
}

#[test]
fn the_lists_of_names_are_those_of_the_schema() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = furnished();
    let schema = Schema::new(&client.execute("query-qmp-schema", Value::Null));
    for (question, kind) in [("query-commands", "command"), ("query-events", "event")] {
        let listed = client.execute(question, Value::Null);
        let mut listed: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|one| text(&one["name"]))
            .collect();
        listed.sort_unstable();
        let described: Vec<_> = schema
            .of_kind(kind)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(listed, described);
    }
    // What a command is refused for is told; a command of the schema is never unknown.
    for (name, entry) in schema.of_kind("command") {
        if ["quit", "qmp_capabilities"].contains(&name.as_str()) {
            continue;
        }
        let answer = client.try_execute(name, json!({"no-such-argument": 1}));
        let refusal = answer.unwrap_err();
        assert!(
            refusal.desc.contains("no-such-argument") || !schema.asks_for_nothing(entry),
            "{name}: {}",
            refusal.desc
        );
        assert_eq!(refusal.class, ErrorClass::GenericError, "{name}");
    }
}
