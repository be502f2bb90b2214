//! Where lists (H_PUT_TCE_INDIRECT) of bound windows are handled, chosen by what the guest does with them.
//!
//! The kernel's handler does one entry after the other; here a run of entries is one request to the
//! host, at the price of an exit and of a system call for each run. So long runs are cheaper here,
//! scattered lists and very short ones in the kernel. Each list that comes here is weighed: what it
//! costs more here than it would there is added up, and when that exceeds what a change costs, the
//! kernel's handler is enabled. From then on nothing is seen. So lists are taken back after a
//! while, and a few are weighed again: for a load that has not changed, after 1, 2, 4 … 128 ms.
//!
//! Costs are in instructions, which are what can be measured on an emulated host; see "Where bulk
//! calls are handled" in docs/design.md for the measurements.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::sync::{AtomicI64, AtomicU8};

/// What an exit to user space and back costs more than entering the kernel's handler of a list.
const LIST_EXIT: i64 = 3_130;
/// What one more run costs here: a VFIO_IOMMU_MAP_DMA.
const LIST_RUN: i64 = 3_290;
/// What one more entry costs less here than in the kernel's handler.
const LIST_ENTRY: i64 = 1_700;

/// The excess of calls handled here at which the kernel takes over: about what it costs to hand
/// over and to take back.
const TIPPING: i64 = 20_000;
/// How much of calls having been cheaper here is remembered. The more, the longer a change of the
/// guest's behaviour goes unnoticed; it covers a few short lists between long ones.
const MEMORY: i64 = 100_000;
/// Where calls that were taken back start: a few calls that are cheaper in the kernel send them
/// there again.
const DOUBT: i64 = TIPPING / 2;
/// What it costs to put the guest back on its hypercall: another exit, and its registers read and
/// set. A call that costs less than this more here is carried out here.
const MAKING_AGAIN: i64 = 9_000;

/// How long calls stay in the kernel before they are looked at again, at first.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);
/// And at most.
pub(crate) const LONGEST: Duration = Duration::from_millis(128);

/// What a list of `entries` valid entries in `runs` runs costs more here than in the kernel.
#[inline]
pub(crate) fn excess_of_list(entries: usize, runs: usize) -> i64 {
    LIST_EXIT + times(LIST_RUN, runs) - times(LIST_ENTRY, entries)
}

/// More entries than this are no different.
const MOST_COUNTED: usize = 1 << 20;

fn times(price: i64, count: usize) -> i64 {
    // In range: the count is cut.
    price * i64::try_from(count.min(MOST_COUNTED)).unwrap_or(0)
}

/// What to do with a call that came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Carry it out.
    Here,
    /// Carry it out, then have the kernel handle those after it.
    HereThenKernel,
    /// Have the kernel handle this one and those after it.
    Kernel,
}

const HERE: u8 = 0;
const IN_KERNEL: u8 = 1;
const ALWAYS_HERE: u8 = 2;

/// The scales for one of the calls, shared by all processors.
///
/// Two processors that weigh at the same moment may lose the weight of one: that delays a decision
/// by a call, and plain loads and stores are what it costs.
#[derive(Debug)]
pub(crate) struct Scales {
    balance: AtomicI64,
    place: AtomicU8,
}

impl Scales {
    /// Scales that have seen nothing; calls are handled here.
    pub(crate) const fn new() -> Self {
        Self {
            balance: AtomicI64::new(0),
            place: AtomicU8::new(HERE),
        }
    }

    /// Weighs a valid call of a bound window that costs `excess` more here than in the kernel.
    ///
    /// A call that comes although the kernel has its handler enabled (it left it to us, or was on
    /// its way) is to be carried out: none is sent to the kernel twice for its own sake without having been
    /// taken back in between. (A list with memory to lock goes there once more for each piece.)
    #[inline]
    pub(crate) fn weigh(&self, excess: i64) -> Advice {
        if self.place.load(Relaxed) != HERE {
            return Advice::Here;
        }
        let before = self.balance.load(Relaxed);
        let balance = before.saturating_add(excess);
        let kept = balance.max(-MEMORY);
        // Long runs leave it where it is: processors that map them do not take the line from each other.
        if kept != before {
            self.balance.store(kept, Relaxed);
        }
        if balance < TIPPING || excess <= 0 {
            Advice::Here
        } else if excess > MAKING_AGAIN {
            Advice::Kernel
        } else {
            Advice::HereThenKernel
        }
    }

    /// Notes a call that the kernel should not handle: it favours this side as much as calls can.
    pub(crate) fn favour_here(&self) {
        self.balance.store(-MEMORY, Relaxed);
    }

    /// Whether the kernel has its handler enabled.
    pub(crate) fn is_in_kernel(&self) -> bool {
        self.place.load(Relaxed) == IN_KERNEL
    }

    /// Whether the kernel could take over.
    pub(crate) fn is_here(&self) -> bool {
        self.place.load(Relaxed) == HERE
    }

    /// The kernel's handler is about to be enabled.
    pub(crate) fn handed_over(&self) {
        self.place.store(IN_KERNEL, Relaxed);
    }

    /// The kernel refused to enable its handler: calls stay here for good.
    pub(crate) fn refused(&self) {
        self.place.store(ALWAYS_HERE, Relaxed);
    }

    /// The kernel's handler has been disabled.
    pub(crate) fn taken_back(&self) {
        self.balance.store(DOUBT, Relaxed);
        self.place.store(HERE, Relaxed);
    }
}

/// When calls are taken back. Times are since any one moment.
///
/// It doubles from [`SHORTEST`] to [`LONGEST`] while calls go back to the kernel within
/// [`LONGEST`]. So in any time `t` the kernel takes over at most `8 × (t / LONGEST + 1)` times,
/// whatever the guest does, and a change is seen after [`LONGEST`] at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOff {
    stay: Duration,
    taken_back_at: Option<Duration>,
    due: Option<Duration>,
    hand_overs: u64,
    take_backs: u64,
}

impl BackOff {
    pub(crate) const fn new() -> Self {
        Self {
            stay: SHORTEST,
            taken_back_at: None,
            due: None,
            hand_overs: 0,
            take_backs: 0,
        }
    }

    /// The kernel takes over `now`.
    pub(crate) fn hand_over(&mut self, now: Duration) {
        let was_here = self
            .taken_back_at
            .map(|taken_back| now.saturating_sub(taken_back));
        self.stay = match was_here {
            Some(time) if time < LONGEST => (self.stay * 2).min(LONGEST),
            _ => SHORTEST,
        };
        self.hand_overs += 1;
        self.due = Some(now + self.stay);
    }

    /// The calls are taken back `now`.
    pub(crate) fn take_back(&mut self, now: Duration) {
        self.take_backs += 1;
        self.taken_back_at = Some(now);
        self.due = None;
    }

    /// They could not be taken back: once more, later.
    pub(crate) fn put_off(&mut self, now: Duration) {
        self.due = Some(now + LONGEST);
    }

    /// When the calls are to be taken back, if the kernel has them.
    pub(crate) const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// How often the kernel took over.
    pub(crate) const fn hand_overs(&self) -> u64 {
        self.hand_overs
    }

    /// How often the calls were taken back.
    pub(crate) const fn take_backs(&self) -> u64 {
        self.take_backs
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
#[path = "adaptive_tests.rs"]
mod tests;
