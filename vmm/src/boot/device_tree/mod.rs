//! The flattened device tree that tells the guest what machine it is on (PAPR, "Open Firmware
//! Device Tree"). It stands in for what firmware and the client-architecture-support negotiation
//! would have left, so it also holds their results: RTAS is instantiated, and
//! `ibm,architecture-vec-5` names the MMU mode and interrupt controller to use.

mod cpus;
mod pci;
mod platform;

use std::ops::Range;

use spapr_devices::pci::HostBridgeNode;
use vm_fdt::{FdtReserveEntry, FdtWriter};

pub use cpus::{CacheGeometry, ProcessorFacts};

use super::layout::DEVICE_TREE_MOST_BYTES;

/// Why there is no device tree.
#[derive(Debug, thiserror::Error)]
pub enum DeviceTreeError {
    /// The writer refused something: a defect here, not in what the user gave.
    #[error("cannot write the device tree")]
    Write(#[from] vm_fdt::Error),
    /// It does not fit the room that is set aside.
    #[error(
        "the device tree of {bytes} bytes is larger than {most}; use fewer processors or devices"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most.
        most: u64,
    },
}

/// Phandle of the interrupt controller.
const INTERRUPT_CONTROLLER: u32 = 0x1111;

/// What the tree says of the machine; the same at every boot of it.
#[derive(Clone, Debug)]
pub struct MachineTree {
    /// Size of RAM in bytes.
    pub ram_bytes: u64,
    /// Number of processors; their ids and interrupt servers are 0 and up.
    pub cpus: u32,
    /// What the processors are.
    pub processor: ProcessorFacts,
    /// The PCI host bridges.
    pub host_bridges: Vec<HostBridgeNode>,
    /// The machine's name for itself.
    pub uuid: String,
    /// Random bytes for the kernel's generator.
    pub rng_seed: [u8; 64],
}

/// What the tree says of one boot.
#[derive(Clone, Debug)]
pub struct BootFacts<'a> {
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Where the initial RAM disk lies.
    pub initrd: Option<Range<u64>>,
    /// Where RTAS lies.
    pub rtas: Range<u64>,
    /// Where the tree itself lies.
    pub device_tree: Range<u64>,
}

/// Makes the tree.
///
/// # Errors
/// When it is too large for the room that [`BootFacts::device_tree`] gives it.
pub fn build(machine: &MachineTree, boot: &BootFacts<'_>) -> Result<Vec<u8>, DeviceTreeError> {
    let reserve = |range: &Range<u64>| FdtReserveEntry::new(range.start, range.end - range.start);
    let reserved = [reserve(&boot.rtas)?, reserve(&boot.device_tree)?];
    let mut tree = FdtWriter::new_with_mem_reserv(&reserved)?;
    tree.set_boot_cpuid_phys(0);
    let root = tree.begin_node("")?;
    platform::root_properties(&mut tree, machine)?;
    platform::chosen(&mut tree, machine, boot)?;
    platform::hypervisor(&mut tree)?;
    platform::memory(&mut tree, machine)?;
    platform::rtas(&mut tree, machine, boot)?;
    platform::interrupt_controller(&mut tree, machine)?;
    platform::vdevice(&mut tree)?;
    cpus::cpus(&mut tree, machine)?;
    for bridge in &machine.host_bridges {
        pci::host_bridge(&mut tree, bridge)?;
    }
    tree.end_node(root)?;
    let blob = tree.finish()?;
    if blob.len() as u64 > DEVICE_TREE_MOST_BYTES {
        return Err(DeviceTreeError::TooLarge {
            bytes: blob.len(),
            most: DEVICE_TREE_MOST_BYTES,
        });
    }
    Ok(blob)
}

/// The two 32-bit cells of a 64-bit value.
fn cells(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}
