//! Interrupt source numbers (PAPR "Logical Interrupt Source Number", LISN), numbered as QEMU's
//! pseries machine numbers them, so that one guest runs under both; and the interrupt controllers
//! that they belong to. [`xive`] has the hypercalls of one of them. The other, XICS, the kernel
//! serves alone; [`sampled`] has what is to be done for its level-triggered sources.

pub mod sampled;
mod signal;
pub mod xive;

pub use signal::{Signal, TriggerRegister};

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

/// The number of one interrupt source of the machine. With KVM's in-kernel interrupt controllers
/// it is also the `gsi` of KVM_IRQFD (`kvm_irq_map_gsi` in arch/powerpc/kvm/book3s.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lisn(pub u32);

impl Lisn {
    /// The first of the interprocessor interrupts, one for each processor; they end below
    /// [`Lisn::EPOW`].
    pub const IPI: Self = Self(0);
    /// Environmental and power warning: a shutdown request, for one.
    pub const EPOW: Self = Self(0x1000);
    /// The first of the virtual I/O devices' interrupts; the default vty has this one.
    pub const VIO: Self = Self(0x1100);
    /// The first of the level interrupts of PCI host bridges, four for each.
    pub const LSI: Self = Self(0x1200);
    /// The first of the numbers handed out for MSI and MSI-X vectors.
    pub const MSI: Self = Self(0x1300);
    /// One above the last number of all.
    pub const END: Self = Self(0x2000);
    /// How many numbers there are for MSI and MSI-X.
    pub const MSI_COUNT: u32 = Self::END.0 - Self::MSI.0;
}

impl fmt::Display for Lisn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// By which other nodes of the device tree name the interrupt controller's.
pub const CONTROLLER_PHANDLE: u32 = 0x1111;

/// The interrupt controllers that a guest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// The older one (PAPR "Interrupt Presentation"): a guest takes and ends each interrupt by
    /// hypercalls, which the kernel serves.
    Xics,
    /// POWER9's in native exploitation mode (PAPR "XIVE"): a guest takes and ends interrupts by
    /// loads and stores.
    Xive,
}

impl fmt::Display for ControllerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xics => "XICS",
            Self::Xive => "XIVE",
        })
    }
}

/// How an interrupt source signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Each signal is one interrupt (MSI, virtual I/O).
    Edge,
    /// Interrupts for as long as the line is raised (PCI INTx).
    Level,
}

/// A line that interrupts by a level-triggered source.
pub trait LevelLine: Send + Sync {
    /// Signals if the line is raised, and has it signal from now on. Called whenever the guest lets the
    /// source interrupt: when it has ended an interrupt, and when it has unmasked the source.
    fn sample(&self);

    /// Signals if the line is raised and was let signal before.
    fn sample_again(&self);
}

/// Who has lines sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// The guest, which lets the controller know when it listens and when it has ended an interrupt.
    ByGuest,
    /// The controller, some time after each signal. When the guest listens, nobody knows.
    ByTime,
}

/// What connects an interrupt source to the guest's interrupt controller: KVM_IRQFD on the VM.
///
/// Each signal of an event is one interrupt, of a level-triggered source, too: who signals it does
/// so once, and again when [`LevelLine::sample`] finds the line still raised.
pub trait InterruptLines: Send + Sync {
    /// Makes the sources of `block`, or resets those of them that there are: silent, and masked
    /// until the guest says where their interrupts go. To be called before a source is connected.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn make(&self, block: LisnBlock) -> io::Result<()>;

    /// Who has the lines of level-triggered sources sampled.
    fn sampling(&self) -> Sampling;

    /// Makes level-triggered source `lisn`, masked, unless another line has it already, and has
    /// `line` sampled from now on.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn make_level(&self, lisn: Lisn, line: Weak<dyn LevelLine>) -> io::Result<()>;

    /// Makes every signal of `event`, that of a line, an interrupt from level-triggered source `lisn`. An
    /// event that was signalled before counts.
    ///
    /// # Errors
    /// The kernel's refusal; nothing is connected then.
    fn connect_level(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()>;

    /// Undoes [`InterruptLines::connect_level`].
    ///
    /// # Errors
    /// The kernel's refusal.
    fn disconnect_level(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()>;

    /// Makes every signal of `event` an interrupt from source `lisn`. An event that was signalled
    /// before counts.
    ///
    /// # Errors
    /// The kernel's refusal; nothing is connected then.
    fn connect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()>;

    /// The register by which this process triggers source `lisn` itself, an edge-triggered one that was made; `None`
    /// where the controller has no such registers.
    fn trigger_register(&self, _lisn: Lisn) -> Option<TriggerRegister> {
        None
    }

    /// Undoes [`InterruptLines::connect`]. When it returns, `event` can be closed and `lisn` given
    /// to another event.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn disconnect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()>;
}

/// Consecutive interrupt source numbers that belong to one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LisnBlock {
    first: Lisn,
    count: u32,
}

impl LisnBlock {
    /// `count` numbers from `first` on; `None` for a count of 0 and past [`Lisn::END`].
    pub const fn new(first: Lisn, count: u32) -> Option<Self> {
        if count == 0 || first.0 >= Lisn::END.0 || count > Lisn::END.0 - first.0 {
            return None;
        }
        Some(Self { first, count })
    }

