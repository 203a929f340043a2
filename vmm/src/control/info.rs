//! Who the guest is and what it runs on.

use api_socket::qmp::types::{
    CommandLineOptionInfo, CurrentMachineParams, GuidInfo, KvmInfo, MachineInfo, NameInfo,
    SysEmuTarget, TargetInfo, UuidInfo,
};

use crate::main_loop::MainLoop;

/// What QEMU answers for a machine without a UUID.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) fn name(main: &MainLoop) -> NameInfo {
    NameInfo {
        name: main.machine.config.name.clone(),
    }
}

pub(super) fn uuid(main: &MainLoop) -> UuidInfo {
    let uuid = main.machine.config.uuid.as_ref();
    UuidInfo {
        uuid: uuid.map_or_else(|| NO_UUID.to_owned(), ToString::to_string),
    }
}

pub(super) fn target() -> TargetInfo {
    TargetInfo {
        arch: SysEmuTarget::X86_64,
    }
}

pub(super) fn kvm() -> KvmInfo {
    KvmInfo {
        enabled: true,
        present: true,
    }
}

pub(super) fn machines() -> Vec<MachineInfo> {
    vec![MachineInfo {
        name: "thimble-1".to_owned(),
        alias: None,
        is_default: Some(true),
        cpu_max: i64::from(api_socket::config::CPUS_MAX),
        hotpluggable_cpus: false,
        numa_mem_supported: false,
        deprecated: false,
        default_cpu_type: Some(super::cpu::CPU_TYPE.to_owned()),
        default_ram_id: None,
        acpi: true,
    }]
}

pub(super) fn current_machine() -> CurrentMachineParams {
    CurrentMachineParams {
        wakeup_suspend_support: false,
    }
}

/// Clients of QEMU look for options here that no thimble has.
pub(super) fn command_line_options() -> Vec<CommandLineOptionInfo> {
    Vec::new()
}

pub(super) fn generation_id(main: &MainLoop) -> GuidInfo {
    GuidInfo {
        guid: main.machine.generation_id().to_string(),
    }
}
