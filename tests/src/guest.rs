//! A guest under test on this machine's KVM: one `thimble run`, its serial console on our pipes.
//!
//! A [`Guest`] that goes out of scope takes its process along. If that happens because its test
//! fails, everything it said is printed, and kept in its directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tempfile::TempDir;

use crate::built;
use crate::control::{Client, chain};
use crate::wait::{self, Deadline};

/// How long any single thing may take. A guest on software-assisted KVM is a hundred times slower
/// than on hardware, and the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The exit statuses that the launcher promises.
pub mod status {
    /// The guest ended cleanly.
    pub const CLEAN: i32 = 0;
    /// The launcher failed.
    pub const FAILED: i32 = 1;
    /// The command line or configuration was refused.
    pub const USAGE: i32 = 2;
    /// The guest crashed.
    pub const CRASHED: i32 = 3;
}

/// A `thimble run` in the making. With nothing added it is the built-in guest.
pub struct Launch {
    command: Command,
    directory: TempDir,
    control: Option<PathBuf>,
}

impl Launch {
    /// `thimble run`, and a directory for what belongs to it.
    ///
    /// # Panics
    /// If there is no launcher or no place for a directory.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::under(&[])
    }

    /// The same, started by another program, which must become it: `setpriv --reuid 65534`.
    ///
    /// # Panics
    /// As [`Launch::new`].
    #[must_use]
    #[track_caller]
    pub fn under(wrapper: &[&str]) -> Self {
        // /tmp may be a tmpfs, and images are opened with O_DIRECT. Deep in the target directory,
        // paths would be too long for sockets.
        let mut builder = tempfile::Builder::new();
        builder.prefix("thimble-test-");
        let directory = match builder
            .tempdir_in("/var/tmp")
            .or_else(|_| builder.tempdir())
        {
            Ok(directory) => directory,
            Err(error) => panic!("a directory for a guest: {error}"),
        };
        let mut line = wrapper.iter().map(OsString::from).collect::<Vec<_>>();
        line.extend([built::thimble().into_os_string(), "run".into()]);
        let mut command = Command::new(line.remove(0));
        command.args(line).current_dir(directory.path());
        Self {
            command,
            directory,
            control: None,
        }
    }

    /// Boots one of [`crate::guests`].
    #[must_use]
    pub fn kernel(self, image: impl AsRef<Path>, cmdline: &str) -> Self {
        let with_kernel = self.arg("--kernel").arg(image.as_ref());
        if cmdline.is_empty() {
            return with_kernel;
        }
        with_kernel.args(["--cmdline", cmdline])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Adds a control socket, for [`Guest::client`].
    #[must_use]
    pub fn control(mut self) -> Self {
        let path = self.path("control.sock");
        self.command.arg("--control").arg(&path);
        self.control = Some(path);
        self
    }

    /// Adds a disk of `size` zero bytes, none of which take up space, and names its file.
    ///
    /// # Panics
    /// If the file cannot be made.
    #[must_use]
    #[track_caller]
    pub fn empty_disk(self, name: &str, size: u64, options: &str) -> Self {
        let launch = self.disk(name, &[], options);
        let path = launch.path(name);
        let grown = File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size));
        if let Err(error) = grown {
            panic!("{}: {error}", path.display());
        }
        launch
    }

    /// Adds a disk of `content` and names its file.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    #[track_caller]
    pub fn disk(mut self, name: &str, content: &[u8], options: &str) -> Self {
        let path = self.path(name);
        if let Err(error) = std::fs::write(&path, content) {
            panic!("{}: {error}", path.display());
        }
        self.command
            .arg("--disk")
            .arg(format!("path={}{options}", path.display()));
        self
    }

    /// A path in the guest's directory, which is also its working directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts it, its console on pipes.
    ///
    /// # Panics
    /// If it cannot be started at all; how it fares after that is for the test to ask.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Guest {
        self.start_on(Stdio::piped(), Stdio::piped())
    }

    /// Starts it with its standard input and output somewhere else.
    ///
    /// # Panics
    /// As [`Launch::start`].
    #[must_use]
    #[track_caller]
    pub fn start_on(mut self, stdin: Stdio, stdout: Stdio) -> Guest {
        let log = self.path("stderr.log");
        let stderr = match File::create(&log) {
            Ok(file) => file,
            Err(error) => panic!("{}: {error}", log.display()),
        };
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{:?}: {error}", self.command),
        };
        let exit = match wait::exit_of(&child) {
            Ok(exit) => exit,
            Err(error) => panic!("pidfd of {:?}: {error}", self.command),
        };
        let line = format!("{:?}", self.command);
        // Descriptors given for standard streams are closed here, so that their other ends see
        // the process's own end.
        drop(self.command);
        Guest {
            line,
            stdin: child.stdin.take().map(OwnedFd::from).map(File::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            child,
            exit,
            directory: Some(self.directory),
            control: self.control,
            log,
            console: Vec::new(),
            seen: 0,
        }
    }
}

