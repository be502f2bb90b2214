//! What `--stats` writes: counters of a run, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

/// Why the counters could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the statistics to {}", .path.display())]
pub struct StatsError {
    path: PathBuf,
    source: io::Error,
}

/// The counters of one run of a machine, over all its reboots.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// How the run ended: `power-off`, `quit` (by a user or a monitor), `signal`, `os-term`,
    /// `error`.
    pub outcome: String,
    /// How often the guest rebooted.
    pub reboots: u64,
    /// Exits from the guest to this process, by kind.
    pub exits: BTreeMap<String, u64>,
    /// Hypercalls served here, by name.
    pub hypercalls: BTreeMap<String, u64>,
    /// RTAS calls served here, by name.
    pub rtas_calls: BTreeMap<String, u64>,
    /// Where bulk TCE calls are handled, by name: H_PUT_TCE_INDIRECT and H_STUFF_TCE.
    pub bulk_calls: BTreeMap<String, BulkCallStatistics>,
    /// The DMA windows.
    pub windows: Vec<WindowStatistics>,
    /// Guest memory and what of it was locked.
    pub memory: MemoryStatistics,
    /// From the start of the process to the first entry of the guest, in nanoseconds.
    pub first_guest_instruction_ns: Option<u64>,
}

/// Where one of the bulk TCE calls is handled, for the windows that the kernel serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BulkCallStatistics {
    /// Whether the kernel's handler was enabled at the end.
    pub in_kernel: bool,
    /// How often the calls were handed over to the kernel.
    pub handed_over: u64,
    /// How often they were taken back.
    pub taken_back: u64,
}

/// One DMA window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WindowStatistics {
    /// LIOBN, in hexadecimal.
    pub liobn: String,
    /// IOMMU group of the host; left out where all devices are this process'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Version of the VFIO container, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<u32>,
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
    /// Size of the host's pages behind it.
    pub page_bytes: u64,
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

/// The file that the counters go to, made before the guest starts: that it cannot be written is
/// better known before a long run than after it.
#[derive(Debug)]
pub struct StatisticsFile {
    path: PathBuf,
    file: File,
}

impl StatisticsFile {
    /// Makes the file at `path`, empty.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: PathBuf) -> Result<Self, StatsError> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(StatsError { path, source }),
        }
    }

    /// Writes `statistics` as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(mut self, statistics: &Statistics) -> Result<(), StatsError> {
        let mut text = match serde_json::to_string_pretty(statistics) {
            Ok(text) => text,
            Err(error) => {
                let source = io::Error::other(error);
                return Err(StatsError {
                    path: self.path,
                    source,
                });
            }
        };
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(|source| StatsError {
                path: self.path,
                source,
            })
    }
}
