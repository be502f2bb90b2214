//! Dynamic DMA windows (PAPR 7.3.10.4, "DDW"): windows that a guest makes and removes itself, beside
//! the default one that each host bridge has from the start.
//!
//! A guest asks what it can have, makes a window as large as its memory, maps all of it there once,
//! and then does DMA without a hypercall. The RTAS services that it asks with are in `rtas`; this is
//! what they do, on the windows of the TCE engine.
//!
//! A bridge has two places for windows, each with its LIOBN, and the host's container has two, whose bus
//! addresses are the host's choice. It fills its places in order, so the default window is made to exist
//! before one beside it is asked for, which would else lie where the guest has the default one. Each window is
//! asked for once, and is where the host put it: in an LPAR a creation that fails, or is tried again in vain, costs
//! the device all its windows (docs/lpar.md).

#[cfg(test)]
mod any_order_tests;
mod error;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "what tests alone use"))]
#[expect(clippy::unwrap_used, reason = "what tests rely on")]
pub(crate) mod fake;
mod limited;
mod limits;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use log::Level;
use parking_lot::Mutex;
use spapr_hypercalls::address::{Ioba, Liobn, PageShift};
use spapr_hypercalls::engine::{Engine, Use, WindowError};
use spapr_hypercalls::world::{Geometry, GuestMemory, HostError, HostIommu};

use crate::error_chain::chain;
use crate::guest_message;
use crate::vfio::MemoryLimitError;
pub use error::DmaWindowError;
pub use limits::WindowLimits;

/// What a host bridge can still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// How many more windows.
    pub windows: u32,
    /// The bridge's limits.
    pub limits: WindowLimits,
}

/// Where the dynamic windows of a bridge are to be (PAPR 7.3.10.4, ibm,reset-pe-dma-windows, "Limited Address").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Wherever the host puts them.
    Full,
    /// Where devices reach them whose DMA masks have fewer than 64 bits and more than 32.
    Limited,
}

/// A window that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewWindow {
    /// Its name.
    pub liobn: Liobn,
    /// Where it starts on the bus.
    pub start: Ioba,
}

/// What RTAS services for dynamic windows need of the machine. Calls may come from any processor;
/// one is served at a time.
pub trait DynamicWindows {
    /// What bridge number `bridge` can still have; `None` when it offers no dynamic windows.
    fn available(&self, bridge: u8) -> Option<Available>;

    /// Makes a window of `bytes` bytes, a power of two, in pages of `page`.
    ///
    /// # Errors
    /// [`DmaWindowError`]; the bridge's windows are as before then.
    fn create(&self, bridge: u8, page: PageShift, bytes: u64) -> Result<NewWindow, DmaWindowError>;

    /// Removes a window with all that it maps. When it was the last one of its bridge, and a
    /// dynamic one, the default window comes back.
    ///
    /// # Errors
    /// There is no such window; or the host refused, and then the guest has lost it nevertheless.
    fn remove(&self, liobn: Liobn) -> Result<(), DmaWindowError>;

    /// Puts the default window of bridge number `bridge` back, empty, in place of all its windows, and has those that
    /// are made from now on where `addressing` says.
    ///
    /// # Errors
    /// The bridge offers no dynamic windows, or none so; or the host refused to give the default one back. A refusal
    /// of limited addressing leaves the bridge with an empty default window and full addressing, or as it was.
    fn reset(&self, bridge: u8, addressing: Addressing) -> Result<(), DmaWindowError>;
}

/// What dynamic windows need of a host beyond what the engine does.
pub trait WindowHost: HostIommu {
    /// Whether the limit on locked memory allows a window of `entries` pages of `page_shift`, a kernel table for
    /// it if `kernel_table`, and `memory_bytes` more of guest memory.
    ///
    /// # Errors
    /// Need and limit.
    fn check_limit(
        &self,
        page_shift: PageShift,
        entries: u64,
        memory_bytes: u64,
        kernel_table: bool,
    ) -> Result<(), MemoryLimitError>;

