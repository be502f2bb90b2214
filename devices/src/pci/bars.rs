//! Which address each BAR gets before the guest starts.

use std::fmt;
use std::ops::RangeInclusive;

use super::backend::{Bar, BarSpace, NUM_BARS, ROM};
use super::host_addresses;
use super::host_bridge::PciError;
use super::windows::{Window, Windows};

/// The largest page size of a supported host: a BAR on such a boundary can be mapped straight into
/// the guest on every host, also when the BAR itself is smaller.
pub(super) const MAX_HOST_PAGE_BYTES: u64 = 0x1_0000;
/// The lowest I/O port given out. Linux takes port 0 for "not assigned".
pub(super) const FIRST_IO_PORT: u64 = 0x1000;
/// 64-bit BARs from this size on go into the 64-bit window, prefetchable or not: the 32-bit one is
/// kept for those that can go nowhere else.
const LARGE_BAR_BYTES: u64 = 256 << 20;

/// The sizes that an expansion ROM can have in bytes (PCI Local Bus Specification 3.0, 6.2.5.2).
const ROM_BYTES: RangeInclusive<u64> = 2048..=16 << 20;

/// The BARs of one function, by register number, and its expansion ROM behind them.
pub(super) type Bars = [Option<Bar>; NUM_BARS + 1];
/// A bus address for each of them.
pub(super) type Addresses = [u64; NUM_BARS + 1];

/// How messages name a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarName(pub(super) usize);

impl fmt::Display for BarName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ROM => f.write_str("the expansion ROM"),
            index => write!(f, "BAR {index}"),
        }
    }
}

/// Gives out one window's addresses, from the lowest.
pub(super) struct Free {
    next: u64,
    end: u64,
}

impl Free {
    pub(super) fn new(window: Window, first: u64) -> Self {
        Self {
            next: first,
            end: window.bus + window.bytes,
        }
    }

    /// The next address that is a multiple of `alignment` (a power of two).
    pub(super) fn take(&mut self, bytes: u64, alignment: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(alignment)?;
        // Up to the boundary: nothing else may lie in a page that is mapped for this BAR.
        let end = start
            .checked_add(bytes)?
            .checked_next_multiple_of(alignment)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(start)
    }
}

/// Refuses what no real function has and the rest relies on.
pub(super) fn check(name: &str, bars: &Bars) -> Result<(), PciError> {
    for (index, bar) in bars.iter().enumerate() {
        let Some(bar) = bar else { continue };
        let smallest = if bar.space == BarSpace::Io { 4 } else { 16 };
        let upper_half_free = bar.space != BarSpace::Memory64
            || matches!(bars[..NUM_BARS].get(index + 1), Some(None));
        let size_fits = match index {
            ROM => bar.space == BarSpace::Memory32 && ROM_BYTES.contains(&bar.bytes),
            _ => bar.space == BarSpace::Memory64 || bar.bytes <= 1 << 31,
        };
        if !bar.bytes.is_power_of_two() || bar.bytes < smallest || !upper_half_free || !size_fits {
            return Err(PciError::BadBar {
                function: name.into(),
                index,
                bytes: bar.bytes,
            });
        }
    }
    Ok(())
}

/// Gives every BAR of every function (`name`, BARs) an address in one of the windows: those of the host's bus where
/// that can be, and then with the windows as they are needed for it.
///
/// # Errors
/// [`PciError::WindowFull`] names the BAR for which there was no room.
pub(super) fn lay_out(
    windows: &Windows,
    functions: &[(&str, &Bars)],
) -> Result<(Windows, Vec<Addresses>), PciError> {
    if let Some(found) = host_addresses::assign(windows, functions) {
        return Ok(found);
    }
    let addresses = assign(windows, functions)?;
    Ok((*windows, addresses))
}

/// The same, with addresses of this program's choice. Largest first, so that alignment wastes nothing.
fn assign(windows: &Windows, functions: &[(&str, &Bars)]) -> Result<Vec<Addresses>, PciError> {
    let mut io = Free::new(windows.io, FIRST_IO_PORT);
    let mut memory32 = Free::new(windows.memory32, windows.memory32.bus);
    let mut memory64 = Free::new(windows.memory64, windows.memory64.bus);
    let mut addresses = vec![[0; NUM_BARS + 1]; functions.len()];

    let mut order: Vec<(usize, usize, &Bar)> = functions
        .iter()
        .enumerate()
        .flat_map(|(function, (_, bars))| {
            bars.iter()
                .enumerate()
                .filter_map(move |(index, bar)| bar.as_ref().map(|bar| (function, index, bar)))
        })
        .collect();
    order.sort_by_key(|(_, _, bar)| std::cmp::Reverse(bar.bytes));

    for (function, index, bar) in order {
        let bytes = bar.bytes;
        let alignment = bytes.max(MAX_HOST_PAGE_BYTES);
        let address = match bar.space {
            BarSpace::Io => io.take(bytes, bytes),
            BarSpace::Memory32 => memory32.take(bytes, alignment),
            BarSpace::Memory64 if bar.prefetchable || bytes >= LARGE_BAR_BYTES => {
                memory64.take(bytes, alignment)
            }
            BarSpace::Memory64 => memory32
                .take(bytes, alignment)
                .or_else(|| memory64.take(bytes, alignment)),
        };
        addresses[function][index] = address.ok_or_else(|| PciError::WindowFull {
            function: functions[function].0.into(),
            index,
            bytes,
        })?;
    }
    Ok(addresses)
}

