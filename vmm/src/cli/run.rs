//! `thimble run`: its flags, and the configuration that they and `--config` make.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::PathBuf;

use api_socket::config::{
    Checked, Config, KeyPath, LogLevel, MachineVersion, Problem, Problems, Reading, Word, check,
    quoted,
};
use api_socket::qmp::types::{PanicAction, RebootAction, ShutdownAction};
use clap::builder::{BoolishValueParser, PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args};

use super::config_file;
use super::merge::merge;
use crate::arch::x86_64::cpuid::{CpuRequest, RequestError};

/// The arguments of `thimble run`. Texts with a syntax of their own are kept as typed, so that
/// all that is wrong with them is reported at once.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct RunArgs {
    /// Read the configuration, as JSON, from FILE, or from standard input if it is -
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as JSON and exit
    #[arg(long, help_heading = "Configuration")]
    pub dump_config: bool,

    /// The machine's name
    #[arg(long, help_heading = "Machine")]
    pub name: Option<String>,
    /// The machine's UUID
    #[arg(long, help_heading = "Machine")]
    pub uuid: Option<String>,
    /// The hardware that the guest sees [default: thimble-1]
    #[arg(long, value_name = "VERSION", value_parser = Words::<MachineVersion>::NEW, help_heading = "Machine")]
    pub machine: Option<String>,
    /// The number of CPUs, 1 to 32 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub cpus: Option<String>,
    /// The CPU's features: host, then +FEATURE to add and -FEATURE to hide, separated by commas
    /// [default: host]
    #[arg(
        long,
        value_name = "FEATURES",
        allow_hyphen_values = true,
        help_heading = "Machine"
    )]
    pub cpu: Option<String>,
    /// The guest's memory: a number of MiB, or one with K, M, G or T [default: 128M]
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<String>,

    /// The kernel to boot, an ELF vmlinux or a bzImage [default: the built-in guest]
    #[arg(long, value_name = "FILE", help_heading = "Kernel")]
    pub kernel: Option<PathBuf>,
    /// The kernel's initial ramdisk
    #[arg(long, value_name = "FILE", help_heading = "Kernel")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        help_heading = "Kernel"
    )]
    pub cmdline: Option<String>,

    /// Add a disk: its image file or block device, or a list of the keys below
    #[arg(long, value_name = "DISK", help_heading = "Devices")]
    pub disk: Vec<String>,
    /// Add a random number generator
    #[arg(
        long, value_name = "yes|no", num_args = 0..=1, require_equals = true,
        default_missing_value = "yes", value_parser = BoolishValueParser::new(), hide_possible_values = true,
        help_heading = "Devices"
    )]
    pub rng: Option<bool>,
    /// Add a network card: tap=NAME or fd=N[:N...], and more keys after commas
    #[arg(long, value_name = "NET", help_heading = "Devices")]
    pub net: Vec<String>,
    /// Add sockets between guest and host: the path for host programs to connect to, or a list of
    /// the keys below
    #[arg(long, value_name = "VSOCK", help_heading = "Devices")]
    pub vsock: Option<String>,
    /// Connect the serial port: stdio, null, pty, file=PATH or socket=PATH [default: stdio]
    #[arg(long, value_name = "WHERE", help_heading = "Devices")]
    pub serial: Option<String>,

    /// Add a control socket: a path to create, or fd=N for one that is inherited
    #[arg(long, value_name = "PATH|fd=N", help_heading = "Process")]
    pub control: Vec<String>,
    /// Wait for `cont` on a control socket before the guest's first instruction
    #[arg(
        long, value_name = "yes|no", num_args = 0..=1, require_equals = true,
        default_missing_value = "yes", value_parser = BoolishValueParser::new(), hide_possible_values = true,
        help_heading = "Process"
    )]
    pub paused: Option<bool>,
    /// Write the process id to FILE
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub pidfile: Option<PathBuf>,
    /// Go to the background once the control sockets answer; the serial port is then null by
    /// default
    #[arg(
        long, value_name = "yes|no", num_args = 0..=1, require_equals = true,
        default_missing_value = "yes", value_parser = BoolishValueParser::new(), hide_possible_values = true,
        help_heading = "Process"
    )]
    pub daemonize: Option<bool>,
    /// How much to log [default: warn]
    #[arg(long, value_name = "LEVEL", value_parser = Words::<LogLevel>::NEW, help_heading = "Process")]
    pub log_level: Option<String>,
    /// Append the log to FILE instead of standard error
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub log_file: Option<PathBuf>,

    /// What a reboot of the guest leads to [default: reset]
    #[arg(long, value_name = "ACTION", value_parser = Words::<RebootAction>::NEW, help_heading = "Actions")]
    pub on_reboot: Option<String>,
    /// What a power-off or a final halt of the guest leads to [default: poweroff]
    #[arg(long, value_name = "ACTION", value_parser = Words::<ShutdownAction>::NEW, help_heading = "Actions")]
    pub on_poweroff: Option<String>,
    /// What a panic of the guest leads to [default: shutdown]
    #[arg(long, value_name = "ACTION", value_parser = Words::<PanicAction>::NEW, help_heading = "Actions")]
    pub on_panic: Option<String>,

    /// What is wrong with the flags as such; they are left out above.
    #[arg(skip)]
    pub faults: Problems,
    /// Those of them that are uses of a flag which may be repeated, in order: the flag's name, and
    /// which use of it, from 0.
    #[arg(skip)]
    pub left_out: Vec<(String, usize)>,
}