    /// Has the windows that are made from now on lie inside one of the host's, in pages of 4 KiB, until the last of
    /// them is removed: one at bus address 0, and one of at most `bytes` from 4 GiB on, which is where one without a place
    /// is put. There is no window now.
    ///
    /// # Errors
    /// The host cannot.
    fn share_window(&self, bytes: u64) -> Result<(), HostError>;

    /// Undoes [`WindowHost::share_window`], unless a window has been made since.
    fn unshare_window(&self);
}

/// The dynamic windows of a machine's host bridges: what is offered, and which place has what.
#[derive(Debug)]
pub struct DmaWindows {
    ram_bytes: u64,
    kernel_tables: bool,
    /// The bridges that offer windows, by their numbers: these have gaps, and need not be in the
    /// order in which the user named the bridges. The lock is held over a whole call.
    bridges: Mutex<BTreeMap<u8, Bridge>>,
}

/// What is known of a bridge that offers dynamic windows.
#[derive(Debug)]
struct Bridge {
    limits: WindowLimits,
    default_window: Geometry,
    /// Whether the first place has the default window or nothing in it.
    has_default: bool,
    /// The fewest entries of a window that the host refused as too large.
    too_many_entries: Option<u64>,
    addressing: Addressing,
}

impl Bridge {
    /// How many more windows a guest can make, where `occupied` says which places have one.
    fn available(&self, occupied: [bool; 2]) -> u32 {
        if self.addressing == Addressing::Limited {
            // Behind the default one, in the window of the host's that has both.
            return u32::from(occupied == [true, false] && self.has_default);
        }
        let windows = count(occupied);
        let own = windows - u32::from(occupied[0] && self.has_default);
        let any = self.limits.windows().saturating_sub(windows);
        any.min(self.limits.own_windows().saturating_sub(own))
    }

    /// How many entries a window of `bytes` in pages of `page` has, if this bridge, which has `number`, may have it.
    fn entries(&self, number: u8, page: PageShift, bytes: u64) -> Result<u64, DmaWindowError> {
        let limits = self.limits;
        if !limits.offers(page) || bytes < page.bytes() {
            return Err(DmaWindowError::Page {
                bridge: number,
                page,
                bytes,
            });
        }
        let entries = bytes >> page.get();
        let refused = self.too_many_entries.filter(|least| entries >= *least);
        let most = refused.map_or(limits.bytes(), |least| (least / 2) << page.get());
        if bytes > most {
            return Err(DmaWindowError::TooLarge {
                bridge: number,
                bytes,
                most,
            });
        }
        Ok(entries)
    }

    /// Remembers that the host refused a window of so many entries, if it was for their number: an LPAR's kernel,
    /// which alone knows what its platform has, loses some memory each time that it is asked for more (`tbl` in
    /// `spapr_tce_create_table`, arch/powerpc/platforms/pseries/iommu.c).
    const fn note_refusal(&mut self, error: &WindowError, entries: u64) {
        let WindowError::Create {
            source: HostError::Refused(libc::EINVAL),
            ..
        } = error
        else {
            return;
        };
        // What was refused before is not asked for, so this is less.
        self.too_many_entries = Some(entries);
    }
}

impl DmaWindows {
    /// The windows of a machine with `ram_bytes` of memory. `bridges` has the number of each bridge
    /// that offers dynamic windows, once, with what it offers and its default window, which it has
    /// now. `kernel_tables` says whether LIOBNs are bound in the kernel.
    pub fn new(
        bridges: impl IntoIterator<Item = (u8, WindowLimits, Geometry)>,
        ram_bytes: u64,
        kernel_tables: bool,
    ) -> Self {
        let bridge = |(number, limits, default_window): (u8, WindowLimits, Geometry)| {
            let bridge = Bridge {
                limits,
                default_window,
                has_default: true,
                too_many_entries: None,
                addressing: Addressing::Full,
            };
            (number, bridge)
        };
        Self {
            ram_bytes,
            kernel_tables,
            bridges: Mutex::new(bridges.into_iter().map(bridge).collect()),
        }
    }

    /// Whether bridge number `bridge` offers dynamic windows.
    pub fn are_offered(&self, bridge: u8) -> bool {
        self.bridges.lock().contains_key(&bridge)
    }

