//! What a guest wants to know of the machine, read from its device tree.

use crate::fdt::{Fdt, Node, cell, two_cells};

/// Of the first cell of a PCI address (IEEE 1275 "PCI Bus Binding", 2.2.1.1): bus, device and
/// function; register; the bit that both memory spaces have.
const CONFIG_ADDRESS: u32 = 0x00ff_ff00;
const REGISTER: u32 = 0xff;
const SPACE_MEMORY: u32 = 2 << 24;
const FIRST_BAR: u32 = 0x10;

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
    dynamic_windows: bool,
    name: &'a str,
    tree: Fdt<'a>,
}

/// A PCI function behind a host bridge.
#[derive(Clone, Copy, Debug)]
pub struct PciFunction<'a> {
    /// Its configuration address: bus, device and function, as RTAS calls name them, with register
    /// 0.
    pub config_address: u32,
    /// Base class, subclass and programming interface in three bytes.
    pub class_code: u32,
    assigned: &'a [u8],
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
        let tree = self.tree;
        tree.nodes()
            .filter(|node| node.base_name() == "pci")
            .filter_map(move |node| bridge(tree, &node))
    }

    /// Whether its interrupt controller is XIVE; XICS otherwise.
    pub fn has_xive(&self) -> bool {
        let mut nodes = self.tree.nodes();
        nodes.any(|node| node.text("compatible") == Some("ibm,power-ivpe"))
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

fn bridge<'a>(tree: Fdt<'a>, node: &Node<'a>) -> Option<HostBridge<'a>> {
    let window = node.property("ibm,dma-window")?;
    Some(HostBridge {
        buid: two_cells(node.property("reg")?, 0)?,
        window: DmaWindow {
            liobn: cell(window, 0)?,
            start: two_cells(window, 1)?,
            bytes: two_cells(window, 3)?,
        },
        ranges: node.property("ranges").unwrap_or_default(),
        dynamic_windows: node.property("ibm,ddw-applicable").is_some(),
        name: node.name,
        tree,
    })
}

impl<'a> HostBridge<'a> {
    /// Whether a guest can make DMA windows behind it (`ibm,ddw-applicable`).
    pub const fn offers_dynamic_windows(&self) -> bool {
        self.dynamic_windows
    }

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

    /// The functions behind it.
    pub fn functions(&self) -> impl Iterator<Item = PciFunction<'a>> + use<'a> {
        let name = self.name;
        let mut nodes = self.tree.nodes().skip_while(move |node| node.name != name);
        let depth = nodes.next().map_or(u32::MAX, |bridge| bridge.depth);
        nodes
            .take_while(move |node| node.depth > depth)
            .filter_map(|node| {
                Some(PciFunction {
                    config_address: cell(node.property("reg")?, 0)? & CONFIG_ADDRESS,
                    class_code: cell(node.property("class-code")?, 0)?,
                    assigned: node.property("assigned-addresses")?,
                })
            })
    }

    /// Where memory BAR `index` of a function is in guest addresses.
    pub fn bar(&self, function: &PciFunction<'_>, index: u32) -> Option<Range> {
        let Range { start: bus, bytes } = function.on_bus(index)?;
        self.ranges.chunks_exact(28).find_map(|range| {
            if cell(range, 0)? & SPACE_MEMORY == 0 {
                return None;
            }
            let offset = bus.checked_sub(two_cells(range, 1)?)?;
            let inside = offset.checked_add(bytes)? <= two_cells(range, 5)?;
            inside.then_some(Range {
                start: two_cells(range, 3)?.checked_add(offset)?,
                bytes,
            })
        })
    }
}

impl PciFunction<'_> {
    /// First bus address of memory BAR `index`.
    pub fn bus_address(&self, index: u32) -> Option<u64> {
        self.on_bus(index).map(|range| range.start)
    }

    fn on_bus(&self, index: u32) -> Option<Range> {
        let register = FIRST_BAR + 4 * index;
        // Three cells of bus address, two of length.
        let entry = self.assigned.chunks_exact(20).find(|entry| {
            cell(entry, 0).is_some_and(|space| {
                space & REGISTER == register && space & SPACE_MEMORY == SPACE_MEMORY
            })
        })?;
        Some(Range {
            start: two_cells(entry, 1)?,
            bytes: two_cells(entry, 3)?,
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
        assert!(!bridges[0].offers_dynamic_windows());
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
        let functions: Vec<_> = bridges[0].functions().collect();
        assert_eq!(functions.len(), 1);
        assert_eq!(functions[0].config_address, 0x800);
        assert_eq!(functions[0].class_code, 0x01_0802);
        let registers = Range {
            start: 0x2000_8001_0000,
            bytes: 0x4000,
        };
        assert_eq!(bridges[0].bar(&functions[0], 0), Some(registers));
        // I/O ports, a BAR outside of the bridge's windows, and none.
        for index in [1, 2, 3] {
            assert_eq!(bridges[0].bar(&functions[0], index), None);
        }
        assert_eq!(machine.number_argument("lines"), Some(12));
        assert_eq!(machine.argument("line"), None);
        assert_eq!(machine.timebase_hertz(), Some(512_000_000));
        assert!(!machine.has_xive());
    }
}
