//! Where log lines go: standard error or a file, opened before the sandbox closes. Lines that the
//! file does not take go to standard error.
//!
//! Levels: *error*, the machine or a request failed; *warn*, something the user should know but
//! that was dealt with; *info*, milestones of the machine's life; *debug* and *trace*, for
//! developers. Anything a guest can cause repeatedly goes through the devices' rate-limited macros.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::time::{ClockId, clock_gettime};

enum Sink {
    Stderr,
    File(Mutex<File>),
}

struct Logger {
    level: LevelFilter,
    sink: Sink,
}

/// Installs the process's logger. Called once, before any thread is started.
pub fn install(level: LevelFilter, file: Option<File>) {
    let sink = file.map_or(Sink::Stderr, |file| Sink::File(Mutex::new(file)));
    // A second call would be a programming error without consequence: the first logger stays.
    if log::set_boxed_logger(Box::new(Logger { level, sink })).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = clock_gettime(ClockId::Realtime);
        let level = record.level().as_str();
        let line = format!(
            "{}.{:06} {level:5} {}\n",
            now.tv_sec,
            now.tv_nsec / 1000,
            record.args()
        );
        let written = match &self.sink {
            Sink::Stderr => false,
            Sink::File(file) => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line.as_bytes())
                .is_ok(),
        };
        if !written {
            // What a full disk does not take, too. Then there is nowhere left to complain.
            drop(io::stderr().lock().write_all(line.as_bytes()));
        }
    }

    fn flush(&self) {}
}
