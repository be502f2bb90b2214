//! A container's DMA windows.

use spapr_hypercalls::address::{Ioba, PageShift};
use spapr_hypercalls::world::HostError;
use std::os::fd::AsFd;
use vfio_bindings::bindings::vfio::vfio_iommu_spapr_tce_create;
use vmm_sys_util::errno::Error as Errno;

use parking_lot::MutexGuard;

use super::container::{Container, IommuVersion};
use super::dma::host_error;
use super::memory_limit::{LockedMemoryNeed, MemoryLimitError, host_table_bytes};
use super::{argument_size, host_page_bytes, kernel};

/// The most levels that the kernel's tables may have (POWERNV_IOMMU_MAX_LEVELS in
/// arch/powerpc/platforms/powernv/pci.h), whatever a container says.
const MAX_LEVELS: u32 = 5;

/// Entries that one level may index at first, as a power of two: 16 MiB of them, the largest block
/// that the page allocator of a ppc64 kernel gives, with pages of 4 KiB and of 64 KiB
/// (ARCH_FORCE_MAX_ORDER in arch/powerpc/Kconfig).
const LEVEL_INDEX_BITS: u32 = 21;

/// A window that the kernel has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeWindow {
    /// Where it starts on the bus.
    pub start: Ioba,
    /// How many levels its table has.
    pub levels: u32,
}

