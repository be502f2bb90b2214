//! The numbers that a device tree says about a host bridge and its functions (IEEE 1275 "PCI Bus
//! Binding", revision 2.1; PAPR B.6).

use std::collections::BTreeSet;
use std::io;

use spapr_hypercalls::world::Geometry;

use super::address::DeviceFunction;
use super::backend::{BarSpace, FunctionBackend, InterruptKind};
use super::config_space::{read_u8, read_u16, read_u32, register};
use super::function::Function;
use super::host_bridge::HostBridge;
use crate::interrupts::Lisn;

const SPACE_IO: u32 = 1 << 24;
const SPACE_MEMORY32: u32 = 2 << 24;
const SPACE_MEMORY64: u32 = 3 << 24;
const PREFETCHABLE: u32 = 1 << 30;
const NOT_RELOCATABLE: u32 = 1 << 31;

/// One entry of `reg` or `assigned-addresses`: a physical address of three cells and a size of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// First cell: address space, device and function, and register.
    pub space: u32,
    /// Bus address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl NodeAddress {
    /// The five cells.
    pub fn cells(self) -> [u32; 5] {
        let [address_high, address_low] = cells(self.address);
        let [bytes_high, bytes_low] = cells(self.bytes);
        [self.space, address_high, address_low, bytes_high, bytes_low]
    }
}

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

/// The properties of one function's node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionNode {
    /// Name and unit address, such as `mass-storage@0` or `pci1b36,10@1,2`.
    pub name: String,
    /// `vendor-id`
    pub vendor_id: u32,
    /// `device-id`
    pub device_id: u32,
    /// `revision-id`
    pub revision_id: u32,
    /// `class-code`: base class, subclass and programming interface in three bytes.
    pub class_code: u32,
    /// `subsystem-vendor-id`; left out when 0.
    pub subsystem_vendor_id: Option<u32>,
    /// `subsystem-id`; left out when 0.
    pub subsystem_id: Option<u32>,
    /// `cache-line-size`, in units of four bytes as the register has it.
    pub cache_line_size: u32,
    /// `devsel-speed`
    pub devsel_speed: u32,
    /// `min-grant`
    pub min_grant: u32,
    /// `max-latency`
    pub max_latency: u32,
    /// `ibm,loc-code`: tells which device of the host it is.
    pub location_code: String,
    /// `ibm,pci-config-space-type`: 1, for configuration addresses with a register of 12 bits.
    pub config_space_type: u32,
    /// `ibm,req#msi`: how many MSI vectors there are; left out when none.
    pub req_msi: Option<u32>,
    /// `ibm,req#msi-x`: how many MSI-X vectors there are; left out when none.
    pub req_msi_x: Option<u32>,
    /// `interrupts`: the pin of its interrupt line, 1 to 4; left out when the guest gets none.
    pub interrupts: Option<u32>,
    /// `reg`: configuration space, then each BAR with its size.
    pub reg: Vec<NodeAddress>,
    /// `assigned-addresses`: each BAR with the address it has when the guest starts.
    pub assigned_addresses: Vec<NodeAddress>,
}

/// The properties of a host bridge's node, and its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostBridgeNode {
    /// Name and unit address, such as `pci@800000020000000`.
    pub name: String,
    /// `reg`: bus unit identifier (two cells), and a size of 0 (two cells).
    pub reg: [u32; 4],
    /// `bus-range`
    pub bus_range: [u32; 2],
    /// `ranges`: I/O, 32-bit and 64-bit memory; each bus address (three cells), guest physical
    /// address (two), size (two).
    pub ranges: [[u32; 7]; 3],
    /// `ibm,pci-config-space-type`: 1, for configuration addresses with a register of 12 bits.
    pub config_space_type: u32,
    /// `ibm,pe-total-#msi`
    pub pe_total_msi: u32,
    /// `ibm,dma-window`: LIOBN, bus address (two cells), size in bytes (two cells).
    pub dma_window: [u32; 5],
    /// `ibm,ddw-applicable` and `ibm,ddw-extensions`: the RTAS tokens for dynamic DMA windows;
    /// left out of a bridge that offers none.
    pub dynamic_windows: Option<[[u32; 3]; 2]>,
    /// `interrupt-map`: where the interrupt lines of the functions go; left out when there are
    /// none.
    pub lines: Vec<LineNode>,
    /// The functions' nodes.
    pub functions: Vec<FunctionNode>,
}

/// One entry of `interrupt-map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineNode {
    /// The first cell of the addresses of a device's functions.
    pub device: u32,
    /// The pin, 1 to 4.
    pub pin: u32,
    /// The level-triggered interrupt source.
    pub lisn: Lisn,
}

