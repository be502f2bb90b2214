//! What `--stats` writes: counters of a run, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Why the counters could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the statistics to {} (--stats)", .path.display())]
pub struct StatsError {
    path: PathBuf,
    source: io::Error,
}

/// The counters of one run of a machine, over all its reboots.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// How the run ended: `power-off`, `signal`, `os-term`, `error`.
    pub outcome: String,
    /// How often the guest rebooted.
    pub reboots: u64,
    /// Exits from the guest to this process, by kind.
    pub exits: BTreeMap<String, u64>,
    /// Hypercalls served here, by name.
    pub hypercalls: BTreeMap<String, u64>,
    /// RTAS calls served here, by name.
    pub rtas_calls: BTreeMap<String, u64>,
    /// The DMA windows.
    pub windows: Vec<WindowStatistics>,
    /// Guest memory and what of it was locked.
    pub memory: MemoryStatistics,
    /// From the start of the process to the first entry of the guest, in nanoseconds.
    pub first_guest_instruction_ns: Option<u64>,
}

/// One DMA window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WindowStatistics {
    /// LIOBN, in hexadecimal.
    pub liobn: String,
    /// IOMMU group of the host.
    pub group: u32,
    /// Version of the VFIO container.
    pub container: u32,
    /// First bus address.
    pub bus_offset: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Number of TCEs.
    pub entries: u64,
    /// `unlocked` (never used), `bound` (single entries in the kernel), or `user`.
    pub path: String,
    /// Why the kernel does not handle it, when it does not.
    pub reason: Option<String>,
    /// TCE hypercalls served here, by name.
    pub calls: BTreeMap<String, u64>,
    /// Entries written by them.
    pub tces: u64,
    /// Runs of entries that went to the host in one piece.
    pub runs: u64,
    /// VFIO_IOMMU_MAP_DMA calls.
    pub map_ioctls: u64,
    /// VFIO_IOMMU_UNMAP_DMA calls.
    pub unmap_ioctls: u64,
    /// Calls that failed for want of resources at the host.
    pub failures: u64,
}

/// Guest memory and what of it was locked for DMA.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryStatistics {
    /// Size of guest memory.
    pub guest_bytes: u64,
    /// Size of the regions in which it is locked.
    pub region_bytes: u64,
    /// Regions locked at the end.
    pub locked_regions: u64,
    /// Bytes of guest memory locked at the end.
    pub locked_bytes: u64,
    /// Most bytes of guest memory locked at any time.
    pub peak_locked_bytes: u64,
    /// VmLck of the process at the end, tables included.
    pub process_locked_bytes: u64,
}

impl Statistics {
    /// Writes the counters to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), StatsError> {
        let error = |source| StatsError {
            path: path.to_owned(),
            source,
        };
        let mut text =
            serde_json::to_string_pretty(self).map_err(|e| error(io::Error::other(e)))?;
        text.push('\n');
        File::create(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(error)
    }
}