impl RunArgs {
    /// Which use of the flag `name`, from 0, gave the `nth` of its values that are left.
    pub(super) fn place(&self, name: &str, nth: usize) -> usize {
        let left_out = self.left_out.iter().filter(|(flag, _)| flag == name);
        left_out.fold(nth, |place, (_, out)| place + usize::from(*out <= place))
    }
}

/// A flag that takes one word out of a few. Help and completions know the words; any text is
/// taken, so that a wrong one is reported together with everything else.
#[derive(Debug)]
struct Words<T>(PhantomData<fn() -> T>);

impl<T> Words<T> {
    const NEW: Self = Self(PhantomData);
}

impl<T> Clone for Words<T> {
    fn clone(&self) -> Self {
        Self::NEW
    }
}

impl<T: Word> TypedValueParser for Words<T> {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = T::ALL.iter().map(|value| PossibleValue::new(value.word()));
        Some(Box::new(words))
    }
}

/// The configuration that the flags and `--config` make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// As written but with every device's id, for `--dump-config`; its paths are UTF-8.
    pub config: Config,
    /// Checked, for the builder.
    pub checked: Checked,
    /// What the CPU is to have, with the names looked up.
    pub cpu: CpuRequest,
}

impl Effective {
    fn new(mut config: Config, checked: Checked, cpu: CpuRequest) -> Self {
        for (disk, checked) in config.disks.iter_mut().zip(&checked.disks) {
            disk.id = Some(checked.id.clone());
        }
        for (net, checked) in config.nets.iter_mut().zip(&checked.nets) {
            net.id = Some(checked.id.clone());
        }
        Self {
            config,
            checked,
            cpu,
        }
    }
}

/// Everything wrong with the configuration, printed one problem a line. A usage error:
/// [`super::ExitStatus::Usage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    shown: Vec<Problem>,
    found: usize,
}

impl ConfigErrors {
    fn new(problems: Problems) -> Self {
        Self {
            found: problems.found(),
            shown: problems.into_vec(),
        }
    }

    /// The problems, at least one; where there are too many, a last one that says how many more.
    pub fn problems(&self) -> &[Problem] {
        &self.shown
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shown.as_slice() {
            [only] => write!(f, "wrong configuration: {only}"),
            several => {
                write!(f, "{} problems in the configuration:", self.found)?;
                several
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads `--config`, puts the flags over it and checks the result. `stdin` is read to its end
/// for `--config -`, otherwise left alone; no other file is touched.
///
/// # Errors
/// Everything that is wrong with the file, the flags and the result, each problem once. Where
/// the file cannot be read at all, rules that need its settings are not tried.
pub fn effective_config(args: &RunArgs, stdin: &mut dyn Read) -> Result<Effective, ConfigErrors> {
    let mut problems = args.faults.clone();
    let reading = read_base(args, stdin, &mut problems);
    let (config, origins) = merge(reading.config.clone(), args, &mut problems);
    if !reading.readable {
        return Err(ConfigErrors::new(problems));
    }
    let mut found = Vec::new();
    let checked = check(&config).map_err(|broken| found = broken).ok();
    let request = match &checked {
        Some(checked) => CpuRequest::new(&checked.cpus.features),
        None => CpuRequest::new(&config.cpus.changes()),
    };
    match (checked, request) {
        (Some(checked), Ok(cpu)) if problems.is_empty() => {
            return Ok(Effective::new(config, checked, cpu));
        }
        (_, Ok(_)) => {}
        (_, Err(errors)) => found.extend(errors.into_iter().map(feature_problem)),
    }
    let named = found.into_iter().map(|problem| origins.name(problem));
    for problem in reading.locate(named.collect()) {
        problems.add(problem);
    }
    Err(ConfigErrors::new(problems))
}

/// What the CPU model's own table says of the features' names; what else is wrong with the text,
/// the check says.
fn feature_problem(error: RequestError) -> Problem {
    let (what, remedy) = match error {
        RequestError::Unknown { name, near } => (
            format!("there is no CPU feature {}", quoted(&name)),
            match near.as_slice() {
                [] => "correct the name or leave it out".to_owned(),
                near => format!("did you mean {}?", near.join(" or ")),
            },
        ),
        RequestError::Twice { feature } => (
            format!("names {feature} twice, in two spellings"),
            "keep one of the two".to_owned(),
        ),
        RequestError::Needs { name, needs } => (
            format!("+{name} cannot be with -{needs}"),
            "leave one of the two out".to_owned(),
        ),
    };
    Problem {
        path: KeyPath::from("cpus").key("features"),
        what,
        other: None,
        remedy,
    }
}

/// The configuration under the flags. What is wrong with its file goes to `problems`.
fn read_base(args: &RunArgs, stdin: &mut dyn Read, problems: &mut Problems) -> Reading {
    let Some(file) = &args.config else {
        return Reading::nothing();
    };
    let name = if file.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        format!("{file:?}")
    };
    match config_file::read(file, stdin) {
        Ok(text) => {
            let reading = Reading::of(&text);
            let wrong = reading.problems.clone();
            problems.append(wrong.renamed(|problem| of_file(problem, &name)));
            reading
        }
        Err(error) => {
            let what = format!("{name} cannot be read: {error}");
            let remedy = "name a readable JSON file, or - for standard input";
            problems.push("--config".into(), what, remedy);
            Reading::default()
        }
    }
}

/// What is wrong with a file as a whole has no key to be found by: the file is named instead.
fn of_file(problem: Problem, name: &str) -> Problem {
    if problem.path != KeyPath::root() {
        return problem;
    }
    Problem {
        path: "--config".into(),
        what: format!("{name}: {}", problem.what),
        ..problem
    }
}
