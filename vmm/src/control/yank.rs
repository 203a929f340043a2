//! Yank: nothing of this machine has a peer that could hang.

use api_socket::qmp::error::QmpError;
use api_socket::qmp::types::{YankArguments, YankInstance};

pub(super) fn query() -> Vec<YankInstance> {
    Vec::new()
}

pub(super) fn yank(arguments: &YankArguments) -> Result<(), QmpError> {
    if arguments.instances.is_empty() {
        Ok(())
    } else {
        Err(QmpError::yank_not_found())
    }
}
