//! The states of a window between its first mention and a kernel table bound to the IOMMU group.
//!
//! ```text
//! Unlocked ──before the guest can use it──► Bound       the kernel serves single entries
//!   ▲  └─────first entry, or refused──────► UserOnly    user space serves everything
//!   └────────reset, removal─────────────────┘
//! ```
//!
//! Unlocked, nothing exists at the host: no window, no table, no locked memory. The order upwards
//! is host window, kernel table, its binding to the group, use; a kernel table without a group
//! swallows the guest's entries and answers H_SUCCESS (`kvmppc_h_put_tce` in
//! arch/powerpc/kvm/book3s_64_vio.c). The order downwards is the reverse, kernel table first.
//!
//! The kernel makes a table visible to all processors before it can be bound, and there is no call
//! that does both. So a table is made only while no processor can name its LIOBN yet ([`Use`]): for
//! the default window before the machine runs, for others before the guest is told of them. A window
//! that gets no table then never gets one.

use crate::address::{Ioba, Liobn};
use crate::policy::TcePolicy;
use crate::stats::WindowState;
use crate::world::{BindRefusal, Geometry, HostError, HostIommu, KernelTable};

/// ENOMEM, the same on every Linux architecture.
const ENOMEM: i32 = 12;

/// Whether the guest's processors may make calls for a window that is about to be made at the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// They do not: the machine is not running, or the guest has not learned its LIOBN.
    NotYet,
    /// They may, at any moment: the kernel would swallow an entry that one writes between the making
    /// of its table and the table's binding.
    Possible,
}

/// Where a window stands, and with that where the guest's view of its entries is kept.
#[derive(Debug)]
pub(crate) enum Binding<K> {
    /// Nothing is made at the host; every entry reads as zero.
    Unlocked,
    /// The host's window exists and the kernel's table is bound to it. The table is the view.
    Bound(K),
    /// The host's window exists and only user space maps in it.
    UserOnly {
        /// Why the kernel does not.
        reason: BindRefusal,
        /// The view.
        entries: Box<[u64]>,
    },
}

impl<K: KernelTable> Binding<K> {
    pub(crate) const fn is_unlocked(&self) -> bool {
        matches!(self, Self::Unlocked)
    }

    pub(crate) const fn is_bound(&self) -> bool {
        matches!(self, Self::Bound(_))
    }

    pub(crate) const fn state(&self) -> WindowState {
        match self {
            Self::Unlocked => WindowState::Unlocked,
            Self::Bound(_) => WindowState::Bound,
            Self::UserOnly { reason, .. } => WindowState::UserOnly(*reason),
        }
    }

    /// Makes the host's window and binds the kernel's table, where `policy` wants one, the kernel
    /// lets it be and no processor can use it yet. Nothing to do in a window that has got there
    /// already.
    ///
    /// # Errors
    /// The host made no window; this one stays unlocked, so that a later attempt can succeed.
    pub(crate) fn activate<H>(
        &mut self,
        host: &H,
        liobn: Liobn,
        geometry: Geometry,
        policy: TcePolicy,
        guest_use: Use,
        lingering: &mut Lingering,
    ) -> Result<(), HostError>
    where
        H: HostIommu<KernelTable = K>,
    {
        if !self.is_unlocked() {
            return Ok(());
        }
        lingering.remove(host)?;
        host.create_window(
            geometry.page_shift,
            geometry.entries,
            Some(geometry.bus_offset),
        )?;
        *self = Self::over(host, liobn, geometry, policy, guest_use, lingering)?;
        Ok(())
    }

