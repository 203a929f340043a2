//! The words of the command line to arguments: where clap stops at the first fault, all of them.
//!
//! Called once, on the main thread. A line that clap takes is clap's; only one that it refuses is
//! taken apart here, into flags with their values, by the same definition. Each is given to clap
//! alone, so that what is wrong with it is clap's to say. The rest makes the arguments, so that
//! the configuration's own rules are tried too.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use api_socket::config::{KeyPath, Problems, quoted};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser};

use super::{Cli, Command};

/// The verb whose faults are collected.
const RUN: &str = "run";

/// What to do where nothing better is known.
const HELP: &str = "see thimble run --help";

/// Reads a command line, its first word being the program's name.
///
/// # Errors
/// What clap has to say where it is not about the flags of `run`, whose faults are in
/// [`super::RunArgs::faults`]; also the texts of `--help` and `--version`.
pub fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let refusal = match Cli::try_parse_from(words) {
        Ok(cli) => return Ok(cli),
        Err(refusal) => refusal,
    };
    match words {
        [program, verb, words @ ..] if verb == RUN && refusal.use_stderr() => {
            let mut line = Line::new(program);
            line.read(words)?;
            line.finish().unwrap_or(Err(refusal))
        }
        _ => Err(refusal),
    }
}

/// A command line of `run` that is being taken apart.
struct Line {
    /// The definition, used again and again.
    command: clap::Command,
    program: OsString,
    /// The flags in order that clap takes, with their values.
    good: Vec<OsString>,
    /// Their names.
    seen: Vec<String>,
    /// Uses of flags that may be repeated which clap does not take, as in [`super::RunArgs`].
    left_out: Vec<(String, usize)>,
    /// Flags as they were probably meant.
    guesses: Vec<Vec<OsString>>,
    problems: Problems,
}

impl Line {
    fn new(program: &OsStr) -> Self {
        let mut command = Cli::command();
        command.build();
        Self {
            command,
            program: program.to_owned(),
            good: Vec::new(),
            seen: Vec::new(),
            left_out: Vec::new(),
            guesses: Vec::new(),
            problems: Problems::new(),
        }
    }

    /// Takes all words after `run`.
    fn read(&mut self, words: &[OsString]) -> Result<(), clap::Error> {
        let mut words = words;
        while let [word, rest @ ..] = words {
            words = rest;
            if word == "--" {
                if !rest.is_empty() {
                    let what = "ends the flags, and run takes nothing else";
                    self.problems.push("--".into(), what, "leave it out");
                }
                return Ok(());
            }
            let Some((name, value)) = flag(word) else {
                if is_option(word) {
                    self.take(std::slice::from_ref(word))?;
                } else {
                    self.stray(word);
                }
                continue;
            };
            let mut flag = vec![word.clone()];
            let takes_next = match self.definition(&name) {
                Some(arg) => takes_next(arg, rest.first()),
                // The word after an unknown flag is most likely its value.
                None => rest.first().is_some_and(|next| !is_option(next)),
            };
            if let [next, rest @ ..] = rest
                && value.is_none()
                && takes_next
            {
                flag.push(next.clone());
                words = rest;
            }
            self.take(&flag)?;
        }
        Ok(())
    }

    /// The definition of the flag `--name`.
    fn definition(&self, name: &str) -> Option<&Arg> {
        self.command
            .find_subcommand(RUN)?
            .get_arguments()
            .find(|arg| arg.get_long() == Some(name))
    }

