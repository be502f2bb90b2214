//! Writes and flushes that follow from their numbers, so that whoever finds the disk later knows what may be there.
//!
//! Write number `n` fills 1 to 7 sectors among the first 8 MiB; each of their words follows from `n` and the word's place
//! on the disk. Each eighth operation is a flush, of which the guest prints `VIRTIO-GUEST-FLUSHED n.` once it is done.
//! tests/end_to_end/harness/written_sequence.rs has the same.

use core::fmt::Write;

use spapr_test_guests::console::Console;
use spapr_test_guests::disk::mixed;

use crate::arena::Descriptor;
use crate::driver::{Driver, NEXT, WRITE};

/// Sectors that are written to, and the most of one write.
const SECTORS: u64 = (8 << 20) / 512;
const MOST_SECTORS: u64 = 7;
/// Each operation whose number is a multiple of this is a flush.
const FLUSH_EACH: u64 = 8;

const TYPE_WRITE: u64 = 1;
const TYPE_FLUSH: u64 = 4;
/// Where the status is in the buffer, and the data.
const STATUS: u64 = 16;
const DATA: u64 = 512;

/// Does operations from `first` on, until the machine ends.
///
/// # Errors
/// What the disk did wrong.
pub(crate) fn write(driver: &mut Driver, first: u64) -> Result<(), &'static str> {
    driver.start_flushing()?;
    for number in first.. {
        let is_flush = number.is_multiple_of(FLUSH_EACH);
        let bytes = if is_flush { 0 } else { fill(driver, number) };
        let kind = if is_flush { TYPE_FLUSH } else { TYPE_WRITE };
        let sector = if is_flush { 0 } else { place(number).0 };
        let index = u16::try_from((number - first + 1) & 0xffff).unwrap_or(0);
        submit(driver, kind, sector, bytes, index)?;
        if is_flush {
            writeln!(Console, "\nVIRTIO-GUEST-FLUSHED {number}.").unwrap_or_default();
        }
    }
    Ok(())
}

/// The first sector of a write, and how many it has.
fn place(number: u64) -> (u64, u64) {
    let sector = mixed(number, 0) % (SECTORS - MOST_SECTORS);
    (sector, 1 + mixed(number, 1) % MOST_SECTORS)
}

/// Puts the data of a write into the buffer; returns how many bytes they are.
fn fill(driver: &Driver, number: u64) -> u64 {
    let (sector, count) = place(number);
    let buffer = driver.arena().buffer_memory();
    for word in 0..count * 64 {
        buffer.write(DATA / 8 + word, mixed(number, 2 + sector * 64 + word));
    }
    count * 512
}

/// Has the disk do it, as the queue's request number `index` so far, and waits for it.
fn submit(
    driver: &Driver,
    kind: u64,
    sector: u64,
    bytes: u64,
    index: u16,
) -> Result<(), &'static str> {
    let arena = driver.arena();
    let buffer = arena.buffer_memory();
    buffer.write(0, kind);
    buffer.write(1, sector);
    buffer.write(STATUS / 8, u64::MAX);
    let parts = [(0, 16, NEXT), (DATA, bytes, NEXT), (STATUS, 1, WRITE)];
    let parts = parts.iter().filter(|(_, bytes, _)| *bytes != 0);
    for (place, &(offset, bytes, flags)) in (0_u16..).zip(parts) {
        let descriptor = Descriptor {
            address: arena.buffer() + offset,
            bytes: u32::try_from(bytes).unwrap_or(0),
            flags,
            next: place + 1,
        };
        arena.set_descriptor(place.into(), descriptor);
    }
    arena.offer([0; 4], index);
    driver.ring();
    if !driver.wait_until(|| arena.used() == index) {
        return Err("a request is not served");
    }
    if buffer.read(STATUS / 8) != u64::MAX << 8 {
        return Err("a request fails");
    }
    Ok(())
}
