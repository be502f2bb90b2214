//! The least of a device tree that the bare-metal guest reads.

use spapr_hypercalls::address::Liobn;
use spapr_hypercalls::world::Geometry;
use vm_fdt::{Error, FdtWriter};

/// Ticks of the time base in a second, on every POWER processor since POWER6.
const TIMEBASE_HERTZ: u32 = 512_000_000;
/// BUID of the first host bridge.
const BUID: u64 = 0x0800_0000_2000_0000;
/// Configuration address of a device behind it.
const DEVICE: u32 = 0x800;
/// Token of ibm,read-pci-config, as QEMU numbers it.
const READ_PCI_CONFIG: u32 = 0x2011;

/// Makes the tree.
///
/// # Errors
/// The command line has a NUL in it.
pub(super) fn build(
    command_line: &str,
    ram_bytes: u64,
    liobn: Liobn,
    window: Geometry,
) -> Result<Vec<u8>, Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", command_line)?;
    tree.end_node(chosen)?;
    let memory = tree.begin_node("memory@0")?;
    tree.property_array_u64("reg", &[0, ram_bytes])?;
    tree.end_node(memory)?;
    let cpu = tree.begin_node("cpu@0")?;
    tree.property_u32("timebase-frequency", TIMEBASE_HERTZ)?;
    tree.end_node(cpu)?;
    let rtas = tree.begin_node("rtas")?;
    tree.property_u32("ibm,read-pci-config", READ_PCI_CONFIG)?;
    tree.end_node(rtas)?;
    let bridge = tree.begin_node(&format!("pci@{BUID:x}"))?;
    tree.property_array_u64("reg", &[BUID, 0])?;
    let bytes = window.entries << window.page_shift.get();
    let cells = |value: u64| {
        [value >> 32, value & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(0))
    };
    let [start, size] = [cells(window.bus_offset.0), cells(bytes)];
    let property = [liobn.0, start[0], start[1], size[0], size[1]];
    tree.property_array_u32("ibm,dma-window", &property)?;
    let device = tree.begin_node("device@1")?;
    tree.property_array_u32("reg", &[DEVICE, 0, 0, 0, 0])?;
    tree.property_u32("class-code", 0x01_0802)?;
    tree.property_null("assigned-addresses")?;
    tree.end_node(device)?;
    tree.end_node(bridge)?;
    tree.end_node(root)?;
    tree.finish()
}
