//! One QEMU process, and what can be done with it. Every option in [`Machine::command_line`] is
//! measured; docs/testing.md has the figures.

use std::io;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tempfile::TempDir;

use super::channel::{Channel, Reply};
use super::media::{self, Media};
use crate::built;
use crate::wait::{self, Deadline};

/// Memory of a machine in MiB. Lazily taken from the host.
const MEMORY: &str = "3072";

/// The outer kernel's command line. `nohz=off highres=off` keeps a periodic tick, without which
/// the one CPU was once seen to sleep for ever. `no_timer_check` keeps the kernel from panicking
/// because QEMU did not get a core for the time of ten ticks.
const APPEND: &str = "console=ttyS0 mitigations=off nokaslr quiet nohz=off highres=off \
                      no_timer_check reboot=t panic=-1";

/// A booted machine.
pub struct Machine {
    channel: Channel,
    monitor: UnixStream,
    console: PathBuf,
    child: Child,
    scripts: u64,
}

impl Machine {
    /// Boots one and waits until it takes commands.
    ///
    /// # Panics
    /// If it does not within `limit`, with its console.
    #[must_use]
    #[track_caller]
    pub fn boot(limit: Duration) -> Self {
        match Self::try_boot(limit) {
            Ok(machine) => machine,
            Err(error) => panic!("testbed: {error}"),
        }
    }

