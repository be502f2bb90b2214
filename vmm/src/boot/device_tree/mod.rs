//! The flattened device tree that tells the guest what machine it is on (PAPR, "Open Firmware
//! Device Tree"). It stands in for what firmware and the client-architecture-support negotiation
//! would have left, so it also holds their results: RTAS is instantiated, and
//! `ibm,architecture-vec-5` names the MMU mode and interrupt controller to use.

mod blob;
mod cpus;
mod long_names;
mod platform;

use std::ops::Range;

use spapr_devices::interrupts::ControllerKind;
use spapr_devices::tree::Node;
use spapr_hypercalls::world::GuestRange;

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

/// What the tree says of the machine; the same at every boot of it.
#[derive(Clone, Debug)]
pub struct MachineTree {
    /// Blocks of RAM, in the order of their addresses; the first is at 0.
    pub ram: Vec<GuestRange>,
    /// Number of processors; their ids and interrupt servers are 0 and up.
    pub cpus: u32,
    /// How many of them are threads of one core.
    pub threads_per_core: u32,
    /// What the processors are.
    pub processor: ProcessorFacts,
    /// The interrupt controller.
    pub interrupt_controller: ControllerKind,
    /// Unit address of the terminal.
    pub vty: u32,
    /// The nodes of the PCI host bridges.
    pub host_bridges: Vec<Node>,
    /// Whether the host has EEH for what is behind one of them.
    pub has_eeh: bool,
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
    let root = tree(machine, boot);
    let blob = blob::flatten(&root, &[boot.rtas.clone(), boot.device_tree.clone()])?;
    if blob.len() as u64 > DEVICE_TREE_MOST_BYTES {
        return Err(DeviceTreeError::TooLarge {
            bytes: blob.len(),
            most: DEVICE_TREE_MOST_BYTES,
        });
    }
    Ok(blob)
}

/// The tree as data.
fn tree(machine: &MachineTree, boot: &BootFacts<'_>) -> Node {
    platform::root(machine)
        .child(platform::chosen(machine, boot))
        .child(platform::hypervisor())
        .with_children(machine.ram.iter().map(platform::memory))
        .child(platform::rtas(machine, boot))
        .child(platform::interrupt_controller(machine))
        .child(platform::event_sources())
        .child(platform::vdevice(machine))
        .child(cpus::cpus(machine))
        .with_children(machine.host_bridges.iter().cloned())
}

#[cfg(test)]
mod tests {
    use fdt::Fdt;
    use spapr_devices::interrupts::CONTROLLER_PHANDLE;
    use spapr_hypercalls::address::GuestPhysicalAddress;

    use super::*;

    fn machine(cpus: u32) -> MachineTree {
        let cache = CacheGeometry {
            size_bytes: 32 << 10,
            line_bytes: 128,
        };
        MachineTree {
            ram: vec![GuestRange {
                start: GuestPhysicalAddress(0),
                bytes: 2 << 30,
            }],
            cpus,
            threads_per_core: 1,
            interrupt_controller: ControllerKind::Xics,
            vty: spapr_devices::vty::DEFAULT_UNIT_ADDRESS,
            processor: ProcessorFacts {
                node_name: "PowerPC,POWER9".to_owned(),
                cpu_version: 0x0f00_0005,
                timebase_hertz: 512_000_000,
                clock_hertz: 1_000_000_000,
                data_cache: cache,
                instruction_cache: cache,
                radix_ap_encodings: vec![0x0c, 0xa000_0010],
                cache_inhibited_large_pages: true,
                decrementer_bits: 56,
            },
            host_bridges: Vec::new(),
            has_eeh: false,
            uuid: "12345678-1234-1234-1234-123456789abc".to_owned(),
            rng_seed: [7; 64],
        }
    }

