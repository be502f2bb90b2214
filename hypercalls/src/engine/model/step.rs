//! What a guest and a machine may do, and what they have.

use super::*;
use crate::address::PageShift;
use crate::testing::Fault;

/// Where the guest keeps its lists.
pub(crate) const STORAGE: u64 = 0x4_0000;

pub(crate) fn ram() -> Vec<GuestRange> {
    // A hole, two pieces that meet in guest addresses but not in the host's, and an end that is
    // whole for 4 KiB pages alone.
    vec![
        piece(0, 3 * MIB),
        piece(4 * MIB, 2 * MIB),
        piece(6 * MIB, MIB + 0x9000),
    ]
}

/// What the guest can name: bridge, LIOBN, geometry.
pub(crate) fn windows() -> [(u8, u64, Geometry); 6] {
    let small = |bus_offset, entries| Geometry {
        bus_offset: Ioba(bus_offset),
        page_shift: PageShift::SIZE_4K,
        entries,
    };
    let large = |bus_offset, entries| Geometry {
        bus_offset: Ioba(bus_offset),
        page_shift: PageShift::SIZE_64K,
        entries,
    };
    [
        (0, 0x8000_0000, small(0, 600)),
        (0, 0x8000_0001, large(1 << 59, 48)),
        (1, 0x8000_0100, large(0x20_0000, 40)),
        (1, 0x8000_0101, small(1 << 59, 64)),
        (4, 0x8000_0400, small(0x1000, 64)),
        (4, 0x8000_0401, small(1 << 59, 16)),
    ]
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put {
        liobn: u64,
        ioba: u64,
        tce: u64,
    },
    Get {
        liobn: u64,
        ioba: u64,
    },
    Indirect {
        liobn: u64,
        ioba: u64,
        list: Vec<u64>,
        at: u64,
        count: Option<u64>,
    },
    Stuff {
        liobn: u64,
        ioba: u64,
        value: u64,
        count: u64,
    },
    AddWindow {
        which: usize,
    },
    /// As [`Step::AddWindow`] and [`Step::Activate`], with the place left to the host.
    MakeWindow {
        which: usize,
    },
    Activate {
        which: usize,
    },
    RemoveWindow {
        which: usize,
    },
    Reset,
    Prepare,
    /// Time passes until bulk calls are to be taken back from the kernel.
    TakeBack,
    /// The VMM makes a block of memory present, if one is wanted.
    Populate,
    /// From now on KVM refuses to enable or disable its handlers, or no longer does.
    RefuseHandOver(bool),
    Fail(Fault),
}