    /// Takes one flag with its value, if it has one.
    fn take(&mut self, words: &[OsString]) -> Result<(), clap::Error> {
        if let [word, ..] = words
            && (word == "--version" || word == "-V")
        {
            // A flag of the program and not of the verb, yet what is meant is clear.
            self.command
                .try_get_matches_from_mut([self.program.as_os_str(), word])?;
        }
        let Err(refusal) = self.try_with(words) else {
            self.keep(words);
            return Ok(());
        };
        if !refusal.use_stderr() {
            return Err(refusal);
        }
        let [first, values @ ..] = words else {
            return Ok(());
        };
        let name = shown_name(first);
        if refusal.kind() != ErrorKind::UnknownArgument {
            let (what, remedy) = self.fault(&name, &refusal);
            let path = self.leave_out(&name);
            self.problems.push(path, what, remedy);
            return Ok(());
        }
        let meant = match refusal.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(meant)) => Some(meant.clone()),
            _ => None,
        };
        let remedy = match &meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => HELP.to_owned(),
        };
        self.problems
            .push(name.as_str().into(), "is not a known flag", remedy);
        // What it would have said is looked at, too.
        if let Some(meant) = meant.filter(|_| flag(first).is_some()) {
            let mut words = vec![with_name(first, &meant)];
            words.extend_from_slice(values);
            if self.try_with(&words).is_ok() {
                self.guesses.push(words);
            }
        }
        Ok(())
    }

    /// Notes that a use of a flag is left out, and says how a message names that use.
    fn leave_out(&mut self, name: &str) -> KeyPath {
        let path = KeyPath::from(name);
        if !self.may_repeat(name) {
            return path;
        }
        let good = self.seen.iter().filter(|seen| *seen == name).count();
        let bad = self.left_out.iter().filter(|(flag, _)| flag == name);
        let place = good + bad.count();
        self.left_out.push((name.to_owned(), place));
        path.index(place)
    }

    fn may_repeat(&self, name: &str) -> bool {
        self.definition(name.trim_start_matches('-'))
            .is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append))
    }

    /// Keeps a good flag, unless it was there already and may not be there twice.
    fn keep(&mut self, words: &[OsString]) {
        let Some(name) = words.first().map(|word| shown_name(word)) else {
            return;
        };
        if self.is_repeated(words) {
            self.problems
                .push(name.as_str().into(), "appears twice", "keep one of the two");
        } else {
            self.seen.push(name);
            self.good.extend_from_slice(words);
        }
    }

    /// Whether a flag was there already and may not be there twice.
    fn is_repeated(&self, words: &[OsString]) -> bool {
        let Some(name) = words.first().map(|word| shown_name(word)) else {
            return false;
        };
        self.seen.contains(&name) && !self.may_repeat(&name)
    }

    fn try_with(&mut self, words: &[OsString]) -> Result<clap::ArgMatches, clap::Error> {
        let start = [self.program.clone(), OsString::from(RUN)];
        self.command
            .try_get_matches_from_mut(start.iter().chain(words))
    }

    /// What is wrong with a known flag's value, and what to write.
    fn fault(&self, name: &str, refusal: &clap::Error) -> (String, String) {
        let value = match refusal.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        let wanted = self
            .definition(name.trim_start_matches('-'))
            .and_then(|arg| arg.get_value_names()?.first())
            .map(|wanted| wanted.as_str());
        let remedy = match wanted {
            Some(wanted) => format!("write {name} {wanted}"),
            None => HELP.to_owned(),
        };
        match refusal.kind() {
            ErrorKind::InvalidUtf8 => ("is not UTF-8".to_owned(), "use text".to_owned()),
            ErrorKind::TooManyValues => {
                ("takes no value".to_owned(), format!("write {name} alone"))
            }
            ErrorKind::InvalidValue | ErrorKind::NoEquals if value.is_empty() => {
                ("has no value".to_owned(), remedy)
            }
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => (
                format!("{} cannot be its value", quoted(value)),
                match wanted {
                    Some(wanted) => format!("write {}", wanted.replace('|', " or ")),
                    None => HELP.to_owned(),
                },
            ),
            other => (other.to_string(), HELP.to_owned()),
        }
    }

    /// A word that is no flag and that no flag takes.
    fn stray(&mut self, word: &OsStr) {
        let path = KeyPath::from(word.to_string_lossy().as_ref());
        let remedy = "put a flag before it, such as --kernel, or leave it out";
        self.problems
            .push(path, "is not a flag, nor the value of one", remedy);
    }

    /// The arguments with what was wrong; `None` if nothing was found, or if clap refuses the rest.
    fn finish(mut self) -> Option<Result<Cli, clap::Error>> {
        for guess in std::mem::take(&mut self.guesses) {
            if !self.is_repeated(&guess) {
                self.keep(&guess);
            }
        }
        let good = std::mem::take(&mut self.good);
        let matches = self.try_with(&good).ok()?;
        let mut cli = Cli::from_arg_matches(&matches).ok()?;
        if self.problems.is_empty() {
            return None;
        }
        if let Command::Run(args) = &mut cli.command {
            args.faults = self.problems;
            args.left_out = self.left_out;
        }
        Some(Ok(cli))
    }
}

