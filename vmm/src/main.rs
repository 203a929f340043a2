//! `thimble`: parse, do, and end with the right status. Exit statuses are chosen here and in
//! [`vmm::run`], nowhere else.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use vmm::cli::{self, Cli, Command, ExitStatus, QmpArgs};
use vmm::qmp_tool;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let command = match cli::parse(&words) {
        Ok(Cli { command }) => command,
        Err(refusal) => return refused(&refusal).into(),
    };
    let status = match command {
        Command::Run(args) => vmm::run::run(&args),
        Command::Qmp(args) => qmp(&args),
        Command::Check(args) => check(args.json),
        Command::Completions(args) => {
            written(cli::completions(args.shell, &mut io::stdout().lock()))
        }
        Command::Man(args) => written(cli::man(args.dir.as_deref(), &mut io::stdout().lock())),
    };
    match status {
        Ok(status) => status.into(),
        Err(error) => {
            let text = vmm::chain::text(error.as_ref());
            // Nothing is left to do if even this cannot be written.
            drop(writeln!(io::stderr(), "thimble: {text}"));
            ExitStatus::Failed.into()
        }
    }
}

/// Prints what clap says: an error, or a text that was asked for.
fn refused(refusal: &clap::Error) -> ExitStatus {
    // Nothing is left to do if even this cannot be written.
    drop(refusal.print());
    if refusal.use_stderr() {
        ExitStatus::Usage
    } else {
        ExitStatus::Clean
    }
}

fn qmp(args: &QmpArgs) -> Result<ExitStatus, Failure> {
    let (mut out, mut errors) = (io::stdout().lock(), io::stderr().lock());
    let outcome = match &args.command {
        Some(command) => {
            let arguments = args
                .arguments
                .as_ref()
                .map(serde_json::to_string)
                .transpose()?;
            let arguments = arguments.as_deref();
            qmp_tool::run_command(&args.socket, command, arguments, &mut out, &mut errors)
        }
        None => qmp_tool::run_lines(&args.socket, io::stdin().as_fd(), &mut out, &mut errors),
    };
    match outcome {
        Ok(qmp_tool::Outcome::Done) => Ok(ExitStatus::Clean),
        Ok(qmp_tool::Outcome::Failed) => Ok(ExitStatus::Failed),
        Ok(qmp_tool::Outcome::Usage) => Ok(ExitStatus::Usage),
        Err(error) => written(Err(error)),
    }
}

fn check(json: bool) -> Result<ExitStatus, Failure> {
    let mut out = io::stdout().lock();
    let colour = out.is_terminal();
    match vmm::host_check::run(json, colour, &mut out) {
        Ok(true) => Ok(ExitStatus::Clean),
        Ok(false) => Ok(ExitStatus::Failed),
        Err(error) => written(Err(error)),
    }
}

/// What became of text for standard output, as an exit status.
fn written(result: io::Result<()>) -> Result<ExitStatus, Failure> {
    Ok(vmm::run::printed(result).map(|()| ExitStatus::Clean)?)
}
