//! Other people's QMP clients drive a running guest: Python's `qemu.qmp`, which `cargo xtask test`
//! installs and names in `THIMBLE_QMP_PYTHON`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::guest::{Guest, Launch, status};
use harness::skip;
use serde_json::Value;

use crate::boot::PROMPT;

/// A session of `QMPClient`: stops, asks, goes on, and hears both events.
const SESSION: &str = r#"
import asyncio, sys
from qemu.qmp import QMPClient

async def main():
    client = QMPClient("test")
    await client.connect(sys.argv[1])
    with client.listener(("STOP", "RESUME")) as listener:
        await client.execute("stop")
        assert (await listener.get())["event"] == "STOP"
        assert (await client.execute("query-status"))["status"] == "paused"
        await client.execute("cont")
        assert (await listener.get())["event"] == "RESUME"
    try:
        await client.execute("no-such-command")
    except Exception as error:
        print(type(error).__name__)
    await client.disconnect()
    print("done")

asyncio.run(asyncio.wait_for(main(), 60))
"#;

/// The Python with the client, or a note that there is none.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("THIMBLE_QMP_PYTHON").map(PathBuf::from);
    if python.is_none() {
        skip::note("no THIMBLE_QMP_PYTHON; `cargo xtask test` makes one");
    }
    python
}

#[track_caller]
fn ready() -> Guest {
    let mut guest = Launch::new().control().start();
    guest.expect(PROMPT);
    // The socket answers.
    drop(guest.client());
    guest
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let Ok(output) = command.stdin(Stdio::null()).output() else {
        panic!("{command:?}")
    };
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}",
        output.status
    );
    text
}

#[test]
fn qmp_client_holds_a_session() {
    if skip::without_kvm() {
        return;
    }
    let Some(python) = python() else { return };
    let mut guest = ready();
    let said = run(Command::new(python)
        .args(["-c", SESSION])
        .arg(guest.path("control.sock")));
    assert_eq!(said, "ExecuteError\ndone\n");
    guest.client().execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn qmp_shell_runs_commands() {
    use std::io::Write;
    if skip::without_kvm() {
        return;
    }
    let Some(python) = python() else { return };
    let shell = python.with_file_name("qmp-shell");
    if !shell.is_file() {
        skip::note(&format!("no {}", shell.display()));
        return;
    }
    let mut guest = ready();
    let mut child = Command::new(shell)
        .arg(guest.path("control.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"query-name\nquery-status\nquit\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("\"running\""),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    guest.expect_exit(status::CLEAN);
}
