//! The TCE engine: H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE and H_GET_TCE served in user space.
//!
//! # The way of one call
//!
//! 1. [`Engine::handle`] takes the hypercall's number and argument registers. The LIOBN becomes a
//!    window's place by arithmetic.
//! 2. `put`, `indirect`, `stuff` or `get` decodes the rest and takes the window's lock. A list of
//!    entries has been copied to the stack once, before.
//! 3. The range of entries is checked, both ends.
//! 4. `transaction` goes through the runs of the list (`coalesce`) and finds all of them valid, or
//!    answers H_PARAMETER with nothing touched. In a bound window, the policy may then have the
//!    kernel do it instead (`lists`). On the first mapping of each region of memory that the list
//!    names, the region is locked. The window is there, bound to the kernel's table, since before the
//!    guest could use it; only one that cannot be bound is made at the host on its first mapping.
//! 5. Each run is one request to the host, and then written to the guest's view.
//!
//! H_PUT_TCE of a page that is locked, into a window that is made, goes from 3 to 5 at once.
//!
//! # What holds after every call
//!
//! - No mapping of a window is live that the guest's view does not show; and the two are equal
//!   unless the host refused to unmap. That is so whatever other processors map in the kernel
//!   meanwhile (`interleavings`). Only calls that *change one entry at once* can part the two: a
//!   processor that clears an entry in the kernel while another maps it there or here may leave it
//!   mapped and not shown, as the kernel takes no lock. The next call that clears it here or there
//!   does so, whatever the view shows.
//! - What is mapped is guest RAM that is locked, with the permission that the entry shows.
//! - A call that fails with H_PARAMETER changed nothing. One that fails with
//!   H_NOT_ENOUGH_RESOURCES changed nothing, or left every entry of its range unmapped.
//!
//! # Return codes
//!
//! They are those of the kernel's handlers (arch/powerpc/kvm/book3s_64_vio.c), so that a guest
//! cannot tell who served it. Where those leave a check to user space (an entry whose address is
//! unaligned or no RAM; an unknown LIOBN) or do not check (the end of a range), it is H_PARAMETER.

mod coalesce;
#[cfg(all(feature = "fuzz", not(shuttle)))]
pub mod fuzz;
mod get;
mod indirect;
#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;
mod lists;
#[cfg(all(any(test, feature = "fuzz"), not(shuttle)))]
#[expect(clippy::unwrap_used, reason = "what tests rely on")]
pub(crate) mod model;
mod put;
mod stuff;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
mod transaction;
mod translate;
mod windows;

use std::ops::Range;
use std::sync::atomic::Ordering;

use self::lists::Lists;
use self::transaction::{Failure, Transaction, code_of};
pub use self::windows::WindowError;
use crate::abi::{self, Arguments, ReturnCode};
use crate::address::{GuestPhysicalAddress, Ioba};
pub use crate::binding::Use;
use crate::locking::{RamError, Regions};
use crate::policy::Policy;
use crate::registry::{Bridge, Registry, Slot, SlotState};
use crate::stats::Counters;
use crate::sync::AtomicU64;
use crate::tce::Tce;
use crate::world::{Geometry, GuestMemory, GuestRange, HostIommu};

/// A PCI host bridge, as the engine is told of it.
#[derive(Debug)]
pub struct HostBridge<H> {
    /// Its number, which its LIOBNs carry.
    pub number: u8,
    /// The host's side of it.
    pub host: H,
    /// The window that it has from the start and after a reset.
    pub default_window: Geometry,
}

/// What is to be done about a hypercall that the engine was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was served; the guest gets this code.
    Code(ReturnCode),
    /// The guest is to be put back on its `sc 1`, with the arguments as they are now: the kernel does it
    /// better, and has its handler enabled now; or memory had to be locked for it, no entry has changed, and
    /// there may be more to lock; or it is a range of which a first part is cleared, and the arguments
    /// name the rest. Its processor can be stopped and interrupted in between. A call that comes here again
    /// is served in the end: each time, one piece more is locked, present or cleared.
    MakeAgain,
}

/// Why an engine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Guest RAM cannot be divided into regions.
    #[error("guest RAM cannot be divided into regions")]
    Ram(#[from] RamError),
    /// A bridge's default window is impossible.
    #[error("PCI host bridge {number} cannot have its default DMA window")]
    DefaultWindow {
        /// The bridge's number.
        number: u8,
        /// Why.
        #[source]
        source: WindowError,
    },
    /// Two bridges have one number.
    #[error("two PCI host bridges have number {0}")]
    SameNumber(u8),
}

/// The TCE engine of a machine; shared by all its processors.
pub struct Engine<M, H: HostIommu> {
    registry: Registry<H>,
    regions: Regions,
    policy: Policy,
    lists: Option<Lists>,
    unknown_liobn: AtomicU64,
    memory: M,
}

