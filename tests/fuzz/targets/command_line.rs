//! The flags of `thimble run` and what `--config -` reads, reached by whoever starts a guest.
//!
//! Refused or taken, never a panic; what was taken comes out of `--dump-config` as a configuration
//! that means the same. Only standard input is read: no other file is named to `--config`.
#![no_main]

use std::ffi::OsString;
use std::path::Path;

use api_socket::config::parse;
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::json;
use thimble_fuzz::source::Source;
use vmm::cli::run::effective_config;
use vmm::cli::{self, Command};

const LISTS: &[&str] = &["--disk", "--control", "--serial"];
const FLAGS: &[&str] = &[
    "--name",
    "--uuid",
    "--machine",
    "--kernel",
    "--initrd",
    "--cmdline",
    "--cpus",
    "--cpu",
    "--memory",
    "--pidfile",
    "--log-level",
    "--log-file",
    "--on-reboot",
    "--on-poweroff",
    "--on-panic",
    "--no-such",
    "--memroy",
    "-x",
];
const SWITCHES: &[&str] = &[
    "--rng",
    "--paused",
    "--paused=no",
    "--daemonize",
    "--daemonize=yes",
    "--dump-config",
    "--rng=on",
];
const KEYS: &[&str] = &[
    "path", "id", "readonly", "format", "cache", "serial", "werror", "rerror", "discard", "fd",
    "file", "socket", "stdio", "",
];
const VALUES: &[&str] = &[
    "a.img", "on", "off", "raw", "none", "unsafe", "S1", "report", "ignore", "3", "2", "b,,c", "",
];

/// `key=value,key=value`.
fn list(source: &mut Source<'_>) -> String {
    let mut text = String::new();
    for n in 0..=source.below(5) {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&json::text(source, KEYS));
        if !source.rarely(4) {
            text.push('=');
            text.push_str(&json::text(source, VALUES));
        }
    }
    text
}

fn arguments(source: &mut Source<'_>) -> Vec<OsString> {
    let mut arguments = vec!["thimble".to_owned(), "run".to_owned()];
    for _ in 0..source.below(8) {
        match source.u8() % 4 {
            0 | 1 => {
                arguments.push(source.pick(LISTS).to_owned());
                arguments.push(list(source));
            }
            2 => {
                arguments.push(source.pick(FLAGS).to_owned());
                arguments.push(json::text(source, json::CONFIG_WORDS));
            }
            _ => arguments.push(source.pick(SWITCHES).to_owned()),
        }
    }
    if source.coin() {
        arguments.extend(["--config".to_owned(), "-".to_owned()]);
    }
    arguments.into_iter().map(OsString::from).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let arguments = arguments(&mut source);
    let Ok(cli) = cli::parse(&arguments) else {
        return;
    };
    let Command::Run(run) = cli.command else {
        return;
    };
    if run
        .config
        .as_deref()
        .is_some_and(|path| path != Path::new("-"))
    {
        return;
    }
    let text = json::config(&mut source);
    match effective_config(&run, &mut text.as_slice()) {
        Ok(effective) => {
            let dumped = effective.config.to_json().expect("checked to be UTF-8");
            assert_eq!(
                parse(dumped.as_bytes()).as_ref(),
                Ok(&effective.checked),
                "{dumped}"
            );
        }
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                let line = problem.to_string();
                assert!(!line.contains(['\n', '\r', '\0']), "{line:?}");
            }
        }
    }
});
