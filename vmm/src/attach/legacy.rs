//! The chips every machine has: clock, reset controller, power block, panic device.

use std::sync::{Arc, Mutex};

use devices::legacy::i8042::I8042;
use devices::legacy::panic::PvPanic;
use devices::legacy::power::PowerBlock;
use devices::legacy::rtc::{ChangeHook, HostClock, Rtc};
use firmware::layout;

use super::{AttachError, Board};

// The chips (devices) and the tables that describe them (firmware) each name these numbers, and
// neither crate imports the other.
const _: () = {
    use devices::legacy::{i8042, panic, power, rtc};
    assert!(layout::RTC_PORTS as u64 == rtc::RTC_LEN);
    assert!(layout::I8042_PORTS as u64 == i8042::I8042_LEN);
    assert!(layout::PVPANIC_PORTS as u64 == panic::PVPANIC_LEN);
    assert!(layout::POWER_LEN == power::POWER_LEN);
    assert!(layout::POWER_EVENT_SELECTOR == layout::POWER_BASE + power::EVENT_SELECTOR);
    assert!(layout::POWER_SLEEP_CONTROL == layout::POWER_BASE + power::SLEEP_CONTROL);
    assert!(layout::POWER_SLEEP_STATUS == layout::POWER_BASE + power::SLEEP_STATUS);
    assert!(layout::POWER_RESET == layout::POWER_BASE + power::RESET);
    assert!(layout::POWER_RESET_VALUE == power::RESET_VALUE);
    assert!(layout::SLEEP_TYPE_S5 == power::SLEEP_TYPE_S5);
    assert!(layout::EVENT_POWER_BUTTON == power::EVENT_POWER_BUTTON);
    assert!(layout::EVENT_VM_GENERATION == power::EVENT_GENERATION);
};

/// The chips, for reset and for the commands that act on them.
pub struct LegacyChips {
    /// CMOS clock.
    pub rtc: Arc<Mutex<Rtc>>,
    /// Keyboard controller, for its reset line.
    pub i8042: Arc<Mutex<I8042>>,
    /// Power button, sleep and reset registers.
    pub power: Arc<Mutex<PowerBlock>>,
}

/// Attaches them.
///
/// # Errors
/// [`AttachError`].
pub fn attach(board: &mut Board<'_>, clock: HostClock) -> Result<LegacyChips, AttachError> {
    let irq = board.irq_line(layout::GED_GSI)?;
    let power = Arc::new(Mutex::new(PowerBlock::new(irq, board.events.clone())));
    board.mmio.insert(
        "power",
        layout::POWER_BASE,
        layout::POWER_LEN,
        power.clone(),
    )?;

    let events = Arc::clone(&board.events);
    let on_change: ChangeHook = Box::new(move |offset| events.clock_changed(offset));
    let rtc = Rtc::new(clock, Some(on_change));
    let rtc = board.at_ports(
        "rtc",
        layout::RTC_PORT.into(),
        layout::RTC_PORTS.into(),
        rtc,
    )?;
    let i8042 = I8042::new(board.events.clone());
    let i8042 = board.at_ports(
        "i8042",
        layout::I8042_PORT.into(),
        layout::I8042_PORTS.into(),
        i8042,
    )?;
    let panic = PvPanic::new(board.events.clone());
    // It has no state, so nobody needs it again.
    board.at_ports(
        "pvpanic",
        layout::PVPANIC_PORT.into(),
        layout::PVPANIC_PORTS.into(),
        panic,
    )?;
    Ok(LegacyChips { rtc, i8042, power })
}
