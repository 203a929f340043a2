//! The command line of `thimble`: one definition, from which help, man pages and shell
//! completions come too.
//!
//! Parsed on the main thread before anything else happens. Parsing opens no file; only
//! [`run::effective_config`] reads one, the file given to `--config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Map, Value};

mod config_file;
mod generate;
mod keyval;
mod line;
mod merge;
pub mod run;

pub use generate::{completions, man};
pub use line::parse;
pub use run::RunArgs;

/// How thimble ends. The numbers are a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// The guest ended cleanly, or the command did what it was told.
    Clean,
    /// Something failed on the host's side.
    Failed,
    /// The command line or the configuration is wrong; nothing was started.
    Usage,
    /// The guest crashed: a panic with `--on-panic exit-failure`, or a CPU it left unusable.
    GuestCrashed,
}

impl ExitStatus {
    /// The process's exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::GuestCrashed => 3,
        }
    }

    /// The status that has this code.
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::Clean, Self::Failed, Self::Usage, Self::GuestCrashed]
            .into_iter()
            .find(|status| i32::from(status.code()) == code)
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

const OVERVIEW_EXAMPLES: &str = "\
Exit status:
  0  the guest ended cleanly, or the command succeeded
  1  failed
  2  wrong usage or configuration
  3  the guest crashed

Examples:
  thimble run
  thimble run --kernel vmlinux --cmdline console=ttyS0 --disk root.img";

const RUN_EXAMPLES: &str = "\
Keys of --disk, as in path=root.img,cache=none (path= may be left out in front; a
comma in a value is written twice):
  path=FILE                the image file or block device
  id=ID                    the name in control commands [default: disk0, disk1, ...]
  readonly=on|off          [default: off]
  format=raw
  cache=writeback|none|writethrough|directsync|unsafe   [default: writeback]
  serial=TEXT              at most 20 bytes
  werror=report|ignore|enospc|stop                      [default: enospc]
  rerror=report|ignore|stop                             [default: report]
  discard=unmap|ignore                                  [default: unmap]

Keys of --vsock, as in path=web.vsock,cid=3 (path= may be left out in front):
  path=PATH                host programs connect here and say CONNECT PORT; the
                           guest's connections go to PATH_PORT
  cid=N                    the guest's address, 3 to 4294967294 [default: 3]
  id=ID                    the name in control commands [default: vsock0]

Flags override the single settings of --config and add to its lists of disks and
control sockets.

Exit status:
  0  the guest ended cleanly
  1  failed
  2  wrong usage or configuration; every problem is listed
  3  the guest crashed

Examples:
  thimble run
  thimble run --cpus 2 --memory 1G --kernel vmlinux --initrd initrd.img \\
      --cmdline 'console=ttyS0' --disk path=data.img,cache=none --rng \\
      --control /run/user/1000/web.sock
  thimble run --config web.json --paused --dump-config";

const QMP_EXAMPLES: &str = "\
Exit status:
  0  the command succeeded
  1  it failed, or the socket could not be reached
  2  wrong usage

Examples:
  thimble qmp web.sock query-status
  thimble qmp web.sock block_resize '{\"device\": \"disk0\", \"size\": 1073741824}'
  echo '{\"execute\": \"stop\"}' | thimble qmp web.sock";

const CHECK_EXAMPLES: &str = "\
Exit status:
  0  guests can run here
  1  something that they need is missing
  2  wrong usage

Examples:
  thimble check
  thimble check --json";

const COMPLETIONS_EXAMPLES: &str = "\
Example:
  thimble completions bash > ~/.local/share/bash-completion/completions/thimble";

const MAN_EXAMPLES: &str = "\
Examples:
  thimble man | man -l -
  thimble man ~/.local/share/man/man1";

/// Runs one virtual machine as one small process.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = "thimble",
    version,
    max_term_width = 100,
    after_help = OVERVIEW_EXAMPLES,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `thimble` can do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Start a virtual machine and stay until it ends
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Talk to the control socket of a running machine
    #[command(after_help = QMP_EXAMPLES)]
    Qmp(QmpArgs),
    /// Check whether this host can run virtual machines
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Print the completions for a shell
    #[command(hide = true, after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Print the man page, or write all of them into a directory
    #[command(hide = true, after_help = MAN_EXAMPLES)]
    Man(ManArgs),
}

/// The arguments of `thimble qmp`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct QmpArgs {
    /// The machine's control socket
    #[arg(value_name = "SOCKET")]
    pub socket: PathBuf,
    /// The command to execute; without it, commands are read from standard input
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
    /// The command's arguments, a JSON object
    #[arg(value_name = "JSON", value_parser = json_object)]
    pub arguments: Option<Map<String, Value>>,
}

/// The arguments of `thimble check`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CheckArgs {
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `thimble completions`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The arguments of `thimble man`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ManArgs {
    /// Write a page for thimble and for each of its commands into this directory
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

#[cfg(test)]
mod tests;
