//! Events as clients see them: from what the machine says to what the wire carries. Pure.

use std::io;

use api_socket::qmp::event::Event;
use api_socket::qmp::types::{
    BlockDeviceIoStatus, BlockErrorAction, BlockIoErrorData, GuestCrashloadedData,
    GuestPanicAction, GuestPanickedData, IoOperationType, NicRxFilterChangedData, ResetData,
    RtcChangeData, ShutdownCause, ShutdownData,
};
use devices::events::BlockIoError;

use crate::lifecycle::Notice;

/// The event that a notice of [`crate::lifecycle`] becomes.
pub(crate) fn of(notice: Notice) -> Event {
    match notice {
        Notice::Stop => Event::Stop,
        Notice::Resume => Event::Resume,
        Notice::Reset(reason) => Event::Reset(ResetData {
            guest: by_guest(reason),
            reason,
        }),
        Notice::Shutdown(reason) => Event::Shutdown(ShutdownData {
            guest: by_guest(reason),
            reason,
        }),
        Notice::Powerdown => Event::Powerdown,
        Notice::GuestPanicked(action) => Event::GuestPanicked(GuestPanickedData { action }),
        Notice::GuestCrashLoaded => Event::GuestCrashloaded(GuestCrashloadedData {
            action: GuestPanicAction::Run,
        }),
        Notice::GuestPvShutdown => Event::GuestPvshutdown,
    }
}

/// QEMU's `shutdown_caused_by_guest`.
fn by_guest(cause: ShutdownCause) -> bool {
    matches!(
        cause,
        ShutdownCause::GuestShutdown | ShutdownCause::GuestReset | ShutdownCause::GuestPanic
    )
}

/// BLOCK_IO_ERROR.
pub(crate) fn block_io_error(error: &BlockIoError) -> Event {
    Event::BlockIoError(BlockIoErrorData {
        qom_path: super::block::qdev(&error.id),
        device: String::new(),
        node_name: Some(error.id.to_string()),
        operation: if error.write {
            IoOperationType::Write
        } else {
            IoOperationType::Read
        },
        action: match error.action {
            devices::events::BlockErrorAction::Ignore => BlockErrorAction::Ignore,
            devices::events::BlockErrorAction::Report => BlockErrorAction::Report,
            devices::events::BlockErrorAction::Stop => BlockErrorAction::Stop,
        },
        nospace: Some(no_space(error)),
        reason: io::Error::from_raw_os_error(error.errno).to_string(),
    })
}

/// What `query-block` says of a disk that this error has stopped.
pub(crate) fn io_status(error: &BlockIoError) -> BlockDeviceIoStatus {
    if no_space(error) {
        BlockDeviceIoStatus::Nospace
    } else {
        BlockDeviceIoStatus::Failed
    }
}

fn no_space(error: &BlockIoError) -> bool {
    error.errno == libc::ENOSPC
}

/// NIC_RX_FILTER_CHANGED, of the network card `id`.
pub(crate) fn nic_rx_filter_changed(id: &str) -> Event {
    Event::NicRxFilterChanged(NicRxFilterChangedData {
        name: Some(id.to_owned()),
        path: super::block::qdev(id),
    })
}

/// RTC_CHANGE, of a guest's clock that is `offset` seconds ahead of the host's.
pub(crate) fn rtc_change(offset: i64) -> Event {
    Event::RtcChange(RtcChangeData {
        offset,
        qom_path: "/machine/unattached/rtc".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_caused_an_end_is_told() {
        for (cause, by_guest) in [
            (ShutdownCause::GuestShutdown, true),
            (ShutdownCause::GuestReset, true),
            (ShutdownCause::GuestPanic, true),
            (ShutdownCause::HostQmpQuit, false),
            (ShutdownCause::HostQmpSystemReset, false),
            (ShutdownCause::HostSignal, false),
        ] {
            let reset = of(Notice::Reset(cause));
            assert!(
                matches!(&reset, Event::Reset(data) if data.guest == by_guest && data.reason == cause),
                "{reset:?}"
            );
            let shutdown = of(Notice::Shutdown(cause));
            assert!(
                matches!(&shutdown, Event::Shutdown(data) if data.guest == by_guest),
                "{shutdown:?}"
            );
        }
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        for (errno, nospace, status) in [
            (libc::ENOSPC, true, BlockDeviceIoStatus::Nospace),
            (libc::EIO, false, BlockDeviceIoStatus::Failed),
        ] {
            let error = BlockIoError {
                id: "disk0".into(),
                write: true,
                action: devices::events::BlockErrorAction::Stop,
                errno,
            };
            assert_eq!(io_status(&error), status);
            let event = block_io_error(&error);
            let Event::BlockIoError(data) = &event else {
                panic!("{event:?}")
            };
            assert_eq!(data.nospace, Some(nospace));
            assert_eq!(data.node_name.as_deref(), Some("disk0"));
            assert_eq!(data.operation, IoOperationType::Write);
            assert_eq!(data.action, BlockErrorAction::Stop);
        }
    }
}
