//! What a guest wants to know of the machine, read from its device tree.

use crate::fdt::{Fdt, Node, cell, two_cells};

/// A range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A DMA window (PAPR, "ibm,dma-window").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaWindow {
    /// Logical I/O bus number.
    pub liobn: u32,
    /// First I/O bus address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A PCI host bridge.
#[derive(Clone, Copy, Debug)]
pub struct HostBridge<'a> {
    /// Bus unit identifier, with which RTAS calls name it.
    pub buid: u64,
    /// Its default DMA window.
    pub window: DmaWindow,
    ranges: &'a [u8],
}

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    tree: Fdt<'a>,
}

impl<'a> Machine<'a> {
    /// The machine that `tree` describes.
    pub const fn new(tree: Fdt<'a>) -> Self {
        Self { tree }
    }

    /// Bytes of RAM, from address 0 on.
    pub fn ram_bytes(&self) -> Option<u64> {
        two_cells(self.tree.node("memory")?.property("reg")?, 2)
    }

    /// The PCI host bridges.
    pub fn host_bridges(&self) -> impl Iterator<Item = HostBridge<'a>> + use<'a> {
        self.tree
            .nodes()
            .filter(|node| node.base_name() == "pci")
            .filter_map(|node| bridge(&node))
    }

    /// Ticks of the time base in a second.
    pub fn timebase_hertz(&self) -> Option<u32> {
        let mut nodes = self.tree.nodes();
        nodes.find_map(|node| cell(node.property("timebase-frequency")?, 0))
    }

    /// The token of an RTAS service.
    pub fn rtas_token(&self, service: &str) -> Option<u32> {
        cell(self.tree.node("rtas")?.property(service)?, 0)
    }

    /// What the command line says after `name=`.
    pub fn argument(&self, name: &str) -> Option<&'a str> {
        let words = self
            .tree
            .node("chosen")?
            .text("bootargs")?
            .split_ascii_whitespace();
        words
            .filter_map(|word| word.split_once('='))
            .find(|word| word.0 == name)
            .map(|word| word.1)
    }

    /// What the command line says after `name=`, as a number.
    pub fn number_argument(&self, name: &str) -> Option<u64> {
        self.argument(name)?.parse().ok()
    }
}

fn bridge<'a>(node: &Node<'a>) -> Option<HostBridge<'a>> {
    let window = node.property("ibm,dma-window")?;
    Some(HostBridge {
        buid: two_cells(node.property("reg")?, 0)?,
        window: DmaWindow {
            liobn: cell(window, 0)?,
            start: two_cells(window, 1)?,
            bytes: two_cells(window, 3)?,
        },
        ranges: node.property("ranges").unwrap_or_default(),
    })
}

impl<'a> HostBridge<'a> {
    /// Where its bus is in guest addresses: I/O ports, 32-bit and 64-bit memory, as far as it has
    /// them.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + use<'a> {
        // Three cells of bus address, two of guest address, two of length.
        self.ranges.chunks_exact(28).filter_map(|entry| {
            Some(Range {
                start: two_cells(entry, 3)?,
                bytes: two_cells(entry, 5)?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::tests::machine_tree;

    #[test]
    fn memory_bridges_and_arguments_are_found() {
        let blob = machine_tree();
        let machine = Machine::new(Fdt::new(&blob).unwrap());
        assert_eq!(machine.ram_bytes(), Some(1 << 30));
        let bridges: Vec<_> = machine.host_bridges().collect();
        assert_eq!(bridges.len(), 1);
        assert_eq!(bridges[0].buid, 0x0800_0000_2000_0000);
        let window = DmaWindow {
            liobn: 0x8000_0000,
            start: 0,
            bytes: 1 << 30,
        };
        assert_eq!(bridges[0].window, window);
        let ranges: Vec<_> = bridges[0].ranges().collect();
        assert_eq!(
            ranges[0],
            Range {
                start: 0x2000_0000_0000,
                bytes: 0x1_0000
            }
        );
        assert_eq!(
            ranges[1],
            Range {
                start: 0x2000_8000_0000,
                bytes: 0x8000_0000
            }
        );
        assert_eq!(machine.number_argument("lines"), Some(12));
        assert_eq!(machine.argument("line"), None);
        assert_eq!(machine.timebase_hertz(), Some(512_000_000));
    }
}
