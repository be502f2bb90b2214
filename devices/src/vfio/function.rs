//! A VFIO device as a host bridge knows a function.

use std::io;
use std::os::fd::AsRawFd;

use log::Level;
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use super::preflight::host_address;
use super::{Device, DeviceError, Irq, IrqError, RegionIndex, RegionMapping, Rom};
use crate::error_chain::chain;
use crate::guest_message;
use crate::interrupts::Signal;
use crate::pci::{
    Bar, BarMapping, BarSpace, FunctionBackend, InterruptKind, NUM_BARS, ROM, VectorsEnabled,
};

/// A VFIO device as the host bridge knows it.
pub struct VfioFunction {
    name: String,
    bars: [Option<Bar>; NUM_BARS],
    rom: Option<Rom>,
    // Before the device, which they keep busy.
    _mappings: Vec<RegionMapping>,
    device: Device,
}

impl VfioFunction {
    /// The function of `device`, with its BARs mapped as far as the kernel lets them, and with `rom` to be shown.
    ///
    /// # Errors
    /// When its registers cannot be read or a BAR not be mapped.
    pub fn new(device: Device, rom: Option<Rom>) -> Result<Self, DeviceError> {
        let mut mappings = Vec::new();
        let mut bars = [const { None }; NUM_BARS];
        let mut upper_half = false;
        for (index, bar) in (0..).zip(&mut bars) {
            if upper_half {
                upper_half = false;
                continue;
            }
            let Some(region) = RegionIndex::bar(index) else {
                continue;
            };
            let bytes = device.region(region).bytes;
            if bytes == 0 {
                continue;
            }
            let mut register = [0; 4];
            device.read_config(0x10 + 4 * u16::from(index), &mut register)?;
            let register = u32::from_le_bytes(register);
            // The host has given it no address, and VFIO shows none (`vfio_bar_fixup` in
            // drivers/vfio/pci/vfio_pci_config.c), be its size what it may.
            if register == 0 {
                continue;
            }
            let (space, prefetchable) = bar_kind(register);
            upper_half = space == BarSpace::Memory64;
            let mut high = [0; 4];
            if upper_half {
                device.read_config(0x14 + 4 * u16::from(index), &mut high)?;
            }
            // No guest has written there: what it writes stays in front of the device.
            let host_address = host_address(space, register, || u32::from_le_bytes(high));
            let mut areas = Vec::new();
            if space != BarSpace::Io {
                for mapping in device.map_region(region)? {
                    let host = HostRange {
                        start: mapping.host_address(),
                        bytes: mapping.bytes(),
                    };
                    areas.push(BarMapping {
                        offset: mapping.region_offset(),
                        host,
                    });
                    mappings.push(mapping);
                }
            }
            *bar = Some(Bar {
                bytes,
                space,
                prefetchable,
                host_address,
                mappings: areas,
                doorbells: Vec::new(),
            });
        }
        let name = device.address().to_string();
        Ok(Self {
            name,
            bars,
            rom,
            _mappings: mappings,
            device,
        })
    }

