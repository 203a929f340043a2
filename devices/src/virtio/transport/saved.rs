//! The saved form of a transport and the device behind it: plain data, checked field by field when
//! it comes back.
//!
//! Called on the main thread while the machine is quiesced.

use serde::{Deserialize, Serialize};

use super::core::{Core, QueueRegisters, WorkerPlace};
use super::mmio::Selectors;
use crate::saved::BadState;
use crate::virtio::queue::{Layout, Position, Queue};
use crate::virtio::saved::DeviceState;
use crate::virtio::spec::{
    F_VERSION_1, INTERRUPT_CONFIG, INTERRUPT_USED, STATUS_ACKNOWLEDGE, STATUS_DRIVER,
    STATUS_DRIVER_OK, STATUS_FAILED, STATUS_FEATURES_OK, STATUS_NEEDS_RESET,
};

/// A transport's registers, its queues, and its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// Device type; must be that of the device restored into.
    pub device_type: u32,
    /// The features that were on offer. A guest may rely on all of them.
    pub device_features: u64,
    /// The status register, with DEVICE_NEEDS_RESET.
    pub status: u8,
    /// What the driver accepted.
    pub driver_features: u64,
    /// DeviceFeaturesSel.
    pub device_features_sel: u32,
    /// DriverFeaturesSel.
    pub driver_features_sel: u32,
    /// QueueSel.
    pub queue_sel: u32,
    /// Pending interrupts.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// The queues, all of them, in order.
    pub queues: Vec<QueueState>,
    /// What the device knows beside these.
    pub device: DeviceState,
}

/// A queue's registers and how far the device got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// The largest size on offer.
    pub max_size: u16,
    /// QueueNum.
    pub size: u16,
    /// QueueReady.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Available entries taken, modulo 65536.
    pub next_avail: u16,
    /// Used entries written, modulo 65536.
    pub next_used: u16,
}

/// Takes the state of a paused or inactive device.
pub(super) fn save(core: &Core, selectors: Selectors) -> TransportState {
    let Core {
        device,
        wiring: _,
        interrupt,
        health: _,
        worker,
        status: _,
        driver_features,
        queues,
        config_generation,
    } = core;
    debug_assert!(
        matches!(worker, WorkerPlace::Nowhere),
        "a running device cannot be saved"
    );
    let Selectors {
        device_features,
        driver_features: driver_sel,
        queue,
    } = selectors;
    TransportState {
        device_type: core.device_type(),
        device_features: core.device_features(),
        status: core.status(),
        driver_features: *driver_features,
        device_features_sel: device_features,
        driver_features_sel: driver_sel,
        queue_sel: queue,
        interrupt_status: interrupt.status(),
        config_generation: *config_generation,
        queues: queues.iter().map(save_queue).collect(),
        device: device.save(),
    }
}

fn save_queue(registers: &QueueRegisters) -> QueueState {
    let QueueRegisters {
        max_size,
        layout,
        ready,
        position,
        doorbell: _,
    } = registers;
    let Layout {
        size,
        desc,
        avail,
        used,
    } = *layout;
    let Position {
        next_avail,
        next_used,
    } = *position;
    let (max_size, ready) = (*max_size, *ready);
    QueueState {
        max_size,
        size,
        ready,
        desc,
        avail,
        used,
        next_avail,
        next_used,
    }
}

/// Puts a state back into an inactive device; [`Core::resume`] then starts its worker. Answers the
/// selectors. On an error nothing has changed.
pub(super) fn restore(
    core: &mut Core,
    kind: &'static str,
    state: &TransportState,
) -> Result<Selectors, BadState> {
    check(core, state).map_err(|(field, problem)| BadState {
        kind,
        field,
        problem,
    })?;
    core.device.restore(&state.device)?;
    let TransportState {
        device_type: _,
        device_features: _,
        status,
        driver_features,
        device_features_sel,
        driver_features_sel,
        queue_sel,
        interrupt_status,
        config_generation,
        queues,
        device: _,
    } = state;
    core.status = status & !STATUS_NEEDS_RESET;
    core.health.set(status & STATUS_NEEDS_RESET != 0);
    core.driver_features = *driver_features;
    core.interrupt.set_status(*interrupt_status);
    core.config_generation = *config_generation;
    for (registers, state) in core.queues.iter_mut().zip(queues) {
        let QueueState {
            max_size: _,
            size,
            ready,
            desc,
            avail,
            used,
            next_avail,
            next_used,
        } = *state;
        registers.layout = Layout {
            size,
            desc,
            avail,
            used,
        };
        registers.ready = ready;
        registers.position = Position {
            next_avail,
            next_used,
        };
    }
    Ok(Selectors {
        device_features: *device_features_sel,
        driver_features: *driver_features_sel,
        queue: *queue_sel,
    })
}

