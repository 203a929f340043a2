//! The built-in guest: what `thimble run` boots when it is given no kernel. It shows the machine
//! it finds itself in, and obeys a few commands typed at the serial console.
#![no_std]
#![no_main]

mod commands;
mod devices;
mod line;
mod machine;

use rt::{console, interrupts, mmio, power, println, service};

rt::entry!(
    main,
    concat!(
        "thimble built-in guest ",
        env!("CARGO_PKG_VERSION"),
        ": hello from inside the machine.\n"
    )
);

/// COM1's line.
const SERIAL_LINE: u32 = 4;

fn main() {
    interrupts::enable();
    interrupts::route(SERIAL_LINE);
    interrupts::route(power::EVENT_LINE);
    console::enable_receive_interrupt();

    machine::print();
    devices::print();
    println!("\nType `help` to see what you can do here.");

    let mut line = line::Editor::new();
    line.prompt();
    let mut events_seen = 0;
    loop {
        // Whatever is raised after this look ends the wait below, or keeps it from starting.
        let seen = interrupts::total();
        while let Some(byte) = console::read_byte() {
            if line.take(byte) {
                commands::run(line.text());
                line.prompt();
            }
        }
        let events = interrupts::line_count(power::EVENT_LINE);
        if events != events_seen {
            events_seen = events;
            obey_events(&line);
        }
        service::wait_unless_interrupted(seen);
    }
}

/// What the machine tells by its event device. Reading the selector clears it.
fn obey_events(line: &line::Editor) {
    let events = mmio::read32(power::EVENT_SELECTOR);
    if events & power::EVENT_POWER_BUTTON != 0 {
        println!("\npower button pressed");
        commands::power_off();
    }
    if events & power::EVENT_GENERATION != 0 {
        println!("\nthis machine is a copy now: its generation has changed");
        machine::print_generation();
        line.show();
    }
}