/// The name of a flag `--name` or `--name=value`, and the value.
fn flag(word: &OsStr) -> Option<(String, Option<&[u8]>)> {
    let rest = word.as_bytes().strip_prefix(b"--")?;
    let mut parts = rest.splitn(2, |byte| *byte == b'=');
    let name = String::from_utf8_lossy(parts.next()?).into_owned();
    Some((name, parts.next()))
}

/// The same flag and value under the name `--meant`.
fn with_name(word: &OsStr, meant: &str) -> OsString {
    let mut renamed = OsString::from(meant);
    if let Some(at) = word.as_bytes().iter().position(|b| *b == b'=') {
        let value = word.as_bytes().get(at..).unwrap_or_default();
        renamed.push(OsStr::from_bytes(value));
    }
    renamed
}

/// Whether clap would take the word for a flag. `-` alone stands for standard input.
fn is_option(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    bytes.starts_with(b"-") && bytes.len() > 1
}

/// Whether a flag without `=` takes the next word for its value.
fn takes_next(arg: &Arg, next: Option<&OsString>) -> bool {
    arg.get_action().takes_values()
        && !arg.is_require_equals_set()
        && next.is_some_and(|next| arg.is_allow_hyphen_values_set() || !is_option(next))
}

/// A flag as a message names it: without its value.
fn shown_name(word: &OsStr) -> String {
    match flag(word) {
        Some((name, _)) => format!("--{name}"),
        None => word.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::RunArgs;
    use crate::cli::run::effective_config;

    fn parse_run(words: &[&str]) -> Result<RunArgs, clap::Error> {
        let line = ["thimble", RUN].iter().chain(words);
        let line: Vec<OsString> = line.map(OsString::from).collect();
        match parse(&line)?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    /// Everything wrong with a line and an empty `--config -`, as it is printed.
    fn problems(words: &[&str]) -> Vec<String> {
        let args = parse_run(words).unwrap();
        match effective_config(&args, &mut "{}".as_bytes()) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.problems().iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn faults_of_flags_and_of_values_come_together() {
        let words = [
            "--memroy",
            "5",
            "--name",
            "a",
            "stray",
            "--no-such",
            "x",
            "--name=b",
            "--rng=maybe",
            "--uuid",
            "--dump-config=yes",
            "-x",
            "--disk",
            "a",
            "--cpus",
            "two",
            "--disk",
            "a",
            "--kernel=",
            "--log-level",
            "loud",
        ];
        let want = [
            "--memroy: is not a known flag; did you mean --memory?",
            "stray: is not a flag, nor the value of one; put a flag before it, such as --kernel, or leave it out",
            "--no-such: is not a known flag; see thimble run --help",
            "--name: appears twice; keep one of the two",
            "--rng: \"maybe\" cannot be its value; write yes or no",
            "--uuid: has no value; write --uuid UUID",
            "--dump-config: takes no value; write --dump-config alone",
            "-x: is not a known flag; see thimble run --help",
            "--kernel: has no value; write --kernel FILE",
            "--cpus: \"two\" is not a number of CPUs; write 1 to 32",
            "--log-level: \"loud\" is not one of its words; write off, error, warn, info, debug or trace",
            "--memory: 5 MiB is too little for a guest; give at least 16 MiB",
            "--disk[1].path: names the same file as --disk[0].path; give each disk its own image, or make them all read-only",
        ];
        assert_eq!(problems(&words), want);
    }

    #[test]
    fn one_fault_alone_is_found_too() {
        for (words, want) in [
            (&["--paused", "--paused=no"][..], "--paused: appears twice"),
            (
                &["--dump-config", "--dump-config"],
                "--dump-config: appears twice",
            ),
            (&["--cpu"], "--cpu: has no value; write --cpu FEATURES"),
            (&["--memory", "--rng"], "--memory: has no value"),
            (&["--memory", "-5"], "--memory: has no value"),
            (&["--", "--rng", "x"], "--: ends the flags"),
            (&["--=x"], "--: is not a known flag"),
            (&["-"], "-: is not a flag"),
        ] {
            let found = problems(words);
            assert!(found[0].starts_with(want), "{words:?}: {found:?}");
        }
    }

    #[test]
    fn uses_of_a_repeated_flag_are_counted_as_typed() {
        let words = [
            "--disk",
            "a,x=1",
            "--disk",
            "--disk=b,x=1",
            "--disk",
            "--disk",
            "c,x=1",
        ];
        let found = problems(&words);
        let paths = found.iter().filter_map(|text| text.split(':').next());
        assert_eq!(
            paths.collect::<Vec<_>>(),
            [
                "--disk[1]",
                "--disk[3]",
                "--disk[0].x",
                "--disk[2].x",
                "--disk[4].x"
            ]
        );
    }

    #[test]
    fn the_header_counts_what_is_not_shown_too() {
        let words = ["--no-such"; 103];
        let args = parse_run(&words).unwrap();
        let errors = effective_config(&args, &mut std::io::empty()).unwrap_err();
        let text = errors.to_string();
        assert!(
            text.starts_with("103 problems in the configuration:"),
            "{text}"
        );
        assert!(text.contains("3 more problems"), "{text}");
    }

    #[test]
    fn what_is_not_utf_8_is_named() {
        let odd = OsStr::from_bytes(b"a\xff");
        for (words, want) in [
            (
                &[OsStr::new("--name"), odd][..],
                "--name: is not UTF-8; use text",
            ),
            (&[OsStr::new("--pidfile"), odd], "--pidfile: is not UTF-8"),
            (&[odd], "\"a\u{fffd}\": is not a flag"),
            (
                &[OsStr::from_bytes(b"--n\xff=a")],
                "\"--n\u{fffd}\": is not a known flag",
            ),
        ] {
            let line = [OsStr::new("thimble"), OsStr::new(RUN)];
            let line: Vec<OsString> = line.iter().chain(words).map(OsString::from).collect();
            let Command::Run(args) = parse(&line).unwrap().command else {
                panic!("not run")
            };
            let errors = effective_config(&args, &mut std::io::empty()).unwrap_err();
            let found = errors.problems()[0].to_string();
            assert!(found.starts_with(want), "{found} / {want}");
        }
    }

    #[test]
    fn help_and_version_are_given_whatever_else_is_wrong() {
        for words in [
            &["--version"][..],
            &["--no-such", "-V"],
            &["--name", "a", "--version", "x"],
        ] {
            let shown = parse_run(words).unwrap_err();
            assert_eq!(shown.kind(), ErrorKind::DisplayVersion, "{words:?}");
            assert!(shown.to_string().starts_with("thimble 0"), "{shown}");
        }

        for words in [
            &["--help"][..],
            &["--no-such", "--help"],
            &["--name", "a", "--name", "b", "-h"],
            &["stray", "--memory", "--help"],
        ] {
            let shown = parse_run(words).unwrap_err();
            assert_eq!(shown.kind(), ErrorKind::DisplayHelp, "{words:?}");
        }
        // Here it is a value.
        let args = parse_run(&["--cmdline", "--help", "--no-such"]).unwrap();
        assert_eq!(args.cmdline.as_deref(), Some("--help"));
        assert_eq!(args.faults.kept().len(), 1);
    }

    #[test]
    fn other_commands_are_left_to_clap() {
        for (words, want) in [
            (
                &["thimble"][..],
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            ),
            (&["thimble", "ran"], ErrorKind::InvalidSubcommand),
            (&["thimble", "--rng", "run"], ErrorKind::UnknownArgument),
            (&["thimble", "qmp"], ErrorKind::MissingRequiredArgument),
            (&["thimble", "--version"], ErrorKind::DisplayVersion),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(parse(&words).unwrap_err().kind(), want, "{words:?}");
        }
    }

    const WORDS: &[&str] = &[
        "--name",
        "--memory",
        "--memory=1",
        "--rng",
        "--rng=no",
        "--rng=x",
        "--cmdline",
        "--cpu",
        "--dump-config",
        "--disk",
        "--kernel=",
        "--nmae",
        "--nmae=",
        "-x",
        "-",
        "--",
        "a",
        "",
        "=",
    ];

    proptest! {
        /// Whatever clap refuses comes back as faults, and never as clap's own words.
        #[test]
        fn every_line_of_run_is_taken_apart(
            words in prop::collection::vec(prop::sample::select(WORDS), 0..8)
        ) {
            let line = ["thimble", RUN].iter().chain(&words);
            let line: Vec<OsString> = line.map(OsString::from).collect();
            let refused = Cli::try_parse_from(&line).is_err();
            let Command::Run(args) = parse(&line).unwrap().command else {
                panic!("not run")
            };
            prop_assert_eq!(refused, !args.faults.is_empty(), "{:?}", args.faults);
        }
    }
}
