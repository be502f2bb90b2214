//! Commands of block devices (SBC-3).

use super::cdb::{self, Cdb};
use super::sense::Sense;
use super::unit::{Outcome, Unit, Wish, cut};
use crate::image::{Kind, Operation};
use crate::virtio::disk::{
    Disk, MOST_BYTES, MOST_DISCARD_SECTORS, MOST_ZERO_SECTORS, Place, SECTOR_BYTES,
};

/// What is done with a cache or a whole unit.
const WHOLE: Place = Place {
    offset: 0,
    bytes: 0,
};

/// READ CAPACITY of the long kind, among the service actions.
const READ_CAPACITY_16: u8 = 0x10;

/// Bytes of UNMAP's parameters: of what comes before the range, and of that. There is one.
const UNMAP_HEADER_BYTES: usize = 8;
const UNMAP_RANGE_BYTES: usize = 16;

/// What comes of a disk's command.
pub(super) fn command(unit: &mut Unit, cdb: &Cdb, parameters: &[u8]) -> Outcome {
    match cdb.opcode() {
        cdb::WRITE_6 | cdb::WRITE_10 | cdb::WRITE_12 | cdb::WRITE_16 => write(unit, cdb, false),
        cdb::WRITE_AND_VERIFY_10 | cdb::WRITE_AND_VERIFY_12 | cdb::WRITE_AND_VERIFY_16 => {
            write(unit, cdb, true)
        }
        cdb::WRITE_SAME_10 | cdb::WRITE_SAME_16 => write_same(unit, cdb, parameters),
        cdb::UNMAP => unmap(unit, cdb, parameters),
        cdb::START_STOP_UNIT => match cdb.byte(4) & 0xf3 {
            // What it has in its cache lasts before it stops.
            0 => Ok(Wish::Medium(Operation::Flush, WHOLE)),
            _ => Ok(Wish::Nothing),
        },
        _ => of_both(unit, cdb),
    }
}

/// What comes of a command that disks and CD drives have.
pub(super) fn of_both(unit: &Unit, cdb: &Cdb) -> Outcome {
    match cdb.opcode() {
        cdb::READ_6 | cdb::READ_10 | cdb::READ_12 | cdb::READ_16 => read(unit, cdb),
        cdb::READ_CAPACITY_10 => capacity_10(unit.medium()?),
        cdb::SERVICE_ACTION_IN_16 if cdb.byte(1) & 0x1f == READ_CAPACITY_16 => {
            cut(capacity_16(unit, unit.medium()?), saturating(cdb.be32(10)))
        }
        cdb::VERIFY_10 | cdb::VERIFY_12 | cdb::VERIFY_16 => verify(unit, cdb),
        cdb::SYNCHRONIZE_CACHE_10 | cdb::SYNCHRONIZE_CACHE_16 => {
            place(unit.medium()?, cdb.first_block(), cdb.blocks().into())?;
            Ok(Wish::Medium(Operation::Flush, WHOLE))
        }
        _ => Err(Sense::INVALID_OPCODE),
    }
}

