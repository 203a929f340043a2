//! Everything that goes into guest memory before the first instruction: any file as kernel, any
//! initrd, command line, number of CPUs and list of devices. Reached by whoever configures a guest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_fuzz::json::text;
use thimble_fuzz::kernel::{self, Load, Loader, PROTOCOLS};
use thimble_fuzz::source::Source;

thread_local!(static LOADER: Loader = Loader::default());

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let protocol = source.pick(&PROTOCOLS);
    let initrd_len = source.edge().min(0x120_0000);
    let initrd = vec![0x5A; usize::try_from(initrd_len).expect("small")];
    let cmdline = text(&mut source, &["console=ttyS0", "", "quiet\n"]);
    let cpus = source.mostly(1) as u8;
    let slots = source.below(20);
    let slots = source.take(slots).to_vec();
    let kernel = match source.u8() % 4 {
        0 => kernel::elf(&mut source),
        1 => kernel::bzimage(&mut source),
        _ => source.rest().to_vec(),
    };
    let input = Load {
        kernel: &kernel,
        initrd: source.coin().then_some(initrd.as_slice()),
        cmdline: &cmdline,
        protocol,
        cpus,
        slots: &slots,
    };
    LOADER.with(|loader| loader.check(&input));
});