/// The window's place that a call names.
struct Place<'a, H: HostIommu> {
    bridge: &'a Bridge<H>,
    slot: &'a Slot<H::KernelTable>,
}

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// An engine for guest RAM at `ram` (sorted, in whole pages), backed by `memory`, and for
    /// `bridges`. Nothing is asked of the host yet.
    ///
    /// # Errors
    /// RAM, a default window or the bridges' numbers make no sense.
    pub fn new(
        memory: M,
        ram: &[GuestRange],
        policy: Policy,
        bridges: Vec<HostBridge<H>>,
    ) -> Result<Self, EngineError> {
        let ram_bytes = ram.iter().map(|piece| piece.bytes);
        let region = policy.region_size(ram_bytes.fold(0, u64::saturating_add));
        let regions = Regions::new(&memory, ram, region, policy.block, policy.crowd())?;
        let registry = Registry::new([]);
        let unknown_liobn = AtomicU64::new(0);
        let mut engine = Self {
            registry,
            regions,
            policy,
            lists: None,
            unknown_liobn,
            memory,
        };
        let mut made = Vec::with_capacity(bridges.len());
        for HostBridge {
            number,
            host,
            default_window,
        } in bridges
        {
            engine
                .check_geometry(default_window)
                .map_err(|source| EngineError::DefaultWindow { number, source })?;
            if made.iter().any(|(other, _)| *other == number) {
                return Err(EngineError::SameNumber(number));
            }
            made.push((
                number,
                Bridge::new(number, host, default_window, &engine.regions),
            ));
        }
        engine.registry = Registry::new(made);
        Ok(engine)
    }

    /// Has `wake` called when guest memory is to be made present, to be locked as one later on: then
    /// [`Engine::populate_some`] is to be called until it returns false, on a thread that nobody waits for.
    /// `wake` is called on a processor's thread in its hypercall.
    #[must_use]
    pub fn with_populator(mut self, wake: impl Fn() + Send + Sync + 'static) -> Self {
        self.regions.set_populator(wake);
        self
    }

    /// Makes one block of guest memory present that is wanted so; false when none is.
    pub fn populate_some(&self) -> bool {
        self.regions.populate_some(&self.memory)
    }

    /// Serves hypercall `number` if it is one of the engine's; `None` leaves it to others.
    /// H_GET_TCE answers in the first argument register (r4).
    ///
    /// Any number of processors may call this at once.
    #[inline]
    pub fn handle(&self, number: u64, arguments: &mut Arguments) -> Option<Answer> {
        let [liobn, ioba, third, count, ..] = *arguments;
        if !is_tce_call(number) {
            return None;
        }
        let Some((bridge, slot)) = self.registry.find(liobn) else {
            self.unknown_liobn.fetch_add(1, Ordering::Relaxed);
            return Some(Answer::Code(ReturnCode::PARAMETER));
        };
        let (place, ioba) = (Place { bridge, slot }, Ioba(ioba));
        let code = match number {
            abi::H_PUT_TCE => return Some(self.put_tce(&place, ioba, Tce(third))),
            abi::H_PUT_TCE_INDIRECT => {
                return Some(self.put_tce_indirect(
                    &place,
                    ioba,
                    GuestPhysicalAddress(third),
                    count,
                ));
            }
            abi::H_STUFF_TCE => {
                return Some(self.stuff_tce(&place, ioba, Tce(third), count, arguments));
            }
            _ => match Self::get_tce(&place, ioba) {
                Ok(tce) => {
                    arguments[0] = tce.0;
                    ReturnCode::SUCCESS
                }
                Err(code) => code,
            },
        };
        Some(Answer::Code(code))
    }

    /// Locks `block`, or does some of what that takes, with no window locked; `calls` counts the calls of this
    /// kind.
    ///
    /// However much is to be locked, no processor is kept for it longer than the first piece takes, and none
    /// waits for another's.
    #[cold]
    #[inline(never)]
    fn lock_memory(
        &self,
        place: &Place<'_, H>,
        block: usize,
        calls: impl FnOnce(&mut Counters) -> &mut u64,
    ) -> Answer {
        let Place { bridge, slot } = place;
        let outcome = bridge
            .locks
            .register(&bridge.host, &self.memory, &self.regions, block);
        if outcome.is_ok() {
            return Answer::MakeAgain;
        }
        let counters = &mut slot.lock().counters;
        *calls(counters) += 1;
        counters.refused_by_host += 1;
        Answer::Code(code_of::<()>(Err(Failure::HostRefused)))
    }

    /// Changes `count` entries of a window from `ioba` on by `change`, and counts what came of it.
    #[inline(always)]
    fn change<T>(
        &self,
        place: &Place<'_, H>,
        state: &mut SlotState<H::KernelTable>,
        ioba: Ioba,
        count: u64,
        change: impl FnOnce(&mut Transaction<'_, H>, Range<usize>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let SlotState {
            window,
            lingering,
            counters,
        } = state;
        let named = window.as_mut().and_then(|window| {
            let entries = window.geometry.entries_at(ioba, count)?;
            Some((window, entries))
        });
        let outcome = match named {
            Some((window, entries)) => {
                let mut transaction = Transaction {
                    bridge: place.bridge,
                    regions: &self.regions,
                    policy: self.policy.tce,
                    window,
                    lingering,
                    counters,
                };
                change(&mut transaction, entries)
            }
            None => Err(Failure::Parameter),
        };
        match &outcome {
            Ok(_) => counters.entries_written += count,
            Err(Failure::Parameter) => counters.refused_to_guest += 1,
            Err(Failure::HostRefused) => counters.refused_by_host += 1,
            Err(Failure::UnmapRefused) => {}
        }
        outcome
    }
}

/// Whether the engine serves hypercall `number`.
const fn is_tce_call(number: u64) -> bool {
    matches!(
        number,
        abi::H_GET_TCE | abi::H_PUT_TCE | abi::H_PUT_TCE_INDIRECT | abi::H_STUFF_TCE
    )
}
