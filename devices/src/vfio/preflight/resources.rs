//! What a PCI function has of addresses and resets, before anything is opened: by its files in sysfs, which any user
//! may read.

use std::fs::{self, File};
use std::io::Read;

use super::HostPaths;
use crate::pci::{Bar, BarSpace, NUM_BARS};
use crate::vfio::{GroupNumber, PciAddress, ResetMember};

/// The line of `resource` that is the expansion ROM's, after those of the BARs.
const ROM_LINE: usize = NUM_BARS;

/// Bytes of configuration space up to the last BAR (PCI 3.0, 6.1).
const HEADER_BYTES: usize = 0x28;

/// Flags of a resource (include/linux/ioport.h).
const FLAG_IO: u64 = 0x100;
const FLAG_PREFETCH: u64 = 0x2000;
const FLAG_64_BIT: u64 = 0x10_0000;
const FLAG_UNSET: u64 = 0x2000_0000;

/// What a PCI function has of addresses and resets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceResources {
    /// Its BARs, by the number of their register.
    pub bars: [Option<Bar>; NUM_BARS],
    /// BARs that the host has given no address, so that VFIO does not show them.
    pub unplaced: Vec<usize>,
    /// Size of its expansion ROM in bytes; 0 for none.
    pub rom_bytes: u64,
    /// How the host can reset it alone, best first, as its `reset_method` says: flr, af_flr, pm, bus …
    pub resets: Vec<String>,
    /// All functions on its bus, itself among them, that have a group.
    pub bus: Vec<ResetMember>,
}

impl HostPaths {
    /// What a function has of addresses and resets; `None` when the host does not tell.
    pub fn resources(&self, address: PciAddress) -> Option<DeviceResources> {
        let folder = self.pci_device(address);
        let resource = fs::read_to_string(folder.join("resource")).ok()?;
        let mut found = DeviceResources::read(&resource);
        // Only the header up to the BARs, which all may read: reading beyond it may have side effects.
        let mut header = [0; HEADER_BYTES];
        let config = File::open(folder.join("config"));
        if config.is_ok_and(|mut config| config.read_exact(&mut header).is_ok()) {
            found.note_host_addresses(&header);
        }
        let methods = fs::read_to_string(folder.join("reset_method")).unwrap_or_default();
        found.resets = methods.split_whitespace().map(str::to_owned).collect();
        found.bus = self.bus_of(address);
        Some(found)
    }

    fn bus_of(&self, address: PciAddress) -> Vec<ResetMember> {
        let names = super::names(&self.pci_devices()).unwrap_or_default();
        let addresses = names.iter().filter_map(|name| name.parse().ok());
        let on_bus = addresses.filter(|other: &PciAddress| {
            (other.domain(), other.bus()) == (address.domain(), address.bus())
        });
        let mut members: Vec<_> = on_bus
            .filter_map(|address| {
                let group: GroupNumber = self.group_of(address).ok()?;
                Some(ResetMember { address, group })
            })
            .collect();
        members.sort_unstable();
        members
    }
}

impl DeviceResources {
    /// Reads `resource`: a line for each BAR and then others, with start, end and flags in hexadecimal.
    fn read(text: &str) -> Self {
        let mut found = Self::default();
        let numbers = |line: &str| -> Option<[u64; 3]> {
            let mut fields = line.split_whitespace();
            let mut number = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
            Some([number()?, number()?, number()?])
        };
        for (index, line) in text.lines().take(ROM_LINE + 1).enumerate() {
            let Some([start, end, flags]) = numbers(line).filter(|&[_, _, flags]| flags != 0)
            else {
                continue;
            };
            let bytes = end.saturating_sub(start).saturating_add(1);
            if index == ROM_LINE {
                found.rom_bytes = bytes;
            } else if start == 0 || flags & FLAG_UNSET != 0 {
                found.unplaced.push(index);
            } else if let Some(bar) = found.bars.get_mut(index) {
                *bar = Some(Bar {
                    bytes,
                    space: space(flags),
                    prefetchable: flags & FLAG_PREFETCH != 0,
                    host_address: None,
                    mappings: Vec::new(),
                    doorbells: Vec::new(),
                });
            }
        }
        found
    }

    /// Where the BARs are on the host's bus, as the header in `config` has it.
    fn note_host_addresses(&mut self, config: &[u8]) {
        let registers = config.get(0x10..).unwrap_or_default().as_chunks().0;
        let register = |index: usize| registers.get(index).map_or(0, |it| u32::from_le_bytes(*it));
        for (index, bar) in self.bars.iter_mut().enumerate() {
            let Some(bar) = bar else { continue };
            bar.host_address = host_address(bar.space, register(index), || register(index + 1));
        }
    }
}

