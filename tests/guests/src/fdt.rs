//! Reading a flattened device tree (Devicetree Specification, chapter 5): as much as a guest needs.
//!
//! Damaged trees give fewer nodes, never a panic.

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;

/// Bytes of the header that are read here.
pub const HEADER_BYTES: usize = 40;

/// A device tree.
#[derive(Clone, Copy, Debug)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// One node of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name with the unit address, such as `pci@800000020000000`; the root's is empty.
    pub name: &'a str,
    /// Steps from the root.
    pub depth: u32,
    /// From its first property on.
    rest: &'a [u8],
    strings: &'a [u8],
}

/// Big-endian word `index` of `bytes`.
pub fn cell(bytes: &[u8], index: usize) -> Option<u32> {
    let word = bytes.get(index.checked_mul(4)?..)?.first_chunk()?;
    Some(u32::from_be_bytes(*word))
}

/// Big-endian doubleword from word `index` of `bytes` on.
pub fn two_cells(bytes: &[u8], index: usize) -> Option<u64> {
    Some(u64::from(cell(bytes, index)?) << 32 | u64::from(cell(bytes, index + 1)?))
}

/// How long the tree is whose header this is, in bytes; `None` when it is no header.
pub fn total_bytes(header: &[u8]) -> Option<usize> {
    (cell(header, 0)? == MAGIC).then(|| usize::try_from(cell(header, 1)?).ok())?
}

impl<'a> Fdt<'a> {
    /// The tree in `blob`; `None` when it is none.
    pub fn new(blob: &'a [u8]) -> Option<Self> {
        total_bytes(blob)?;
        let part = |offset: usize, length: usize| {
            let start = usize::try_from(cell(blob, offset)?).ok()?;
            let bytes = usize::try_from(cell(blob, length)?).ok()?;
            blob.get(start..start.checked_add(bytes)?)
        };
        Some(Self {
            structure: part(2, 9)?,
            strings: part(3, 8)?,
        })
    }

    /// All nodes, parents before children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let strings = self.strings;
        let mut rest = self.structure;
        let mut depth = 0u32;
        core::iter::from_fn(move || {
            loop {
                match take_cell(&mut rest)? {
                    BEGIN_NODE => {
                        let name = take_name(&mut rest)?;
                        depth += 1;
                        return Some(Node {
                            name,
                            depth: depth - 1,
                            rest,
                            strings,
                        });
                    }
                    END_NODE => depth = depth.checked_sub(1)?,
                    PROPERTY => drop(take_property(&mut rest, strings)?),
                    NOP => {}
                    _ => return None,
                }
            }
        })
    }

    /// The first node whose name, without the unit address, is `name`.
    pub fn node(&self, name: &str) -> Option<Node<'a>> {
        self.nodes().find(|node| node.base_name() == name)
    }
}

impl<'a> Node<'a> {
    /// The name without the unit address.
    pub fn base_name(&self) -> &'a str {
        self.name.split('@').next().unwrap_or(self.name)
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.rest;
        loop {
            match take_cell(&mut rest)? {
                PROPERTY => {
                    let (found, value) = take_property(&mut rest, self.strings)?;
                    if found == name {
                        return Some(value);
                    }
                }
                NOP => {}
                // Properties come before children.
                _ => return None,
            }
        }
    }

    /// A property that is a string.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        terminated(self.property(name)?)
    }
}

fn take_cell(rest: &mut &[u8]) -> Option<u32> {
    let value = cell(rest, 0)?;
    *rest = rest.get(4..)?;
    Some(value)
}

/// The text up to the first zero byte.
fn terminated(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(&bytes[..end]).ok()
}

fn take_name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let name = terminated(rest)?;
    *rest = rest.get((name.len() + 1).next_multiple_of(4)..)?;
    Some(name)
}

fn take_property<'a>(rest: &mut &'a [u8], strings: &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let length = usize::try_from(take_cell(rest)?).ok()?;
    let name = usize::try_from(take_cell(rest)?).ok()?;
    let value = rest.get(..length)?;
    *rest = rest.get(length.checked_next_multiple_of(4)?..)?;
    Some((terminated(strings.get(name..)?)?, value))
}

