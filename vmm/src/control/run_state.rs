//! Running, stopping, resetting, ending.

use api_socket::qmp::error::QmpError;
use api_socket::qmp::session::Reply;
use api_socket::qmp::types::{SetActionArguments, StatusInfo};

use super::Outcome;
use crate::lifecycle::{self, Input};
use crate::main_loop::MainLoop;

pub(super) fn status(main: &MainLoop) -> StatusInfo {
    StatusInfo {
        running: lifecycle::runs(main.state),
        status: main.state,
    }
}

pub(super) fn input(main: &mut MainLoop, input: Input) -> Outcome {
    main.input(input)?;
    Ok(Reply::empty())
}

/// `thimble-1` has no sleeping state but "off".
pub(super) fn wakeup() -> Result<(), QmpError> {
    Err(QmpError::generic(
        "Unable to wake up: guest is not in suspended state",
    ))
}

/// An NMI to every vCPU. KVM takes it for a vCPU only while that one is not in `KVM_RUN`, so a
/// running guest is held for a moment.
pub(super) fn inject_nmi(main: &mut MainLoop) -> Result<(), QmpError> {
    main.while_held(|machine| {
        let mut result = Ok(());
        for vcpu in machine.vcpus() {
            if let Err(error) = vcpu.fd().nmi() {
                result = Err(QmpError::generic(format_args!(
                    "KVM_NMI failed on CPU {}: {error}",
                    vcpu.index()
                )));
            }
        }
        result
    })
}

pub(super) fn set_action(
    main: &mut MainLoop,
    arguments: &SetActionArguments,
) -> Result<(), QmpError> {
    let SetActionArguments {
        reboot,
        shutdown,
        panic,
        watchdog,
    } = *arguments;
    if watchdog.is_some() {
        return Err(QmpError::generic("this machine has no watchdog"));
    }
    let policy = &mut main.policy;
    policy.reboot = reboot.unwrap_or(policy.reboot);
    policy.shutdown = shutdown.unwrap_or(policy.shutdown);
    policy.panic = panic.unwrap_or(policy.panic);
    Ok(())
}
