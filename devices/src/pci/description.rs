//! What the device tree says about a host bridge and its functions (IEEE 1275 "PCI Bus
//! Binding", revision 2.1; PAPR B.6).

use std::collections::BTreeSet;
use std::io;

use spapr_hypercalls::world::Geometry;

use super::address::DeviceFunction;
use super::backend::{BarSpace, FunctionBackend, InterruptKind};
use super::config_space::{read_u8, read_u16, read_u32, register};
use super::function::Function;
use super::header::bar_register;
use super::host_bridge::HostBridge;
use crate::interrupts::{CONTROLLER_PHANDLE, Lisn};
use crate::tree::{Node, cells};

const SPACE_IO: u32 = 1 << 24;
const SPACE_MEMORY32: u32 = 2 << 24;
const SPACE_MEMORY64: u32 = 3 << 24;
const PREFETCHABLE: u32 = 1 << 30;
const NOT_RELOCATABLE: u32 = 1 << 31;

const CONFIG_SPACE_TYPE: &str = "ibm,pci-config-space-type";
/// Of [`CONFIG_SPACE_TYPE`]: configuration addresses have a register of 12 bits.
const REGISTERS_OF_12_BITS: u32 = 1;

/// What a function's registers say of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    vendor_id: u16,
    device_id: u16,
    revision_id: u8,
    class_code: u32,
    subsystem_vendor_id: u16,
    subsystem_id: u16,
    status: u16,
    cache_line: u8,
    min_grant: u8,
    max_latency: u8,
}

impl Identity {
    pub(super) fn read(backend: &dyn FunctionBackend) -> io::Result<Self> {
        let class_and_revision = read_u32(backend, register::REVISION_ID)?;
        Ok(Self {
            vendor_id: read_u16(backend, register::VENDOR_ID)?,
            device_id: read_u16(backend, register::DEVICE_ID)?,
            revision_id: class_and_revision.to_le_bytes()[0],
            class_code: class_and_revision >> 8,
            subsystem_vendor_id: read_u16(backend, register::SUBSYSTEM_VENDOR_ID)?,
            subsystem_id: read_u16(backend, register::SUBSYSTEM_ID)?,
            status: read_u16(backend, register::STATUS)?,
            cache_line: read_u8(backend, 0x0c)?,
            min_grant: read_u8(backend, 0x3e)?,
            max_latency: read_u8(backend, 0x3f)?,
        })
    }
}

/// An entry of `interrupt-map`: the first cell of the addresses of a device's functions, a pin of 1 to 4, and where
/// that goes.
type MapEntry = (u32, u32, Lisn);

/// `interrupt-map-mask`: the bits of an address of three cells and of a pin that entries are found by. Functions of
/// one device share its lines.
const ROUTE_MASK: [u32; 4] = [0xf800, 0, 0, 7];

impl HostBridge {
    /// What the device tree says about the bridge, whose default DMA window is `dma_window`, whose functions can have
    /// `vectors` of MSI and MSI-X together, and whose guest may make windows by the services of `ibm,ddw-applicable`
    /// and `ibm,ddw-extensions` where there are any (PAPR, "PCI Host Bridge Nodes").
    pub fn describe(
        &self,
        dma_window: Geometry,
        vectors: u32,
        dynamic_windows: Option<([u32; 3], [u32; 4])>,
    ) -> Node {
        let windows = self.windows();
        let [buid_high, buid_low] = cells(windows.buid);
        let ranges = [
            (SPACE_IO, windows.io),
            (SPACE_MEMORY32, windows.memory32),
            (SPACE_MEMORY64, windows.memory64),
        ]
        .map(|(space, window)| {
            let [bus_high, bus_low] = cells(window.bus);
            let [guest_high, guest_low] = cells(window.guest.0);
            let [bytes_high, bytes_low] = cells(window.bytes);
            [
                space, bus_high, bus_low, guest_high, guest_low, bytes_high, bytes_low,
            ]
        });
        let page_bytes = dma_window.page_shift.bytes();
        let [bus_high, bus_low] = cells(dma_window.bus_offset.0);
        let [bytes_high, bytes_low] = cells(dma_window.entries.saturating_mul(page_bytes));
        let default_window = [self.liobn(0).0, bus_high, bus_low, bytes_high, bytes_low];
        let mut node = Node::new(format!("pci@{:x}", windows.buid))
            .string("device_type", "pci")
            .string("compatible", "IBM,Logical_PHB")
            .cell("#address-cells", 3)
            .cell("#size-cells", 2)
            .cell("#interrupt-cells", 1)
            .cells("reg", &[buid_high, buid_low, 0, 0])
            .cells("bus-range", &[0, 0xff])
            .cells("ranges", ranges.as_flattened())
            .flag("used-by-rtas")
            .cell(CONFIG_SPACE_TYPE, REGISTERS_OF_12_BITS)
            .cell("ibm,pe-total-#msi", vectors)
            .cell("ibm,#dma-address-cells", 2)
            .cell("ibm,#dma-size-cells", 2)
            .cells("ibm,dma-window", &default_window);
        if let Some((applicable, extensions)) = &dynamic_windows {
            node = node
                .cells("ibm,ddw-applicable", applicable)
                .cells("ibm,ddw-extensions", extensions);
        }
        let routes = self.routes();
        if !routes.is_empty() {
            let map: Vec<u32> = routes.into_iter().flat_map(map_entry).collect();
            node = node
                .cells("interrupt-map-mask", &ROUTE_MASK)
                .cells("interrupt-map", &map);
        }
        let functions = self.functions().iter().zip(self.identities());
        node.with_children(functions.map(|(function, identity)| function.describe(identity)))
    }

