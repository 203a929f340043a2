//! Character devices: the console, and the control sockets themselves.

use api_socket::qmp::types::ChardevInfo;

use crate::main_loop::MainLoop;

pub(super) fn query(main: &MainLoop) -> Vec<ChardevInfo> {
    let serial = main.console.info();
    vec![ChardevInfo {
        label: serial.label,
        filename: serial.filename,
        frontend_open: serial.frontend_open,
    }]
}