impl LineNode {
    /// `interrupt-map-mask`: the bits of an address of three cells and of a pin that entries are
    /// found by. Functions of one device share its lines.
    pub const MASK: [u32; 4] = [0xf800, 0, 0, 7];
}

impl HostBridge {
    /// What the device tree says about the bridge, whose default DMA window is `dma_window`.
    pub fn node(&self, dma_window: Geometry) -> HostBridgeNode {
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
        let [bus_high, bus_low] = cells(dma_window.bus_offset.0);
        let [bytes_high, bytes_low] = cells(
            dma_window
                .entries
                .saturating_mul(dma_window.page_shift.bytes()),
        );
        HostBridgeNode {
            name: format!("pci@{:x}", windows.buid),
            reg: [buid_high, buid_low, 0, 0],
            bus_range: [0, 0xff],
            ranges,
            config_space_type: 1,
            pe_total_msi: Lisn::MSI_COUNT,
            dma_window: [self.liobn(0).0, bus_high, bus_low, bytes_high, bytes_low],
            dynamic_windows: None,
            lines: self.lines(),
            functions: self
                .functions()
                .iter()
                .zip(self.identities())
                .map(|(function, identity)| function.node(identity))
                .collect(),
        }
    }

    fn lines(&self) -> Vec<LineNode> {
        let lines = self.functions().iter().filter_map(|function| {
            let route = function.line.as_ref()?.route;
            Some(LineNode {
                device: unit(function.address) & LineNode::MASK[0],
                pin: route.pin.into(),
                lisn: route.lisn,
            })
        });
        let lines: BTreeSet<LineNode> = lines.collect();
        lines.into_iter().collect()
    }
}

impl HostBridgeNode {
    /// The node of a bridge whose guest may make DMA windows of its own, by the services that
    /// `ibm,ddw-applicable` and `ibm,ddw-extensions` name.
    #[must_use]
    pub const fn with_dynamic_windows(mut self, services: [[u32; 3]; 2]) -> Self {
        self.dynamic_windows = Some(services);
        self
    }
}

impl Function {
    fn node(&self, identity: &Identity) -> FunctionNode {
        let vectors = |kind| Some(self.max_vectors(kind)).filter(|&count| count > 0);
        let nonzero = |value: u16| Some(u32::from(value)).filter(|&value| value > 0);
        let mut reg = vec![NodeAddress {
            space: unit(self.address),
            address: 0,
            bytes: 0,
        }];
        let mut assigned_addresses = Vec::new();
        for ((index, bar), address) in (0u32..).zip(&self.bars).zip(self.addresses) {
            let Some(bar) = bar else { continue };
            let prefetchable = if bar.prefetchable { PREFETCHABLE } else { 0 };
            let register = unit(self.address) | (u32::from(register::BAR0) + 4 * index);
            let kind = match bar.space {
                BarSpace::Io => SPACE_IO,
                BarSpace::Memory32 => SPACE_MEMORY32 | prefetchable,
                BarSpace::Memory64 => SPACE_MEMORY64 | prefetchable,
            };
            // An assigned address says where the BAR is, not what it could be.
            let place = match bar.space {
                BarSpace::Memory64 if address < 1 << 32 => SPACE_MEMORY32 | prefetchable,
                _ => kind,
            };
            let bytes = bar.bytes;
            reg.push(NodeAddress {
                space: kind | register,
                address: 0,
                bytes,
            });
            assigned_addresses.push(NodeAddress {
                space: place | register | NOT_RELOCATABLE,
                address,
                bytes,
            });
        }
        FunctionNode {
            name: node_name(identity, self.address),
            vendor_id: identity.vendor_id.into(),
            device_id: identity.device_id.into(),
            revision_id: identity.revision_id.into(),
            class_code: identity.class_code,
            subsystem_vendor_id: nonzero(identity.subsystem_vendor_id),
            subsystem_id: nonzero(identity.subsystem_id),
            cache_line_size: identity.cache_line.into(),
            devsel_speed: u32::from(identity.status >> 9 & 3),
            min_grant: identity.min_grant.into(),
            max_latency: identity.max_latency.into(),
            location_code: self.backend.location_code(),
            config_space_type: 1,
            req_msi: vectors(InterruptKind::Msi),
            req_msi_x: vectors(InterruptKind::MsiX),
            interrupts: self.line.as_ref().map(|line| line.route.pin.into()),
            reg,
            assigned_addresses,
        }
    }
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

/// The upper and the lower half.
fn cells(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
#[path = "description_tests.rs"]
mod tests;
