//! Shows the virtio devices, and what a first question to each returned.

use rt::memory::{self, Region};
use rt::virtio::blk::{self, Blk};
use rt::virtio::queue::Segment;
use rt::virtio::{self, Error, Transport, rng};
use rt::{print, println};

use crate::machine::Bytes;

/// Bytes shown of a disk's first sector, and asked of an entropy source.
const SHOWN: usize = 16;

/// Prints every slot that has a device.
pub(crate) fn print() {
    println!("\nDevices");
    let mut found = 0;
    for slot in 0..virtio::SLOTS {
        let Some(transport) = Transport::in_slot(slot) else {
            continue;
        };
        found += 1;
        print!(
            "  slot {slot}: {}, ",
            virtio::device_name(transport.device_id())
        );
        let mark = memory::allocated_end();
        if let Err(error) = show(transport) {
            println!("but it does not work: {error:?}");
        }
        transport.reset();
        // SAFETY: the device, reset, has let go of its rings; what `show` made, it has dropped;
        // and tables for memory as low as a program's are never needed.
        unsafe { memory::release(mark) };
    }
    if found == 0 {
        println!("  none on the virtio bus; try `--disk path=FILE` or `--rng`");
    }
}

fn show(transport: Transport) -> Result<(), Error> {
    match transport.device_id() {
        virtio::DEVICE_BLOCK => show_disk(transport),
        virtio::DEVICE_RNG => show_random(transport),
        id => {
            println!("type {id}, features {:#x}", transport.features());
            Ok(())
        }
    }
}

fn show_disk(transport: Transport) -> Result<(), Error> {
    let mut disk = Blk::new(transport)?;
    let access = if disk.features() & blk::F_RO != 0 {
        ", read-only"
    } else {
        ""
    };
    print!("{}{access}", Bytes(disk.capacity() * blk::SECTOR));
    let buffer = Region::allocate(blk::SECTOR);
    let mut serial = [0; blk::ID_LENGTH as usize];
    let segment = Segment {
        address: buffer.address(),
        length: blk::ID_LENGTH,
        device_writes: true,
    };
    if disk.request(blk::GET_ID, 0, &[segment])? == blk::OK {
        buffer.copy_to(0, &mut serial);
    }
    match serial
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(serial.len())
    {
        0 => println!(),
        end => println!(", serial \"{}\"", serial[..end].escape_ascii()),
    }
    if disk.capacity() == 0 {
        return Ok(());
    }
    match read_block(&mut disk, 0)? {
        (blk::OK, block, _) => {
            let mut start = [0; SHOWN];
            block.copy_to(0, &mut start);
            print!("          starts with ");
            print_hex(&start);
        }
        (status, ..) => println!("          sector 0 cannot be read (status {status})"),
    }
    Ok(())
}

fn show_random(transport: Transport) -> Result<(), Error> {
    let mut bytes = [0; SHOWN];
    let count = rng::read(transport, &mut bytes)?;
    print!("{count} random bytes:");
    bytes
        .iter()
        .take(count)
        .for_each(|byte| print!(" {byte:02x}"));
    println!();
    Ok(())
}

/// Prints a sector of the first disk.
pub(crate) fn print_sector(sector: u64) {
    let disk = (0..virtio::SLOTS)
        .filter_map(Transport::in_slot)
        .find(|transport| transport.device_id() == virtio::DEVICE_BLOCK);
    let Some(transport) = disk else {
        println!("this machine has no disk; try `--disk path=FILE`");
        return;
    };
    let mark = memory::allocated_end();
    match read_sector(transport, sector) {
        Ok(blk::OK) => {}
        Ok(_) => println!("the disk has no sector {sector}, or cannot read it"),
        Err(error) => println!("the disk does not work: {error:?}"),
    }
    transport.reset();
    // SAFETY: as in `print`.
    unsafe { memory::release(mark) };
}

fn read_sector(transport: Transport, sector: u64) -> Result<u8, Error> {
    let mut disk = Blk::new(transport)?;
    let (status, block, start) = read_block(&mut disk, sector)?;
    if status == blk::OK {
        for offset in (0..blk::SECTOR).step_by(SHOWN) {
            let mut row = [0; SHOWN];
            block.copy_to(start + offset, &mut row);
            print!("  {offset:03x}  ");
            print_hex(&row);
        }
    }
    Ok(status)
}

/// Reads the block a sector is in. Returns the status, the block, and where in it the sector begins.
fn read_block(disk: &mut Blk, sector: u64) -> Result<(u8, Region, u64), Error> {
    let sectors = disk.block_sectors();
    let within = sector % sectors;
    let block = Region::allocate(sectors * blk::SECTOR);
    let status = disk.read(sector - within, block, 0, block.length() as u32)?;
    Ok((status, block, within * blk::SECTOR))
}

fn print_hex(bytes: &[u8]) {
    bytes.iter().for_each(|byte| print!("{byte:02x} "));
    print!(" |");
    for byte in bytes {
        let shown = if (0x20..0x7f).contains(byte) {
            char::from(*byte)
        } else {
            '.'
        };
        print!("{shown}");
    }
    println!("|");
}
