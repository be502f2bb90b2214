//! What a unit tells of itself (SPC-4 6.6 and 7.8, SBC-3 6.6).

use super::cdb::Cdb;
use super::sense::Sense;
use super::unit::{Outcome, Unit, UnitOptions, cut};
use crate::virtio::disk::{
    Disk, MOST_BYTES, MOST_DISCARD_SECTORS, MOST_ZERO_SECTORS, SECTOR_BYTES,
};

/// Who has made it where its user does not say, and what it is called, are as QEMU has them: guests' lists of file
/// systems have the name that udev makes of them.
const VENDOR: &str = "QEMU";
const DISK: &str = "QEMU HARDDISK";
const CD_DRIVE: &str = "QEMU CD-ROM";
const REVISION: &[u8; 4] = b"2.5+";

/// Peripheral device types.
const TYPE_DISK: u8 = 0x00;
const TYPE_CD_DRIVE: u8 = 0x05;
/// The one of a unit that is not there, with the qualifier that says so.
const NOT_THERE: u8 = 0x7f;

/// Bytes of standard data.
const STANDARD_BYTES: usize = 36;
/// Bytes of the longest serial number and identifier.
const MOST_SERIAL_BYTES: usize = 36;
const MOST_ID_BYTES: usize = 247;

/// INQUIRY.
pub(super) fn command(unit: &Unit, cdb: &Cdb) -> Outcome {
    let most = usize::from(cdb.be16(3));
    let page = cdb.byte(2);
    match cdb.byte(1) & 3 {
        0 if page == 0 => cut(standard(&unit.options, unit.is_cd()), most),
        1 => {
            let content = vital(unit, page).ok_or(Sense::INVALID_FIELD)?;
            let mut data = vec![kind(unit.is_cd()), page];
            data.extend(u16::try_from(content.len()).unwrap_or(0).to_be_bytes());
            data.extend(content);
            cut(data, most)
        }
        _ => Err(Sense::INVALID_FIELD),
    }
}

const fn kind(is_cd: bool) -> u8 {
    if is_cd { TYPE_CD_DRIVE } else { TYPE_DISK }
}

fn standard(options: &UnitOptions, is_cd: bool) -> Vec<u8> {
    let usual = |given: &str, usual: &'static str| match given {
        "" => usual.to_owned(),
        given => given.to_owned(),
    };
    let product = if is_cd { CD_DRIVE } else { DISK };
    let mut data = header(kind(is_cd));
    data[1] = if is_cd { 0x80 } else { 0 };
    put_text(&mut data[8..16], &usual(&options.vendor, VENDOR));
    put_text(&mut data[16..32], &usual(&options.product, product));
    data[32..36].copy_from_slice(REVISION);
    data
}

/// Standard data of a unit that is not there.
pub(super) fn not_there() -> Vec<u8> {
    header(NOT_THERE)
}

fn header(kind: u8) -> Vec<u8> {
    let mut data = vec![0; STANDARD_BYTES];
    data[0] = kind;
    // SPC-3, with addresses of units in its form, and commands that wait in a queue.
    data[2] = 5;
    data[3] = 0x12;
    data[4] = STANDARD_BYTES.to_le_bytes()[0] - 5;
    data[7] = 0x02;
    data
}

/// Text that is filled up with spaces.
fn put_text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    field
        .iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
}

/// A page of vital product data, without its header.
fn vital(unit: &Unit, page: u8) -> Option<Vec<u8>> {
    let serial = unit.disk.as_ref().map(|disk| &disk.options().serial);
    let serial = serial.filter(|serial| !serial.is_empty());
    let disk = unit.disk.as_deref().filter(|_| !unit.is_cd());
    match page {
        0x00 => {
            let pages = [
                (0x00, true),
                (0x80, serial.is_some()),
                (0x83, true),
                (0xb0, disk.is_some()),
                (0xb1, disk.is_some()),
                (0xb2, disk.is_some()),
            ];
            let there = pages.iter().filter(|(_, is_there)| *is_there);
            Some(there.map(|(page, _)| *page).collect())
        }
        0x80 => serial.map(|serial| serial.bytes().take(MOST_SERIAL_BYTES).collect()),
        0x83 => Some(identification(&unit.options)),
        0xb0 => Some(limits(disk?)),
        0xb1 => {
            disk?;
            let mut data = vec![0; 60];
            data[..2].copy_from_slice(&unit.options.rotation_rate.to_be_bytes());
            Some(data)
        }
        0xb2 => Some(provisioning(disk?)),
        _ => None,
    }
}

/// Device identification: designators of the unit.
fn identification(options: &UnitOptions) -> Vec<u8> {
    let mut data = Vec::new();
    let id: Vec<u8> = options.device_id.bytes().take(MOST_ID_BYTES).collect();
    if !id.is_empty() {
        // ASCII, in the vendor's own form.
        data.extend([2, 0, 0, id.len().to_le_bytes()[0]]);
        data.extend(id);
    }
    if let Some(wwn) = options.wwn {
        // Binary, as the name's first digit says.
        data.extend([1, 3, 0, 8]);
        data.extend(wwn.to_be_bytes());
    }
    data
}

/// Block limits.
fn limits(disk: &Disk) -> Vec<u8> {
    let options = disk.options();
    let block = options.logical_block_bytes;
    let blocks = |bytes: u64| u32::try_from(bytes / u64::from(block)).unwrap_or(u32::MAX);
    let of_sectors = |sectors: u32| blocks(u64::from(sectors) * SECTOR_BYTES);
    let mut data = vec![0; 60];
    let mut put = |at: usize, value: &[u8]| data[at - 4..][..value.len()].copy_from_slice(value);
    let granularity = u16::try_from(options.min_io_bytes / block).unwrap_or(u16::MAX);
    put(6, &granularity.to_be_bytes());
    put(8, &blocks(MOST_BYTES).to_be_bytes());
    put(12, &(options.opt_io_bytes / block).to_be_bytes());
    // No blocks of WRITE SAME are none, and not all.
    put(4, &[1]);
    if options.discards {
        put(20, &of_sectors(MOST_DISCARD_SECTORS).to_be_bytes());
        put(24, &1_u32.to_be_bytes());
        put(28, &(options.physical_block_bytes / block).to_be_bytes());
        let zeroes = u64::from(of_sectors(MOST_ZERO_SECTORS));
        put(36, &zeroes.to_be_bytes());
    }
    data
}

/// Logical block provisioning: UNMAP, and WRITE SAME that unmaps.
fn provisioning(disk: &Disk) -> Vec<u8> {
    match disk.options().discards {
        true => vec![0, 0xe0, 2, 0],
        false => vec![0; 4],
    }
}
