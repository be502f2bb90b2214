//! What the guest that writes a sequence leaves on its disk (tests/guests/guests/virtio/sequence.rs).

use std::collections::BTreeMap;

/// Bytes that are written to, from the disk's beginning on.
pub(crate) const WRITTEN_BYTES: u64 = 8 << 20;
const SECTOR_BYTES: usize = 512;
const SECTORS: u64 = WRITTEN_BYTES / 512;
const MOST_SECTORS: u64 = 7;
/// Each operation whose number is a multiple of this is a flush.
pub(crate) const FLUSH_EACH: u64 = 8;

/// Number `index` of the row that Sebastiano Vigna's generator SplitMix64 gives from `seed` on.
fn mixed(seed: u64, index: u64) -> u64 {
    let state = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The sectors of an operation: none of a flush.
fn sectors(number: u64) -> std::ops::Range<u64> {
    if number.is_multiple_of(FLUSH_EACH) {
        return 0..0;
    }
    let sector = mixed(number, 0) % (SECTORS - MOST_SECTORS);
    sector..sector + 1 + mixed(number, 1) % MOST_SECTORS
}

/// What a write puts into a sector.
fn content(number: u64, sector: u64) -> Vec<u8> {
    let words = (0..64).map(|word| mixed(number, 2 + sector * 64 + word));
    words.flat_map(u64::to_le_bytes).collect()
}

/// The disk as far as it is known: the write that each sector is of, if any.
#[derive(Debug, Default)]
pub(crate) struct Written(BTreeMap<u64, u64>);

impl Written {
    /// These operations are done and flushed.
    pub(crate) fn flushed(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.0
                .extend(sectors(number).map(|sector| (sector, number)));
        }
    }

    /// Fails unless the disk has all that is flushed, and of those operations what they write at most.
    #[track_caller]
    pub(crate) fn settle(&mut self, unflushed: std::ops::Range<u64>, disk: &[u8]) {
        let mut may_be: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for number in unflushed.clone() {
            for sector in sectors(number) {
                may_be.entry(sector).or_default().push(number);
            }
        }
        for (sector, found) in (0..SECTORS).zip(disk.chunks_exact(SECTOR_BYTES)) {
            let known = self.0.get(&sector).copied();
            let is_known = match known {
                Some(number) => content(number, sector) == found,
                None => found.iter().all(|byte| *byte == 0),
            };
            if is_known {
                continue;
            }
            let newer = may_be.get(&sector).into_iter().flatten();
            let mut newer = newer.filter(|number| content(**number, sector) == found);
            let number = newer.next().unwrap_or_else(|| {
                panic!("sector {sector} has neither what write {known:?} put there nor what one of {unflushed:?} does: {:x?}", &found[..16])
            });
            self.0.insert(sector, *number);
        }
    }
}