/// The bus address that a BAR's register `low` has, with that of the `high` half of a 64-bit one: `None` of I/O ports,
/// and where there is none, as in virtual functions.
pub(in super::super) fn host_address(
    space: BarSpace,
    low: u32,
    high: impl FnOnce() -> u32,
) -> Option<u64> {
    let low = u64::from(low & !0xf);
    let address = match space {
        BarSpace::Io => 0,
        BarSpace::Memory32 => low,
        BarSpace::Memory64 => low | u64::from(high()) << 32,
    };
    (address != 0).then_some(address)
}

const fn space(flags: u64) -> BarSpace {
    if flags & FLAG_IO != 0 {
        BarSpace::Io
    } else if flags & FLAG_64_BIT != 0 {
        BarSpace::Memory64
    } else {
        BarSpace::Memory32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::FakeHost;
    use super::*;

    /// An e1000e of the lab, more or less: memory, another, I/O ports the host did not place, and a ROM.
    const RESOURCE: &str = "\
0x0000600c80000000 0x0000600c8001ffff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000600c80020000 0x0000600c8003ffff 0x0000000000042200
0x0000000000000000 0x000000000000001f 0x0000000000040101
0x0000600c80040000 0x0000600c80043fff 0x0000000020040200
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000600c80080000 0x0000600c800bffff 0x0000000000046200
0x0000000000000000 0x0000000000000000 0x0000000000000000
";

    fn address() -> PciAddress {
        "0001:01:00.0".parse().unwrap()
    }

    #[test]
    fn bars_rom_and_those_without_an_address_are_as_the_host_says() {
        let found = DeviceResources::read(RESOURCE);
        let bar = |index: usize| {
            let bar = found.bars[index].as_ref();
            bar.map(|bar| (bar.bytes, bar.space, bar.prefetchable))
        };
        assert_eq!(bar(0), Some((0x2_0000, BarSpace::Memory64, false)));
        assert_eq!(bar(2), Some((0x2_0000, BarSpace::Memory32, true)));
        assert_eq!([bar(1), bar(3), bar(4), bar(5)], [None; 4]);
        assert_eq!((found.unplaced, found.rom_bytes), (vec![3, 4], 0x4_0000));
    }

    #[test]
    fn resets_and_the_functions_of_the_bus_are_told() {
        let host = FakeHost::ready();
        assert_eq!(host.paths().resources(address()), None);
        host.add("0001:01:00.1", Some(4), None);
        host.add("0001:01:00.2", None, None);
        host.add("0001:02:00.0", Some(5), None);
        host.file("0001:01:00.0", "resource", RESOURCE.as_bytes());
        let found = host.paths().resources(address()).unwrap();
        assert_eq!(found.resets, Vec::<String>::new());
        let bus: Vec<_> = found.bus.iter().map(ToString::to_string).collect();
        assert_eq!(
            bus,
            [
                "0001:01:00.0 (IOMMU group 0)",
                "0001:01:00.1 (IOMMU group 4)"
            ]
        );
        host.file("0001:01:00.0", "reset_method", b"flr pm bus\n");
        let found = host.paths().resources(address()).unwrap();
        assert_eq!(found.resets, ["flr", "pm", "bus"]);
    }

    #[test]
    fn the_header_says_where_bars_are_on_the_bus() {
        let host = FakeHost::ready();
        host.file("0001:01:00.0", "resource", RESOURCE.as_bytes());
        let of_host = |config: &[u8]| {
            host.file("0001:01:00.0", "config", config);
            let found = host.paths().resources(address()).unwrap();
            [0, 2].map(|index| found.bars[index].as_ref().unwrap().host_address)
        };
        let mut config = [0; 64];
        for (at, register) in [(0x10, 0x8000_0004u32), (0x14, 0x600), (0x18, 0x8004_0008)] {
            config[at..at + 4].copy_from_slice(&register.to_le_bytes());
        }
        let low = Some(0x8004_0000);
        assert_eq!(of_host(&config), [Some(0x600_8000_0000), low]);
        // A virtual function's registers are 0; and what is short says nothing, not half of it.
        assert_eq!(of_host(&[0; 64]), [None, None]);
        assert_eq!(of_host(&config[..0x14]), [None, None]);
        assert_eq!(of_host(&[]), [None, None]);
    }

    proptest! {
        #[test]
        fn whatever_is_there_is_read_to_an_end(text in "([0-9a-fx]{0,20} ?\n?){0,30}") {
            let _ = DeviceResources::read(&text);
        }
    }
}
