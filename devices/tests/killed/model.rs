//! What a disk has after a sequence of operations.

use std::ops::RangeInclusive;

/// Bytes of the disk, of a sector, and sectors.
pub(crate) const DISK_BYTES: u64 = 8 << 20;
pub(crate) const SECTOR_BYTES: usize = 512;
pub(crate) const SECTORS: u64 = DISK_BYTES / 512;
/// From here on, sectors are discarded, and have anything.
const ANYTHING: u64 = SECTORS - 2048;
/// The most operations that are begun before a flush.
pub(crate) const MOST_UNFLUSHED: u64 = 24;

/// Numbers of what a sector may have beside what an operation of that number wrote.
const ZERO: u64 = 0;
const BASE: u64 = 1;

/// A number that follows from two others and looks like any.
pub(crate) fn mixed(one: u64, other: u64) -> u64 {
    let mut value = one
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(other.wrapping_mul(0xd1b5_4a32_d192_ed03));
    for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
        value = (value ^ value >> shift).wrapping_mul(factor);
    }
    value ^ value >> 31
}

/// An operation of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Write { sector: u64, count: u64 },
    Zero { sector: u64, count: u64 },
    Discard { sector: u64, count: u64 },
    Flush,
}

impl Step {
    /// The operation of that number.
    pub(crate) fn of(number: u64) -> Self {
        let random = |what| mixed(number, what);
        let place = |from: u64, to: u64, most: u64| {
            let sector = from + random(1) % (to - from);
            (sector, 1 + random(2) % most.min(to - sector))
        };
        if number.is_multiple_of(MOST_UNFLUSHED) {
            return Self::Flush;
        }
        match random(0) % 32 {
            0..=3 => Self::Flush,
            4..=5 => {
                let (sector, count) = place(0, ANYTHING, 300);
                Self::Zero { sector, count }
            }
            6 => {
                let (sector, count) = place(ANYTHING, SECTORS, 1024);
                Self::Discard { sector, count }
            }
            7..=9 => {
                let (sector, count) = place(ANYTHING, SECTORS, 64);
                Self::Write { sector, count }
            }
            _ => {
                let (sector, count) = place(0, ANYTHING, 96);
                Self::Write { sector, count }
            }
        }
    }

    /// The sectors that it is about.
    pub(crate) fn sectors(self) -> std::ops::Range<u64> {
        match self {
            Self::Write { sector, count }
            | Self::Zero { sector, count }
            | Self::Discard { sector, count } => sector..sector + count,
            Self::Flush => 0..0,
        }
    }
}

/// What a sector has that the operation of that number wrote, or what it had before.
pub(crate) fn sector(number: u64, sector: u64) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    if number != ZERO {
        for (word, place) in (0..).zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&mixed(number, sector << 6 | word).to_le_bytes());
        }
    }
    bytes
}

/// A disk: by which operation each sector was written.
#[derive(Clone, Debug)]
pub(crate) struct Model(Vec<u64>);

impl Model {
    /// All zero.
    pub(crate) fn empty() -> Self {
        Self(vec![ZERO; index(SECTORS)])
    }

    /// What it stands on.
    pub(crate) fn on_a_base() -> Self {
        Self(vec![BASE; index(SECTORS)])
    }

    /// Those bytes.
    pub(crate) fn base_content(&self) -> Vec<u8> {
        (0..SECTORS)
            .flat_map(|number| sector(BASE, number))
            .collect()
    }

    /// Does what these operations do.
    pub(crate) fn replay(&mut self, numbers: RangeInclusive<u64>) {
        for number in numbers {
            let step = Step::of(number);
            let is = match step {
                Step::Zero { .. } => ZERO,
                _ => number,
            };
            let sectors = step.sectors();
            self.0[index(sectors.start)..index(sectors.end)].fill(is);
        }
    }

    /// Fails unless each sector has what it had, or what one of those operations writes there; it then has that.
    #[track_caller]
    pub(crate) fn settle(&mut self, numbers: std::ops::Range<u64>, content: &[u8]) {
        assert_eq!(content.len() as u64, DISK_BYTES);
        let mut may_be: Vec<Vec<u64>> = self.0.iter().map(|number| vec![*number]).collect();
        for number in numbers.clone() {
            let step = Step::of(number);
            let is = match step {
                Step::Zero { .. } => ZERO,
                _ => number,
            };
            for place in step.sectors() {
                may_be[index(place)].push(is);
            }
        }
        let found = content.chunks_exact(SECTOR_BYTES);
        for ((place, found), may_be) in (0..ANYTHING).zip(found).zip(&may_be) {
            let is = may_be
                .iter()
                .rev()
                .find(|&&number| sector(number, place) == *found);
            let is = is.unwrap_or_else(|| {
                panic!("sector {place} has none of what {may_be:?} wrote (unflushed: {numbers:?}): {:x?}", &found[..16])
            });
            self.0[index(place)] = *is;
        }
    }

    /// The disk's bytes; where anything may be, those that there are.
    pub(crate) fn content(&self, found: &[u8]) -> Vec<u8> {
        let known = (0..ANYTHING).zip(&self.0);
        let mut content: Vec<u8> = known
            .flat_map(|(place, number)| sector(*number, place))
            .collect();
        content.extend_from_slice(&found[content.len()..]);
        content
    }
}

fn index(sector: u64) -> usize {
    usize::try_from(sector).expect("small")
}