/// The bus addresses that the BARs of a function get which is alone behind the first host bridge, if it can be there.
///
/// # Errors
/// What is wrong with a BAR, or that there is no room for it, of the function `name`.
pub fn places(name: &str, bars: &[Option<Bar>; NUM_BARS]) -> Result<[u64; NUM_BARS], PciError> {
    let bars: Bars = std::array::from_fn(|index| bars.get(index).cloned().flatten());
    check(name, &bars)?;
    let windows = Windows::of_host_bridge(0).ok_or(PciError::TooManyHostBridges(0))?;
    let (_, addresses) = lay_out(&windows, &[(name, &bars)])?;
    let [addresses] = addresses.as_slice() else {
        return Err(PciError::TooManyHostBridges(0));
    };
    Ok(std::array::from_fn(|index| addresses[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(bytes: u64, space: BarSpace, prefetchable: bool) -> Option<Bar> {
        Some(Bar {
            bytes,
            space,
            prefetchable,
            host_address: None,
            mappings: Vec::new(),
            doorbells: Vec::new(),
        })
    }

    fn alone(index: usize, bar: Option<Bar>) -> Bars {
        let mut bars = [const { None }; NUM_BARS + 1];
        bars[index] = bar;
        bars
    }

    #[test]
    fn small_bars_get_a_page_of_the_largest_host_each() {
        let bars: Bars = [
            bar(0x4000, BarSpace::Memory64, false),
            None,
            bar(0x20, BarSpace::Io, false),
            bar(0x1000, BarSpace::Memory32, false),
            bar(1 << 30, BarSpace::Memory64, true),
            None,
            bar(0x800, BarSpace::Memory32, false),
        ];
        check("a", &bars).unwrap();
        let windows = Windows::of_host_bridge(2).unwrap();
        let addresses = assign(&windows, &[("a", &bars), ("b", &bars)]).unwrap();
        assert_eq!(addresses[0][0], 0x8000_0000);
        assert_eq!(addresses[1][0], 0x8001_0000);
        assert_eq!(addresses[0][3], 0x8002_0000);
        assert_eq!(addresses[1][3], 0x8003_0000);
        assert_eq!(addresses[0][ROM], 0x8004_0000);
        assert_eq!(addresses[1][ROM], 0x8005_0000);
        assert_eq!((addresses[0][2], addresses[1][2]), (0x1000, 0x1020));
        assert_eq!(addresses[0][4], windows.memory64.bus);
        assert_eq!(addresses[1][4], windows.memory64.bus + (1 << 30));
    }

    #[test]
    fn a_full_window_names_the_bar() {
        let big = alone(0, bar(1 << 31, BarSpace::Memory32, false));
        let windows = Windows::of_host_bridge(0).unwrap();
        let error = assign(&windows, &[("a", &big), ("0001:03:00.0", &big)]).unwrap_err();
        assert!(error.to_string().contains("0001:03:00.0"), "{error}");
    }

    #[test]
    fn impossible_bars_are_refused() {
        for (index, bar) in [
            (5, bar(16, BarSpace::Memory64, true)),
            (0, bar(0x3000, BarSpace::Memory32, true)),
            (0, bar(0, BarSpace::Io, true)),
            (0, bar(1 << 32, BarSpace::Memory32, true)),
            (ROM, bar(1 << 10, BarSpace::Memory32, false)),
            (ROM, bar(32 << 20, BarSpace::Memory32, false)),
            (ROM, bar(1 << 16, BarSpace::Memory64, false)),
        ] {
            let error = check("a", &alone(index, bar)).unwrap_err();
            let named = error.to_string().contains(&BarName(index).to_string());
            assert!(named, "{error}");
        }
        let largest = alone(ROM, bar(16 << 20, BarSpace::Memory32, false));
        check("a", &largest).unwrap();
    }
}
