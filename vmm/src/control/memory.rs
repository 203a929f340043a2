//! Guest memory: how much, and writing ranges of it to files.

use api_socket::qmp::error::QmpError;
use api_socket::qmp::session::Token;
use api_socket::qmp::types::{MemoryDeviceInfo, MemoryInfo, PmemsaveArguments};

use super::dump::{not_started, open_output};
use crate::dump_job::{About, Waiting, Work};
use crate::main_loop::MainLoop;

pub(super) fn summary(main: &MainLoop) -> MemoryInfo {
    MemoryInfo {
        base_memory: main.machine.ram.size(),
        plugged_memory: Some(0),
    }
}

/// This machine has none.
pub(super) fn devices() -> Vec<MemoryDeviceInfo> {
    Vec::new()
}

/// Starts writing; the answer comes at the end. The guest runs on meanwhile, as in QEMU.
pub(super) fn pmemsave(
    main: &mut MainLoop,
    client: u32,
    token: Token,
    arguments: &PmemsaveArguments,
) {
    if main.dump.busy() {
        let busy = QmpError::generic("There is a dump in process, please wait.");
        return main.clients.reply(client, token, Err(busy));
    }
    let PmemsaveArguments {
        val,
        size,
        filename,
    } = arguments;
    let (file, created) = match open_output(main, filename) {
        Ok(output) => output,
        Err(error) => return main.clients.reply(client, token, Err(error)),
    };
    let about = About {
        dump: false,
        total: *size,
        resume: false,
        created,
        waiting: Some(Waiting { client, token }),
    };
    let memory = main.machine.ram.memory().clone();
    let work = Work::Save {
        address: *val,
        length: *size,
    };
    if let Err(refused) = main.dump.start(work, memory, file, about) {
        let error = QmpError::generic(crate::chain::text(&refused));
        not_started(main, *refused.about, None, error);
    }
}
