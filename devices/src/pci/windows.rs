//! Where the windows of each PCI host bridge lie, as QEMU's pseries machine places them
//! (`spapr_phb_placement` in hw/ppc/spapr.c; constants in include/hw/pci-host/spapr.h).

use spapr_hypercalls::address::GuestPhysicalAddress;

/// How many host bridges the address space from 32 TiB to 64 TiB has room for.
pub const MAX_HOST_BRIDGES: u8 = 31;

const BASE_BUID: u64 = 0x0800_0000_2000_0000;
/// 32 TiB.
const BASE: u64 = 0x2000_0000_0000;
const IO_BYTES: u64 = 0x1_0000;
const MEMORY32_BYTES: u64 = 0x8000_0000;
const MEMORY64_BYTES: u64 = 0x100_0000_0000;
const MEMORY32_BUS: u64 = 0x8000_0000;

/// A range of guest physical addresses that a host bridge forwards to its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address on the bus.
    pub bus: u64,
    /// Guest physical address of that.
    pub guest: GuestPhysicalAddress,
    /// Length in bytes.
    pub bytes: u64,
}

impl Window {
    /// Guest physical address of `bytes` at bus address `bus`, if the window holds all of them.
    pub fn guest_address(&self, bus: u64, bytes: u64) -> Option<GuestPhysicalAddress> {
        let offset = bus.checked_sub(self.bus)?;
        (offset.checked_add(bytes)? <= self.bytes)
            .then(|| GuestPhysicalAddress(self.guest.0 + offset))
    }

    /// Bus address of `bytes` at guest physical address `guest`, if the window holds all of them.
    pub fn bus_address(&self, guest: GuestPhysicalAddress, bytes: u64) -> Option<u64> {
        let offset = guest.0.checked_sub(self.guest.0)?;
        (offset.checked_add(bytes)? <= self.bytes).then(|| self.bus + offset)
    }
}

/// All that follows from a host bridge's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The bridge's number.
    pub bridge: u8,
    /// Bus unit identifier (PAPR "BUID"): how RTAS calls name the bridge.
    pub buid: u64,
    /// I/O ports: 64 KiB from bus address 0.
    pub io: Window,
    /// Memory for 32-bit BARs: 2 GiB from bus address 2 GiB.
    pub memory32: Window,
    /// Memory for 64-bit BARs: 1 TiB, at the same address on the bus as in the guest unless BARs have those of the
    /// host's bus.
    pub memory64: Window,
}

impl Windows {
    /// The windows of host bridge `index`; `None` from [`MAX_HOST_BRIDGES`] on.
    pub fn of_host_bridge(index: u8) -> Option<Self> {
        if index >= MAX_HOST_BRIDGES {
            return None;
        }
        let bridge = index;
        let index = u64::from(index);
        let memory64 = BASE + (index + 1) * MEMORY64_BYTES;
        Some(Self {
            bridge,
            buid: BASE_BUID + index,
            io: Window {
                bus: 0,
                guest: GuestPhysicalAddress(BASE + index * IO_BYTES),
                bytes: IO_BYTES,
            },
            memory32: Window {
                bus: MEMORY32_BUS,
                guest: GuestPhysicalAddress(BASE + (index + 1) * MEMORY32_BYTES),
                bytes: MEMORY32_BYTES,
            },
            memory64: Window {
                bus: memory64,
                guest: GuestPhysicalAddress(memory64),
                bytes: MEMORY64_BYTES,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bridge_is_where_qemu_has_it() {
        let windows = Windows::of_host_bridge(0).unwrap();
        assert_eq!(windows.buid, 0x0800_0000_2000_0000);
        assert_eq!(windows.io.guest.0, 0x2000_0000_0000);
        assert_eq!(windows.memory32.guest.0, 0x2000_8000_0000);
        assert_eq!(windows.memory64.guest.0, 0x2100_0000_0000);
    }

    #[test]
    fn windows_of_all_bridges_are_disjoint_and_below_64_tib() {
        let mut ranges: Vec<(u64, u64)> = (0..MAX_HOST_BRIDGES)
            .filter_map(Windows::of_host_bridge)
            .flat_map(|w| [w.io, w.memory32, w.memory64])
            .map(|w| (w.guest.0, w.guest.0 + w.bytes))
            .collect();
        assert_eq!(ranges.len(), 93);
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert!(ranges.last().unwrap().1 <= 1 << 46);
        assert_eq!(Windows::of_host_bridge(MAX_HOST_BRIDGES), None);
    }

    #[test]
    fn ranges_that_leave_a_window_have_no_address() {
        let window = Windows::of_host_bridge(0).unwrap().memory32;
        assert_eq!(
            window.guest_address(0xffff_0000, 0x1_0000).unwrap().0,
            0x2000_ffff_0000
        );
        assert_eq!(window.guest_address(0xffff_0000, 0x1_0001), None);
        assert_eq!(window.guest_address(0x7fff_ffff, 1), None);
        assert_eq!(window.guest_address(u64::MAX, u64::MAX), None);
    }
}