    /// Whether bridge number `bridge` offers them at limited addresses, too.
    pub fn can_be_limited(&self, bridge: u8) -> bool {
        let bridges = self.bridges.lock();
        let bridge = bridges.get(&bridge);
        bridge.is_some_and(|bridge| bridge.limits.shared_window_bytes().is_some())
    }

    /// These windows in an engine's.
    pub fn of<'a, M: GuestMemory, H: WindowHost>(
        &'a self,
        engine: &'a Engine<M, H>,
    ) -> EngineWindows<'a, M, H> {
        EngineWindows {
            windows: self,
            engine,
        }
    }
}

/// The dynamic windows of a machine with its engine.
pub struct EngineWindows<'a, M, H: HostIommu> {
    windows: &'a DmaWindows,
    engine: &'a Engine<M, H>,
}

impl<M: GuestMemory, H: WindowHost> EngineWindows<'_, M, H> {
    /// Which places of a bridge have a window.
    fn occupied(&self, bridge: u8) -> [bool; 2] {
        let snapshot = self.engine.snapshot();
        [0, 1].map(|place| {
            let liobn = Liobn::of_pci_window(bridge, place);
            let mut windows = snapshot.windows.iter();
            windows.any(|window| window.liobn == liobn && window.geometry.is_some())
        })
    }

    /// Checks that what the guest is about to lock can be locked: all of its memory through a
    /// window that is large enough for it, which a Linux guest maps at once; else the first
    /// region.
    fn check_limit(
        &self,
        bridge: u8,
        page_shift: PageShift,
        bytes: u64,
        addressing: Addressing,
    ) -> Result<(), DmaWindowError> {
        let host = self.host(bridge)?;
        let memory = self.memory_to_lock(bytes);
        let (entries, kernel_table) = match addressing {
            Addressing::Full => (bytes >> page_shift.get(), self.windows.kernel_tables),
            // The host has its table already.
            Addressing::Limited => (0, false),
        };
        host.check_limit(page_shift, entries, memory, kernel_table)
            .map_err(|source| DmaWindowError::MemoryLimit {
                bridge,
                bytes,
                memory,
                source,
            })
    }

    /// What the guest is about to lock through a window of `bytes`.
    fn memory_to_lock(&self, bytes: u64) -> u64 {
        let locked = self.engine.snapshot().locked.bytes;
        let ram_bytes = self.windows.ram_bytes;
        if bytes >= ram_bytes {
            ram_bytes.saturating_sub(locked)
        } else if locked == 0 {
            self.engine.region_size().bytes().min(ram_bytes)
        } else {
            0
        }
    }

    /// Whether bridge number `number` has limited addressing now.
    #[cfg(test)]
    fn is_limited(&self, number: u8) -> bool {
        let bridges = self.windows.bridges.lock();
        bridges[&number].addressing == Addressing::Limited
    }

    fn host(&self, bridge: u8) -> Result<&H, DmaWindowError> {
        let host = self.engine.host(bridge);
        host.ok_or(DmaWindowError::NotOffered(bridge))
    }

    fn create_in(
        &self,
        number: u8,
        bridge: &mut Bridge,
        page: PageShift,
        bytes: u64,
    ) -> Result<NewWindow, DmaWindowError> {
        let entries = bridge.entries(number, page, bytes)?;
        let occupied = self.occupied(number);
        let free = (0u8..).zip(occupied).find(|(_, occupied)| !occupied);
        let Some((place, _)) = free.filter(|_| bridge.available(occupied) > 0) else {
            return Err(DmaWindowError::NoneLeft {
                bridge: number,
                windows: count(occupied),
            });
        };
        // One that the host would not remove is in the way at any place, in an LPAR.
        self.engine.remove_left_overs(number)?;
        if place == 1 {
            // The host's places are filled in order; and the limit is checked with what the first
            // one's tables take.
            let default = Liobn::of_pci_window(number, 0);
            self.engine.activate(default, Use::Possible)?;
        }
        self.check_limit(number, page, bytes, bridge.addressing)?;
        let liobn = Liobn::of_pci_window(number, place);
        let made = self.engine.make_window(liobn, page, entries);
        let made = made.inspect_err(|error| bridge.note_refusal(error, entries))?;
        if place == 0 {
            bridge.has_default = false;
        }
        Ok(NewWindow {
            liobn,
            start: made.bus_offset,
        })
    }

    fn restore_default(&self, number: u8, bridge: &mut Bridge) -> Result<(), WindowError> {
        bridge.has_default = true;
        bridge.addressing = Addressing::Full;
        let liobn = Liobn::of_pci_window(number, 0);
        self.engine.add_window(liobn, bridge.default_window)?;
        // An LPAR's kernel makes no default window beside one that it would not remove.
        self.engine.remove_left_overs(number)?;
        self.engine.bind_ahead(liobn)
    }
}

