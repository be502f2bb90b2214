//! `/cpus`: one node for each core.

use spapr_devices::tree::Node;

use super::MachineTree;

/// Size and line of a level-1 cache in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheGeometry {
    /// Bytes in all.
    pub size_bytes: u32,
    /// Bytes in a line.
    pub line_bytes: u32,
}

/// What the guest is told of its processors: the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessorFacts {
    /// The part of the node's name before the unit, for example `PowerPC,POWER9`.
    pub node_name: String,
    /// Logical processor version (`0x0f00000N`, PAPR "cpu-version"): the architecture level.
    pub cpu_version: u32,
    /// Ticks of the time base in a second.
    pub timebase_hertz: u32,
    /// Clock of the processor.
    pub clock_hertz: u32,
    /// Level-1 data cache.
    pub data_cache: CacheGeometry,
    /// Level-1 instruction cache.
    pub instruction_cache: CacheGeometry,
    /// Page sizes of the radix MMU: bits 31:29 the AP field, the rest the shift
    /// (KVM_PPC_GET_RMMU_INFO).
    pub radix_ap_encodings: Vec<u32>,
    /// Whether large pages can be mapped uncached: on a host with pages of 64 KiB.
    pub cache_inhibited_large_pages: bool,
    /// Bits of the decrementer.
    pub decrementer_bits: u32,
}

/// Attribute bytes of `ibm,pa-features` that are not zero, for ISA 3.0 without transactional memory
/// (PAPR, "ibm,pa-features"; what Linux reads of them is in arch/powerpc/kernel/prom.c). POWER10
/// guests get these too: of what ISA 3.1 adds nothing depends on the property.
const PA_FEATURES: &[(usize, u8)] = &[
    (0, 0xf6),
    (1, 0x1f),
    (2, 0xc7),
    (3, 0xc0),
    (5, 0xf0),
    (6, 0x80),
    (16, 0x80), // vector
    (18, 0x80), // vector scalar
    (20, 0x80), // vector XOR
    (24, 0x80), // external decrementer
    (26, 0x80), // 64-bit features
    (28, 0x80), // performance monitor
    (32, 0x80), // little-endian atomics
    (34, 0xc0), // event-based branches
    (40, 0x80), // radix MMU
    (42, 0x80), // performance monitor, ISA 3.0
    (44, 0x80), // addressing relative to the program counter
    (46, 0x80), // system call vectored
    (48, 0x80), // SIMD
    (50, 0x80), // quad-precision floating point
    (52, 0x80), // strings
    (54, 0x80), // decimal floating point
    (56, 0x80), // decimal integers
    (58, 0x80), // SHA
    (60, 0x80), // near-memory atomics
    (62, 0x80), // random numbers
];

/// Byte and bit for large pages that are not cached.
const CACHE_INHIBITED_LARGE_PAGES: (usize, u8) = (1, 0x20);

/// Attribute bytes that ISA 3.0 defines.
const PA_FEATURES_BYTES: usize = 66;

pub(super) fn cpus(machine: &MachineTree) -> Node {
    let threads = usize::try_from(machine.threads_per_core.max(1)).unwrap_or(1);
    let all: Vec<u32> = (0..machine.cpus).collect();
    let cores = all.chunks(threads);
    Node::new("cpus")
        .cell("#address-cells", 1)
        .cell("#size-cells", 0)
        .with_children(cores.map(|core| cpu(&machine.processor, core)))
}

/// One core, whose threads have these ids and interrupt servers.
fn cpu(processor: &ProcessorFacts, threads: &[u32]) -> Node {
    let id = threads.first().copied().unwrap_or_default();
    let gservers: Vec<u32> = threads.iter().flat_map(|&server| [server, 0]).collect();
    let node = Node::new(format!("{}@{id:x}", processor.node_name))
        .string("device_type", "cpu")
        .cell("reg", id)
        .string("status", "okay")
        .cells("ibm,ppc-interrupt-server#s", threads)
        .cells("ibm,ppc-interrupt-gserver#s", &gservers)
        .cell("cpu-version", processor.cpu_version)
        .cell("timebase-frequency", processor.timebase_hertz)
        .cell("clock-frequency", processor.clock_hertz);
    let node = with_cache(node, 'd', processor.data_cache);
    with_cache(node, 'i', processor.instruction_cache)
        .flag("64-bit")
        .cell("slb-size", 32)
        .cell("ibm,slb-size", 32)
        .cell("ibm,purr", 1)
        .cell("ibm,spurr", 1)
        .cell("ibm,vmx", 2)
        .cell("ibm,dfp", 1)
        .cell("ibm,chip-id", 0)
        .bytes("ibm,pa-features", pa_features(processor))
        .cell("ibm,dec-bits", processor.decrementer_bits)
        .cells(
            "ibm,processor-radix-AP-encodings",
            &processor.radix_ap_encodings,
        )
}

fn with_cache(node: Node, kind: char, cache: CacheGeometry) -> Node {
    node.cell(format!("{kind}-cache-size"), cache.size_bytes)
        .cell(format!("{kind}-cache-block-size"), cache.line_bytes)
        .cell(format!("{kind}-cache-line-size"), cache.line_bytes)
}

/// One descriptor: the number of attribute bytes, the descriptor's type 0, the attributes.
fn pa_features(processor: &ProcessorFacts) -> [u8; 2 + PA_FEATURES_BYTES] {
    let mut property = [0; 2 + PA_FEATURES_BYTES];
    property[0] = PA_FEATURES_BYTES.to_le_bytes()[0];
    for &(byte, value) in PA_FEATURES {
        property[2 + byte] = value;
    }
    if processor.cache_inhibited_large_pages {
        let (byte, bit) = CACHE_INHIBITED_LARGE_PAGES;
        property[2 + byte] |= bit;
    }
    property
}
