//! By what an edge-triggered source interrupts: an event, which costs a system call and is passed on by a thread of the
//! host's kernel, or the source's own register, which costs a store.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vmm_sys_util::eventfd::EventFd;

/// The register of a source that each store triggers (XIVE: the source's trigger page). It keeps what it is mapped by.
#[derive(Clone)]
pub struct TriggerRegister {
    register: NonNull<u64>,
    _mapping: Arc<dyn Any + Send + Sync>,
}

// SAFETY: it is stored to and nothing else, which any thread may do (`TriggerRegister::new`).
unsafe impl Send for TriggerRegister {}
// SAFETY: as above.
unsafe impl Sync for TriggerRegister {}

impl TriggerRegister {
    /// The register there, which is mapped by `mapping`.
    ///
    /// # Safety
    /// While `mapping` lives, a doubleword can be stored there by any thread, and nothing of Rust's is there.
    pub unsafe fn new(register: NonNull<u64>, mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            register,
            _mapping: mapping,
        }
    }

    /// Triggers the source.
    fn trigger(&self) {
        // Whoever is interrupted finds in memory what was written before: that a store to a device's register is not
        // seen sooner takes a barrier (Power ISA, book II, 1.7.1).
        fence(Ordering::SeqCst);
        // SAFETY: it can be stored to, as whoever made it has promised.
        unsafe { self.register.write_volatile(0) };
    }
}

/// By what a vector interrupts.
#[derive(Clone)]
pub struct Signal {
    event: Arc<EventFd>,
    register: Option<TriggerRegister>,
}

impl Signal {
    /// An event, and where there is one the register of the source that it interrupts from.
    pub const fn new(event: Arc<EventFd>, register: Option<TriggerRegister>) -> Self {
        Self { event, register }
    }

    /// The event, for who interrupts by it: the host's kernel, or another program.
    pub const fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Interrupts once.
    pub fn send(&self) {
        match &self.register {
            Some(register) => register.trigger(),
            // It fails only where 2^64 - 2 signals have not been taken.
            None => drop(self.event.write(1)),
        }
    }
}

impl From<Arc<EventFd>> for Signal {
    fn from(event: Arc<EventFd>) -> Self {
        Self::new(event, None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn a_source_with_a_register_is_triggered_by_it_and_by_no_event() {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let place = Arc::new(AtomicU64::new(7));
        let register = NonNull::new(place.as_ptr()).unwrap();
        // SAFETY: the place lives as long as the second argument, and is for atomic accesses.
        let register = unsafe { TriggerRegister::new(register, place.clone()) };
        Signal::new(Arc::clone(&event), Some(register)).send();
        assert_eq!(place.load(Ordering::Relaxed), 0);
        assert!(event.read().is_err());
        Signal::from(Arc::clone(&event)).send();
        assert_eq!(event.read().unwrap(), 1);
    }
}