#[cfg(test)]
pub(crate) mod tests {
    use vm_fdt::FdtWriter;

    use super::*;

    /// A tree as a pseries machine with one host bridge has it.
    pub(crate) fn machine_tree() -> Vec<u8> {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_string("compatible", "qemu,pseries").unwrap();
        let chosen = fdt.begin_node("chosen").unwrap();
        fdt.property_string("bootargs", "seed=7 lines=12").unwrap();
        fdt.end_node(chosen).unwrap();
        let memory = fdt.begin_node("memory@0").unwrap();
        fdt.property_array_u64("reg", &[0, 1 << 30]).unwrap();
        fdt.end_node(memory).unwrap();
        let cpu = fdt.begin_node("PowerPC,POWER9@0").unwrap();
        fdt.property_u32("timebase-frequency", 512_000_000).unwrap();
        fdt.end_node(cpu).unwrap();
        let bridge = fdt.begin_node("pci@800000020000000").unwrap();
        fdt.property_string("device_type", "pci").unwrap();
        fdt.property_array_u64("reg", &[0x0800_0000_2000_0000, 0])
            .unwrap();
        let ranges = [
            [0x0100_0000, 0, 0, 0x2000, 0, 0, 0x1_0000],
            [
                0x0200_0000,
                0,
                0x8000_0000,
                0x2000,
                0x8000_0000,
                0,
                0x8000_0000,
            ],
        ];
        fdt.property_array_u32("ranges", &ranges.concat()).unwrap();
        fdt.property_array_u32("ibm,dma-window", &[0x8000_0000, 0, 0, 0, 0x4000_0000])
            .unwrap();
        let device = fdt.begin_node("nvme@0").unwrap();
        fdt.property_array_u32("reg", &[0x800, 0, 0, 0, 0]).unwrap();
        fdt.property_u32("class-code", 0x01_0802).unwrap();
        let assigned = [
            [0x8100_0814, 0, 0x1000, 0, 0x20],
            [0x8200_0818, 0x1, 0x8000_0000, 0, 0x4000],
            [0x8200_0810, 0, 0x8001_0000, 0, 0x4000],
        ];
        fdt.property_array_u32("assigned-addresses", &assigned.concat())
            .unwrap();
        fdt.end_node(device).unwrap();
        fdt.end_node(bridge).unwrap();
        fdt.end_node(root).unwrap();
        fdt.finish().unwrap()
    }

    #[test]
    fn nodes_come_in_order_with_their_depth_and_properties() {
        let blob = machine_tree();
        assert_eq!(total_bytes(&blob), Some(blob.len()));
        let fdt = Fdt::new(&blob).unwrap();
        let names: Vec<_> = fdt.nodes().map(|node| (node.name, node.depth)).collect();
        let bridge = "pci@800000020000000";
        assert_eq!(
            names,
            [
                ("", 0),
                ("chosen", 1),
                ("memory@0", 1),
                ("PowerPC,POWER9@0", 1),
                (bridge, 1),
                ("nvme@0", 2)
            ]
        );
        let memory = fdt.node("memory").unwrap();
        assert_eq!(two_cells(memory.property("reg").unwrap(), 2), Some(1 << 30));
        assert_eq!(
            fdt.node("chosen").unwrap().text("bootargs"),
            Some("seed=7 lines=12")
        );
        assert!(fdt.node("chosen").unwrap().property("reg").is_none());
        assert!(fdt.node("rtas").is_none());
    }

    #[test]
    fn a_damaged_tree_gives_fewer_nodes_and_no_panic() {
        let blob = machine_tree();
        for length in 0..blob.len() {
            if let Some(fdt) = Fdt::new(&blob[..length]) {
                assert!(fdt.nodes().count() <= 6);
            }
        }
        for at in 0..blob.len() {
            let mut damaged = blob.clone();
            damaged[at] = !damaged[at];
            if let Some(fdt) = Fdt::new(&damaged) {
                let found = fdt
                    .nodes()
                    .filter(|node| node.property("reg").is_some())
                    .count();
                assert!(found <= 5);
            }
        }
    }
}
