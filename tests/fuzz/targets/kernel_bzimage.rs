//! The loader of bzImage kernels, reached by whoever names the file to `--kernel`.
//!
//! A nearly valid kernel, loaded from bytes and from a file; [`thimble_fuzz::kernel`] says what must
//! hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_fuzz::kernel::{self, Load, Loader, PROTOCOLS};
use thimble_fuzz::source::Source;

thread_local!(static LOADER: Loader = Loader::default());

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let protocol = source.pick(&PROTOCOLS);
    let initrd = vec![0x5A; source.pick(&[0, 1, 4096, 5000])];
    let kernel = kernel::bzimage(&mut source);
    let input = Load {
        kernel: &kernel,
        initrd: Some(initrd.as_slice()).filter(|initrd| !initrd.is_empty()),
        cmdline: "console=ttyS0",
        protocol,
        cpus: 1,
        slots: &[0],
    };
    LOADER.with(|loader| loader.check(&input));
});
