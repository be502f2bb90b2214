//! BARs at the addresses that they have on the host's bus.
//!
//! A device takes those for its own, whatever a guest writes to the emulated registers: an NVMe looks for its queues in
//! its memory buffer there, a mirror of its registers shows them, and functions of one endpoint reach each other by them.
//! The `ranges` of a guest's host bridge can have any bus addresses, so where all BARs behind one have theirs on the
//! host and those fit, the guest finds the same. Where its processors see them is the guest's own affair, as ever.

use std::ops::Range;

use super::backend::{Bar, BarSpace, NUM_BARS, ROM};
use super::bars::{Addresses, Bars, FIRST_IO_PORT, Free, MAX_HOST_PAGE_BYTES};
use super::windows::Windows;

/// Where 64-bit BARs may be: beyond what a DMA window at limited addresses reaches, as guests' memory ends below this,
/// and before the host's second place for DMA windows.
const MEMORY64: Range<u64> = 1 << 45..1 << 59;

/// Gives every BAR of every function its address on the host's bus, and says which windows have them; `None` where that
/// cannot be. I/O ports and expansion ROMs, which hosts have elsewhere or nowhere, are where there is room.
pub(super) fn assign(
    windows: &Windows,
    functions: &[(&str, &Bars)],
) -> Option<(Windows, Vec<Addresses>)> {
    let mut addresses = vec![[0; NUM_BARS + 1]; functions.len()];
    let mut taken = Vec::new();
    for ((_, bars), addresses) in functions.iter().zip(&mut addresses) {
        for (index, bar) in bars.iter().enumerate() {
            let Some(bar) = bar.as_ref().filter(|bar| is_of_host(index, bar)) else {
                continue;
            };
            let place = place_of(bar)?;
            addresses[index] = place.start;
            taken.push(place);
        }
    }
    taken.sort_unstable_by_key(|place| place.start);
    let (windows, first_free) = windows_for(windows, &taken)?;
    place_others(&windows, first_free, functions, &mut addresses)?;
    Some((windows, addresses))
}

/// Whether a BAR is memory that hosts give addresses to.
fn is_of_host(index: usize, bar: &Bar) -> bool {
    bar.space != BarSpace::Io && index != ROM
}

/// The pages that a BAR has to itself, of the largest size that hosts and guests have.
fn place_of(bar: &Bar) -> Option<Range<u64>> {
    let bytes = bar.bytes.max(MAX_HOST_PAGE_BYTES);
    let start = bar.host_address?;
    (start & (bytes - 1) == 0).then_some(start..start.checked_add(bytes)?)
}

/// The windows that have `taken`, in its order, and the first free address of that for 32-bit BARs.
fn windows_for(windows: &Windows, taken: &[Range<u64>]) -> Option<(Windows, u64)> {
    let mut windows = *windows;
    if taken.is_empty() || taken.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return None;
    }
    let (low, high) = taken.split_at(taken.partition_point(|place| place.start < 1 << 32));
    for place in low {
        let bytes = place.end - place.start;
        windows.memory32.guest_address(place.start, bytes)?;
    }
    if let [first, ..] = high {
        // Aligned as the window is in the guest, so that a BAR is as aligned in both.
        windows.memory64.bus = first.start & !(windows.memory64.bytes - 1);
        for place in high {
            let bytes = place.end - place.start;
            windows.memory64.guest_address(place.start, bytes)?;
            if place.start < MEMORY64.start || place.end > MEMORY64.end {
                return None;
            }
        }
    }
    let first_free = low.last().map_or(windows.memory32.bus, |place| place.end);
    Some((windows, first_free))
}

