//! Test guest: does what the lines typed at its console say, one at a time, and answers each with
//! one line, `OBEY ...`. tests/src/obey.rs is the other end.
//!
//! ```text
//! hello                                   OBEY entry=... cmdline=...
//! cpuid LEAF                              OBEY eax=... ebx=... ecx=... edx=...
//! nmi                                     OBEY nmi=COUNT
//! initrd                                  OBEY initrd=ADDRESS length=N fnv1a=HASH, or none
//! disk N                                  OBEY disk=N sectors=... features=...
//! capacity                                OBEY sectors=... generation=... interrupt=...
//! write|check SECTOR COUNT SEED           OBEY status=... wrong=...
//! begin SECTOR                            OBEY begun=SECTOR (a write that nobody waits for)
//! discard|zeroes SECTOR COUNT, flush      OBEY status=...
//! break TIMES                             OBEY broken=TIMES needs_reset=TIMES
//! pvpanic VALUE TIMES                     OBEY written=TIMES
//! clock TIMES                             OBEY written=TIMES
//! reset acpi|i8042|triple-fault, exception, unknown-instruction, halt, poweroff
//! ```
//!
//! Numbers are decimal. A status is virtio's, or 100 for a device that did not answer.
#![no_std]
#![no_main]

use core::str::SplitAsciiWhitespace;

use rt::memory::{PAGE, Region};
use rt::virtio::blk::{self, Blk};
use rt::virtio::queue::Segment;
use rt::virtio::{self, DEVICE_BLOCK, NEEDS_RESET, register};
use rt::{boot_info, cmos, console, cpuid, interrupts, port, power, println, service};

rt::entry!(main, "obey\n");

const SERIAL_LINE: u32 = 4;
const NMI_VECTOR: u8 = 2;
const PVPANIC: u16 = 0x505;
/// In the MMIO window, where there is no memory.
const NO_MEMORY: u64 = 0xe000_0000;
/// A register that a device answers to.
const DEVICE_REGISTER: u64 = power::EVENT_SELECTOR;

/// Sectors of one request.
const CHUNK: u64 = 128;
const LINE_MAX: usize = 200;
const NO_ANSWER: u8 = 100;

/// What lasts from one line to the next.
struct Guest {
    disk: Option<Blk>,
    data: Region,
}

fn main() {
    interrupts::enable();
    interrupts::route(SERIAL_LINE);
    console::enable_receive_interrupt();
    let mut guest = Guest {
        disk: None,
        data: Region::allocate(CHUNK * blk::SECTOR),
    };
    println!("OBEY ready");
    let mut line = [0; LINE_MAX];
    let mut length = 0;
    loop {
        let seen = interrupts::total();
        while let Some(byte) = console::read_byte() {
            if byte == b'\n' {
                let text = core::str::from_utf8(&line[..length]).unwrap_or_default();
                guest.obey(text);
                length = 0;
            } else if length < LINE_MAX {
                line[length] = byte;
                length += 1;
            }
        }
        service::wait_unless_interrupted(seen);
    }
}