fn saturating(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Where a range of blocks is.
fn place(disk: &Disk, first: u64, blocks: u64) -> Result<Place, Sense> {
    let block = u64::from(disk.options().logical_block_bytes);
    let all = disk.image().bytes() / block;
    match first.checked_add(blocks) {
        Some(end) if end <= all => Ok(Place {
            offset: first * block,
            bytes: blocks * block,
        }),
        _ => Err(Sense::OUT_OF_RANGE),
    }
}

/// Where what is moved is. What cannot be is counted.
fn transfer(disk: &Disk, cdb: &Cdb, kind: Kind) -> Result<Place, Sense> {
    let place = place(disk, cdb.first_block(), cdb.blocks().into()).and_then(|place| {
        // No protection information is there, and the limit is told.
        let is_plain = cdb.opcode() >> 5 == 0 || cdb.byte(1) & 0xe0 == 0;
        match is_plain && place.bytes <= MOST_BYTES {
            true => Ok(place),
            false => Err(Sense::INVALID_FIELD),
        }
    });
    place.inspect_err(|_| disk.image().counters().add_invalid(kind))
}

fn read(unit: &Unit, cdb: &Cdb) -> Outcome {
    let place = transfer(unit.medium()?, cdb, Kind::Read)?;
    Ok(match place.bytes {
        0 => Wish::Nothing,
        _ => Wish::Medium(Operation::Read, place),
    })
}

/// Forced past the cache by their bit, or `verified`, which is more than that.
fn write(unit: &Unit, cdb: &Cdb, verified: bool) -> Outcome {
    let place = transfer(unit.writable()?, cdb, Kind::Write)?;
    let is_forced = cdb.opcode() >> 5 != 0 && cdb.byte(1) & 0x08 != 0;
    let durable = unit.is_durable(verified || is_forced);
    Ok(match place.bytes {
        0 => Wish::Nothing,
        _ => Wish::Medium(Operation::Write { durable }, place),
    })
}

fn verify(unit: &Unit, cdb: &Cdb) -> Outcome {
    place(unit.medium()?, cdb.first_block(), cdb.blocks().into())?;
    match cdb.byte(1) & 0x06 {
        0 => Ok(Wish::Nothing),
        // Comparing with what the initiator has.
        _ => Err(Sense::INVALID_FIELD),
    }
}

/// WRITE SAME, of zeroes.
fn write_same(unit: &Unit, cdb: &Cdb, parameters: &[u8]) -> Outcome {
    let disk = unit.writable()?;
    let (options, flags) = (disk.options(), cdb.byte(1));
    let is_long = cdb.opcode() == cdb::WRITE_SAME_16;
    let has_no_data = is_long && flags & 0x01 != 0;
    // Protection, blocks that stay where they are, and what is not there.
    if !options.discards || flags & 0xf6 != 0 || (!is_long && flags & 0x01 != 0) {
        return Err(Sense::INVALID_FIELD);
    }
    let most = u64::from(MOST_ZERO_SECTORS) * SECTOR_BYTES;
    let place = place(disk, cdb.first_block(), cdb.blocks().into())
        .inspect_err(|_| disk.image().counters().add_invalid(Kind::Zero))?;
    if place.bytes == 0 || place.bytes > most {
        return Err(Sense::INVALID_FIELD);
    }
    if !has_no_data {
        let block = parameters
            .get(..saturating(options.logical_block_bytes))
            .ok_or(Sense::PARAMETERS_TOO_SHORT)?;
        if block.iter().any(|byte| *byte != 0) {
            return Err(Sense::INVALID_PARAMETER);
        }
    }
    let operation = Operation::Zero {
        unmaps: flags & 0x08 != 0,
        durable: unit.is_durable(false),
    };
    Ok(Wish::Medium(operation, place))
}

/// UNMAP, of one range.
fn unmap(unit: &Unit, cdb: &Cdb, parameters: &[u8]) -> Outcome {
    let disk = unit.writable()?;
    // Blocks that stay where they are.
    if !disk.options().discards || cdb.byte(1) & 0x01 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let wanted = usize::from(cdb.be16(7));
    if wanted == 0 {
        return Ok(Wish::Nothing);
    }
    let list = parameters
        .get(..wanted)
        .filter(|list| list.len() >= UNMAP_HEADER_BYTES)
        .ok_or(Sense::PARAMETERS_TOO_SHORT)?;
    let (header, ranges) = list.split_at(UNMAP_HEADER_BYTES);
    let bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let range = match bytes.min(ranges.len()) / UNMAP_RANGE_BYTES {
        0 => return Ok(Wish::Nothing),
        1 => Cdb::new(ranges),
        _ => return Err(Sense::INVALID_PARAMETER),
    };
    let first = u64::from(range.be32(0)) << 32 | u64::from(range.be32(4));
    let place = place(disk, first, range.be32(8).into())
        .inspect_err(|_| disk.image().counters().add_invalid(Kind::Discard))?;
    let most = u64::from(MOST_DISCARD_SECTORS) * SECTOR_BYTES;
    match place.bytes {
        0 => Ok(Wish::Nothing),
        bytes if bytes > most => Err(Sense::INVALID_PARAMETER),
        _ => Ok(Wish::Medium(Operation::Discard, place)),
    }
}

fn last_block(disk: &Disk) -> u64 {
    let block = u64::from(disk.options().logical_block_bytes);
    (disk.image().bytes() / block).saturating_sub(1)
}

fn capacity_10(disk: &Disk) -> Outcome {
    // An initiator that finds all ones asks in the long way.
    let last = u32::try_from(last_block(disk)).unwrap_or(u32::MAX);
    let block = disk.options().logical_block_bytes;
    Ok(Wish::Data(
        [last.to_be_bytes(), block.to_be_bytes()].concat(),
    ))
}

fn capacity_16(unit: &Unit, disk: &Disk) -> Vec<u8> {
    let options = disk.options();
    let block = options.logical_block_bytes;
    let exponent = (options.physical_block_bytes / block)
        .checked_ilog2()
        .unwrap_or(0);
    let unmaps = options.discards && !unit.is_read_only();
    let mut data = last_block(disk).to_be_bytes().to_vec();
    data.extend(block.to_be_bytes());
    data.extend([0, exponent.to_le_bytes()[0] & 0x0f]);
    data.push(if unmaps { 0x80 } else { 0 });
    data.resize(32, 0);
    data
}
