//! Mode pages (SPC-4 6.13 and 7.5, SBC-3 6.5, MMC-6 7): what can be set of a unit.

use super::cdb::{self, Cdb};
use super::sense::Sense;
use super::unit::{Outcome, Unit, Wish, cut};
use crate::image::Operation;
use crate::virtio::disk::Place;

const ERROR_RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const CAPABILITIES: u8 = 0x2a;
const ALL: u8 = 0x3f;

/// The bit of the caching page by which there is a write cache, and where it is.
const WCE: u8 = 0x04;
const WCE_AT: usize = 2;

/// Which values of pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Current,
    /// Ones where something can be changed.
    Changeable,
    Usual,
}

/// The pages of a unit with these values, in the order of their codes.
fn pages(unit: &Unit, values: Values) -> Vec<(u8, Vec<u8>)> {
    let mut pages = vec![(ERROR_RECOVERY, vec![0; 10])];
    if !unit.is_cd() {
        let mut caching = vec![0; 18];
        let usual = unit.disk.iter().any(|disk| disk.options().write_cache);
        let is_set = match values {
            Values::Current => unit.write_cache,
            Values::Changeable => !unit.is_read_only(),
            Values::Usual => usual,
        };
        caching[WCE_AT - 2] = if is_set { WCE } else { 0 };
        pages.push((CACHING, caching));
    }
    let mut control = vec![0; 10];
    if values != Values::Changeable {
        // Commands are done in whatever order.
        control[1] = 0x10;
    }
    pages.push((CONTROL, control));
    if unit.is_cd() {
        let mut capabilities = vec![0; 18];
        if values != Values::Changeable {
            // It reads DVD-ROM and CD-R/RW, multi-session, and has a tray that can be locked and opened.
            capabilities[0] = 0x0b;
            capabilities[2] = 0x40;
            let is_locked = values == Values::Current && unit.removal_is_prevented;
            capabilities[4] = 0x29 | if is_locked { 0x02 } else { 0 };
        }
        pages.push((CAPABILITIES, capabilities));
    }
    pages
}

/// MODE SENSE.
pub(super) fn sense(unit: &Unit, cdb: &Cdb) -> Outcome {
    let is_short = cdb.opcode() == cdb::MODE_SENSE_6;
    let (wanted, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    let values = match cdb.byte(2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Usual,
        _ => return Err(Sense::NOTHING_IS_SAVED),
    };
    if subpage != 0 && !(wanted == ALL && subpage == 0xff) {
        return Err(Sense::INVALID_FIELD);
    }
    let mut body = match cdb.byte(1) & 0x08 {
        0 => block_descriptor(unit),
        _ => Vec::new(),
    };
    let descriptor_bytes = body.len().to_le_bytes()[0];
    let all = pages(unit, values).into_iter();
    let mut found = all
        .filter(|(code, _)| wanted == ALL || wanted == *code)
        .peekable();
    if found.peek().is_none() {
        return Err(Sense::INVALID_FIELD);
    }
    for (code, content) in found {
        body.extend([code, content.len().to_le_bytes()[0]]);
        body.extend(content);
    }
    let mut specific = 0;
    if !unit.is_cd() {
        // Whether it is protected from writing; that a write can be forced past the cache.
        specific = 0x10 | if unit.is_read_only() { 0x80 } else { 0 };
    }
    let mut data = match is_short {
        true => {
            let rest = (body.len() + 3).to_le_bytes()[0];
            vec![rest, 0, specific, descriptor_bytes]
        }
        false => {
            let rest = u16::try_from(body.len() + 6).unwrap_or(0).to_be_bytes();
            vec![rest[0], rest[1], 0, specific, 0, 0, 0, descriptor_bytes]
        }
    };
    data.extend(body);
    let most = match is_short {
        true => cdb.byte(4).into(),
        false => cdb.be16(7).into(),
    };
    cut(data, most)
}

/// How many blocks there are, and of which size.
fn block_descriptor(unit: &Unit) -> Vec<u8> {
    let Ok(disk) = unit.medium() else {
        return Vec::new();
    };
    if unit.is_cd() {
        return Vec::new();
    }
    let block = disk.options().logical_block_bytes;
    let blocks = disk.image().bytes() / u64::from(block);
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    [blocks.to_be_bytes(), block.to_be_bytes()].concat()
}

/// MODE SELECT.
pub(super) fn select(unit: &mut Unit, cdb: &Cdb, parameters: &[u8]) -> Outcome {
    let is_short = cdb.opcode() == cdb::MODE_SELECT_6;
    // Pages are the standard's, and nothing is saved.
    if cdb.byte(1) & 0x11 != 0x10 {
        return Err(Sense::INVALID_FIELD);
    }
    let wanted = match is_short {
        true => usize::from(cdb.byte(4)),
        false => usize::from(cdb.be16(7)),
    };
    if wanted == 0 {
        return Ok(Wish::Nothing);
    }
    let list = parameters.get(..wanted);
    let pages = list.and_then(|list| pages_of(list, is_short));
    let mut rest = pages.ok_or(Sense::PARAMETERS_TOO_SHORT)?;
    let mut write_cache = unit.write_cache;
    let current = self::pages(unit, Values::Current);
    let changeable = self::pages(unit, Values::Changeable);
    while let [code, length, ..] = *rest {
        let end = 2 + usize::from(length);
        let content = rest.get(2..end).ok_or(Sense::PARAMETERS_TOO_SHORT)?;
        let is_it = |page: &&(u8, Vec<u8>)| page.0 == code & 0x3f;
        let pair = (current.iter().find(is_it), changeable.iter().find(is_it));
        let (Some((_, now)), Some((_, mask))) = pair else {
            return Err(Sense::INVALID_PARAMETER);
        };
        let differs = |((new, now), mask): ((&u8, &u8), &u8)| (new ^ now) & !mask != 0;
        let wrong = content.len() != now.len()
            || code & 0x40 != 0
            || content.iter().zip(now).zip(mask).any(differs);
        if wrong {
            return Err(Sense::INVALID_PARAMETER);
        }
        if code & 0x3f == CACHING {
            write_cache = content[WCE_AT - 2] & WCE != 0;
        }
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        return Err(Sense::PARAMETERS_TOO_SHORT);
    }
    let ends = unit.write_cache && !write_cache;
    unit.write_cache = write_cache;
    Ok(match ends {
        // What is in the cache is to last, as what is written from now on.
        true => Wish::Medium(
            Operation::Flush,
            Place {
                offset: 0,
                bytes: 0,
            },
        ),
        false => Wish::Nothing,
    })
}

/// The pages of a list of parameters, behind its header and descriptors of blocks; `None` if it is too short for those.
fn pages_of(list: &[u8], is_short: bool) -> Option<&[u8]> {
    let (header_bytes, descriptor_bytes) = match *list {
        [_, _, _, bytes, ..] if is_short => (4, usize::from(bytes)),
        [_, _, _, _, _, _, high, low, ..] => (8, usize::from(u16::from_be_bytes([high, low]))),
        _ => return None,
    };
    list.get(header_bytes + descriptor_bytes..)
}