impl Default for Launch {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

/// A started guest.
pub struct Guest {
    line: String,
    child: Child,
    exit: OwnedFd,
    stdin: Option<File>,
    stdout: Option<OwnedFd>,
    directory: Option<TempDir>,
    control: Option<PathBuf>,
    log: PathBuf,
    console: Vec<u8>,
    /// How much of the console earlier [`Guest::expect`]s have used up.
    seen: usize,
}

impl Guest {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal.
    ///
    /// # Panics
    /// If that is not possible.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.exit, signal) {
            panic!("{signal:?}: {error}");
        }
    }

    /// A path in the guest's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory
            .as_ref()
            .map_or_else(|| PathBuf::from(name), |own| own.path().join(name))
    }

    /// Waits for `text` on the console, after what the last call found, and returns everything
    /// before it since then.
    ///
    /// # Panics
    /// If the console ends, or stays silent for [`LIMIT`], without it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Deadline::after(LIMIT);
        loop {
            let unseen = self.console.get(self.seen..).unwrap_or_default();
            if let Some(at) = unseen
                .windows(text.len())
                .position(|part| part == text.as_bytes())
            {
                let before = String::from_utf8_lossy(unseen.get(..at).unwrap_or_default());
                self.seen += at + text.len();
                return before.into_owned();
            }
            if !self.read_console(deadline) {
                panic!("the console did not say {text:?}");
            }
        }
    }

    /// Types a line at the console.
    ///
    /// # Panics
    /// If the launcher has closed its side.
    #[track_caller]
    pub fn type_line(&mut self, text: &str) {
        self.type_bytes(format!("{text}\n").as_bytes());
    }

    /// Types bytes as they are.
    ///
    /// # Panics
    /// If the launcher has closed its side.
    #[track_caller]
    pub fn type_bytes(&mut self, bytes: &[u8]) {
        let written = self.stdin.as_mut().map(|stdin| stdin.write_all(bytes));
        match written {
            Some(Ok(())) => {}
            Some(Err(error)) => panic!("typing {bytes:?}: {error}"),
            None => panic!("typing {bytes:?}: the console was hung up"),
        }
    }

    /// Has the console somewhere else from now on: at a terminal's or socket's other end. What was
    /// read so far is forgotten.
    ///
    /// # Panics
    /// If this process is out of descriptors.
    #[track_caller]
    pub fn attach(&mut self, console: OwnedFd) {
        match console.try_clone() {
            Ok(copy) => self.stdin = Some(File::from(copy)),
            Err(error) => panic!("a copy of the console: {error}"),
        }
        self.stdout = Some(console);
        self.console.clear();
        self.seen = 0;
    }

    /// Closes the console altogether, as whoever read it does by going away.
    pub fn detach(&mut self) {
        self.stdin = None;
        self.stdout = None;
    }

    /// Closes the console's input, as a terminal that goes away does.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// A new session on the control socket, past its negotiation.
    ///
    /// # Panics
    /// If the socket does not answer, or [`Launch::control`] was not called.
    #[must_use]
    #[track_caller]
    pub fn client(&mut self) -> Client {
        let Some(path) = self.control.clone() else {
            panic!("this guest has no control socket")
        };
        let deadline = Deadline::after(LIMIT);
        // Nothing announces a socket. What is waited on meanwhile is the one thing that means it
        // will not come: the end of the process.
        let pause = Duration::from_millis(2);
        loop {
            let error = match Client::connect(&path, LIMIT) {
                Ok(client) => return client,
                Err(error) => error,
            };
            let ended = wait::readable([self.exit.as_fd()], Deadline::after(pause));
            if !matches!(ended, Ok([false])) || deadline.left().is_zero() {
                panic!("control socket {}: {}", path.display(), chain(&error));
            }
        }
    }

    /// Waits for the end of the process with exit status `code`, and returns the whole console.
    ///
    /// # Panics
    /// If it does not end within [`LIMIT`], or ends otherwise.
    #[track_caller]
    pub fn expect_exit(&mut self, code: i32) -> String {
        let status = self.wait();
        assert_eq!(
            status.code(),
            Some(code),
            "how the launcher ended ({status})"
        );
        String::from_utf8_lossy(&self.console).into_owned()
    }

    /// Waits for the end of the process, however it comes.
    ///
    /// # Panics
    /// If it does not end within [`LIMIT`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Deadline::after(LIMIT);
        while self.read_console(deadline) {}
        match wait::readable([self.exit.as_fd()], deadline) {
            Ok([true]) => {}
            Ok([false]) => panic!("the launcher did not end"),
            Err(error) => panic!("waiting for the launcher: {error}"),
        }
        match self.child.wait() {
            Ok(status) => status,
            Err(error) => panic!("waiting for the launcher: {error}"),
        }
    }

    /// Waits until the launcher has said `text` on its standard error.
    ///
    /// # Panics
    /// If it ends, or [`LIMIT`] passes, without it.
    #[track_caller]
    pub fn expect_stderr(&mut self, text: &str) -> String {
        let deadline = Deadline::after(LIMIT);
        // Nothing announces a line in a file. What is waited on meanwhile is the one thing after
        // which there will be none: the end of the process.
        let pause = Duration::from_millis(2);
        loop {
            let ended = wait::readable([self.exit.as_fd()], Deadline::after(pause));
            let said = self.stderr();
            if said.contains(text) {
                return said;
            }
            if !matches!(ended, Ok([false])) || deadline.left().is_zero() {
                panic!("standard error does not say {text:?}");
            }
        }
    }

    /// What the launcher itself said so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        wait::log_text(&self.log)
    }

    /// Reads some of the console. `false` if there is no more to come, now or by the deadline.
    fn read_console(&mut self, deadline: Deadline) -> bool {
        let Some(stdout) = &self.stdout else {
            return false;
        };
        match wait::readable([stdout.as_fd()], deadline) {
            Ok([true]) => {}
            Ok([false]) => return false,
            Err(error) => panic!("the console: {error}"),
        }
        let more = match wait::read_some(stdout, &mut self.console) {
            Ok(more) => more,
            // A terminal's last user has gone.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => false,
            Err(error) => panic!("the console: {error}"),
        };
        if !more {
            self.stdout = None;
        }
        more
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.child.try_wait();
            let _ = self.child.kill();
            let directory = self.directory.take().map(TempDir::keep);
            let mut console = std::mem::take(&mut self.console);
            if let Some(stdout) = self.stdout.take() {
                let deadline = Deadline::after(Duration::from_secs(1));
                while matches!(wait::readable([stdout.as_fd()], deadline), Ok([true]))
                    && matches!(wait::read_some(&stdout, &mut console), Ok(true))
                {}
            }
            let kept = directory.as_deref().map(Path::display);
            let text = String::from_utf8_lossy(&console);
            let _ = kept.map(|at| std::fs::write(format!("{at}/console.log"), &console));
            report(
                &self.line,
                &format!("{status:?}"),
                &text,
                &wait::log_text(&self.log),
            );
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Prints what a failed guest left, where libtest shows it with the failure.
#[expect(
    clippy::print_stderr,
    reason = "libtest captures it and shows it for failed tests only"
)]
fn report(line: &str, status: &str, console: &str, log: &str) {
    eprintln!("---- guest {line}\nstatus before it was killed: {status}");
    eprintln!("---- console\n{console}\n---- stderr\n{log}\n----");
}
