//! vCPUs and I/O threads.

use api_socket::qmp::types::{
    CpuInfoFast, CpuInstanceProperties, HotpluggableCPU, IOThreadInfo, SysEmuTarget,
};

use devices::io_thread::LOOK_LENGTH;

use crate::main_loop::MainLoop;

/// The name of the one CPU type there is.
pub(super) const CPU_TYPE: &str = "host-x86_64-cpu";

/// The path clients know a vCPU by.
pub(super) fn qom_path(index: usize) -> String {
    format!("/machine/unattached/device[{index}]")
}

fn place(index: i64) -> CpuInstanceProperties {
    CpuInstanceProperties {
        socket_id: Some(0),
        core_id: Some(index),
        thread_id: Some(0),
        ..Default::default()
    }
}

pub(super) fn cpus(main: &MainLoop) -> Vec<CpuInfoFast> {
    (0..)
        .zip(main.machine.vcpus.threads())
        .enumerate()
        .map(|(number, (cpu_index, (thread_id, _)))| CpuInfoFast {
            cpu_index,
            qom_path: qom_path(number),
            thread_id: i64::from(thread_id),
            props: Some(place(cpu_index)),
            target: SysEmuTarget::X86_64,
        })
        .collect()
}

/// Every place is taken from the start; highest first, as QEMU lists them.
pub(super) fn hotpluggable(main: &MainLoop) -> Vec<HotpluggableCPU> {
    let mut places: Vec<_> = (0..)
        .zip(0..main.machine.vcpus.len())
        .map(|(index, number)| HotpluggableCPU {
            kind: CPU_TYPE.to_owned(),
            vcpus_count: 1,
            props: place(index),
            qom_path: Some(qom_path(number)),
        })
        .collect();
    places.reverse();
    places
}

pub(super) fn iothreads(main: &MainLoop) -> Vec<IOThreadInfo> {
    vec![IOThreadInfo {
        id: "io0".to_owned(),
        thread_id: i64::from(main.machine.io.tid()),
        poll_max_ns: i64::try_from(LOOK_LENGTH.as_nanos()).unwrap_or(0),
        poll_grow: 0,
        poll_shrink: 0,
        aio_max_batch: 0,
    }]
}
