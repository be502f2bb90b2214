//! How a PCI function can interrupt, before anything is opened: by its configuration space in sysfs.

use std::fs;

use super::HostPaths;
use crate::vfio::PciAddress;

/// The part of configuration space that any user may read: its header.
const HEADER_BYTES: usize = 64;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
const ID_MSI: u8 = 0x05;
const ID_MSI_X: u8 = 0x11;

/// What a PCI function has to interrupt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptKinds {
    /// MSI vectors; 0 when it has no MSI.
    pub msi: u32,
    /// MSI-X vectors; 0 when it has no MSI-X.
    pub msi_x: u32,
    /// Whether it has an interrupt line (INTx).
    pub intx: bool,
}

impl InterruptKinds {
    /// Reads them in a configuration space; `None` when it is not there as far as is needed.
    fn read(config: &[u8]) -> Option<Self> {
        let intx = (1..=4).contains(config.get(INTERRUPT_PIN)?);
        let mut kinds = Self {
            intx,
            ..Self::default()
        };
        if config.get(STATUS)? & STATUS_CAPABILITIES == 0 {
            return Some(kinds);
        }
        let mut next = config.get(CAPABILITIES)? & 0xfc;
        // A broken device's list may be a ring: there is room for 48.
        for _ in 0..48 {
            let at = usize::from(next);
            if at < HEADER_BYTES {
                break;
            }
            let &[id, link, low, high] = config.get(at..at + 4)?.first_chunk()?;
            let control = u32::from(u16::from_le_bytes([low, high]));
            match id {
                ID_MSI => kinds.msi = 1 << (control >> 1 & 7).min(5),
                ID_MSI_X => kinds.msi_x = (control & 0x7ff) + 1,
                _ => {}
            }
            next = link & 0xfc;
        }
        Some(kinds)
    }
}

impl HostPaths {
    /// What a function has to interrupt with; `None` when its configuration space cannot be read so
    /// far: that of a device with capabilities only root may.
    pub fn interrupts(&self, address: PciAddress) -> Option<InterruptKinds> {
        InterruptKinds::read(&fs::read(self.pci_device(address).join("config")).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::FakeHost;
    use super::*;

    /// A space with these capabilities, each with its control register, linked from 0x40 on.
    fn config(pin: u8, capabilities: &[(u8, u16)]) -> Vec<u8> {
        let mut config = vec![0; 256];
        config[INTERRUPT_PIN] = pin;
        let mut link = CAPABILITIES;
        for (at, &(id, control)) in (0x40u8..).step_by(8).zip(capabilities) {
            config[STATUS] = STATUS_CAPABILITIES;
            config[link] = at;
            let at = usize::from(at);
            config[at] = id;
            config[at + 2..at + 4].copy_from_slice(&control.to_le_bytes());
            link = at + 1;
        }
        config
    }

    fn kinds(msi: u32, msi_x: u32, intx: bool) -> Option<InterruptKinds> {
        Some(InterruptKinds { msi, msi_x, intx })
    }

    #[test]
    fn vectors_and_the_line_are_as_the_device_says() {
        let read = |pin, capabilities: &[_]| InterruptKinds::read(&config(pin, capabilities));
        assert_eq!(read(0, &[]), kinds(0, 0, false));
        assert_eq!(read(1, &[]), kinds(0, 0, true));
        assert_eq!(read(5, &[(0x01, 3)]), kinds(0, 0, false));
        assert_eq!(read(4, &[(0x01, 3), (0x05, 0x018a)]), kinds(32, 0, true));
        assert_eq!(
            read(1, &[(0x11, 0x8040), (0x05, 0x0080)]),
            kinds(1, 65, true)
        );
    }

    #[test]
    fn without_the_right_to_read_capabilities_nothing_is_claimed() {
        let host = FakeHost::ready();
        let address: PciAddress = "0001:01:00.0".parse().unwrap();
        assert_eq!(host.paths().interrupts(address), None);
        let show = |bytes: &[u8]| host.config("0001:01:00.0", bytes);
        show(&config(1, &[(0x05, 0)])[..HEADER_BYTES]);
        assert_eq!(host.paths().interrupts(address), None);
        show(&config(1, &[])[..HEADER_BYTES]);
        assert_eq!(host.paths().interrupts(address), kinds(0, 0, true));
        show(&config(1, &[(0x05, 0)]));
        assert_eq!(host.paths().interrupts(address), kinds(1, 0, true));
    }

    proptest! {
        #[test]
        fn whatever_is_there_is_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = InterruptKinds::read(&bytes);
        }
    }
}
