//! COM1 and the character device behind it.

use std::sync::{Arc, Mutex};

use devices::legacy::serial::{Serial, SerialBackend};
use firmware::layout;

use super::{AttachError, Board};

// As in `super::legacy`.
const _: () = assert!(layout::COM1_PORTS as u64 == devices::legacy::serial::SERIAL_LEN);

/// Attaches the first serial port.
///
/// # Errors
/// [`AttachError`].
pub fn attach(
    board: &mut Board<'_>,
    backend: Box<dyn SerialBackend>,
) -> Result<Arc<Mutex<Serial>>, AttachError> {
    let irq = board.irq_line(layout::COM1_GSI)?;
    let chip = Serial::new(irq, backend);
    board.at_ports(
        "com1",
        layout::COM1_PORT.into(),
        layout::COM1_PORTS.into(),
        chip,
    )
}
