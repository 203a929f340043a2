//! `human-monitor-command`: the lines of QEMU's human monitor that have something to say here.
//!
//! A line that is wrong is a success whose text says so. Lines end with CR LF, as clients that
//! split the text expect.

use std::fmt::Write;

use api_socket::qmp::session::version_info;
use api_socket::qmp::types::{
    BlockStats, HumanMonitorCommandArguments, QueryBlockstatsArguments, RunState, ShutdownCause,
};

use super::{block, chardev, cpu, info, net, run_state};
use crate::arch::x86_64::dump_registers;
use crate::holding::Needs;
use crate::lifecycle::{Input, runs};
use crate::main_loop::MainLoop;

/// Longest line, in bytes.
const MAX_LINE: usize = 4096;

/// Appends a line. Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($arg:tt)*) => {{
        let _ = write!($text, $($arg)*);
        $text.push_str("\r\n");
    }};
}

/// A topic of `info`: its name, its help, and what it says.
type Topic = (
    &'static str,
    &'static str,
    fn(&mut MainLoop, Option<i64>) -> String,
);

const TOPICS: [Topic; 13] = [
    ("block", "show the block devices", |main, _| {
        block_text(main)
    }),
    ("blockstats", "show block device statistics", |main, _| {
        blockstats_text(main)
    }),
    ("chardev", "show the character devices", |main, _| {
        chardev_text(main)
    }),
    ("cpus", "show infos for each CPU", |main, _| cpus_text(main)),
    ("kvm", "show KVM information", |_, _| {
        "kvm support: enabled\r\n".to_owned()
    }),
    ("mtree", "show memory tree", |main, _| mtree_text(main)),
    ("name", "show the current VM name", |main, _| {
        name_text(main)
    }),
    ("network", "show the network state", |main, _| {
        let mut text = String::new();
        for line in net::lines(main) {
            line!(text, "{line}");
        }
        text
    }),
    ("qtree", "show device tree", |main, _| qtree_text(main)),
    (
        "registers",
        "show the cpu registers (-a: of all cpus; a number: of that one)",
        |main, cpu_index| registers_text(main, Some(cpu_index.unwrap_or(0))),
    ),
    ("status", "show the current VM status", |main, _| {
        status_text(main)
    }),
    ("uuid", "show the current VM UUID", |main, _| {
        format!("{}\r\n", info::uuid(main).uuid)
    }),
    ("version", "show the version", |_, _| version_text()),
];

const COMMANDS: [(&str, &str); 8] = [
    ("help|? [cmd]", "show the help"),
    (
        "info [subcommand]",
        "show various information about the system state",
    ),
    ("stop|s", "stop emulation"),
    ("cont|c", "resume emulation"),
    ("system_reset", "reset the system"),
    ("system_powerdown", "send system power down event"),
    ("nmi", "inject an NMI"),
    ("quit|q", "quit"),
];

/// What a line needs before it can be carried out.
pub(super) fn needs(arguments: &HumanMonitorCommandArguments) -> Needs {
    let line = arguments.command_line.as_str();
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next()) {
        _ if line.len() > MAX_LINE => Needs::Nothing,
        // As `run` has it: to be about to end, and then not to, would be worse than a wrong word.
        (Some("quit" | "q"), None) => Needs::HeldToEnd,
        (Some("stop" | "s" | "system_reset" | "nmi"), None) | (Some("info"), Some("registers")) => {
            Needs::Held
        }
        _ => Needs::Nothing,
    }
}

pub(super) fn run(main: &mut MainLoop, arguments: &HumanMonitorCommandArguments) -> String {
    let line = arguments.command_line.as_str();
    if line.len() > MAX_LINE {
        return format!("the line is longer than {MAX_LINE} bytes\r\n");
    }
    let mut words = line.split_ascii_whitespace();
    let Some(command) = words.next() else {
        return String::new();
    };
    match (command, words.next(), words.next()) {
        ("help" | "?", None, _) => help(),
        ("help" | "?", Some("info"), _) | ("info", None, _) => info_help(),
        ("info", Some("registers"), Some(which)) => registers_of(main, which),
        ("info", Some(topic), None) => match TOPICS.iter().find(|(name, ..)| *name == topic) {
            Some((_, _, text)) => text(main, arguments.cpu_index),
            None => format!("unknown command: 'info {topic}'\r\n"),
        },
        ("info", Some(_), Some(_)) => {
            format!("{command}: extraneous characters at the end of line\r\n")
        }
        ("stop" | "s", None, _) => act(main, Input::Stop),
        ("cont" | "c", None, _) => act(main, Input::Cont),
        ("system_reset", None, _) => act(main, Input::SystemReset),
        ("system_powerdown", None, _) => act(main, Input::SystemPowerdown),
        ("quit" | "q", None, _) => act(main, Input::Quit(ShutdownCause::HostQmpQuit)),
        ("nmi", None, _) => match run_state::inject_nmi(main) {
            Ok(()) => String::new(),
            Err(error) => format!("Error: {error}\r\n"),
        },
        _ => format!("unknown command: '{command}'\r\n"),
    }
}

fn act(main: &mut MainLoop, input: Input) -> String {
    match main.input(input) {
        Ok(()) => String::new(),
        Err(denied) => format!("Error: {denied}\r\n"),
    }
}

fn help() -> String {
    let mut text = String::new();
    for (usage, what) in COMMANDS {
        line!(text, "{usage} -- {what}");
    }
    text
}

fn info_help() -> String {
    let mut text = String::new();
    for (name, what, _) in &TOPICS {
        line!(text, "info {name}  -- {what}");
    }
    text
}

