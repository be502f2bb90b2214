//! What a machine hands out to what it is made of: places in the guest's address space, doorbells, interrupt
//! source numbers and the lines behind them.

use std::io;
use std::sync::Arc;

use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use crate::interrupts::{InterruptLines, LisnAllocator};

/// What a machine hands out.
#[derive(Clone)]
pub struct Board {
    /// The guest's physical address space.
    pub space: Arc<dyn AddressSpace>,
    /// Connects interrupt sources.
    pub lines: Arc<dyn InterruptLines>,
    /// Hands out interrupt source numbers.
    pub lisns: Arc<LisnAllocator>,
    /// Page size of the host in bytes, a power of two.
    pub host_page_bytes: u64,
}

/// The guest's physical address space outside RAM: KVM's memory slots and its ioeventfds.
pub trait AddressSpace: Send + Sync {
    /// Lets the guest reach `host` at `guest`. Both are multiples of the host's page size. The
    /// range stays mapped in this process until [`AddressSpace::unmap`].
    ///
    /// # Errors
    /// The kernel's refusal, for example because the guest has put two BARs in one place.
    fn map(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()>;

    /// Undoes [`AddressSpace::map`] of exactly that range.
    ///
    /// # Errors
    /// The kernel's refusal; the guest still reaches the range then.
    fn unmap(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()>;

    /// Has `event` signalled whenever the guest writes at `guest`, whatever it writes, without an exit to
    /// user space.
    ///
    /// # Errors
    /// The kernel's refusal, for example because another doorbell is there.
    fn connect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()>;

    /// Undoes [`AddressSpace::connect_doorbell`] of exactly that event there.
    ///
    /// # Errors
    /// The kernel's refusal; the event is still signalled then.
    fn disconnect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()>;
}