impl<M: GuestMemory, H: WindowHost> DynamicWindows for EngineWindows<'_, M, H> {
    fn available(&self, bridge: u8) -> Option<Available> {
        let bridges = self.windows.bridges.lock();
        let number = bridge;
        let bridge = bridges.get(&number)?;
        Some(Available {
            windows: bridge.available(self.occupied(number)),
            limits: bridge.limits,
        })
    }

    fn create(&self, number: u8, page: PageShift, bytes: u64) -> Result<NewWindow, DmaWindowError> {
        let mut bridges = self.windows.bridges.lock();
        let bridge = bridges
            .get_mut(&number)
            .ok_or(DmaWindowError::NotOffered(number))?;
        self.create_in(number, bridge, page, bytes)
            .inspect_err(report)
    }

    fn remove(&self, liobn: Liobn) -> Result<(), DmaWindowError> {
        let none = || DmaWindowError::NoSuchWindow(liobn);
        let (number, place) = liobn.pci_window().ok_or_else(none)?;
        let mut bridges = self.windows.bridges.lock();
        let bridge = bridges.get_mut(&number).ok_or_else(none)?;
        let occupied = self.occupied(number);
        if occupied.get(usize::from(place)) != Some(&true) {
            return Err(none());
        }
        let removed = self.engine.remove_window(liobn);
        let was_default = place == 0 && bridge.has_default;
        let was_last = count(occupied) == 1;
        if was_last && removed.is_ok() {
            // The host's window that had both has gone.
            bridge.addressing = Addressing::Full;
        }
        // A guest that removes the default window wants the room for another; one that removes its
        // own last window would have none left.
        let restored = if was_last && !was_default {
            self.restore_default(number, bridge)
        } else {
            Ok(())
        };
        removed
            .and(restored)
            .map_err(DmaWindowError::from)
            .inspect_err(report)
    }

    fn reset(&self, number: u8, addressing: Addressing) -> Result<(), DmaWindowError> {
        let mut bridges = self.windows.bridges.lock();
        let bridge = bridges
            .get_mut(&number)
            .ok_or(DmaWindowError::NotOffered(number))?;
        let shared_bytes = match addressing {
            Addressing::Full => None,
            Addressing::Limited => {
                let checked = self.check_limited(number, bridge).inspect_err(report);
                Some(checked?)
            }
        };
        let mut outcome = Ok(());
        for (place, occupied) in (0u8..).zip(self.occupied(number)) {
            if occupied {
                let liobn = Liobn::of_pci_window(number, place);
                outcome = outcome.and(self.engine.remove_window(liobn));
            }
        }
        let mut outcome = outcome.map_err(DmaWindowError::from);
        if let Some(shared_bytes) = shared_bytes.filter(|_| outcome.is_ok()) {
            outcome = self.limit(number, bridge, shared_bytes);
            if outcome.is_ok() {
                return Ok(());
            }
        }
        let restored = self.restore_default(number, bridge);
        outcome
            .and(restored.map_err(DmaWindowError::from))
            .inspect_err(report)
    }
}

fn count(occupied: [bool; 2]) -> u32 {
    occupied.into_iter().map(u32::from).sum()
}

/// Tells the log why a guest did not get what it asked for.
fn report(error: &DmaWindowError) {
    guest_message!(Level::Warn, "{}", chain(error));
}
