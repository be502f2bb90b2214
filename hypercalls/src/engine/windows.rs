//! Windows that come and go: dynamic ones at the guest's wish, all of them with the machine.
//!
//! None of this is on a hypercall's way. A device's bus mastering is stopped by the caller before a
//! window goes.

use super::{Engine, Use};
use crate::address::{GuestPhysicalAddress, Ioba, Liobn, PageShift};
use crate::binding::Binding;
use crate::locking::RegionSize;
use crate::policy::LockPolicy;
use crate::registry::{Bridge, Slot, SlotState};
use crate::stats::{Snapshot, WindowSnapshot, WindowState};
use crate::window::Window;
use crate::world::{Geometry, GuestMemory, HostError, HostIommu};

/// Why a window could not be made, locked or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// No PCI host bridge of this machine has the LIOBN.
    #[error("LIOBN {0} belongs to no PCI host bridge of this machine")]
    UnknownLiobn(Liobn),
    /// The LIOBN has a window already.
    #[error("LIOBN {0} has a DMA window already; remove it first")]
    Occupied(Liobn),
    /// The LIOBN has no window.
    #[error("LIOBN {0} has no DMA window")]
    NoWindow(Liobn),
    /// The window's place on the bus makes no sense.
    #[error(
        "a DMA window of {} pages of {} at bus address {} is empty, unaligned or beyond 64 bits",
        .0.entries, .0.page_shift, .0.bus_offset
    )]
    BadGeometry(Geometry),
    /// The window's pages are larger than what can be locked and mapped as one.
    #[error("DMA window pages of {page} are larger than {largest}, the most that guest RAM allows")]
    PageTooLarge {
        /// What was asked for.
        page: PageShift,
        /// What is possible.
        largest: PageShift,
    },
    /// The host made no window.
    #[error("the host made no DMA window for LIOBN {liobn}")]
    Create {
        /// The window's name.
        liobn: Liobn,
        /// What the host said.
        #[source]
        source: HostError,
    },
    /// The host did not remove its window.
    #[error("the host did not remove the DMA window of LIOBN {liobn}")]
    Remove {
        /// The window's name.
        liobn: Liobn,
        /// What the host said.
        #[source]
        source: HostError,
    },
    /// Guest memory could not be locked.
    #[error("guest memory could not be locked for the PCI host bridge of LIOBN {liobn}")]
    Lock {
        /// The bridge's default window.
        liobn: Liobn,
        /// What the host said.
        #[source]
        source: HostError,
    },
    /// The host holds on to guest memory that nothing maps any more, until it restarts.
    #[error(
        "the host's kernel keeps {bytes} bytes of guest memory locked until the host restarts: it lost count \
         of mappings that it made itself, which a guest can bring about (docs/hypercalls.md, \"Where the \
         kernel's handlers differ\")"
    )]
    KeptByHost {
        /// How much.
        bytes: u64,
    },
    /// Guest memory could not be unlocked.
    #[error("guest memory stays locked for the PCI host bridge of LIOBN {liobn}")]
    Unlock {
        /// The bridge's default window.
        liobn: Liobn,
        /// What the host said.
        #[source]
        source: HostError,
    },
}

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// Gives an unused LIOBN a window, of which nothing is made at the host yet.
    ///
    /// # Errors
    /// The LIOBN is unknown or in use, or the geometry is impossible.
    pub fn add_window(&self, liobn: Liobn, geometry: Geometry) -> Result<(), WindowError> {
        self.check_geometry(geometry)?;
        let (_, slot) = self.place(liobn)?;
        let mut state = slot.lock();
        if state.window.is_some() {
            return Err(WindowError::Occupied(liobn));
        }
        state.window = Some(Window::new(liobn, geometry));
        Ok(())
    }

    /// Gives an unused LIOBN a window of `entries` pages of `page_shift`, made at the host at once and where the
    /// host puts it, and says where that is: the guest learns of both only from the answer.
    ///
    /// # Errors
    /// The LIOBN is unknown or in use, the window is impossible, or the host's refusal; the LIOBN is unused then,
    /// as before.
    pub fn make_window(
        &self,
        liobn: Liobn,
        page_shift: PageShift,
        entries: u64,
    ) -> Result<Geometry, WindowError> {
        let at = |bus_offset| Geometry {
            bus_offset,
            page_shift,
            entries,
        };
        // Before the host is asked; where it puts the window is looked at afterwards.
        self.check_geometry(at(Ioba(0)))?;
        let (bridge, slot) = self.place(liobn)?;
        let mut state = slot.lock();
        if state.window.is_some() {
            return Err(WindowError::Occupied(liobn));
        }
        let (host, lingering) = (&bridge.host, &mut state.lingering);
        // Not a refusal of this window, from which its size is learned.
        let stays = |source| WindowError::Remove { liobn, source };
        lingering.remove(host).map_err(stays)?;
        let refused = |source| WindowError::Create { liobn, source };
        let start = host.create_window(page_shift, entries, None);
        let geometry = at(start.map_err(refused)?);
        if let Err(error) = self.check_geometry(geometry) {
            // One that stays is removed later.
            let _ = lingering.remove_or_note(host, geometry);
            return Err(error);
        }
        let tce = self.policy.tce;
        let binding = Binding::over(host, liobn, geometry, tce, Use::NotYet, lingering);
        state.window = Some(Window {
            binding: binding.map_err(refused)?,
            ..Window::new(liobn, geometry)
        });
        Ok(geometry)
    }

    /// Makes the window at the host now instead of on its first entry. It is bound to the kernel's table only if
    /// the guest cannot use it yet.
    ///
    /// # Errors
    /// There is no such window, or the host's refusal; the window is unlocked then, as before.
    pub fn activate(&self, liobn: Liobn, guest_use: Use) -> Result<WindowState, WindowError> {
        let (bridge, slot) = self.place(liobn)?;
        let mut state = slot.lock();
        self.activate_slot(bridge, slot, &mut state, guest_use)
    }

    /// Makes the window at the host and binds it, if that can be: before the guest can use it, as
    /// later on it is too late. A window that need not be bound is left to its first entry; so is one
    /// that the host refuses now.
    ///
    /// # Errors
    /// There is no such window.
    pub fn bind_ahead(&self, liobn: Liobn) -> Result<(), WindowError> {
        let (bridge, slot) = self.place(liobn)?;
        self.bind_slot_ahead(bridge, slot);
        Ok(())
    }

    /// Takes the window away, with all that it maps. Memory stays locked until the machine is reset:
    /// another processor may be mapping in the kernel at this moment, which the host does not wait
    /// for, and memory that is unregistered while something maps it is lost to the host for good.
    ///
    /// # Errors
    /// There is no such window; or the host refused to remove it. The LIOBN is free again
    /// nevertheless: a host window that stayed is emptied, and removed when the LIOBN is used or
    /// reset again.
    pub fn remove_window(&self, liobn: Liobn) -> Result<(), WindowError> {
        let (bridge, slot) = self.place(liobn)?;
        let mut state = slot.lock();
        if state.window.is_none() {
            return Err(WindowError::NoWindow(liobn));
        }
        Self::take_window(bridge, &mut state)
    }

    /// Tries again to remove what windows the host refused to remove from bridge `number`: an LPAR's kernel makes no
    /// default window beside another.
    ///
    /// # Errors
    /// It refuses still.
    pub fn remove_left_overs(&self, number: u8) -> Result<(), WindowError> {
        let Some(bridge) = self.registry.bridge(number) else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for slot in &bridge.slots {
            let liobn = slot.liobn;
            let removed = slot.lock().lingering.remove(&bridge.host);
            let removed = removed.map_err(|source| WindowError::Remove { liobn, source });
            outcome = outcome.and(removed);
        }
        outcome
    }

    /// Whether no window of bridge `number` shows an entry that maps something.
    pub fn maps_nothing(&self, number: u8) -> bool {
        let slots = self.registry.bridge(number).map(|bridge| &bridge.slots);
        slots.into_iter().flatten().all(|slot| {
            let state = slot.lock();
            let Some(window) = &state.window else {
                return true;
            };
            let entries = usize::try_from(window.geometry.entries).unwrap_or(usize::MAX);
            window.binding.live_part(0..entries).is_none()
        })
    }

    /// Does what has to be done before the guest runs: windows are made and bound in the kernel where
    /// that can be ([`Engine::bind_ahead`]); with [`LockPolicy::Attach`] every window is made and all
    /// memory locked. With [`LockPolicy::FirstMap`], no memory is.
    ///
    /// # Errors
    /// The host's refusal with [`LockPolicy::Attach`]; everything has been undone then.
    pub fn prepare(&self) -> Result<(), WindowError> {
        if self.policy.lock == LockPolicy::FirstMap {
            for bridge in self.registry.bridges() {
                for slot in &bridge.slots {
                    self.bind_slot_ahead(bridge, slot);
                }
            }
            return Ok(());
        }
        self.lock_everything().inspect_err(|_| {
            // The first error is the one to report.
            let _ = self.reset_windows();
        })
    }

    fn lock_everything(&self) -> Result<(), WindowError> {
        for bridge in self.registry.bridges() {
            for slot in &bridge.slots {
                let mut state = slot.lock();
                if state.window.is_some() {
                    self.activate_slot(bridge, slot, &mut state, Use::NotYet)?;
                }
            }
            let liobn = bridge.slots[0].liobn;
            bridge
                .locks
                .register_all(&bridge.host, &self.regions)
                .map_err(|source| WindowError::Lock { liobn, source })?;
        }
        Ok(())
    }

    /// Puts every bridge back as it was made: the default window alone, nothing made at the host,
    /// nothing locked. Kernel tables go first, then host windows, then, when no window of any
    /// bridge is left, the locks. For machine reset and shut-down, with the guest's processors
    /// stopped.
    ///
    /// # Errors
    /// The first refusal of the host, after all has been tried.
    pub fn reset_windows(&self) -> Result<(), WindowError> {
        let (mut outcome, mut kept_bytes) = (Ok(()), 0);
        for bridge in self.registry.bridges() {
            let [mut first, mut second] = bridge.slots.each_ref().map(Slot::lock);
            for (slot, state) in bridge.slots.iter().zip([&mut first, &mut second]) {
                let liobn = slot.liobn;
                let cleared = state.lingering.remove(&bridge.host);
                let cleared = cleared.map_err(|source| WindowError::Remove { liobn, source });
                outcome = outcome.and(cleared).and(Self::take_window(bridge, state));
            }
            first.window = Some(Window::new(bridge.slots[0].liobn, bridge.default_window));
        }
        for bridge in self.registry.bridges() {
            // The kernel would unlock memory that a window still maps, and lose it.
            if !bridge
                .slots
                .iter()
                .any(|slot| slot.lock().lingering.may_map())
            {
                let (bytes, unlocked) = self.unlock_memory(bridge);
                kept_bytes += bytes;
                outcome = outcome.and(unlocked);
            }
        }
        match kept_bytes {
            0 => outcome,
            // Of all that the host refused, what it will never give back is told.
            bytes => Err(WindowError::KeptByHost { bytes }),
        }
    }

    /// Whether memory is registered with some container before it is mapped.
    pub fn registers_memory(&self) -> bool {
        self.registry
            .bridges()
            .any(|bridge| bridge.locks.registers())
    }

    /// Has the host move guest memory that it is about to hold on to, by itself, to where it may stay for
    /// long ([`HostIommu::settle`]): what it holds on to elsewhere cannot be moved, and so cannot be locked
    /// for DMA any more, nor the block round it. With no other processor in the guest, as the kernel would
    /// map what is registered for a moment.
    pub fn settle(&self, address: GuestPhysicalAddress, bytes: u64) {
        let mut bridges = self.registry.bridges();
        if let Some(bridge) = bridges.find(|bridge| bridge.locks.registers()) {
            let host = &bridge.host;
            bridge.locks.settle(host, &self.regions, address, bytes);
        }
    }

    /// All counters and states.
    pub fn snapshot(&self) -> Snapshot {
        let slots = self.registry.bridges().flat_map(|bridge| &bridge.slots);
        let windows = slots.map(|slot| {
            let state = slot.lock();
            let window = state.window.as_ref();
            WindowSnapshot {
                liobn: slot.liobn,
                geometry: window.map(|window| window.geometry),
                state: window.map_or(WindowState::Unlocked, |window| window.binding.state()),
                counters: state.counters,
            }
        });
        Snapshot {
            windows: windows.collect(),
            locked: self.regions.snapshot(),
            bulk_calls: self.bulk_calls(),
            unknown_liobn: self
                .unknown_liobn
                .load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// The largest page that a window can have: it lies in one region, and guest and host addresses
    /// agree below it.
    pub const fn largest_page(&self) -> PageShift {
        self.regions.largest_page()
    }

    /// Size of the regions that memory is locked in.
    pub const fn region_size(&self) -> RegionSize {
        self.regions.size()
    }

    /// The default window of bridge `number`: which it has from the start and after a reset.
    pub fn default_window(&self, number: u8) -> Option<Geometry> {
        let bridge = self.registry.bridge(number)?;
        Some(bridge.default_window)
    }

    /// The host's side of bridge `number`.
    pub fn host(&self, number: u8) -> Option<&H> {
        self.registry.bridge(number).map(|bridge| &bridge.host)
    }

    pub(super) fn check_geometry(&self, geometry: Geometry) -> Result<(), WindowError> {
        geometry.bytes().ok_or(WindowError::BadGeometry(geometry))?;
        let (page, largest) = (geometry.page_shift, self.regions.largest_page());
        if page > largest {
            return Err(WindowError::PageTooLarge { page, largest });
        }
        Ok(())
    }

    fn place(&self, liobn: Liobn) -> Result<(&Bridge<H>, &Slot<H::KernelTable>), WindowError> {
        self.registry
            .find(u64::from(liobn.0))
            .ok_or(WindowError::UnknownLiobn(liobn))
    }

    fn bind_slot_ahead(&self, bridge: &Bridge<H>, slot: &Slot<H::KernelTable>) {
        if self.policy.tce.binds_kernel_table() && bridge.host.never_binds().is_none() {
            // The host has logged a refusal; the first entry tries again, without the kernel.
            let _ = self.activate_slot(bridge, slot, &mut slot.lock(), Use::NotYet);
        }
    }

    fn activate_slot(
        &self,
        bridge: &Bridge<H>,
        slot: &Slot<H::KernelTable>,
        state: &mut SlotState<H::KernelTable>,
        guest_use: Use,
    ) -> Result<WindowState, WindowError> {
        let liobn = slot.liobn;
        let SlotState {
            window, lingering, ..
        } = state;
        let window = window.as_mut().ok_or(WindowError::NoWindow(liobn))?;
        window
            .binding
            .activate(
                &bridge.host,
                liobn,
                window.geometry,
                self.policy.tce,
                guest_use,
                lingering,
            )
            .map_err(|source| WindowError::Create { liobn, source })?;
        Ok(window.binding.state())
    }

    /// Empties a slot; its host window goes, or is noted as lingering.
    fn take_window(
        bridge: &Bridge<H>,
        state: &mut SlotState<H::KernelTable>,
    ) -> Result<(), WindowError> {
        let Some(mut window) = state.window.take() else {
            return Ok(());
        };
        window
            .binding
            .deactivate(&bridge.host, window.geometry, &mut state.lingering)
            .map_err(|source| WindowError::Remove {
                liobn: window.liobn,
                source,
            })
    }

    /// How many bytes the host keeps for good, and whether it refused something.
    fn unlock_memory(&self, bridge: &Bridge<H>) -> (u64, Result<(), WindowError>) {
        let liobn = bridge.slots[0].liobn;
        let (kept_bytes, outcome) = bridge.locks.unregister_all(&bridge.host, &self.regions);
        (
            kept_bytes,
            outcome.map_err(|source| WindowError::Unlock { liobn, source }),
        )
    }
}
