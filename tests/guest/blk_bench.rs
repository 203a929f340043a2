//! Bench guest: requests per second and latency of a virtio block device, polled, by the TSC.
//!
//! Command line: `requests=N` per depth (default 4000), `bytes=N` per request (default 4096, a
//! multiple of 512 up to 64 KiB), `op=read|write` (default read; write destroys the disk's data),
//! and `virtio_mmio.device=` where the device cannot be guessed.
//! Prints a line `BENCH blk ...` per queue depth.
#![no_std]
#![no_main]

use rt::clock;
use rt::memory::{PAGE, Region};
use rt::virtio::blk::{self, Blk};
use rt::virtio::queue::{SIZE_MAX, Segment};
use rt::virtio::{self, DEVICE_BLOCK};
use rt::{boot_info, println};

rt::entry!(main, "blk_bench\n");

const DEPTHS: [usize; 2] = [1, 32];
const REQUESTS_MAX: usize = 32_768;

/// Runs of one bench: what is asked for.
struct Load {
    kind: u32,
    bytes: u32,
    requests: usize,
    buffers: Region,
}

fn main() {
    let Some(transport) = virtio::find(DEVICE_BLOCK) else {
        println!("BENCH blk FAIL no block device");
        return;
    };
    let mut disk = match Blk::new(transport) {
        Ok(disk) => disk,
        Err(error) => {
            println!("BENCH blk FAIL {error:?}");
            return;
        }
    };
    let bytes = boot_info::number("bytes")
        .unwrap_or(PAGE)
        .clamp(blk::SECTOR, 16 * PAGE);
    let requests = boot_info::number("requests").unwrap_or(4000) as usize;
    let load = Load {
        kind: if boot_info::option("op") == Some("write") {
            blk::OUT
        } else {
            blk::IN
        },
        bytes: (bytes / blk::SECTOR * blk::SECTOR) as u32,
        requests: requests.clamp(1, REQUESTS_MAX),
        buffers: Region::allocate(32 * 16 * PAGE),
    };
    let latencies = Region::allocate(REQUESTS_MAX as u64 * 8);
    for depth in DEPTHS {
        run(&mut disk, &load, depth, latencies);
    }
    disk.transport().reset();
}

fn run(disk: &mut Blk, load: &Load, depth: usize, latencies: Region) {
    let places = (disk.capacity() * blk::SECTOR / u64::from(load.bytes)).max(1);
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut submitted_at = [0u64; SIZE_MAX as usize];
    let mut submitted = 0;
    let mut finished = 0;
    let mut errors = 0;
    let start = clock::tsc();
    while finished < load.requests {
        let mut new = false;
        while submitted < load.requests && submitted - finished < depth {
            // xorshift64: places all over the disk, the same in every run.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let sector = random % places * (u64::from(load.bytes) / blk::SECTOR);
            let buffer = (submitted % 32) as u64 * 16 * PAGE;
            let segment = Segment {
                address: load.buffers.address() + buffer,
                length: load.bytes,
                device_writes: load.kind == blk::IN,
            };
            let now = clock::tsc();
            let Some(head) = disk.submit(load.kind, sector, &[segment]) else {
                break;
            };
            submitted_at[usize::from(head)] = now;
            submitted += 1;
            new = true;
        }
        if new {
            disk.notify();
        }
        while let Some((used, status)) = disk.poll() {
            let ticks = clock::tsc() - submitted_at[usize::from(used.head)];
            latencies.write64(finished as u64 * 8, ticks);
            finished += 1;
            errors += u32::from(status != blk::OK);
        }
        core::hint::spin_loop();
    }
    report(load, depth, clock::tsc() - start, errors, latencies);
}

fn report(load: &Load, depth: usize, ticks: u64, errors: u32, latencies: Region) {
    // SAFETY: the region holds that many numbers, and nobody else uses it during this call.
    let latencies =
        unsafe { core::slice::from_raw_parts_mut(latencies.address() as *mut u64, load.requests) };
    latencies.sort_unstable();
    let at = |percent: usize| {
        let index = (load.requests * percent / 100).min(load.requests - 1);
        clock::nanoseconds(latencies[index])
    };
    let elapsed = clock::nanoseconds(ticks).max(1);
    println!(
        "BENCH blk op={} bytes={} depth={depth} requests={} errors={errors} per_second={} \
         p50_ns={} p99_ns={} max_ns={} tsc_hz={}",
        if load.kind == blk::IN {
            "read"
        } else {
            "write"
        },
        load.bytes,
        load.requests,
        load.requests as u64 * 1_000_000_000 / elapsed,
        at(50),
        at(99),
        at(100),
        clock::hz(),
    );
}
