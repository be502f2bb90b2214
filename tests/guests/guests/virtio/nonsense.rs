//! What a driver must not say: registers, rings and descriptors at random.
//!
//! A device may write wherever it is told to, this guest's own code included, so all that is named here is memory of
//! the arena that is the device's, or where there is no RAM.

use spapr_test_guests::access::WIDTHS;
use spapr_test_guests::access::Width;
use spapr_test_guests::random::Random;

use crate::arena::{Descriptor, QUEUE_SIZE, TABLE_SIZE};
use crate::driver::{BAR_BYTES, DOORBELL, Driver, LEFT_SECTORS, NEXT, WRITE, register};

/// VIRTQ_DESC_F_INDIRECT.
const INDIRECT: u16 = 4;

/// Makes one kind of nonsense.
pub(crate) fn round(driver: &mut Driver, random: &mut Random, ram_bytes: u64) {
    match random.below(4) {
        0 => registers(driver, random),
        1 => queue_addresses(driver, random, ram_bytes),
        _ => chains(driver, random, ram_bytes),
    }
}

/// Accesses to registers of any width; the queue's addresses are left out.
fn registers(driver: &Driver, random: &mut Random) {
    for _ in 0..32 {
        let offset = match random.below(4) {
            0 => random.below(BAR_BYTES - 8),
            1 => DOORBELL + random.below(64),
            _ => random.below(register::QUEUE_ADDRESSES - 8),
        };
        let addresses = register::QUEUE_ADDRESSES.saturating_sub(8)..register::QUEUE_ADDRESSES + 24;
        if addresses.contains(&offset) {
            continue;
        }
        let width = random.one_of(&WIDTHS);
        if random.below(3) == 0 {
            let _whatever = driver.read(offset, width);
        } else {
            driver.write(offset, width, random.of_any_size());
        }
    }
}

/// Rings that are nowhere, across the end of the arena's pages, or not aligned; while the queue is in use, too.
fn queue_addresses(driver: &Driver, random: &mut Random, ram_bytes: u64) {
    for place in 0..3 {
        let address = any_address(driver, random, ram_bytes);
        let at = register::QUEUE_ADDRESSES + 8 * place;
        driver.write(at + 4, Width::Word, address >> 32);
        driver.write(at, Width::Word, address & 0xffff_ffff);
    }
    driver.write(register::QUEUE_SIZE, Width::Halfword, random.number());
    driver.write(register::QUEUE_ENABLE, Width::Halfword, random.below(2));
    driver.ring();
}

/// Chains that go round, or on to what there is not, with buffers of any size anywhere.
fn chains(driver: &Driver, random: &mut Random, ram_bytes: u64) {
    let arena = driver.arena();
    if let Some(sectors) = driver.sectors() {
        headers(driver, random, sectors);
    }
    for index in 0..QUEUE_SIZE {
        arena.set_descriptor(index, any_descriptor(driver, random, ram_bytes));
    }
    for index in 0..TABLE_SIZE {
        arena.set_table(index, any_descriptor(driver, random, ram_bytes));
    }
    let mut head = || u16::try_from(random.below(QUEUE_SIZE + 2)).unwrap_or(0);
    let heads = [head(), head(), head(), head()];
    let index = match random.below(4) {
        // More than the ring can hold.
        0 => u16::try_from(random.below(0x1_0000)).unwrap_or(0),
        _ => arena
            .used()
            .wrapping_add(u16::try_from(random.below(5)).unwrap_or(0)),
    };
    arena.offer(heads, index);
    driver.ring();
}

/// Fills the buffer with what a disk's requests could begin with, and ranges to be discarded. The last sectors are not
/// written to.
fn headers(driver: &Driver, random: &mut Random, sectors: u64) {
    let buffer = driver.arena().buffer_memory();
    for word in (0..buffer.words()).step_by(2) {
        let kind = match random.below(8) {
            0 => random.of_any_size() & 0xffff_ffff,
            // Reads, writes, flushes, serial numbers, discards and zeroes.
            _ => random.one_of(&[0, 1, 1, 4, 8, 11, 13]),
        };
        let sector = match random.below(4) {
            0 => random.of_any_size(),
            _ => random.below(sectors.saturating_sub(LEFT_SECTORS)),
        };
        let is_left = (sectors.saturating_sub(LEFT_SECTORS)..sectors).contains(&sector);
        buffer.write(word, kind);
        buffer.write(word + 1, if is_left { 0 } else { sector });
    }
}

fn any_descriptor(driver: &Driver, random: &mut Random, ram_bytes: u64) -> Descriptor {
    let arena = driver.arena();
    let flags = random.one_of(&[
        0,
        WRITE,
        WRITE,
        WRITE | NEXT,
        NEXT,
        INDIRECT,
        INDIRECT | NEXT,
        0xffff,
    ]);
    let next = u16::try_from(random.below(QUEUE_SIZE + 1)).unwrap_or(0);
    let (address, bytes) = match random.below(4) {
        0 => (any_address(driver, random, ram_bytes), random.of_any_size()),
        1 => (
            arena.table(),
            16 * random.below(2 * TABLE_SIZE) + random.below(2),
        ),
        _ => (arena.buffer() + random.below(2048), random.below(2048)),
    };
    // What is too long from the buffer or the table on would reach what is watched.
    let is_nowhere = address < arena.of_device(0) || address >= arena.of_device(0x2000);
    let bytes = if is_nowhere { bytes } else { bytes.min(2048) };
    Descriptor {
        address,
        bytes: u32::try_from(bytes & 0xffff_ffff).unwrap_or(0),
        flags,
        next,
    }
}

/// Behind the end of RAM, at the end of all addresses, or where the arena's rings are.
fn any_address(driver: &Driver, random: &mut Random, ram_bytes: u64) -> u64 {
    match random.below(4) {
        0 => ram_bytes + random.below(0x1_0000),
        1 => u64::MAX - random.below(0x1_0000),
        2 => (random.number() | 1 << 40) & !(1 << 59),
        _ => driver.arena().of_device(random.below(0xf00)),
    }
}
