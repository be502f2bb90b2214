//! What a guest and a machine may do, at random: mostly sensible, often at the edges.

use proptest::prelude::*;

use super::super::*;
use crate::engine::model::{STORAGE, Step, windows};

/// A window, and a LIOBN and a bus address that mostly name an entry of it. Half of the entries are
/// among the first few, so that calls meet what calls before them left.
fn place() -> impl Strategy<Value = (usize, u64, u64)> {
    // Dynamic windows come and go: most calls name the default ones, which are there.
    let which = prop_oneof![3 => (0..3usize).prop_map(|bridge| bridge * 2), 1 => 0..6usize];
    let inside = (which, any::<bool>(), 0..600u64).prop_map(|(which, is_near, page)| {
        let (_, liobn, geometry) = windows()[which];
        let page = page % if is_near { 24 } else { geometry.entries };
        (
            which,
            liobn,
            geometry.bus_offset.0 + (page << geometry.page_shift.get()),
        )
    });
    let ends = (0..6usize, 0..4u64).prop_map(|(which, page)| {
        let (_, liobn, geometry) = windows()[which];
        let page = geometry.entries + page - 2;
        (
            which,
            liobn,
            geometry.bus_offset.0 + (page << geometry.page_shift.get()),
        )
    });
    let odd_liobn = prop_oneof![
        Just(0),
        Just(0x8000_0200),
        Just(0x8000_0002),
        Just(1 << 32 | 0x8000_0000)
    ];
    prop_oneof![
        60 => inside.clone(),
        4 => ends,
        1 => (inside.clone(), odd_liobn).prop_map(|((which, _, ioba), liobn)| (which, liobn, ioba)),
        1 => (inside.clone(), any::<u64>()).prop_map(|((which, l, _), ioba)| (which, l, ioba)),
        1 => (inside, 1..0x1000u64).prop_map(|((which, l, ioba), off)| (which, l, ioba + off)),
    ]
}

/// Entries whose meaning depends on the window's page size.
#[derive(Clone, Debug)]
enum Segment {
    /// Pages that follow each other.
    Pages {
        first: u64,
        permission: u64,
        count: u64,
    },
    /// Around the ends of a piece of RAM, or off page boundaries.
    Edge { address: u64, permission: u64 },
    /// As they are.
    Raw(Vec<u64>),
}

impl Segment {
    fn entries(&self, which: usize) -> Vec<u64> {
        let shift = windows()[which].2.page_shift.get();
        match *self {
            Self::Pages {
                first,
                permission,
                count,
            } => {
                let first = (first << 12 >> shift) << shift;
                (0..count)
                    .map(|page| (first + (page << shift)) | permission)
                    .collect()
            }
            Self::Edge {
                address,
                permission,
            } => vec![address & !3 | permission],
            Self::Raw(ref entries) => entries.clone(),
        }
    }
}

fn segment() -> impl Strategy<Value = Segment> {
    let edge = prop_oneof![
        Just(0x2f_f000u64),
        Just(0x30_0000),
        Just(0x40_0000),
        Just(0x5f_0000),
        Just(0x70_0000),
        Just(0x70_8000),
        Just(0x70_9000),
        // In RAM, but on no page boundary, or on that of the smaller pages alone.
        Just(0x1c_0004),
        Just(0x1c_0800),
        (0x1c0..0x2d0u64).prop_map(|page| page << 12),
        any::<u64>(),
    ];
    // RAM that holds whole pages of both sizes: three quarters of the first piece's last MiB, and
    // the second piece and the third, which meet at 6 MiB.
    let pages = prop_oneof![0x1c0..0x2d0u64, 0x400..0x6c0u64, 0x5e0..0x600u64];
    prop_oneof![
        40 => (pages, 1..4u64, prop_oneof![1..4u64, 1..30u64])
            .prop_map(|(first, permission, count)| Segment::Pages { first, permission, count }),
        12 => prop_oneof![1..3usize, 1..24usize].prop_map(|count| Segment::Raw(vec![0; count])),
        2 => (0..1u64 << 62).prop_map(|poison| Segment::Raw(vec![poison << 2])),
        2 => (edge, 0..4u64).prop_map(|(address, permission)| Segment::Edge { address, permission }),
    ]
}

fn lone_page() -> impl Strategy<Value = Segment> {
    let page = prop_oneof![0x1c0..0x2d0u64, 0x400..0x6c0u64];
    (page, 1..4u64).prop_map(|(first, permission)| Segment::Pages {
        first,
        permission,
        count: 1,
    })
}

/// A list of entries, in its place or elsewhere, with a count that mostly is its own.
fn indirect() -> impl Strategy<Value = Step> {
    let list_at = prop_oneof![
        24 => Just(STORAGE),
        1 => Just(STORAGE + 8),
        1 => (0..0x800u64).prop_map(|page| page << 12),
    ];
    let list_count = prop_oneof![24 => Just(None), 1 => (0..600u64).prop_map(Some)];
    let segments = prop_oneof![
        2 => prop::collection::vec(segment(), 0..4).boxed(),
        // What the kernel's handler does better: no two entries follow each other.
        1 => prop::collection::vec(lone_page(), 12..40).boxed(),
    ];
    (place(), segments, list_at, list_count).prop_map(
        |((which, liobn, ioba), segments, at, count)| {
            let list = segments
                .iter()
                .flat_map(|segment| segment.entries(which))
                .collect();
            Step::Indirect {
                liobn,
                ioba,
                list,
                at,
                count,
            }
        },
    )
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let count = prop_oneof![6 => 0..8u64, 6 => 0..48u64, 1 => 0..700u64, 1 => any::<u64>()];
    let put = (place(), segment()).prop_map(|((which, liobn, ioba), segment)| Step::Put {
        liobn,
        ioba,
        tce: segment.entries(which)[0],
    });
    let value = prop_oneof![12 => Just(0), 1 => any::<u64>(), 1 => Just(0xbad_0000)];
    let stuff = (place(), value, count).prop_map(|((_, liobn, ioba), value, count)| Step::Stuff {
        liobn,
        ioba,
        value,
        count,
    });
    let error = prop_oneof![Just(ENOMEM), Just(HostError::Refused(22))];
    let fail = (0..6u64, error, any::<bool>()).prop_map(|(after, error, leaves_traces)| {
        Step::Fail(Fault {
            after,
            error,
            leaves_traces,
        })
    });
    prop_oneof![
        16 => put,
        3 => place().prop_map(|(_, liobn, ioba)| Step::Get { liobn, ioba }),
        16 => indirect(),
        8 => stuff,
        4 => (0..6usize).prop_map(|which| Step::AddWindow { which }),
        2 => (0..6usize).prop_map(|which| Step::MakeWindow { which }),
        1 => (0..6usize).prop_map(|which| Step::Activate { which }),
        1 => (0..6usize).prop_map(|which| Step::RemoveWindow { which }),
        1 => Just(Step::Reset),
        1 => Just(Step::Prepare),
        1 => Just(Step::TakeBack),
        2 => Just(Step::Populate),
        1 => prop_oneof![1 => Just(true), 3 => Just(false)].prop_map(Step::RefuseHandOver),
        2 => fail,
    ]
}
