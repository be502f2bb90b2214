//! Where mistakes are likely: the edges of what the machine has.

use spapr_test_guests::machine::{DmaWindow, Machine, Range};
use spapr_test_guests::random::Random;

use crate::arena::MIDDLE;

/// The most host bridges that are looked at.
const MOST_BRIDGES: usize = 4;
/// The most ranges of each.
const RANGES_EACH: usize = 3;

/// What the machine has.
#[derive(Debug)]
pub(crate) struct Values {
    /// Bytes of RAM.
    pub(crate) ram_bytes: u64,
    /// DMA windows of the host bridges.
    windows: [Option<DmaWindow>; MOST_BRIDGES],
    buids: [u64; MOST_BRIDGES],
    ranges: [Option<Range>; MOST_BRIDGES * RANGES_EACH],
}

/// Numbers that are at an edge of something.
const EDGES: [u64; 34] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    17,
    255,
    511,
    512,
    513,
    4095,
    4096,
    4097,
    0xffff,
    0x1_0000,
    0x7100_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_f000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 59,
    1 << 60,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX - 7,
    u64::MAX - 1,
    u64::MAX,
];

impl Values {
    /// Reads them from the device tree.
    pub(crate) fn of(machine: &Machine<'_>) -> Option<Self> {
        let mut values = Self {
            ram_bytes: machine.ram_bytes()?,
            windows: [None; _],
            buids: [0; _],
            ranges: [None; _],
        };
        for (index, bridge) in machine.host_bridges().take(MOST_BRIDGES).enumerate() {
            values.windows[index] = Some(bridge.window);
            values.buids[index] = bridge.buid;
            let places = &mut values.ranges[index * RANGES_EACH..][..RANGES_EACH];
            for (place, range) in places.iter_mut().zip(bridge.ranges()) {
                *place = Some(range);
            }
        }
        Some(values)
    }

    /// The first host bridge's DMA window.
    pub(crate) fn window(&self) -> Option<DmaWindow> {
        self.windows[0]
    }

    /// A window that exists most of the time, a number that may be none otherwise.
    pub(crate) fn liobn(&self, random: &mut Random) -> u64 {
        match random.one_of(&self.windows) {
            Some(window) if random.below(8) != 0 => window.liobn.into(),
            _ => self.any(random),
        }
    }

    /// The first host bridge's bus unit identifier; 0 for none.
    pub(crate) fn first_buid(&self) -> u64 {
        self.buids[0]
    }

    /// A host bridge's bus unit identifier, or 0.
    pub(crate) fn buid(&self, random: &mut Random) -> u64 {
        random.one_of(&self.buids)
    }

    /// A number that may be at an edge of something.
    pub(crate) fn any(&self, random: &mut Random) -> u64 {
        let near = random.one_of(&[0, 1, 4, 8, 4096, 0x1_0000]);
        match random.below(8) {
            0 | 1 => random.one_of(&EDGES),
            2 => self.ram_bytes.wrapping_sub(near),
            3 => self.ram_bytes + near,
            4 => MIDDLE.start + random.below(MIDDLE.bytes),
            5 => MIDDLE.start + 4096 * random.below(MIDDLE.bytes / 4096),
            6 => self.outside_ram(random),
            _ => random.of_any_size(),
        }
    }

    /// An address that is no RAM.
    pub(crate) fn outside_ram(&self, random: &mut Random) -> u64 {
        let offset = random.one_of(&[0, 1, 2, 3, 4, 8, 12, 16, 20, 56, 4092, 4096, 0x1000c]);
        match random.one_of(&self.ranges) {
            Some(range) => match random.below(3) {
                0 => range.start + offset,
                1 => (range.start + range.bytes).wrapping_sub(offset),
                _ => range.start + random.below(range.bytes),
            },
            None => {
                let bases = [
                    self.ram_bytes,
                    1 << 40,
                    0x2000_0000_0000,
                    0x400_0000_0000,
                    1 << 50,
                ];
                random.one_of(&bases) + offset
            }
        }
    }
}