    /// Binds the kernel's table to a window that the host has just made, or has user space serve it.
    ///
    /// # Errors
    /// There is no memory for either; the host's window is removed again then.
    pub(crate) fn over<H>(
        host: &H,
        liobn: Liobn,
        geometry: Geometry,
        policy: TcePolicy,
        guest_use: Use,
        lingering: &mut Lingering,
    ) -> Result<Self, HostError>
    where
        H: HostIommu<KernelTable = K>,
    {
        let reason = match bind(host, liobn, geometry, policy, guest_use) {
            Ok(table) => return Ok(Self::Bound(table)),
            Err(reason) => reason,
        };
        let Some(entries) = zeroed(geometry.entries) else {
            // Out of memory is what the caller is told; a window that stays is removed later.
            let _ = lingering.remove_or_note(host, geometry);
            return Err(HostError::OutOfResources(ENOMEM));
        };
        Ok(Self::UserOnly { reason, entries })
    }

    /// Drops the kernel's table, then removes the host's window with all that it maps.
    ///
    /// # Errors
    /// The host refused to remove its window, which is noted in `lingering`.
    pub(crate) fn deactivate<H>(
        &mut self,
        host: &H,
        geometry: Geometry,
        lingering: &mut Lingering,
    ) -> Result<(), HostError>
    where
        H: HostIommu<KernelTable = K>,
    {
        if self.is_unlocked() {
            return Ok(());
        }
        // The kernel's table is dropped here, before anything else goes.
        *self = Self::Unlocked;
        lingering.remove_or_note(host, geometry)
    }
}

/// A slot's host window, if the host refused to remove it: it is in the way of the next one, so
/// its removal is tried again first.
#[derive(Debug, Default)]
pub(crate) struct Lingering(Option<LeftOver>);

#[derive(Clone, Copy, Debug)]
struct LeftOver {
    bus_offset: Ioba,
    /// The host refused to empty it, too.
    may_map: bool,
}

impl Lingering {
    pub(crate) const NONE: Self = Self(None);

    /// Tries again to remove what lingers, if anything does.
    pub(crate) fn remove<H: HostIommu>(&mut self, host: &H) -> Result<(), HostError> {
        if let Some(left_over) = self.0 {
            host.remove_window(left_over.bus_offset)?;
            self.0 = None;
        }
        Ok(())
    }

    /// Whether devices may reach memory through what lingers.
    pub(crate) fn may_map(&self) -> bool {
        self.0.is_some_and(|left_over| left_over.may_map)
    }

    /// Removes the host's window for `geometry`; one that stays is emptied, and lingers.
    pub(crate) fn remove_or_note<H: HostIommu>(
        &mut self,
        host: &H,
        geometry: Geometry,
    ) -> Result<(), HostError> {
        host.remove_window(geometry.bus_offset).inspect_err(|_| {
            // Devices are to reach nothing through it; the refusal before is what the caller reports.
            let emptied = geometry
                .bytes()
                .is_some_and(|bytes| host.unmap(geometry.bus_offset, bytes).is_ok());
            self.0 = Some(LeftOver {
                bus_offset: geometry.bus_offset,
                may_map: !emptied,
            });
        })
    }
}

/// Binds a kernel table that covers the whole window.
fn bind<H: HostIommu>(
    host: &H,
    liobn: Liobn,
    geometry: Geometry,
    policy: TcePolicy,
    guest_use: Use,
) -> Result<H::KernelTable, BindRefusal> {
    if !policy.binds_kernel_table() {
        return Err(BindRefusal::NotAsked);
    }
    if guest_use == Use::Possible && host.never_binds().is_none() {
        return Err(BindRefusal::InUse);
    }
    let table = host.bind_kernel_table(liobn, geometry)?;
    let length = table.entries().len();
    if (length as u64) < geometry.entries {
        return Err(BindRefusal::ShortTable(length));
    }
    Ok(table)
}

/// A view of `entries` entries that map nothing; `None` when there is no memory for it.
fn zeroed(entries: u64) -> Option<Box<[u64]>> {
    let length = usize::try_from(entries).ok()?;
    let mut view = Vec::new();
    view.try_reserve_exact(length).ok()?;
    view.resize(length, 0);
    Some(view.into_boxed_slice())
}
