//! The commands.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use rt::{power, println, smp};

use crate::{devices, machine};

const HELP: &str = "  help         show this list
  info         show the machine and its devices again
  cpus         start the other processors and count them
  read SECTOR  show a sector of the first disk
  poweroff     switch the machine off (or press Ctrl-D)
  reset        start the machine anew
  panic        report a crash to thimble
Ctrl-A x ends thimble itself.";

/// How long the other processors may take to come up.
const START_MS: u64 = 5000;

/// Runs a line.
pub(crate) fn run(line: &str) {
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (None, ..) => {}
        (Some("help" | "?"), None, None) => println!("{HELP}"),
        (Some("info"), None, None) => {
            machine::print();
            devices::print();
        }
        (Some("cpus" | "cpu"), None, None) => start_processors(),
        (Some("read"), Some(sector), None) => match sector.parse() {
            Ok(sector) => devices::print_sector(sector),
            Err(_) => println!("a sector is a number: `read 0`"),
        },
        (Some("read"), None, None) => println!("which sector? `read 0`"),
        (Some("poweroff" | "exit" | "quit"), None, None) => power_off(),
        (Some("reset" | "reboot"), None, None) => {
            println!("resetting");
            power::reset();
        }
        (Some("panic"), None, None) => {
            println!("reporting a crash");
            power::crash();
        }
        _ => println!("you typed \"{line}\", which is no command; `help` lists them"),
    }
}

/// Says good-bye and powers off.
pub(crate) fn power_off() -> ! {
    println!("powering off");
    power::off()
}

/// Processors that ran a line of Rust.
static ANSWERED: AtomicU32 = AtomicU32::new(0);
/// What `start_all` said; it is asked once.
static ASKED: AtomicU32 = AtomicU32::new(u32::MAX);

fn start_processors() {
    if ASKED.load(SeqCst) == u32::MAX {
        let (_, asked) = smp::start_all(START_MS, |_cpu| {
            ANSWERED.fetch_add(1, SeqCst);
        });
        ASKED.store(asked, SeqCst);
    }
    match ASKED.load(SeqCst) {
        0 => println!("this machine has one processor, and it is talking to you; try `--cpus 2`"),
        asked => println!(
            "{} of {asked} other processors answered",
            ANSWERED.load(SeqCst)
        ),
    }
}
