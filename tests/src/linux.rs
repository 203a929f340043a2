//! Booting one of the Debian guests on a [`Host`], with a command to run inside.

use crate::host::Host;

/// What the guest's first program prints once user space is there.
pub const UP: &str = "THIMBLE-GUEST-UP";
/// What it prints when the power button was pressed.
pub const BUTTON: &str = "THIMBLE-GUEST-BUTTON";

/// A boot in the making. Nothing but what is set here differs between tests.
pub struct Boot {
    kernel: String,
    initramfs: String,
    memory: &'static str,
    cpus: u32,
    on_reboot: &'static str,
    arguments: String,
    /// Texts on the console and what the host does at each; see [`Boot::when`].
    reactions: Vec<(String, String)>,
    /// Whether a control client is there from before the guest's first instruction.
    events: bool,
    command: String,
}

/// How a guest's life went.
pub struct Life {
    /// The launcher's stdout and stderr: the console, and whatever it said itself.
    pub console: String,
    /// The launcher's exit status.
    pub status: i32,
}

impl Boot {
    /// A guest of `series` (`6.1` or `6.12`) from `image` (`bzImage` or `vmlinux`), with one CPU
    /// and 256 MiB, that runs `command` by sh and powers off. A reboot ends it, so that a kernel
    /// that panics does not come back for ever.
    #[must_use]
    pub fn new(host: &Host, series: &str, image: &str, command: &str) -> Self {
        Self {
            kernel: host.guest_file(&format!("{series}/{image}")),
            initramfs: host.guest_file(&format!("{series}/initramfs")),
            memory: "256M",
            cpus: 1,
            on_reboot: "shutdown",
            arguments: String::new(),
            reactions: Vec::new(),
            events: false,
            command: command.to_owned(),
        }
    }

    /// Another kernel, by its path on the host.
    #[must_use]
    pub fn kernel(mut self, path: &str) -> Self {
        path.clone_into(&mut self.kernel);
        self
    }

    /// The size of memory, as the command line takes it.
    #[must_use]
    pub fn memory(mut self, size: &'static str) -> Self {
        self.memory = size;
        self
    }

    /// The number of CPUs.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// What a reboot does: `reset` or `shutdown`.
    #[must_use]
    pub fn on_reboot(mut self, action: &'static str) -> Self {
        self.on_reboot = action;
        self
    }

    /// Further arguments, as a shell takes them.
    #[must_use]
    pub fn arguments(mut self, words: &str) -> Self {
        self.arguments.push(' ');
        self.arguments.push_str(words);
        self
    }

    /// A shell command for the host to run when a line of the console has `text` in it: [`UP`]
    /// for one. The control socket is `$PWD/control.sock` and the launcher `$thimble`.
    #[must_use]
    pub fn when(mut self, text: &str, command: &str) -> Self {
        self.reactions.push((text.to_owned(), command.to_owned()));
        self
    }

    /// Prints after the console every event that the control socket told, one JSON object per line.
    #[must_use]
    pub fn events(mut self) -> Self {
        self.events = true;
        self
    }

    /// Boots it and waits for its end.
    ///
    /// # Panics
    /// If the host gives up on it.
    #[must_use]
    #[track_caller]
    pub fn run(&self, host: &mut Host) -> Life {
        host.put("command", self.command.as_bytes());
        let reply = host.run(&self.script(&host.thimble()));
        Life {
            console: reply.text().replace('\r', ""),
            status: reply.status,
        }
    }

    fn script(&self, thimble: &str) -> String {
        let Self {
            kernel,
            initramfs,
            memory,
            cpus,
            on_reboot,
            arguments,
            reactions,
            events,
            command: _,
        } = self;
        let run = format!(
            "$thimble run --kernel {kernel} --initrd {initramfs} --memory {memory} \
             --cpus {cpus} --on-reboot {on_reboot} --control $PWD/control.sock \
             --cmdline \"console=ttyS0 panic=-1 thimble.cmd=$(base64 -w 0 command)\"{arguments}"
        );
        let setup = format!("thimble={thimble}\n");
        if reactions.is_empty() && !events {
            return format!("{setup}{run}\n");
        }
        let (run, session, finish) = if *events {
            (format!("{run} --paused"), SESSION, FINISH)
        } else {
            (run, "", "wait $launcher\n")
        };
        let cases: String = reactions
            .iter()
            .map(|(text, act)| format!("  *'{text}'*) {act} ;;\n"))
            .collect();
        // The console goes through a pipe with a name, so that its lines wake us.
        format!(
            "{setup}mkfifo console\n{run} > console 2>&1 &\nlauncher=$!\n{session}\
             while IFS= read -r line; do\n  printf '%s\\n' \"$line\"\n  case \"$line\" in\n\
             {cases}  esac\ndone < console\n{finish}"
        )
    }
}

/// A control client that starts the guest and writes down events until the launcher hangs up.
/// Descriptor 8 keeps its input open.
const SESSION: &str = "mkfifo session
exec 8<> session
(
    until [ -S control.sock ]; do sleep 0.05; done
    echo cont >&8
    exec $thimble qmp $PWD/control.sock <&8 > events
) &
session=$!
";

/// Waits for both. A client that has not begun never will.
const FINISH: &str = "wait $launcher
status=$?
[ -e events ] || kill $session
wait $session
cat events
exit $status
";

impl Life {
    /// Wants the guest to have reached user space and ended cleanly.
    ///
    /// # Panics
    /// If it did not, with the console.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(
            self.console.contains(UP),
            "no user space:\n{}",
            self.console
        );
        assert_eq!(self.status, 0, "exit status:\n{}", self.console);
    }

    /// Wants `text` to have been said.
    ///
    /// # Panics
    /// If it was not, with the console.
    #[track_caller]
    pub fn assert_said(&self, text: &str) {
        assert!(
            self.console.contains(text),
            "not said: {text:?}\n{}",
            self.console
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_acts_when_the_guest_is_up() {
        let boot = Boot {
            kernel: "k".into(),
            initramfs: "i".into(),
            memory: "64M",
            cpus: 2,
            on_reboot: "reset",
            arguments: " --rng".into(),
            reactions: Vec::new(),
            events: false,
            command: "true".into(),
        };
        let plain = boot.script("/t");
        assert!(plain.contains("--cpus 2 --on-reboot reset"), "{plain}");
        assert!(plain.ends_with("command)\" --rng\n"), "{plain}");
        let acting = boot.when(UP, "press").script("/t");
        assert!(
            acting.contains("*'THIMBLE-GUEST-UP'*) press ;;"),
            "{acting}"
        );
    }
}