/// Why there is no such window.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The window's size is no power of two, too small or too large.
    #[error("a DMA window of {entries} pages of {page} is not possible: {reason}")]
    Size {
        /// Pages asked for.
        entries: u64,
        /// Their size.
        page: PageShift,
        /// What is wrong.
        reason: &'static str,
    },
    /// The host's IOMMU has no pages of this size.
    #[error(
        "the host's IOMMU has no pages of {page} for a DMA window of a {version} container; it has \
         {}", size_list(*.page_sizes)
    )]
    PageSize {
        /// The size asked for.
        page: PageShift,
        /// The container's version.
        version: IommuVersion,
        /// The sizes there are; bit `n` stands for `1 << n` bytes.
        page_sizes: u64,
    },
    /// A v1 container has another window, and no choice.
    #[error(
        "a v1 container has one DMA window, of {window_bytes:#x} bytes at bus address {start}; \
         {bytes:#x} bytes at {wanted} do not lie in it"
    )]
    OutsideFixedWindow {
        /// Where the window starts.
        start: Ioba,
        /// Its size in bytes.
        window_bytes: u64,
        /// Where a window was wanted.
        wanted: Ioba,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The kernel put the window elsewhere; it has been removed again.
    #[error("the host's kernel puts the DMA window at bus address {found}, not at {wanted}")]
    WrongStart {
        /// Where it was wanted.
        wanted: Ioba,
        /// Where the kernel put it.
        found: Ioba,
    },
    /// It does not lie in the one window that all are inside, or another does.
    #[error(
        "there is no room for {bytes:#x} bytes at {start} in the host's DMA window of {window_bytes:#x} bytes"
    )]
    NoRoomInside {
        /// Where it would start.
        start: Ioba,
        /// Its size in bytes.
        bytes: u64,
        /// Size of the host's.
        window_bytes: u64,
    },
    /// The limit on locked memory does not allow it.
    #[error(transparent)]
    MemoryLimit(#[from] MemoryLimitError),
    /// The kernel refused, at every number of levels where that could help.
    #[error(
        "the kernel refused a DMA window of {bytes:#x} bytes in pages of {page}, with tables of \
         {table_bytes} bytes in {levels} levels (VFIO_IOMMU_SPAPR_TCE_CREATE)"
    )]
    Create {
        /// Size of the window in bytes.
        bytes: u64,
        /// Its page size.
        page: PageShift,
        /// What its tables take, in bytes.
        table_bytes: u64,
        /// The last number of levels tried.
        levels: u32,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The kernel did not remove a window.
    #[error("the kernel did not remove the DMA window at bus address {start}")]
    Remove {
        /// Where the window starts.
        start: Ioba,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The kernel did not enable a v1 container.
    #[error("the kernel did not enable the v1 container (VFIO_IOMMU_ENABLE)")]
    Enable(#[source] Errno),
}

impl From<&WindowError> for HostError {
    /// What the engine tells the guest.
    fn from(error: &WindowError) -> Self {
        match error {
            WindowError::MemoryLimit(_) => Self::OutOfResources(libc::ENOMEM),
            WindowError::Create { source, .. }
            | WindowError::Remove { source, .. }
            | WindowError::Enable(source) => host_error(*source),
            WindowError::Size { .. }
            | WindowError::PageSize { .. }
            | WindowError::OutsideFixedWindow { .. }
            | WindowError::NoRoomInside { .. }
            | WindowError::WrongStart { .. } => Self::Refused(libc::EINVAL),
        }
    }
}

fn size_list(mask: u64) -> String {
    let sizes: Vec<_> = (0u8..64)
        .filter(|shift| mask & (1u64 << shift) != 0)
        .filter_map(PageShift::new)
        .map(|page| page.to_string())
        .collect();
    sizes.join(", ")
}

impl Container {
    /// Makes a window of `entries` pages of `page`: at `place`, or without one where the kernel puts it.
    ///
    /// The table gets as few levels as it can: each costs a device's access a load. The kernel
    /// wants a level in one piece of memory, and refuses (ENOMEM) what it cannot find; then more
    /// levels are tried, up to what the IOMMU has.
    ///
    /// A v1 container has its one window from the start: it is checked that this one lies in it, and the container
    /// is enabled, which locks the whole window's size.
    ///
    /// # Errors
    /// Nothing has been made then.
    pub fn create_window(
        &self,
        page: PageShift,
        entries: u64,
        place: Option<Ioba>,
    ) -> Result<MadeWindow, WindowError> {
        let bytes = window_bytes(page, entries)?;
        let info = *self.info();
        if !info.has_page_size(page) {
            return Err(WindowError::PageSize {
                page,
                version: info.version,
                page_sizes: info.page_sizes,
            });
        }
        match info.version {
            IommuVersion::V1 => {
                let start = place.unwrap_or(info.window_start);
                self.check_fixed_window(start, bytes)?;
                self.enable()?;
                Ok(MadeWindow { start, levels: 1 })
            }
            IommuVersion::V2 => match &mut *self.shared_window.lock() {
                Some(shared) => self.create_inside(shared, bytes, place),
                None => self.create_v2(page, bytes, place),
            },
        }
    }

    /// What a window of `entries` pages of `page` in a v2 container gets locked, with `memory_bytes` of registered
    /// memory, and KVM's table for the window if `kernel_table`.
    pub fn window_need(
        &self,
        page: PageShift,
        entries: u64,
        memory_bytes: u64,
        kernel_table: bool,
    ) -> LockedMemoryNeed {
        LockedMemoryNeed::v2(memory_bytes).with_window(
            page,
            entries.saturating_mul(page.bytes()),
            fewest_levels(entries.max(1)).min(self.most_levels()),
            kernel_table,
            host_page_bytes(),
            self.info().platform,
        )
    }

    fn most_levels(&self) -> u32 {
        self.info().levels.clamp(1, MAX_LEVELS)
    }

    pub(super) fn create_v2(
        &self,
        page: PageShift,
        bytes: u64,
        place: Option<Ioba>,
    ) -> Result<MadeWindow, WindowError> {
        let most = self.most_levels();
        let mut levels = fewest_levels(bytes >> page.get()).min(most);
        let found = loop {
            let source = match self.try_create(page, bytes, levels) {
                Ok(found) => break found,
                Err(source) => source,
            };
            let platform = self.info().platform;
            let table_bytes = host_table_bytes(page, bytes, levels, host_page_bytes(), platform);
            if source.errno() == libc::ENOMEM {
                // One of the two reasons for it, which more levels do not help.
                self.check_limit(table_bytes)?;
                if levels < most {
                    levels += 1;
                    continue;
                }
            }
            return Err(WindowError::Create {
                bytes,
                page,
                table_bytes,
                levels,
                source,
            });
        };
        let Some(wanted) = place.filter(|wanted| *wanted != found) else {
            return Ok(MadeWindow {
                start: found,
                levels,
            });
        };
        self.remove(found).map_err(|source| WindowError::Remove {
            start: found,
            source,
        })?;
        Err(WindowError::WrongStart { wanted, found })
    }

    fn try_create(&self, page: PageShift, bytes: u64, levels: u32) -> Result<Ioba, Errno> {
        let mut window = vfio_iommu_spapr_tce_create {
            argsz: argument_size::<vfio_iommu_spapr_tce_create>(),
            page_shift: page.get(),
            window_size: bytes,
            levels,
            ..Default::default()
        };
        kernel::container_create_window(self.as_fd(), &mut window)?;
        Ok(Ioba(window.start_addr))
    }

    /// Removes the window that starts at `start`, with all that it maps. In a v1 container the
    /// window stays, everything in it is unmapped, and what it counted as locked is given back.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove_window(&self, start: Ioba) -> Result<(), WindowError> {
        let removed = match self.version() {
            IommuVersion::V2 => {
                let mut shared = self.shared_window.lock();
                if shared.is_some() {
                    self.remove_inside(&mut shared, start)
                } else {
                    self.remove(start)
                }
            }
            IommuVersion::V1 => self.clear_fixed_window(),
        };
        removed.map_err(|source| WindowError::Remove { start, source })
    }

    fn clear_fixed_window(&self) -> Result<(), Errno> {
        if !*self.enabled() {
            return Ok(());
        }
        let info = self.info();
        match self.unmap(info.window_start, info.window_bytes) {
            // The kernel makes the window's table with the first mapping.
            Err(errno) if errno.errno() == libc::ENXIO => {}
            other => other?,
        }
        self.disable()
    }

    /// Undoes [`Container::enable`].
    fn disable(&self) -> Result<(), Errno> {
        let mut enabled = self.enabled();
        kernel::container_disable(self.as_fd())?;
        *enabled = false;
        Ok(())
    }

    fn check_fixed_window(&self, wanted: Ioba, bytes: u64) -> Result<(), WindowError> {
        let info = self.info();
        let end = info.window_start.0.saturating_add(info.window_bytes);
        let inside = wanted >= info.window_start
            && wanted.0.checked_add(bytes).is_some_and(|last| last <= end);
        if inside {
            return Ok(());
        }
        Err(WindowError::OutsideFixedWindow {
            start: info.window_start,
            window_bytes: info.window_bytes,
            wanted,
            bytes,
        })
    }

    /// Enables a v1 container, once.
    fn enable(&self) -> Result<(), WindowError> {
        let mut enabled = self.enabled();
        if *enabled {
            return Ok(());
        }
        if let Err(source) = kernel::container_enable(self.as_fd()) {
            if source.errno() == libc::ENOMEM {
                let bytes = self.info().window_bytes;
                let need = LockedMemoryNeed::v1(bytes, host_page_bytes(), self.info().platform);
                self.check_limit(need.total_bytes())?;
            }
            return Err(WindowError::Enable(source));
        }
        *enabled = true;
        Ok(())
    }

    fn enabled(&self) -> MutexGuard<'_, bool> {
        self.enabled.lock()
    }
}

fn window_bytes(page: PageShift, entries: u64) -> Result<u64, WindowError> {
    let refuse = |reason| WindowError::Size {
        entries,
        page,
        reason,
    };
    if !entries.is_power_of_two() {
        return Err(refuse("the kernel makes windows of a power of two pages"));
    }
    entries
        .checked_mul(page.bytes())
        .ok_or_else(|| refuse("it exceeds 64-bit bus addresses"))
}

/// How many levels a window's table is given at first: as few as keep each within what the host can
/// allocate in one piece.
pub fn fewest_levels(entries: u64) -> u32 {
    entries.ilog2().div_ceil(LEVEL_INDEX_BITS).max(1)
}
