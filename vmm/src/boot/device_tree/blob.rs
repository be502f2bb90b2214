//! A tree as a guest's kernel takes it: flattened (Devicetree Specification v0.4, chapter 5).

use std::collections::BTreeSet;
use std::ops::Range;

use spapr_devices::tree::Node;
use vm_fdt::{Error, FdtReserveEntry, FdtWriter};

use super::long_names;

/// Renders `root`; `reserved` is memory that the guest leaves alone.
pub(super) fn flatten(root: &Node, reserved: &[Range<u64>]) -> Result<Vec<u8>, Error> {
    let reserved: Result<Vec<_>, _> = reserved
        .iter()
        .map(|range| FdtReserveEntry::new(range.start, range.end - range.start))
        .collect();
    let mut writer = FdtWriter::new_with_mem_reserv(&reserved?)?;
    writer.set_boot_cpuid_phys(0);
    let mut long = BTreeSet::new();
    write(&mut writer, root, &mut long)?;
    let mut blob = writer.finish()?;
    long_names::restore(&mut blob, long);
    Ok(blob)
}

fn write<'a>(
    writer: &mut FdtWriter,
    node: &'a Node,
    long: &mut BTreeSet<&'a str>,
) -> Result<(), Error> {
    let opened = writer.begin_node(node.name())?;
    for property in node.properties() {
        writer.property(long_names::cut(&property.name), &property.value)?;
        if long_names::is_long(&property.name) {
            long.insert(&property.name);
        }
    }
    for child in node.children() {
        write(writer, child, long)?;
    }
    writer.end_node(opened)
}
