//! Nearly valid JSON: a good value with some of its leaves changed, members left out, doubled or
//! invented.

use serde_json::{Map, Number, Value};

use crate::source::Source;

/// A number where mistakes live, of every JSON kind.
pub fn number(source: &mut Source<'_>) -> Value {
    match source.u8() % 8 {
        0..=3 => Value::from(source.edge()),
        4 => Value::from(source.edge().cast_signed()),
        5 => Value::from(-i64::from(source.u8())),
        6 => Number::from_f64(f64::from_bits(source.u64())).map_or(Value::Null, Value::Number),
        _ => Value::from(u64::from(source.u8())),
    }
}

/// A text: one of `words`, or a few characters of every kind.
pub fn text(source: &mut Source<'_>, words: &[&str]) -> String {
    if !words.is_empty() && !source.rarely(4) {
        return source.pick(words).to_owned();
    }
    let length = match source.u8() {
        255 => 300,
        length => usize::from(length % 24),
    };
    let mut text = String::new();
    for _ in 0..length {
        let letter = match source.u8() {
            byte @ 0..0x80 => Some(char::from(byte)),
            0x80..0xf0 => char::from_u32(source.u16().into()),
            _ => char::from_u32(source.u32() & 0x1f_ffff),
        };
        text.push(letter.unwrap_or('/'));
    }
    text
}

/// Any value, at most `depth` deep.
pub fn any(source: &mut Source<'_>, words: &[&str], depth: u32) -> Value {
    match source.u8() % if depth == 0 { 6 } else { 8 } {
        0 | 1 => number(source),
        2 | 3 => Value::String(text(source, words)),
        4 => Value::Bool(source.coin()),
        5 => Value::Null,
        6 => (0..source.below(4))
            .map(|_| any(source, words, depth - 1))
            .collect(),
        _ => {
            let mut members = Map::new();
            for _ in 0..source.below(4) {
                let name = text(source, words);
                members.insert(name, any(source, words, depth - 1));
            }
            Value::Object(members)
        }
    }
}

/// Changes `value` here and there: one leaf in `rarity` (at most 128) gets another value, and one
/// container in four times that loses or gains something.
pub fn vary(value: &mut Value, source: &mut Source<'_>, words: &[&str], rarity: u8) {
    if source.is_empty() {
        return;
    }
    match value {
        Value::Object(members) => {
            if source.rarely(rarity) {
                match source.u8() % 3 {
                    0 => {
                        let at = source.below(members.len().max(1));
                        if let Some(name) = members.keys().nth(at).cloned() {
                            members.shift_remove(&name);
                        }
                    }
                    1 => {
                        let name = text(source, words);
                        members.insert(name, any(source, words, 2));
                    }
                    _ => *members = Map::new(),
                }
            }
            for member in members.values_mut() {
                vary(member, source, words, rarity);
            }
        }
        Value::Array(elements) => {
            if source.rarely(rarity) {
                match source.u8() % 4 {
                    0 => drop(elements.pop()),
                    1 => elements.push(any(source, words, 2)),
                    2 => {
                        if let Some(first) = elements.first().cloned() {
                            elements.extend(vec![first; source.below(40)]);
                        }
                    }
                    _ => elements.clear(),
                }
            }
            // A page of bytes is as good as its first few.
            for element in elements.iter_mut().take(64) {
                vary(element, source, words, rarity);
            }
        }
        leaf => {
            if source.rarely(rarity) {
                *leaf = match (&*leaf, source.u8() % 4) {
                    (_, 0) => any(source, words, 1),
                    (Value::Bool(set), _) => Value::Bool(!set),
                    (Value::String(_), _) => Value::String(text(source, words)),
                    _ => number(source),
                };
            }
        }
    }
}

/// A configuration with every key.
const CONFIG: &str = r#"{
    "name": "web", "uuid": "01234567-89ab-cdef-0123-456789abcdef", "machine": "thimble-1",
    "kernel": {"path": "vmlinux", "initrd": "initrd.img", "cmdline": "console=ttyS0"},
    "cpus": {"count": 2, "features": "host,+avx,-avx512f"},
    "memory": {"size": "1G"},
    "disks": [
        {"path": "root.img", "id": "root", "readonly": true, "format": "raw", "cache": "none",
         "serial": "S1", "werror": "report", "rerror": "stop", "discard": "ignore"},
        {"path": "data.img"}
    ],
    "rng": {"id": "rng1"},
    "serial": {"backend": "file", "path": "console.log"},
    "control": [{"path": "/run/web.sock"}, {"fd": 3}],
    "paused": false, "pidfile": "web.pid", "daemonize": true,
    "log": {"level": "info", "file": "web.log"},
    "actions": {"on-reboot": "shutdown", "on-poweroff": "pause", "on-panic": "exit-failure"}
}"#;

/// Keys and values of a configuration.
pub const CONFIG_WORDS: &[&str] = &[
    "stdio",
    "null",
    "pty",
    "file",
    "socket",
    "thimble-1",
    "host",
    "host,-avx",
    "+avx,+avx",
    "1G",
    "16M",
    "15M",
    "1T",
    "0x10M",
    "512",
    "1MB",
    "writeback",
    "writethrough",
    "directsync",
    "unsafe",
    "disk0",
    "rng0",
    "root",
    "root.img",
    "/run/web.sock",
    "path",
    "fd",
    "id",
    "size",
    "count",
    "",
    "a,b",
    "a=b",
    "\u{0}",
    "\n",
    "é",
    "reset",
    "none",
    "stop",
    "off",
    "trace",
];

/// The text of a configuration, nearly valid.
pub fn config(source: &mut Source<'_>) -> Vec<u8> {
    let mut value: Value = serde_json::from_str(CONFIG).expect("valid");
    // Most keys are left out, so that the settings of one often meet the defaults of others.
    if let Value::Object(members) = &mut value {
        let keep = source.u32();
        let mut bit = 0;
        members.retain(|_, _| {
            bit += 1;
            keep >> (bit % 32) & 1 != 0
        });
    }
    vary(&mut value, source, CONFIG_WORDS, 8);
    let mut text = serde_json::to_vec(&value).expect("a value is JSON");
    source.damage(&mut text);
    text
}