    /// The block of one source.
    pub const fn of_one(lisn: Lisn) -> Self {
        Self {
            first: lisn,
            count: 1,
        }
    }

    /// The lowest number.
    pub const fn first(self) -> Lisn {
        self.first
    }

    /// How many numbers, at least one.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The number at `index`, if the block has so many.
    pub const fn get(self, index: u32) -> Option<Lisn> {
        if index < self.count {
            Some(Lisn(self.first.0 + index))
        } else {
            None
        }
    }

    /// All numbers, in order.
    pub fn iter(self) -> impl Iterator<Item = Lisn> {
        (0..self.count).map(move |index| Lisn(self.first.0 + index))
    }
}

/// Hands out the numbers from [`Lisn::MSI`] on, in blocks, to all devices of a machine.
#[derive(Debug)]
pub struct LisnAllocator {
    used: Mutex<Vec<bool>>,
}

impl Default for LisnAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl LisnAllocator {
    /// All [`Lisn::MSI_COUNT`] numbers are free.
    pub fn new() -> Self {
        Self {
            used: Mutex::new(vec![false; Lisn::MSI_COUNT as usize]),
        }
    }

    /// The lowest free block of `count` numbers; `None` when there is none, or for a count of 0.
    ///
    /// `aligned` asks for a first number that is a multiple of `count` rounded up to a power of
    /// two: a function with plain MSI puts the vector into the low bits of its message (PCI Local
    /// Bus Specification 3.0, 6.8.1.6).
    pub fn allocate(&self, count: u32, aligned: bool) -> Option<LisnBlock> {
        if count == 0 || count > Lisn::MSI_COUNT {
            return None;
        }
        let step = if aligned {
            count.next_power_of_two()
        } else {
            1
        };
        let mut used = self.used.lock();
        let mut first = Lisn::MSI.0.next_multiple_of(step);
        while first + count <= Lisn::END.0 {
            let start = (first - Lisn::MSI.0) as usize;
            let range = start..start + count as usize;
            match used[range.clone()].iter().rposition(|&taken| taken) {
                None => {
                    used[range].fill(true);
                    return Some(LisnBlock {
                        first: Lisn(first),
                        count,
                    });
                }
                // Behind the last taken number of the range, on the next boundary.
                Some(last) => {
                    let behind = first + u32::try_from(last).ok()? + 1;
                    first = behind.next_multiple_of(step);
                }
            }
        }
        None
    }

    /// How many numbers a block can have that [`LisnAllocator::allocate`] would now return, of at most
    /// `count`. Of aligned ones it is a power of two.
    pub fn most(&self, count: u32, aligned: bool) -> u32 {
        let used = self.used.lock();
        if !aligned {
            let runs = used.split(|&taken| taken).map(<[bool]>::len);
            let longest = runs.max().and_then(|longest| u32::try_from(longest).ok());
            return longest.unwrap_or_default().min(count);
        }
        let offset = Lisn::MSI.0;
        let is_free = |first: u32, size: u32| {
            let start = (first - offset) as usize;
            let block = used.get(start..start + size as usize);
            block.is_some_and(|block| !block.contains(&true))
        };
        let mut size = 1
            << count
                .min(Lisn::MSI_COUNT)
                .checked_ilog2()
                .unwrap_or_default();
        while size > 0 {
            let mut starts = (offset.next_multiple_of(size)..Lisn::END.0).step_by(size as usize);
            if starts.any(|first| is_free(first, size)) {
                return size.min(count);
            }
            size /= 2;
        }
        0
    }

    /// Gives a block back, as [`LisnAllocator::allocate`] returned it.
    pub fn free(&self, block: LisnBlock) {
        let mut used = self.used.lock();
        let start = (block.first.0 - Lisn::MSI.0) as usize;
        used[start..start + block.count as usize].fill(false);
    }

    /// What of all numbers each can have who wants so many: all that it wants if there are enough for
    /// everyone, else a share in proportion.
    pub fn shares(wanted: &[u32]) -> Vec<u32> {
        let sum: u64 = wanted.iter().copied().map(u64::from).sum();
        let all = u64::from(Lisn::MSI_COUNT);
        let share = |&wanted: &u32| match sum > all {
            true => u32::try_from(u64::from(wanted) * all / sum).unwrap_or(wanted),
            false => wanted,
        };
        wanted.iter().map(share).collect()
    }