    fn try_boot(limit: Duration) -> io::Result<Self> {
        let place = built::target_dir().join("testbed");
        std::fs::create_dir_all(&place)?;
        let directory = tempfile::Builder::new()
            .prefix("media-")
            .tempdir_in(&place)?;
        let media = media::build(directory.path())?;
        // Below the system's directory, because the name of a socket is short by nature.
        let sockets = tempfile::Builder::new().prefix("testbed-").tempdir()?;
        let port = UnixListener::bind(sockets.path().join("port"))?;
        let control = UnixListener::bind(sockets.path().join("monitor"))?;
        forget_old_consoles(&place)?;
        let (_, console) = tempfile::Builder::new()
            .prefix("console-")
            .suffix(".log")
            .tempfile_in(&place)?
            .keep()
            .map_err(io::Error::other)?;

        let deadline = Deadline::after(limit);
        let mut child = spawn(Self::command_line(&media, &sockets, &console))?;
        let exit = wait::exit_of(&child)?;
        let connected = accept(&port, &exit, deadline)
            .and_then(|port| Ok((port, accept(&control, &exit, deadline)?)));
        let (port, monitor) = match connected {
            Ok(both) => both,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = wait::log_text(&console.with_extension("stderr"));
                return Err(io::Error::other(format!("QEMU: {error}\n{said}")));
            }
        };
        let mut machine = Self {
            channel: Channel::new(port),
            monitor,
            console,
            child,
            scripts: 0,
        };
        if let Err(error) = machine.channel.wait_ready(deadline) {
            return Err(io::Error::other(machine.autopsy("booting", &error)));
        }
        // The images go with their directory now; QEMU has them open.
        Ok(machine)
    }

    fn command_line(media: &Media, sockets: &TempDir, console: &Path) -> Command {
        // QEMU goes when this program does, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        // ERMS and FSRM nearly double the time of everything: TCG is slow at `rep movsb`.
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,erms=off,fsrm=off,la57=off",
        ]);
        // Never more than one CPU: TCG's cross-CPU code patching kills kernels now and then.
        command.args(["-smp", "1", "-m", MEMORY, "-M", "q35"]);
        command
            .arg("-kernel")
            .arg(&media.kernel)
            .arg("-initrd")
            .arg(&media.initramfs);
        command.args(["-append", APPEND]);
        command.args([
            "-chardev",
            &format!("file,id=console,path={}", console.display()),
        ]);
        command.args(["-serial", "chardev:console"]);
        for (id, name) in [("commands", "port"), ("monitor", "monitor")] {
            let path = sockets.path().join(name);
            command.args([
                "-chardev",
                &format!("socket,id={id},path={}", path.display()),
            ]);
        }
        command.args([
            "-mon",
            "chardev=monitor,mode=readline",
            "-device",
            "virtio-serial-pci",
        ]);
        command.args(["-device", "virtserialport,chardev=commands,name=commands"]);
        for (id, image, options) in [
            ("disk", &media.disk, ",readonly=on"),
            ("scratch", &media.scratch, ",cache=unsafe"),
        ] {
            let file = image.display();
            command.args([
                "-drive",
                &format!("if=none,id={id},format=raw,file={file}{options}"),
            ]);
            command.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
        }
        let log = std::fs::File::create(console.with_extension("stderr"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        command
    }

    /// Runs a shell script inside.
    ///
    /// # Panics
    /// If it does not end within `limit`, with the console and the registers.
    #[track_caller]
    pub fn run(&mut self, script: &str, limit: Duration) -> Reply {
        self.scripts += 1;
        let path = format!("/tmp/script-{}", self.scripts);
        self.put(&path, script.as_bytes());
        let deadline = Deadline::after(limit);
        match self.channel.command(&format!("sh {path}"), deadline) {
            Ok(reply) => reply,
            Err(error) => panic!("testbed: {}", self.autopsy(script, &error)),
        }
    }

    /// Writes a file inside. About 3 MB a second.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn put(&mut self, path: &str, content: &[u8]) {
        match self
            .channel
            .put(path, content, Deadline::after(super::READY_LIMIT))
        {
            Ok(reply) => assert_eq!(reply.status, 0, "testbed: {path}: {}", reply.text()),
            Err(error) => panic!("testbed: {}", self.autopsy(path, &error)),
        }
    }

    /// Reads a file inside.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Vec<u8> {
        let line = format!("cat '{path}'");
        match self
            .channel
            .command(&line, Deadline::after(super::READY_LIMIT))
        {
            Ok(reply) if reply.status == 0 => reply.output,
            Ok(reply) => panic!("testbed: {path}: {}", reply.text()),
            Err(error) => panic!("testbed: {}", self.autopsy(path, &error)),
        }
    }

    /// What can be known of a machine that does not answer.
    fn autopsy(&mut self, doing: &str, error: &io::Error) -> String {
        let registers = self
            .registers()
            .unwrap_or_else(|error| format!("(monitor: {error})"));
        format!(
            "{error}\n---- doing\n{doing}\n---- so far\n{}\n---- console {}\n{}\n\
             ---- registers\n{registers}",
            self.channel.unanswered(),
            self.console.display(),
            wait::log_text(&self.console),
        )
    }

    /// `info registers -a`, by QEMU's monitor.
    fn registers(&mut self) -> io::Result<String> {
        const PROMPT: &[u8] = b"(qemu) ";
        let deadline = Deadline::after(Duration::from_secs(10));
        self.monitor.write_all(b"info registers -a\n")?;
        let mut said = Vec::new();
        // The prompt of the start, and the one after the answer.
        while said
            .windows(PROMPT.len())
            .filter(|part| *part == PROMPT)
            .count()
            < 2
        {
            match wait::readable([self.monitor.as_fd()], deadline)? {
                [true] if wait::read_some(&self.monitor, &mut said)? => {}
                _ => break,
            }
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.console);
            let _ = std::fs::remove_file(self.console.with_extension("stderr"));
        }
    }
}

/// Removes what earlier runs left: a machine that lives as long as its program has no drop.
fn forget_old_consoles(place: &Path) -> io::Result<()> {
    const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let age = std::fs::metadata(&path)
            .and_then(|file| file.modified())
            .map(|at| at.elapsed());
        if name.starts_with("console-") && matches!(age, Ok(Ok(age)) if age > KEPT) {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Takes QEMU's connection; fails if QEMU ends first.
fn accept(listener: &UnixListener, exit: &OwnedFd, deadline: Deadline) -> io::Result<UnixStream> {
    match wait::readable([listener.as_fd(), exit.as_fd()], deadline)? {
        [true, _] => Ok(listener.accept()?.0),
        [false, true] => Err(io::Error::other("it ended at once")),
        [false, false] => Err(io::ErrorKind::TimedOut.into()),
    }
}

type Request = (Command, Sender<io::Result<Child>>);

/// Starts a process from a thread that ends only with this program. "Parent" in "kill me when my
/// parent dies" is the thread that forked, and the threads of tests come and go.
fn spawn(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Sender<Request>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let (answer, outcome) = channel();
    keeper.send((command, answer)).map_err(io::Error::other)?;
    outcome.recv().map_err(io::Error::other)?
}