/// Gives I/O ports and expansion ROMs addresses, ROMs from `first_free` on, the largest first.
fn place_others(
    windows: &Windows,
    first_free: u64,
    functions: &[(&str, &Bars)],
    addresses: &mut [Addresses],
) -> Option<()> {
    let mut io = Free::new(windows.io, FIRST_IO_PORT);
    let mut memory32 = Free::new(windows.memory32, first_free);
    let mut others = Vec::new();
    for ((_, bars), addresses) in functions.iter().zip(addresses) {
        for (index, (bar, address)) in bars.iter().zip(addresses).enumerate() {
            if let Some(bar) = bar.as_ref().filter(|bar| !is_of_host(index, bar)) {
                others.push((bar, address));
            }
        }
    }
    others.sort_by_key(|(bar, _)| std::cmp::Reverse(bar.bytes));
    for (bar, address) in others {
        *address = match bar.space {
            BarSpace::Io => io.take(bar.bytes, bar.bytes)?,
            _ => memory32.take(bar.bytes, bar.bytes.max(MAX_HOST_PAGE_BYTES))?,
        };
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bars::lay_out;
    use super::*;

    /// Where a POWER9's host bridge has 64-bit BARs.
    const HOST64: u64 = 0x6_0000_0000_0000;

    fn bar(bytes: u64, space: BarSpace, host_address: Option<u64>) -> Option<Bar> {
        Some(Bar {
            bytes,
            space,
            prefetchable: space == BarSpace::Memory64,
            host_address,
            mappings: Vec::new(),
            doorbells: Vec::new(),
        })
    }

    fn low(bytes: u64, address: u64) -> Option<Bar> {
        bar(bytes, BarSpace::Memory32, Some(address))
    }

    fn high(bytes: u64, address: u64) -> Option<Bar> {
        bar(bytes, BarSpace::Memory64, Some(address))
    }

    fn bars<const N: usize>(some: [Option<Bar>; N]) -> Bars {
        let mut bars = [const { None }; NUM_BARS + 1];
        for (to, from) in bars.iter_mut().zip(some) {
            *to = from;
        }
        bars
    }

    fn assigned(bars: &Bars) -> Option<(Windows, Addresses)> {
        let windows = Windows::of_host_bridge(3).unwrap();
        let (windows, addresses) = assign(&windows, &[("a", bars)])?;
        Some((windows, addresses[0]))
    }

    #[test]
    fn bars_have_the_hosts_addresses_and_what_has_none_there_is_beside_them() {
        let mut bars = bars([
            low(0x1000, 0x8081_0000),
            bar(32, BarSpace::Io, None),
            high(32 << 30, HOST64 + (32 << 30)),
            None,
            high(0x4000, 0x8200_0000),
        ]);
        bars[ROM] = bar(0x2_0000, BarSpace::Memory32, None);
        let usual = Windows::of_host_bridge(3).unwrap();
        let (windows, addresses) = assigned(&bars).unwrap();
        let high = HOST64 + (32 << 30);
        assert_eq!(addresses[..3], [0x8081_0000, 0x1000, high]);
        assert_eq!(addresses[4], 0x8200_0000);
        assert_eq!(addresses[ROM], 0x8202_0000);
        // The guest's processors see them where they always do.
        let moved = Windows {
            memory64: super::super::windows::Window {
                bus: HOST64,
                ..usual.memory64
            },
            ..usual
        };
        assert_eq!(windows, moved);
        let guest = windows.memory64.guest_address(high, 32 << 30).unwrap();
        assert_eq!(guest.0, usual.memory64.guest.0 + (32 << 30));
    }

    #[test]
    fn what_is_unknown_or_does_not_fit_is_placed_as_ever() {
        for bars in [
            bars([]),
            bars([bar(0x1000, BarSpace::Memory32, None)]),
            bars([
                low(0x1_0000, 0x8000_0000),
                bar(64, BarSpace::Memory32, None),
            ]),
            // In no window, or half of it.
            bars([low(0x1_0000, 0x7fff_0000)]),
            bars([low(1 << 31, 0x8000_0000), low(0x1_0000, 0x9000_0000)]),
            bars([high(0x1_0000, 1 << 44)]),
            bars([high(0x1_0000, 1 << 59)]),
            bars([high(1 << 40, u64::MAX << 40)]),
            // Further apart than a window is long.
            bars([
                high(1 << 30, HOST64),
                None,
                high(1 << 30, HOST64 + (1 << 40)),
            ]),
            // Several in a page of 64 KiB, as hosts with smaller pages may have them.
            bars([low(0x1000, 0x8000_0000), low(0x1000, 0x8000_1000)]),
            bars([low(0x1000, 0x8000_1000)]),
            // At no multiple of its size.
            bars([low(0x10_0000, 0x8001_0000)]),
        ] {
            assert_eq!(assigned(&bars), None, "{bars:x?}");
        }
        let windows = Windows::of_host_bridge(0).unwrap();
        let unknown = bars([low(0x1_0000, 0x7fff_0000)]);
        let (same, addresses) = lay_out(&windows, &[("a", &unknown)]).unwrap();
        assert_eq!((same, addresses[0][0]), (windows, 0x8000_0000));
    }

    proptest! {
        #[test]
        fn whatever_the_host_says_bars_are_in_their_windows_and_apart(
            places in prop::collection::vec(
                (4u32..42, prop_oneof![
                    any::<u64>(), 0x8000_0000u64..1 << 32, HOST64..HOST64 + (1 << 41),
                ], any::<bool>()),
                1..4,
            )
        ) {
            let mut all = [const { None }; NUM_BARS + 1];
            for (number, (shift, address, is_aligned)) in places.into_iter().enumerate() {
                let mask = if is_aligned { (1u64 << shift.max(16)) - 1 } else { 0 };
                all[2 * number] = high(1 << shift, address & !mask);
            }
            if let Some((windows, addresses)) = assigned(&all) {
                let mut guest: Vec<Range<u64>> = Vec::new();
                for (bar, address) in all.iter().zip(addresses) {
                    let Some(bar) = bar else { continue };
                    prop_assert_eq!(Some(address), bar.host_address);
                    let low = windows.memory32.guest_address(address, bar.bytes);
                    let place = low.or_else(|| windows.memory64.guest_address(address, bar.bytes));
                    let start = place.unwrap().0;
                    prop_assert_eq!(start % bar.bytes.max(0x1_0000), 0);
                    guest.push(start..start + bar.bytes.max(0x1_0000));
                }
                guest.sort_unstable_by_key(|place| place.start);
                prop_assert!(guest.windows(2).all(|pair| pair[0].end <= pair[1].start));
            }
        }
    }
}