    fn region(index: usize) -> io::Result<RegionIndex> {
        u8::try_from(index)
            .ok()
            .and_then(RegionIndex::bar)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// What the low bits of a BAR say (PCI Local Bus Specification 3.0, 6.2.5.1).
fn bar_kind(register: u32) -> (BarSpace, bool) {
    if register & 1 != 0 {
        return (BarSpace::Io, false);
    }
    let space = if register >> 1 & 3 == 2 {
        BarSpace::Memory64
    } else {
        BarSpace::Memory32
    };
    (space, register & 8 != 0)
}

fn irq(kind: InterruptKind) -> Irq {
    match kind {
        InterruptKind::Msi => Irq::Msi,
        InterruptKind::MsiX => Irq::Msix,
    }
}

fn other(error: impl std::error::Error) -> io::Error {
    io::Error::other(chain(&error))
}

impl FunctionBackend for VfioFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn location_code(&self) -> String {
        format!("vfio_vfio-pci:{}", self.name)
    }

    fn config_bytes(&self) -> u16 {
        u16::try_from(self.device.region(RegionIndex::CONFIG).bytes).unwrap_or(4096)
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        self.device.read_config(offset, data).map_err(other)
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        self.device.write_config(offset, data).map_err(other)
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        if index == ROM {
            return self.rom.as_ref().map(|rom| Bar {
                bytes: rom.bytes(),
                space: BarSpace::Memory32,
                prefetchable: false,
                host_address: None,
                mappings: Vec::new(),
                doorbells: Vec::new(),
            });
        }
        self.bars.get(index).cloned().flatten()
    }

    fn read_bar(&self, index: usize, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if let Some(rom) = self.rom.as_ref().filter(|_| index == ROM) {
            rom.read(offset, data);
            return Ok(());
        }
        self.device
            .read(Self::region(index)?, offset, data)
            .map_err(other)
    }

    fn write_bar(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        if index == ROM {
            return Ok(());
        }
        self.device
            .write(Self::region(index)?, offset, data)
            .map_err(other)
    }

    fn interrupt_vectors(&self, kind: InterruptKind) -> u32 {
        match self.device.irq_info(irq(kind)) {
            Ok(info) => info.count,
            Err(error) => {
                let error = chain(&error);
                guest_message!(Level::Warn, "the guest gets no {kind} vectors: {error}");
                0
            }
        }
    }

    fn set_interrupts(
        &self,
        kind: InterruptKind,
        signals: &[Signal],
    ) -> io::Result<VectorsEnabled> {
        let events = signals.iter().map(|signal| signal.event().as_raw_fd());
        let events: Vec<_> = events.collect();
        match self.device.set_vectors(irq(kind), &events) {
            Ok(()) => Ok(VectorsEnabled::All),
            Err(IrqError::TooMany {
                available, wanted, ..
            }) if (1..wanted).contains(&(available as usize)) => {
                Ok(VectorsEnabled::AtMost(available))
            }
            Err(error) => Err(other(error)),
        }
    }

    fn disable_interrupts(&self, _kind: InterruptKind) -> io::Result<()> {
        self.device.disable_vectors().map_err(other)
    }

    fn has_line(&self) -> bool {
        // That it cannot be asked is told when its vectors are asked for.
        self.device
            .irq_info(Irq::Intx)
            .is_ok_and(|info| info.count > 0 && info.automasked)
    }

    fn connect_line(&self, event: &EventFd) -> io::Result<()> {
        let events = [event.as_raw_fd()];
        self.device.set_vectors(Irq::Intx, &events).map_err(other)
    }

    fn unmask_line(&self) -> io::Result<()> {
        self.device.unmask_intx().map_err(other)
    }

    fn disconnect_line(&self) -> io::Result<()> {
        self.device.disable_vectors().map_err(other)
    }

    fn is_in_endpoint(&self) -> bool {
        true
    }

    fn reset(&self) -> io::Result<()> {
        self.device.reset().map(drop).map_err(|error| match error {
            DeviceError::Held(_) => io::Error::new(io::ErrorKind::ResourceBusy, error),
            _ => other(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::tests::{describe_bar, open_device};
    use super::*;

    #[test]
    fn a_bar_to_which_the_host_has_given_no_address_is_none_whatever_its_size() {
        let device = open_device(|kernel| describe_bar(kernel, 1, 0x1000));
        device
            .write_config(0x10, &0x8000_0000u32.to_le_bytes())
            .unwrap();
        let function = VfioFunction::new(device, None).unwrap();
        let bar = function.bar(0).expect("one with an address");
        assert_eq!((bar.bytes, bar.space), (0x4000, BarSpace::Memory32));
        assert_eq!(bar.host_address, Some(0x8000_0000));
        assert_eq!(function.bar(1), None);
    }

    #[test]
    fn a_bar_of_64_bits_is_where_both_halves_of_its_register_say() {
        let device = open_device(|_| {});
        for (at, half) in [(0x10, 0x8000_000cu32), (0x14, 0x6_0000)] {
            device.write_config(at, &half.to_le_bytes()).unwrap();
        }
        let function = VfioFunction::new(device, None).unwrap();
        let bar = function.bar(0).expect("one with an address");
        assert_eq!(bar.space, BarSpace::Memory64);
        assert_eq!(bar.host_address, Some(0x6_0000_8000_0000));
    }
}
