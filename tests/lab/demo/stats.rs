//! The part of the VMM's `--stats` that the demo shows.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Counters of one run; what is missing counts as nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    /// How the run ended.
    pub(super) outcome: String,
    pub(super) windows: Vec<Window>,
    pub(super) memory: Memory,
    /// From the program's start to the guest's first instruction.
    pub(super) first_guest_instruction_ns: Option<u64>,
}

/// One DMA window.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Window {
    pub(super) liobn: String,
    pub(super) bus_offset: u64,
    /// Bytes.
    pub(super) page_size: u64,
    pub(super) entries: u64,
    /// Where it stands: bound to the kernel's table, or user space alone.
    pub(super) path: String,
    /// Why the kernel does not help.
    pub(super) reason: Option<String>,
    /// Calls that reached the VMM, by hypercall.
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) map_ioctls: u64,
    pub(super) unmap_ioctls: u64,
}

/// Guest memory.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) guest_bytes: u64,
    pub(super) peak_locked_bytes: u64,
    /// VmLck of the process, tables included.
    pub(super) process_locked_bytes: u64,
}

impl Stats {
    /// Calls of this kind that reached the VMM, over all windows.
    pub(super) fn calls(&self, hypercall: &str) -> u64 {
        self.windows
            .iter()
            .filter_map(|window| window.calls.get(hypercall))
            .sum()
    }
}
