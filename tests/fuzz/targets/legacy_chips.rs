//! The registers of the legacy chips, reached by any code in the guest: accesses of every size, with
//! the host's input, clock and backlog changing under them.
//!
//! Nothing panics; the serial port gives its backend no byte there is no room for; and every chip's
//! state comes back equal in another.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use devices::bus::BusDevice;
use devices::saved::Saved;
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::chips::{Chips, Outside};
use thimble_fuzz::source::Source;

fn access(chip: &mut dyn BusDevice, len: usize, source: &mut Source<'_>) {
    let size = source.pick(&[1, 1, 1, 2, 4, 8]).min(len);
    let offset = source.below(len - size + 1) as u64;
    if source.coin() {
        let mut data = [0; 8];
        chip.read(offset, &mut data[..size]);
    } else {
        let value = source.u64().to_le_bytes();
        chip.write(offset, &value[..size]);
    }
}

fn comes_back<C: Saved>(chip: &C, fresh: &mut C) {
    let state = chip.save();
    fresh.restore(&state).expect("a state we saved");
    assert_eq!(fresh.save(), state);
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let outside = Arc::new(Outside::default());
    outside.room.store(64, Relaxed);
    outside.now.store(source.edge(), Relaxed);
    let mut chips = Chips::new(&outside);
    while !source.is_empty() {
        match source.u8() % 16 {
            0..=4 => access(&mut chips.serial, 8, &mut source),
            5..=7 => access(&mut chips.rtc, 2, &mut source),
            8 => access(&mut chips.i8042, 5, &mut source),
            9 | 10 => access(&mut chips.power, 0x1000, &mut source),
            11 => access(&mut chips.panic, 1, &mut source),
            12 => {
                let len = source.below(64) * source.pick(&[1, 100]);
                let room = chips.serial.input_room();
                let taken = chips.serial.input(&vec![b'x'; len]);
                assert_eq!(taken, len.min(room));
            }
            13 => {
                outside.room.store(source.below(64), Relaxed);
                chips.serial.output_drained();
            }
            14 => outside.now.store(source.edge(), Relaxed),
            _ => match source.u8() % 8 {
                0 => chips.serial.reset(),
                1 => chips.rtc.reset(),
                2 => chips.i8042.reset(),
                3 => chips.power.reset(),
                4 => chips.power.press_power_button(),
                5 => chips.power.generation_changed(),
                6 => chips.serial.reassert_interrupt(),
                _ => chips.power.reassert_interrupt(),
            },
        }
    }
    assert_eq!(outside.overrun.load(Relaxed), 0);
    let mut fresh = Chips::new(&outside);
    comes_back(&chips.serial, &mut fresh.serial);
    comes_back(&chips.rtc, &mut fresh.rtc);
    comes_back(&chips.i8042, &mut fresh.i8042);
    comes_back(&chips.power, &mut fresh.power);
    fresh.serial.reassert_interrupt();
});