    /// How many numbers are in use.
    pub fn in_use(&self) -> usize {
        let used = self.used.lock();
        used.iter().filter(|&&taken| taken).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_numbers_can_be_handed_out_and_no_more() {
        let allocator = LisnAllocator::new();
        let all = allocator.allocate(Lisn::MSI_COUNT, false).unwrap();
        assert_eq!(all.first(), Lisn(0x1300));
        assert_eq!(all.iter().last(), Some(Lisn(0x1fff)));
        assert_eq!(allocator.allocate(1, false), None);
        allocator.free(all);
        assert_eq!(allocator.in_use(), 0);
        assert_eq!(allocator.allocate(0, false), None);
        assert_eq!(allocator.allocate(u32::MAX, true), None);
    }

    #[test]
    fn a_block_has_numbers_and_ends_where_all_do() {
        assert_eq!(LisnBlock::new(Lisn(5), 0), None);
        assert_eq!(LisnBlock::new(Lisn::END, 1), None);
        assert_eq!(LisnBlock::new(Lisn(1), Lisn::END.0), None);
        assert_eq!(LisnBlock::new(Lisn(u32::MAX), u32::MAX), None);
        let all = LisnBlock::new(Lisn(0), Lisn::END.0).unwrap();
        assert_eq!(all.iter().last(), Some(Lisn(0x1fff)));
    }

    #[test]
    fn shares_are_what_is_wanted_or_all_there_is_in_proportion() {
        let shares = LisnAllocator::shares;
        assert_eq!(shares(&[]), [0; 0]);
        assert_eq!(shares(&[128, 0, 32]), [128, 0, 32]);
        assert_eq!(shares(&[2048, 2048]), [1664, 1664]);
        assert_eq!(shares(&[u32::MAX, 0]), [Lisn::MSI_COUNT, 0]);
        // A guest with many processors, each of whose bridges has a function for all of them.
        let all = shares(&[256; 31]);
        assert_eq!(all, [107; 31]);
        assert!(all.iter().sum::<u32>() <= Lisn::MSI_COUNT);
    }

    #[test]
    fn what_is_left_is_told_as_one_block_has_it() {
        let allocator = LisnAllocator::new();
        assert_eq!(allocator.most(u32::MAX, false), Lisn::MSI_COUNT);
        assert_eq!(allocator.most(65, false), 65);
        assert_eq!(
            (allocator.most(32, true), allocator.most(31, true)),
            (32, 16)
        );
        assert_eq!((allocator.most(0, true), allocator.most(0, false)), (0, 0));
        // 0x1fe9 to 0x1fff are left, of which 16 are on their boundary.
        allocator.allocate(Lisn::MSI_COUNT - 23, false).unwrap();
        assert_eq!(allocator.most(65, false), 23);
        assert_eq!(allocator.most(32, true), 16);
        allocator.allocate(16, true).unwrap();
        assert_eq!(
            (allocator.most(32, false), allocator.most(32, true)),
            (7, 4)
        );
        allocator.allocate(7, false).unwrap();
        assert_eq!((allocator.most(1, false), allocator.most(1, true)), (0, 0));
    }

    #[test]
    fn plain_msi_gets_numbers_on_its_boundary() {
        let allocator = LisnAllocator::new();
        allocator.allocate(1, false).unwrap();
        assert_eq!(allocator.allocate(5, true).unwrap().first(), Lisn(0x1308));
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_stay_in_range(
            steps in prop::collection::vec((any::<bool>(), 1u32..600, any::<bool>()), 1..80)
        ) {
            let allocator = LisnAllocator::new();
            let mut blocks: Vec<LisnBlock> = Vec::new();
            for (free, count, aligned) in steps {
                if free && !blocks.is_empty() {
                    allocator.free(blocks.swap_remove(count as usize % blocks.len()));
                } else if let Some(block) = allocator.allocate(count, aligned) {
                    prop_assert!(block.first() >= Lisn::MSI);
                    prop_assert!(block.first().0 + block.count() <= Lisn::END.0);
                    if aligned {
                        prop_assert_eq!(block.first().0 % count.next_power_of_two(), 0);
                    }
                    for other in &blocks {
                        prop_assert!(
                            block.first().0 + block.count() <= other.first().0
                                || other.first().0 + other.count() <= block.first().0
                        );
                    }
                    blocks.push(block);
                }
                let expected: usize = blocks.iter().map(|block| block.count() as usize).sum();
                prop_assert_eq!(allocator.in_use(), expected);
                let most = allocator.most(count, aligned);
                prop_assert!(most <= count);
                if let Some(block) = allocator.allocate(most, aligned) {
                    allocator.free(block);
                } else {
                    prop_assert_eq!(most, 0);
                }
                if most < count && !aligned {
                    prop_assert_eq!(allocator.allocate(most + 1, false), None);
                }
            }
        }
    }
}