    fn routes(&self) -> BTreeSet<MapEntry> {
        let functions = self.functions().iter();
        let routes = functions.filter_map(|function| {
            let route = function.line.as_ref()?.route;
            let device = unit(function.address) & ROUTE_MASK[0];
            Some((device, route.pin.into(), route.lisn))
        });
        routes.collect()
    }
}

/// An address of three cells and a pin, then the controller and the two cells by which it names a level-triggered
/// source.
fn map_entry((device, pin, lisn): MapEntry) -> [u32; 7] {
    const LEVEL: u32 = 1;
    [device, 0, 0, pin, CONTROLLER_PHANDLE, lisn.0, LEVEL]
}

impl Function {
    fn describe(&self, identity: &Identity) -> Node {
        let vectors = |kind| Some(self.max_vectors(kind)).filter(|&count| count > 0);
        let nonzero = |value: u16| Some(u32::from(value)).filter(|&value| value > 0);
        let pin = self.line.as_ref().map(|line| line.route.pin.into());
        let [reg, assigned_addresses] = self.addresses();
        Node::new(node_name(identity, self.address))
            .cell("vendor-id", identity.vendor_id.into())
            .cell("device-id", identity.device_id.into())
            .cell("revision-id", identity.revision_id.into())
            .cell("class-code", identity.class_code)
            .optional_cell("subsystem-vendor-id", nonzero(identity.subsystem_vendor_id))
            .optional_cell("subsystem-id", nonzero(identity.subsystem_id))
            // In units of four bytes, as the register has it.
            .cell("cache-line-size", identity.cache_line.into())
            .cell("devsel-speed", u32::from(identity.status >> 9 & 3))
            .cell("min-grant", identity.min_grant.into())
            .cell("max-latency", identity.max_latency.into())
            .cell(CONFIG_SPACE_TYPE, REGISTERS_OF_12_BITS)
            .optional_cell("ibm,req#msi", vectors(InterruptKind::Msi))
            .optional_cell("ibm,req#msi-x", vectors(InterruptKind::MsiX))
            .optional_cell("interrupts", pin)
            .string("ibm,loc-code", &self.backend.location_code())
            .cells("reg", &reg)
            .cells("assigned-addresses", &assigned_addresses)
    }

    /// `reg`: configuration space, then each BAR with its size. `assigned-addresses`: each BAR with the address that
    /// it has when the guest starts.
    fn addresses(&self) -> [Vec<u32>; 2] {
        let mut reg = address(unit(self.address), 0, 0).to_vec();
        let mut assigned = Vec::new();
        for ((index, bar), place) in (0..).zip(&self.bars).zip(self.addresses) {
            let Some(bar) = bar else { continue };
            let prefetchable = if bar.prefetchable { PREFETCHABLE } else { 0 };
            let register = unit(self.address) | u32::from(bar_register(index));
            let kind = match bar.space {
                BarSpace::Io => SPACE_IO,
                BarSpace::Memory32 => SPACE_MEMORY32 | prefetchable,
                BarSpace::Memory64 => SPACE_MEMORY64 | prefetchable,
            };
            // An assigned address says where the BAR is, not what it could be.
            let space = match bar.space {
                BarSpace::Memory64 if place < 1 << 32 => SPACE_MEMORY32 | prefetchable,
                _ => kind,
            };
            reg.extend(address(kind | register, 0, bar.bytes));
            let space = space | register | NOT_RELOCATABLE;
            assigned.extend(address(space, place, bar.bytes));
        }
        [reg, assigned]
    }
}

/// A physical address of three cells, of which the first has address space, device, function and register, and a size
/// of two.
fn address(space: u32, bus_address: u64, bytes: u64) -> [u32; 5] {
    let [address_high, address_low] = cells(bus_address);
    let [bytes_high, bytes_low] = cells(bytes);
    [space, address_high, address_low, bytes_high, bytes_low]
}

/// Device and function as the first cell of an address has them.
fn unit(address: DeviceFunction) -> u32 {
    u32::from(address.byte()) << 8
}

/// The generic name of the function's class where one is in common use, else its ids (IEEE 1275
/// "Generic Names").
fn node_name(identity: &Identity, address: DeviceFunction) -> String {
    let unit = match (address.device(), address.function()) {
        (device, 0) => format!("{device:x}"),
        (device, function) => format!("{device:x},{function:x}"),
    };
    let name = match identity.class_code >> 8 {
        0x0100 => "scsi",
        0x0101 => "ide",
        0x0104 => "raid",
        0x0106 => "sata",
        0x0107 => "sas",
        0x0102..=0x01ff => "mass-storage",
        0x0200 => "ethernet",
        0x0201..=0x02ff => "network",
        0x0300..=0x03ff => "display",
        0x0c03 => "usb",
        _ => {
            return format!(
                "pci{:x},{:x}@{unit}",
                identity.vendor_id, identity.device_id
            );
        }
    };
    format!("{name}@{unit}")
}

#[cfg(test)]
#[path = "description_tests.rs"]
mod tests;