fn status_text(main: &MainLoop) -> String {
    let state = if runs(main.state) {
        "running"
    } else {
        "paused"
    };
    // The state's name on the wire says more than "paused", unless it is that.
    let detail = match main.state {
        RunState::Running | RunState::Paused => String::new(),
        other => serde_json::to_value(other)
            .ok()
            .and_then(|name| name.as_str().map(|name| format!(" ({name})")))
            .unwrap_or_default(),
    };
    format!("VM status: {state}{detail}\r\n")
}

fn version_text() -> String {
    let version = version_info();
    let triple = version.qemu;
    format!(
        "{}.{}.{} {}\r\n",
        triple.major, triple.minor, triple.micro, version.package
    )
}

fn name_text(main: &MainLoop) -> String {
    info::name(main)
        .name
        .map_or_else(String::new, |name| format!("{name}\r\n"))
}

fn cpus_text(main: &MainLoop) -> String {
    let mut text = String::new();
    for cpu in cpu::cpus(main) {
        let mark = if cpu.cpu_index == 0 { '*' } else { ' ' };
        line!(
            text,
            "{mark} CPU #{}: thread_id={}",
            cpu.cpu_index,
            cpu.thread_id
        );
    }
    text
}

fn chardev_text(main: &MainLoop) -> String {
    let mut text = String::new();
    for chardev in chardev::query(main) {
        line!(text, "{}: filename={}", chardev.label, chardev.filename);
    }
    text
}

fn block_text(main: &MainLoop) -> String {
    let mut text = String::new();
    for disk in block::query(main) {
        let Some(node) = disk.inserted else { continue };
        let read_only = if node.ro { ", read-only" } else { "" };
        let id = node.node_name.unwrap_or_default();
        line!(text, "{id}: {} ({}{read_only})", node.file, node.drv);
        line!(
            text,
            "    Attached to:      {}",
            disk.qdev.unwrap_or_default()
        );
        let direct = if node.cache.direct { ", direct" } else { "" };
        let ignore = if node.cache.no_flush {
            ", ignore flushes"
        } else {
            ""
        };
        let mode = if node.cache.writeback {
            "writeback"
        } else {
            "writethrough"
        };
        line!(text, "    Cache mode:       {mode}{direct}{ignore}");
    }
    text
}

fn blockstats_text(main: &MainLoop) -> String {
    let mut text = String::new();
    for BlockStats {
        node_name, stats, ..
    } in block::stats(main, &QueryBlockstatsArguments::default())
    {
        line!(
            text,
            "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} \
             wr_total_time_ns={} rd_total_time_ns={} flush_total_time_ns={}",
            node_name.unwrap_or_default(),
            stats.rd_bytes,
            stats.wr_bytes,
            stats.rd_operations,
            stats.wr_operations,
            stats.flush_operations,
            stats.wr_total_time_ns,
            stats.rd_total_time_ns,
            stats.flush_total_time_ns
        );
    }
    text
}

fn mtree_text(main: &MainLoop) -> String {
    let mut text = String::new();
    line!(text, "address-space: memory");
    for part in firmware::layout::ram_regions(main.machine.ram.size()) {
        line!(
            text,
            "  {:016x}-{:016x} (prio 0, ram): ram",
            part.start,
            part.start + part.len - 1
        );
    }
    for (first, last, name) in main.machine.buses.mmio.ranges() {
        line!(text, "  {first:016x}-{last:016x} (prio 0, i/o): {name}");
    }
    line!(text, "address-space: I/O");
    for (first, last, name) in main.machine.buses.pio.ranges() {
        line!(text, "  {first:016x}-{last:016x} (prio 0, i/o): {name}");
    }
    text
}

fn qtree_text(main: &MainLoop) -> String {
    let mut text = String::new();
    line!(text, "bus: main-system-bus");
    for (first, _, name) in main.machine.buses.pio.ranges() {
        line!(text, "  dev: {name}, ioport 0x{first:x}");
    }
    for slot in &main.machine.virtio {
        let kind = match slot.kind {
            crate::attach::VirtioKind::Blk(_) => "virtio-blk-device",
            crate::attach::VirtioKind::Rng => "virtio-rng-device",
            crate::attach::VirtioKind::Net(_) => "virtio-net-device",
            crate::attach::VirtioKind::Vsock(_) => "virtio-vsock-device",
        };
        line!(text, "  dev: virtio-mmio, slot {}", slot.slot);
        line!(text, "    dev: {kind}, id \"{}\"", slot.id);
    }
    text
}

/// What follows `info registers`.
fn registers_of(main: &mut MainLoop, which: &str) -> String {
    match (which, which.parse()) {
        ("-a", _) => registers_text(main, None),
        (_, Ok(index)) => registers_text(main, Some(index)),
        (_, Err(_)) => {
            format!("info registers: '{which}' is neither -a nor the number of a CPU\r\n")
        }
    }
}

/// Registers of one vCPU or of all; a running guest is held for a moment.
fn registers_text(main: &mut MainLoop, wanted: Option<i64>) -> String {
    let text = main.while_held(|machine| {
        machine
            .vcpus()
            .filter(|vcpu| wanted.is_none_or(|wanted| i64::from(vcpu.index()) == wanted))
            .map(|vcpu| {
                dump_registers::text(vcpu)
                    .unwrap_or_else(|error| format!("{}\r\n", crate::chain::text(&error)))
            })
            .collect::<String>()
    });
    match wanted {
        Some(index) if text.is_empty() => format!("CPU#{index} does not exist\r\n"),
        _ => text,
    }
}
