//! Windows at bus addresses that devices with DMA masks of fewer than 64 bits reach.
//!
//! On bare metal an endpoint has two places for windows, at bus addresses 0 and 1 << 59 (`pnv_pci_ioda2_create_table` in
//! arch/powerpc/platforms/powernv/pci-ioda.c), and no device whose mask has fewer than 60 bits reaches the second.
//! The first one's size is free, and the host makes its own larger than 4 GiB
//! (`pnv_pci_ioda2_setup_default_config`); but bus addresses from 2 GiB to 4 GiB are those of 32-bit BARs and
//! messages, so that memory must never be mapped there. So one window from bus address 0 on has the guest's default
//! window at its start and a dynamic one from 4 GiB on, where an LPAR's platform has it (`limited_dma_window` in
//! arch/powerpc/platforms/pseries/iommu.c), and between them nothing is ever mapped.
//!
//! Its pages are those of the default window, 4 KiB: the hardware has one size for each of its windows.

use std::collections::BTreeMap;

use spapr_hypercalls::address::{Ioba, PageShift};
use vmm_sys_util::errno::Error as Errno;

use super::container::{Container, IommuInfo, IommuVersion};
use super::preflight::Platform;
use super::window::{MadeWindow, WindowError};

/// Where a dynamic window starts that devices with masks of 33 bits and more reach.
pub const LIMITED_START: Ioba = Ioba(1 << 32);

/// The second place of an endpoint, up to which windows of the first one reach at most.
const SECOND_PLACE: u64 = 1 << 59;

/// A window of the host's that the guest's windows lie inside.
#[derive(Debug)]
pub(super) struct SharedWindow {
    bytes: u64,
    levels: u32,
    /// The guest's windows: where each starts, and its size. The host's is there while these are.
    inside: BTreeMap<Ioba, u64>,
}

impl IommuInfo {
    /// The size of the host's window that has a default window and a dynamic one of `bytes` inside it, in pages of
    /// 4 KiB. `None` where there is none: in a v1 container, in an LPAR, whose platform chooses bus addresses, and
    /// where the host's first window is not at bus address 0.
    pub fn shared_window_bytes(&self, bytes: u64) -> Option<u64> {
        let is_possible = self.version == IommuVersion::V2
            && self.platform == Platform::BareMetal
            && self.window_start == Ioba(0)
            && self.window_bytes < LIMITED_START.0
            && self.has_page_size(PageShift::SIZE_4K);
        let bytes = LIMITED_START.0.checked_add(bytes)?;
        let bytes = bytes.checked_next_power_of_two()?;
        (is_possible && bytes <= SECOND_PLACE).then_some(bytes)
    }
}

impl Container {
    /// Has the windows that are made from now on lie inside one of the host's, until the last of them is removed: one
    /// at bus address 0, and one of at most `bytes` from [`LIMITED_START`] on, which is where one without a place is
    /// put. There is no window now.
    ///
    /// # Errors
    /// EINVAL where the host cannot have such a window, EBUSY where it has one.
    pub fn share_window(&self, bytes: u64) -> Result<(), Errno> {
        let bytes = self.info().shared_window_bytes(bytes);
        let bytes = bytes.ok_or_else(|| Errno::new(libc::EINVAL))?;
        let mut shared = self.shared_window.lock();
        if shared.is_some() {
            return Err(Errno::new(libc::EBUSY));
        }
        *shared = Some(SharedWindow {
            bytes,
            levels: 0,
            inside: BTreeMap::new(),
        });
        Ok(())
    }

    /// Undoes [`Container::share_window`], unless a window has been made since.
    pub fn unshare_window(&self) {
        self.shared_window
            .lock()
            .take_if(|shared| shared.inside.is_empty());
    }

    /// Whether the windows that there are lie inside one of the host's.
    pub fn has_shared_window(&self) -> bool {
        let shared = self.shared_window.lock();
        shared.as_ref().is_some_and(|it| !it.inside.is_empty())
    }

    /// Makes a window of `bytes` inside that of the host's, which the first one makes.
    pub(super) fn create_inside(
        &self,
        shared: &mut SharedWindow,
        bytes: u64,
        place: Option<Ioba>,
    ) -> Result<MadeWindow, WindowError> {
        let start = place.unwrap_or(LIMITED_START);
        let end = match start {
            // What lies behind is not for memory.
            Ioba(0) => self.info().window_bytes,
            LIMITED_START => shared.bytes,
            _ => 0,
        };
        let fits = start.0.checked_add(bytes).is_some_and(|it| it <= end);
        if !fits || shared.inside.contains_key(&start) {
            return Err(WindowError::NoRoomInside {
                start,
                bytes,
                window_bytes: shared.bytes,
            });
        }
        if shared.inside.is_empty() {
            let made = self.create_v2(PageShift::SIZE_4K, shared.bytes, Some(Ioba(0)))?;
            shared.levels = made.levels;
        }
        shared.inside.insert(start, bytes);
        Ok(MadeWindow {
            start,
            levels: shared.levels,
        })
    }

    /// Removes a window with all that it maps, and with the last one that of the host's.
    pub(super) fn remove_inside(
        &self,
        shared: &mut Option<SharedWindow>,
        start: Ioba,
    ) -> Result<(), Errno> {
        let found = shared
            .as_ref()
            .map(|it| (&it.inside, it.inside.get(&start)));
        let Some((inside, Some(&bytes))) = found else {
            return Err(Errno::new(libc::EINVAL));
        };
        if inside.len() == 1 {
            self.remove(Ioba(0))?;
            *shared = None;
            return Ok(());
        }
        match self.unmap(start, bytes) {
            // Nothing was ever registered with this container; KVM may have mapped memory of another's.
            Err(errno) if errno.errno() == libc::EPERM => {
                self.enable_unmapping().map_err(|_| errno)?;
                self.unmap(start, bytes)?;
            }
            outcome => outcome?,
        }
        if let Some(shared) = shared {
            shared.inside.remove(&start);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "limited_tests.rs"]
mod tests;
