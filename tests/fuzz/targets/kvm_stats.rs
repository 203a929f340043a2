//! KVM's binary statistics, as a future kernel might give them to us.
//!
//! Read or refused; what is read has values and fits what was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_fuzz::source::Source;
use vmm::kvm::stats::parse;

const NAME_SIZE: u32 = 48;

fn image(source: &mut Source<'_>) -> Vec<u8> {
    let count = source.below(8) as u32;
    let stride = 16 + NAME_SIZE;
    let data_at = 24 + NAME_SIZE + count * stride;
    let header = [0, NAME_SIZE, count, 24, 24 + NAME_SIZE, data_at];
    let mut image = Vec::new();
    for word in header {
        image.extend((source.mostly(word.into()) as u32).to_le_bytes());
    }
    image.resize(24 + NAME_SIZE as usize, b'k');
    let mut at = 0_u32;
    for _ in 0..count {
        let kind = u32::from(source.u8() % 6);
        let unit = u32::from(source.u8() % 6) << 4;
        let base = u32::from(source.u8() % 3) << 8;
        let values = 1 + u32::from(source.u8() % 8);
        let scale = u32::from(source.u16()) | values << 16;
        for word in [kind | unit | base, scale, at, u32::from(source.u8())] {
            image.extend((source.mostly(word.into()) as u32).to_le_bytes());
        }
        let end = image.len() + NAME_SIZE as usize;
        image.extend(source.pick(&[&b"exits"[..], b"wait_hist", b"", b"\xff"]));
        image.resize(end, 0);
        at += values * 8;
    }
    image.resize(image.len() + at as usize, 7);
    source.damage(&mut image);
    image
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let image = if source.rarely(4) {
        source.rest().to_vec()
    } else {
        image(&mut source)
    };
    match parse(&image) {
        Ok(stats) => {
            for stat in stats {
                assert!(!stat.values.is_empty() && !stat.descriptor.name.is_empty());
                assert!(stat.values.len() * 8 <= image.len());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