    fn boot() -> BootFacts<'static> {
        BootFacts {
            command_line: "console=hvc0",
            initrd: Some(0x300_0000..0x340_0000),
            rtas: 0x2fff_0000..0x3000_0000,
            device_tree: 0x2fe0_0000..0x2fff_0000,
        }
    }

    fn property<'a>(tree: &'a Fdt<'_>, path: &str, name: &str) -> &'a [u8] {
        let node = tree
            .find_node(path)
            .unwrap_or_else(|| panic!("no node {path}"));
        node.property(name)
            .unwrap_or_else(|| panic!("no property {name} in {path}"))
            .value
    }

    #[test]
    fn each_block_of_memory_has_a_node_and_the_last_ones_end_is_the_guests_capacity() {
        let mut machine = machine(1);
        machine.ram.push(GuestRange {
            start: GuestPhysicalAddress(1 << 40),
            bytes: 1 << 30,
        });
        let blob = build(&machine, &boot()).expect("tree");
        let tree = Fdt::new(&blob).expect("valid tree");
        let reg = |start: u64, bytes: u64| [start.to_be_bytes(), bytes.to_be_bytes()].concat();
        assert_eq!(property(&tree, "/memory@0", "reg"), reg(0, 2 << 30));
        let high = property(&tree, "/memory@10000000000", "reg");
        assert_eq!(high, reg(1 << 40, 1 << 30));
        let capacity = property(&tree, "/rtas", "ibm,lrdr-capacity");
        assert_eq!(capacity[..8], ((1_u64 << 40) + (1 << 30)).to_be_bytes());
    }

    #[test]
    fn a_guest_finds_what_linux_needs_to_start() {
        let blob = build(&machine(2), &boot()).expect("tree");
        let tree = Fdt::new(&blob).expect("valid tree");
        assert_eq!(property(&tree, "/", "device_type"), b"chrp\0");
        assert_eq!(property(&tree, "/chosen", "bootargs"), b"console=hvc0\0");
        assert_eq!(
            property(&tree, "/chosen", "linux,initrd-start"),
            0x300_0000u64.to_be_bytes()
        );
        let vector = property(&tree, "/chosen", "ibm,architecture-vec-5");
        assert_eq!(
            (vector[24] & 0xc0, vector[26] & 0x40),
            (0x40, 0x40),
            "radix with shootdown"
        );
        assert_eq!(
            property(&tree, "/rtas", "linux,rtas-entry"),
            0x2fff_0000u32.to_be_bytes()
        );
        assert_eq!(
            property(&tree, "/rtas", "ibm,change-msi"),
            0x2019u32.to_be_bytes()
        );
        assert_eq!(
            property(&tree, "/rtas", "ibm,query-interrupt-source-number"),
            0x2018u32.to_be_bytes()
        );
        let capacity = property(&tree, "/rtas", "ibm,lrdr-capacity");
        assert_eq!(capacity[..8], (2u64 << 30).to_be_bytes());
        assert_eq!(
            property(&tree, "/vdevice/vty@71000000", "compatible"),
            b"hvterm1\0"
        );
        let cpus = tree.find_node("/cpus").expect("cpus");
        assert_eq!(cpus.children().count(), 2);
        let second = "/cpus/PowerPC,POWER9@1";
        assert_eq!(
            property(&tree, second, "ibm,ppc-interrupt-server#s"),
            1u32.to_be_bytes()
        );
        assert_eq!(
            property(&tree, second, "ibm,processor-radix-AP-encodings").len(),
            8
        );
        let features = property(&tree, second, "ibm,pa-features");
        assert_eq!((features[0], features[2 + 40] & 0x80), (66, 0x80), "radix");
        assert_eq!(
            features[2 + 1],
            0x3f,
            "large pages uncached, on such a host"
        );
    }

    #[test]
    fn threads_of_a_core_share_its_node() {
        let machine = MachineTree {
            threads_per_core: 4,
            ..machine(8)
        };
        let blob = build(&machine, &boot()).expect("tree");
        let tree = Fdt::new(&blob).expect("valid tree");
        assert_eq!(tree.find_node("/cpus").expect("cpus").children().count(), 2);
        let servers = property(
            &tree,
            "/cpus/PowerPC,POWER9@4",
            "ibm,ppc-interrupt-server#s",
        );
        let expected: Vec<u8> = (4u32..8).flat_map(u32::to_be_bytes).collect();
        assert_eq!(servers, expected);
    }

    #[test]
    fn a_terminal_can_be_elsewhere_and_power_events_have_an_interrupt() {
        let machine = MachineTree {
            vty: 0x3000_0000,
            ..machine(1)
        };
        let blob = build(&machine, &boot()).expect("tree");
        let tree = Fdt::new(&blob).expect("valid tree");
        let path = property(&tree, "/chosen", "linux,stdout-path");
        assert_eq!(path, b"/vdevice/vty@30000000\0");
        assert_eq!(
            property(&tree, "/vdevice/vty@30000000", "reg"),
            0x3000_0000u32.to_be_bytes()
        );
        assert_eq!(
            property(&tree, "/event-sources/epow-events", "interrupts"),
            [0x1000u32.to_be_bytes(), [0; 4]].concat()
        );
    }

    /// A guest takes a machine that has them for one with EEH (`eeh_pseries_init`).
    #[test]
    fn services_of_eeh_are_there_where_the_host_has_it() {
        for has_eeh in [true, false] {
            let machine = MachineTree {
                has_eeh,
                ..machine(1)
            };
            let blob = build(&machine, &boot()).expect("tree");
            let tree = Fdt::new(&blob).expect("valid tree");
            let rtas = tree.find_node("/rtas").expect("rtas");
            for name in [
                "ibm,set-eeh-option",
                "ibm,read-slot-reset-state2",
                "ibm,errinjct",
                "ibm,errinjct-tokens",
            ] {
                assert_eq!(rtas.property(name).is_some(), has_eeh, "{name}");
            }
            assert!(rtas.property("ibm,change-msi").is_some());
        }
    }

    /// What Linux looks at, in `xive_spapr_disabled`, `xive_spapr_init` and `xive_get_max_prio`
    /// (arch/powerpc/sysdev/xive/spapr.c).
    #[test]
    fn a_guest_with_xive_finds_its_pages_and_its_processors_interrupts() {
        let machine = MachineTree {
            interrupt_controller: ControllerKind::Xive,
            ..machine(3)
        };
        let blob = build(&machine, &boot()).expect("tree");
        let tree = Fdt::new(&blob).expect("valid tree");
        let vector = property(&tree, "/chosen", "ibm,architecture-vec-5");
        assert_eq!(vector[23] & 0xc0, 0x40, "exploitation mode");
        let words = |path, name| -> Vec<u32> {
            let (words, _) = property(&tree, path, name).as_chunks();
            words.iter().copied().map(u32::from_be_bytes).collect()
        };
        assert_eq!(words("/", "ibm,plat-res-int-priorities"), [7, 0xf8]);
        let node = "/interrupt-controller@60302031b0000";
        assert_eq!(property(&tree, node, "compatible"), b"ibm,power-ivpe\0");
        assert_eq!(
            words(node, "reg"),
            [
                0x60302, 0x31b_0000, 0, 0x1_0000, 0x60302, 0x31a_0000, 0, 0x1_0000
            ]
        );
        assert_eq!(words(node, "ibm,xive-eq-sizes"), [16]);
        assert_eq!(words(node, "ibm,xive-lisn-ranges"), [0, 3]);
        assert_eq!(words(node, "phandle"), [CONTROLLER_PHANDLE]);
        let rtas = tree.find_node("/rtas").expect("rtas");
        assert!(rtas.property("ibm,set-xive").is_none(), "it is XICS's");
    }

    #[test]
    fn a_guest_with_xics_finds_its_services() {
        let blob = build(&machine(3), &boot()).expect("tree");
        let tree = Fdt::new(&blob).expect("valid tree");
        let vector = property(&tree, "/chosen", "ibm,architecture-vec-5");
        assert_eq!(vector[23] & 0xc0, 0, "legacy mode");
        assert_eq!(
            property(&tree, "/interrupt-controller", "compatible"),
            b"IBM,ppc-xicp\0"
        );
        assert_eq!(
            property(&tree, "/rtas", "ibm,set-xive"),
            0x200au32.to_be_bytes()
        );
    }

    #[test]
    fn as_many_processors_as_can_be_asked_for_fit() {
        assert!(build(&machine(1024), &boot()).is_ok());
    }
}