type Problem = (&'static str, String);

/// Whether `state` is one that `core` could have reached.
fn check(core: &Core, state: &TransportState) -> Result<(), Problem> {
    if core.is_running() {
        return Err(("device", "the device is running".to_owned()));
    }
    if state.device_type != core.device_type() {
        let ours = core.device_type();
        return Err((
            "device_type",
            format!("{} in a device of type {ours}", state.device_type),
        ));
    }
    let missing = state.device_features & !core.device_features();
    if missing != 0 {
        return Err((
            "device_features",
            format!("features {missing:#x} are not on offer here"),
        ));
    }
    check_status(state)?;
    if state.interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
        return Err(("interrupt_status", format!("{:#x}", state.interrupt_status)));
    }
    if state.queues.len() != core.queues.len() {
        let (theirs, ours) = (state.queues.len(), core.queues.len());
        return Err((
            "queues",
            format!("{theirs} queues for a device with {ours}"),
        ));
    }
    for (saved, registers) in state.queues.iter().zip(&core.queues) {
        check_queue(core, state, saved, registers)?;
    }
    Ok(())
}

fn check_status(state: &TransportState) -> Result<(), Problem> {
    let steps = [
        STATUS_ACKNOWLEDGE,
        STATUS_DRIVER,
        STATUS_FEATURES_OK,
        STATUS_DRIVER_OK,
    ];
    let known = steps
        .iter()
        .fold(STATUS_NEEDS_RESET | STATUS_FAILED, |all, step| all | step);
    let in_order = steps.windows(2).all(|pair| match *pair {
        [before, after] => state.status & after == 0 || state.status & before != 0,
        _ => true,
    });
    if state.status & !known != 0 || !in_order {
        return Err((
            "status",
            format!("{:#x} is not a device status", state.status),
        ));
    }
    let agreed = state.status & STATUS_FEATURES_OK != 0;
    let stray = state.driver_features & !state.device_features;
    if agreed && (stray != 0 || state.driver_features & F_VERSION_1 == 0) {
        let features = state.driver_features;
        return Err((
            "driver_features",
            format!("{features:#x} cannot have been agreed on"),
        ));
    }
    Ok(())
}

fn check_queue(
    core: &Core,
    state: &TransportState,
    saved: &QueueState,
    registers: &QueueRegisters,
) -> Result<(), Problem> {
    if saved.max_size != registers.max_size {
        let (theirs, ours) = (saved.max_size, registers.max_size);
        return Err((
            "queues",
            format!("largest size {theirs} where {ours} is on offer"),
        ));
    }
    if saved.size > registers.max_size {
        return Err(("queues", format!("size {} above the largest", saved.size)));
    }
    // A driver may write rubbish; it becomes a fault at DRIVER_OK. Past that, it was not rubbish
    // unless the device has faulted.
    let live = state.status & STATUS_DRIVER_OK != 0 && state.status & STATUS_NEEDS_RESET == 0;
    if live && saved.ready {
        let QueueState {
            size,
            desc,
            avail,
            used,
            next_avail,
            next_used,
            ..
        } = *saved;
        let layout = Layout {
            size,
            desc,
            avail,
            used,
        };
        let position = Position {
            next_avail,
            next_used,
        };
        Queue::new(&core.wiring.memory, layout, position, state.driver_features)
            .map_err(|error| ("queues", error.to_string()))?;
    }
    Ok(())
}