/// The next word, as a number.
fn number(words: &mut SplitAsciiWhitespace<'_>) -> u64 {
    words.next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

impl Guest {
    fn obey(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let words = &mut words;
        match words.next().unwrap_or_default() {
            "hello" => println!(
                "OBEY entry={} cmdline={}",
                boot_info::protocol(),
                boot_info::command_line()
            ),
            "cpuid" => {
                let leaf = cpuid::leaf(number(words) as u32);
                let (a, b, c, d) = (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx);
                println!("OBEY eax={a} ebx={b} ecx={c} edx={d}");
            }
            "nmi" => println!("OBEY nmi={}", interrupts::count(NMI_VECTOR)),
            "initrd" => tell_initrd(),
            "disk" => self.take_disk(number(words)),
            "capacity" => self.capacity(),
            "write" => {
                let status = self.write(number(words), number(words), number(words));
                println!("OBEY status={status} wrong=0");
            }
            "begin" => self.begin(number(words)),
            "check" => {
                let (status, wrong) = self.check(number(words), number(words), number(words));
                println!("OBEY status={status} wrong={wrong}");
            }
            "discard" => self.erase(blk::DISCARD, number(words), number(words)),
            "zeroes" => self.erase(blk::WRITE_ZEROES, number(words), number(words)),
            "flush" => println!("OBEY status={}", self.request(blk::FLUSH, 0, &[])),
            "break" => self.break_rings(number(words)),
            "pvpanic" => {
                let (value, times) = (number(words) as u8, number(words));
                (0..times).for_each(|_| port::write8(PVPANIC, value));
                println!("OBEY written={times}");
            }
            "clock" => {
                const HOURS: u8 = 4;
                let times = number(words);
                (0..times).for_each(|turn| cmos::write(HOURS, turn as u8 % 10));
                println!("OBEY written={times}");
            }
            "reset" => match words.next() {
                Some("i8042") => power::request_i8042_reset(),
                Some("triple-fault") => service::triple_fault(),
                _ => power::reset(),
            },
            // SAFETY: the instruction is undefined, and its exception is the point.
            "exception" => unsafe { core::arch::asm!("ud2") },
            "unknown-instruction" => service::load_float(DEVICE_REGISTER),
            "halt" => service::stop(),
            "poweroff" => power::off(),
            _ => println!("OBEY what? {line}"),
        }
    }

    fn take_disk(&mut self, place: u64) {
        if let Some(disk) = self.disk.take() {
            disk.transport().reset();
        }
        let found = virtio::devices()
            .filter(|device| device.device_id() == DEVICE_BLOCK)
            .nth(place as usize);
        let Some(disk) = found.and_then(|transport| Blk::new(transport).ok()) else {
            println!("OBEY no disk {place}");
            return;
        };
        println!(
            "OBEY disk={place} sectors={} features={:#x}",
            disk.capacity(),
            disk.features()
        );
        self.disk = Some(disk);
    }

    fn capacity(&mut self) {
        let Some(disk) = &self.disk else {
            println!("OBEY no disk");
            return;
        };
        let transport = disk.transport();
        println!(
            "OBEY sectors={} generation={} interrupt={}",
            disk.capacity(),
            transport.read(register::CONFIG_GENERATION),
            transport.acknowledge()
        );
    }

    fn request(&mut self, kind: u32, sector: u64, data: &[Segment]) -> u8 {
        let Some(disk) = &mut self.disk else {
            return NO_ANSWER;
        };
        disk.request(kind, sector, data).unwrap_or(NO_ANSWER)
    }

    fn begin(&mut self, sector: u64) {
        let data = self.buffer(1, false);
        if let Some(disk) = &mut self.disk
            && disk.submit(blk::OUT, sector, &[data]).is_some()
        {
            disk.notify();
            println!("OBEY begun={sector}");
        } else {
            println!("OBEY no disk");
        }
    }

    /// The data buffer's first sectors.
    fn buffer(&self, sectors: u64, device_writes: bool) -> Segment {
        Segment {
            address: self.data.address(),
            length: (sectors * blk::SECTOR) as u32,
            device_writes,
        }
    }

    fn write(&mut self, first: u64, count: u64, seed: u64) -> u8 {
        for (sector, sectors) in chunks(first, count) {
            for at in (0..sectors * blk::SECTOR).step_by(8) {
                self.data.write64(at, pattern(sector, at, seed));
            }
            let status = self.request(blk::OUT, sector, &[self.buffer(sectors, false)]);
            if status != blk::OK {
                return status;
            }
        }
        blk::OK
    }

    /// Status, and how many words are not what `write` wrote. Seed 0 is zeroes.
    fn check(&mut self, first: u64, count: u64, seed: u64) -> (u8, u64) {
        let mut wrong = 0;
        for (sector, sectors) in chunks(first, count) {
            self.data.fill(0xa5);
            let status = self.request(blk::IN, sector, &[self.buffer(sectors, true)]);
            if status != blk::OK {
                return (status, wrong);
            }
            wrong += (0..sectors * blk::SECTOR)
                .step_by(8)
                .filter(|&at| self.data.read64(at) != pattern(sector, at, seed))
                .count() as u64;
        }
        (blk::OK, wrong)
    }

    fn erase(&mut self, kind: u32, sector: u64, count: u64) {
        self.data.write64(0, sector);
        self.data.write32(8, count as u32);
        // Of zeroes, the space may be given back.
        self.data.write32(12, u32::from(kind == blk::WRITE_ZEROES));
        let range = Segment {
            length: 16,
            ..self.buffer(1, false)
        };
        println!("OBEY status={}", self.request(kind, 0, &[range]));
    }

    /// Gives the first disk a request without room for its status, over and over; each has to
    /// stop the device, and a reset has to bring it back.
    fn break_rings(&mut self, times: u64) {
        self.disk = None;
        let mut stopped = 0;
        for _ in 0..times {
            let Some(transport) = virtio::find(DEVICE_BLOCK) else {
                break;
            };
            let mark = rt::memory::allocated_end();
            if let Ok(mut disk) = Blk::new(transport) {
                let nowhere = Segment {
                    address: NO_MEMORY,
                    length: 16,
                    device_writes: false,
                };
                disk.queue().submit(&[nowhere]);
                disk.notify();
                let deadline = rt::clock::Deadline::after_ms(5000);
                while transport.status() & NEEDS_RESET == 0 && !deadline.passed() {}
                stopped += u64::from(transport.status() & NEEDS_RESET != 0);
            }
            transport.reset();
            // SAFETY: the device, reset, has let go of its rings, and their owner is gone.
            unsafe { rt::memory::release(mark) };
        }
        println!("OBEY broken={times} needs_reset={stopped}");
    }
}

fn chunks(first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..count.div_ceil(CHUNK)).map(move |chunk| {
        let done = chunk * CHUNK;
        (first + done, (count - done).min(CHUNK))
    })
}

/// What stands at byte `at` of the data that begin at `sector`.
fn pattern(sector: u64, at: u64, seed: u64) -> u64 {
    let place = sector * blk::SECTOR + at;
    (place | seed << 40).wrapping_mul(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn tell_initrd() {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x100_0000_01b3;
    let Some((address, length)) = boot_info::initrd() else {
        println!("OBEY no initrd");
        return;
    };
    let hash = (0..length).fold(FNV_OFFSET, |hash, at| {
        (hash ^ u64::from(rt::memory::read::<u8>(address + at))).wrapping_mul(FNV_PRIME)
    });
    println!("OBEY initrd={address} length={length} fnv1a={hash}");
}
