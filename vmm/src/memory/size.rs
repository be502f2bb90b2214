//! How much memory a guest may have, and what the host says that it has.

use std::fs;
use std::io;

use vm_memory::GuestRegionCollectionError;
use vm_memory::mmap::MmapRegionError;

use super::hugepages::HugepageError;
use crate::setting::Setting;
use crate::spec::ByteSize;

/// What guest memory is a multiple of: 16 MiB, so that every region that is registered for DMA and
/// every memory slot starts and ends on a host page of any size up to 16 MiB.
pub const ALIGNMENT_BYTES: u64 = 16 << 20;

/// Least guest memory: what a distribution's kernel and a small initrd need to start.
pub const LEAST_BYTES: u64 = 128 << 20;

/// Memory for each processor below which a guest is warned of.
const BYTES_PER_CPU: u64 = 4 << 20;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Less than a kernel can start in.
    #[error("guest memory of {size} is too small; give at least {least}")]
    TooSmall {
        /// As asked for.
        size: ByteSize,
        /// The least.
        least: ByteSize,
    },
    /// A program that serves a file system may write to it.
    #[error(
        "the program that serves file system {tag} has not said that it has stopped, and may write to guest memory: the guest \
         cannot start again in that; end the program, and start the guest anew"
    )]
    InUse {
        /// The file system's name.
        tag: String,
    },
    /// Not a multiple of [`ALIGNMENT_BYTES`].
    #[error("guest memory of {bytes} bytes is not a multiple of {alignment}; {next} would be")]
    Unaligned {
        /// As asked for.
        bytes: u64,
        /// What it has to be a multiple of.
        alignment: ByteSize,
        /// The next larger size that is.
        next: ByteSize,
    },
    /// More than the host has.
    #[error("guest memory of {size} is more than this host has ({host_bytes} bytes); give less")]
    MoreThanHost {
        /// As asked for.
        size: ByteSize,
        /// MemTotal of /proc/meminfo.
        host_bytes: u64,
    },
    /// The host does not give the address space.
    #[error("cannot map {size} of guest memory; {}", map_advice(*.size, *.limit_bytes))]
    Map {
        /// As asked for.
        size: ByteSize,
        /// RLIMIT_AS, if there is one.
        limit_bytes: Option<u64>,
        /// Why.
        source: MmapRegionError,
    },
    /// Blocks that overlap, or are not in the order of their addresses.
    #[error("blocks of guest memory overlap")]
    Blocks(#[source] GuestRegionCollectionError),
    /// Not in huge pages.
    #[error(transparent)]
    Hugepages(#[from] HugepageError),
    /// /proc/meminfo cannot be read.
    #[error("cannot read how much memory the host has from /proc/meminfo")]
    Meminfo(#[source] io::Error),
}

impl MemoryError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        match self {
            Self::TooSmall { .. }
            | Self::Unaligned { .. }
            | Self::MoreThanHost { .. }
            | Self::Map { .. } => Some(Setting::Memory),
            Self::Hugepages(_) => Some(Setting::Hugepages),
            Self::InUse { .. } | Self::Blocks(_) | Self::Meminfo(_) => None,
        }
    }
}

/// What to do about memory that cannot be mapped.
fn map_advice(size: ByteSize, limit_bytes: Option<u64>) -> String {
    match limit_bytes {
        Some(limit) => format!(
            "the limit on address space is {} KiB (ulimit -v), and guest memory alone takes {} KiB: raise \
             the limit or give less",
            limit >> 10,
            size.0 >> 10
        ),
        None => "free some memory or give less".to_owned(),
    }
}

/// What a Linux guest with `cpus` processors should have, when `bytes` is so much less that it may run out
/// of memory as it starts: it has areas, stacks and threads for each of them.
pub fn more_memory_for(cpus: u32, bytes: u64) -> Option<ByteSize> {
    let wanted = u64::from(cpus).saturating_mul(BYTES_PER_CPU);
    (bytes < wanted).then(|| ByteSize(wanted.next_power_of_two()))
}

/// Whether a guest can have memory of `size` on this host.
///
/// # Errors
/// When it is too small, unaligned, or more than the host has.
pub(super) fn check(size: ByteSize) -> Result<(), MemoryError> {
    check_size(size, host_memory_bytes().map_err(MemoryError::Meminfo)?)
}

/// Whether a guest can have memory of `size` on a host with `host_bytes`.
///
/// # Errors
/// When it is too small, unaligned, or more than the host has.
pub(crate) fn check_size(size: ByteSize, host_bytes: u64) -> Result<(), MemoryError> {
    if size.0 < LEAST_BYTES {
        return Err(MemoryError::TooSmall {
            size,
            least: ByteSize(LEAST_BYTES),
        });
    }
    if size.0 > host_bytes {
        return Err(MemoryError::MoreThanHost { size, host_bytes });
    }
    if !size.0.is_multiple_of(ALIGNMENT_BYTES) {
        return Err(MemoryError::Unaligned {
            bytes: size.0,
            alignment: ByteSize(ALIGNMENT_BYTES),
            next: ByteSize(size.0.next_multiple_of(ALIGNMENT_BYTES)),
        });
    }
    Ok(())
}

fn host_memory_bytes() -> io::Result<u64> {
    let no_line = || io::Error::new(io::ErrorKind::InvalidData, "no MemTotal line");
    meminfo_bytes("MemTotal:")?.ok_or_else(no_line)
}

/// Whether the host keeps areas for contiguous allocations (CMA): a page there is moved before it is locked for
/// long.
pub fn has_contiguous_areas() -> bool {
    meminfo_bytes("CmaTotal:").is_ok_and(|bytes| bytes.is_some_and(|bytes| bytes > 0))
}

/// A number of /proc/meminfo; none if it has no such line.
fn meminfo_bytes(key: &str) -> io::Result<Option<u64>> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let bytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map(|kibibytes| kibibytes << 10);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_processors_want_more_memory() {
        assert_eq!(more_memory_for(1, LEAST_BYTES), None);
        assert_eq!(more_memory_for(256, 1 << 30), None);
        assert_eq!(more_memory_for(257, 1 << 30), Some(ByteSize(2 << 30)));
        assert_eq!(more_memory_for(1000, 1 << 30), Some(ByteSize(4 << 30)));
    }

    fn refusal(bytes: u64) -> String {
        check_size(ByteSize(bytes), 8 << 30)
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn sizes_no_guest_can_run_in_are_refused_with_the_value_and_the_remedy() {
        assert_eq!(
            refusal(0),
            "guest memory of 0 is too small; give at least 128M"
        );
        assert_eq!(
            refusal((1 << 30) + 4096),
            "guest memory of 1073745920 bytes is not a multiple of 16M; 1040M would be"
        );
        assert_eq!(
            refusal(16 << 30),
            "guest memory of 16G is more than this host has (8589934592 bytes); give less"
        );
        assert!(check_size(ByteSize(1 << 30), 8 << 30).is_ok());
    }

    #[test]
    fn a_refusal_to_map_is_told_once() {
        let size = ByteSize(1 << 30);
        let error = MemoryError::Map {
            size,
            limit_bytes: None,
            source: MmapRegionError::Mmap(io::Error::from_raw_os_error(libc::ENOMEM)),
        };
        let text = spapr_devices::error_chain::chain(&error);
        assert_eq!(text.matches("os error 12").count(), 1, "{text}");
    }
}
