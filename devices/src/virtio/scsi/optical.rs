//! Commands of drives for CDs and DVDs (MMC-6). A disc has one session with one track, of data.

use super::cdb::{self, Cdb};
use super::sense::Sense;
use super::unit::{Outcome, Unit, Wish, cut};
use super::{CD_BLOCK_BYTES, blocks};
use crate::virtio::disk::Disk;

/// Blocks of a CD of 80 minutes, at 75 a second: what has more is a DVD.
const MOST_CD_BLOCKS: u64 = 80 * 60 * 75;
/// The first block is two seconds from a disc's beginning.
const LEAD_IN_BLOCKS: u64 = 150;

const PROFILE_NONE: u16 = 0x0000;
const PROFILE_CD_ROM: u16 = 0x0008;
const PROFILE_DVD_ROM: u16 = 0x0010;

/// The number of the area behind the last track, as READ TOC has it.
const LEAD_OUT: u8 = 0xaa;
/// A track of data that may not be copied by digital means, whose position is in the subchannel.
const DATA_TRACK: u8 = 0x14;

/// What comes of a drive's command.
pub(super) fn command(unit: &mut Unit, cdb: &Cdb, _parameters: &[u8]) -> Outcome {
    match cdb.opcode() {
        cdb::START_STOP_UNIT => start_stop(unit, cdb),
        cdb::PREVENT_ALLOW_MEDIUM_REMOVAL => {
            unit.removal_is_prevented = cdb.byte(4) & 1 != 0;
            Ok(Wish::Nothing)
        }
        cdb::READ_TOC => read_toc(unit, cdb),
        cdb::GET_CONFIGURATION => get_configuration(unit, cdb),
        cdb::GET_EVENT_STATUS => get_event_status(unit, cdb),
        cdb::READ_DISC_INFORMATION => disc_information(unit, cdb),
        // One slot, and nothing on its way.
        cdb::MECHANISM_STATUS => cut(vec![0, 0, 0, 0, 0, 1, 0, 0], cdb.be16(8).into()),
        _ => blocks::of_both(unit, cdb),
    }
}

/// START STOP UNIT: the tray opens and closes.
fn start_stop(unit: &mut Unit, cdb: &Cdb) -> Outcome {
    // Nothing draws power here.
    if cdb.byte(4) >> 4 != 0 {
        return Ok(Wish::Nothing);
    }
    match cdb.byte(4) & 3 {
        2 if unit.removal_is_prevented && !unit.tray_is_open => {
            return Err(Sense::REMOVAL_PREVENTED);
        }
        2 => unit.tray_is_open = true,
        3 if unit.tray_is_open => {
            unit.tray_is_open = false;
            if unit.disk.is_some() {
                unit.note(Sense::MEDIUM_CHANGED);
            }
        }
        _ => {}
    }
    Ok(Wish::Nothing)
}

fn disc_blocks(disk: &Disk) -> u64 {
    disk.image().bytes() / u64::from(CD_BLOCK_BYTES)
}

/// Where a block is: by its number, or in minutes, seconds and frames.
fn position(block: u64, in_time: bool) -> [u8; 4] {
    if !in_time {
        return u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes();
    }
    let from_start = block.saturating_add(LEAD_IN_BLOCKS);
    let (seconds, frames) = (from_start / 75, from_start % 75);
    let minutes = u8::try_from(seconds / 60).unwrap_or(u8::MAX);
    let least = |number: u64| number.to_le_bytes()[0];
    [0, minutes, least(seconds % 60), least(frames)]
}

fn read_toc(unit: &Unit, cdb: &Cdb) -> Outcome {
    let blocks = disc_blocks(unit.medium()?);
    let in_time = cdb.byte(1) & 0x02 != 0;
    // Older initiators have the format elsewhere.
    let format = match cdb.byte(2) & 0x0f {
        0 => cdb.byte(9) >> 6,
        format => format,
    };
    let first = cdb.byte(6);
    let track = |number: u8, block: u64| {
        let [a, b, c, d] = position(block, in_time);
        [0, DATA_TRACK, number, 0, a, b, c, d]
    };
    let mut entries = Vec::new();
    match format {
        0 if first > 1 && first != LEAD_OUT => return Err(Sense::INVALID_FIELD),
        0 => {
            if first <= 1 {
                entries.extend(track(1, 0));
            }
            entries.extend(track(LEAD_OUT, blocks));
        }
        1 => entries.extend(track(1, 0)),
        2 => {
            for (point, place) in [
                (0xa0, [0, 1, 0, 0]),
                (0xa1, [0, 1, 0, 0]),
                (0xa2, position(blocks, true)),
                (1, position(0, true)),
            ] {
                let [_, minutes, seconds, frames] = place;
                entries.extend([1, DATA_TRACK, 0, point, 0, 0, 0]);
                entries.extend([0, minutes, seconds, frames]);
            }
        }
        _ => return Err(Sense::INVALID_FIELD),
    }
    let length = u16::try_from(entries.len() + 2).unwrap_or(0).to_be_bytes();
    // The first and the last track, or session.
    let mut data = vec![length[0], length[1], 1, 1];
    data.extend(entries);
    cut(data, cdb.be16(7).into())
}

fn profile(unit: &Unit) -> u16 {
    match unit.medium().map(disc_blocks) {
        Err(_) => PROFILE_NONE,
        Ok(blocks) if blocks > MOST_CD_BLOCKS => PROFILE_DVD_ROM,
        Ok(_) => PROFILE_CD_ROM,
    }
}

/// A feature descriptor: its version, persistent and current bits, and data.
struct Feature {
    code: u16,
    version: u8,
    is_persistent: bool,
    is_current: bool,
    data: Vec<u8>,
}

fn features(profile: u16) -> [Feature; 6] {
    let feature = |code, version, is_current, data: &[u8]| Feature {
        code,
        version,
        is_persistent: code < 0x10,
        is_current,
        data: data.to_vec(),
    };
    let profiles: Vec<u8> = [PROFILE_DVD_ROM, PROFILE_CD_ROM]
        .iter()
        .flat_map(|known| {
            let [high, low] = known.to_be_bytes();
            [high, low, u8::from(*known == profile), 0]
        })
        .collect();
    let block = CD_BLOCK_BYTES.to_be_bytes();
    let readable = [block[0], block[1], block[2], block[3], 0, 16, 0, 0];
    [
        feature(0x0000, 0, true, &profiles),
        // Core: of SCSI's family.
        feature(0x0001, 2, true, &[0, 0, 0, 1, 0, 0, 0, 0]),
        // Removable medium: a tray that can be locked and opened.
        feature(0x0003, 0, true, &[0x29, 0, 0, 0]),
        feature(0x0010, 0, profile != PROFILE_NONE, &readable),
        feature(0x001e, 2, profile == PROFILE_CD_ROM, &[0; 4]),
        feature(0x001f, 0, profile == PROFILE_DVD_ROM, &[]),
    ]
}

fn get_configuration(unit: &Unit, cdb: &Cdb) -> Outcome {
    let (profile, first) = (profile(unit), cdb.be16(2));
    let is_wanted = |feature: &Feature| match cdb.byte(1) & 3 {
        0 => feature.code >= first,
        1 => feature.code >= first && feature.is_current,
        2 => feature.code == first,
        _ => false,
    };
    if cdb.byte(1) & 3 == 3 {
        return Err(Sense::INVALID_FIELD);
    }
    let mut told = Vec::new();
    for feature in features(profile).iter().filter(|it| is_wanted(it)) {
        told.extend(feature.code.to_be_bytes());
        let bits = u8::from(feature.is_persistent) << 1 | u8::from(feature.is_current);
        told.extend([
            feature.version << 2 | bits,
            feature.data.len().to_le_bytes()[0],
        ]);
        told.extend(&feature.data);
    }
    let length = u32::try_from(told.len() + 4).unwrap_or(0);
    let mut data = length.to_be_bytes().to_vec();
    data.extend([0, 0]);
    data.extend(profile.to_be_bytes());
    data.extend(told);
    cut(data, cdb.be16(7).into())
}

/// GET EVENT STATUS NOTIFICATION: whether there is a medium. Nobody changes it but the initiator.
fn get_event_status(unit: &Unit, cdb: &Cdb) -> Outcome {
    const MEDIA: u8 = 4;
    // To be told later, when something happens.
    if cdb.byte(1) & 1 == 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let data = match cdb.byte(4) & 1 << MEDIA {
        0 => vec![0, 2, 0x80, 1 << MEDIA],
        _ => {
            let is_open = u8::from(unit.tray_is_open);
            let is_there = u8::from(unit.medium().is_ok()) << 1;
            vec![0, 6, MEDIA, 1 << MEDIA, 0, is_there | is_open, 0, 0]
        }
    };
    cut(data, cdb.be16(7).into())
}

fn disc_information(unit: &Unit, cdb: &Cdb) -> Outcome {
    unit.medium()?;
    if cdb.byte(1) & 7 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 34];
    // Bytes behind this; complete, and so is its last session; first track, sessions, first and last track of the
    // last one; of use for whatever.
    data[1] = 32;
    data[2..8].copy_from_slice(&[0x0e, 1, 1, 1, 1, 0x20]);
    cut(data, cdb.be16(7).into())
}
