//! A thread that makes guest memory present ahead of the guest's mappings, so that locking it for DMA
//! keeps no processor waiting for pages to be cleared.

use log::Level;
use spapr_devices::guest_message;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

/// What the thread is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Wait,
    Work,
    End,
}

#[derive(Debug)]
struct Orders {
    order: Mutex<Order>,
    changed: Condvar,
}

impl Orders {
    /// Gives an order; the one to end stays.
    fn give(&self, order: Order) {
        let mut current = self.order.lock();
        if *current != Order::End {
            *current = order;
            self.changed.notify_one();
        }
    }

    fn current(&self) -> Order {
        *self.order.lock()
    }

    /// Waits for an order that is not to wait, and returns it. One to work is taken off.
    fn take(&self) -> Order {
        let mut order = self.order.lock();
        while *order == Order::Wait {
            self.changed.wait(&mut order);
        }
        let taken = *order;
        if taken == Order::Work {
            *order = Order::Wait;
        }
        taken
    }
}

/// Whom to wake when there is memory to make present; clones wake the same thread.
#[derive(Clone, Debug)]
pub(super) struct Wake(Arc<Orders>);

impl Wake {
    pub(super) fn new() -> Self {
        Self(Arc::new(Orders {
            order: Mutex::new(Order::Wait),
            changed: Condvar::new(),
        }))
    }

    /// Has the thread work until nothing is left to do. Cheap, and waits for nobody.
    pub(super) fn wake(&self) {
        self.0.give(Order::Work);
    }
}

/// The thread; it ends when this is dropped, after what it is at.
#[derive(Debug)]
pub(super) struct Populator {
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Populator {
    /// Starts the thread, which calls `populate_some` whenever it is woken, until that returns false.
    ///
    /// # Errors
    /// When there is no thread left.
    pub(super) fn start(
        wake: Wake,
        populate_some: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let orders = Arc::clone(&wake.0);
        let thread = thread::Builder::new()
            .name("populate".to_owned())
            .spawn(move || {
                give_way();
                while orders.take() == Order::Work {
                    while orders.current() != Order::End && populate_some() {}
                }
            })?;
        Ok(Self {
            wake,
            thread: Some(thread),
        })
    }
}

/// Lets all other threads go before the calling one: what a guest's processor waits for is its hypercall, which
/// this thread would only hold up where there is no processor to spare.
fn give_way() {
    const LEAST_PRIORITY: i32 = 19;
    // SAFETY: 0 is the calling thread, of which it changes the nice value and nothing else.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LEAST_PRIORITY) };
    if result != 0 {
        log::debug!(
            "memory is made present with the guest's priority: {}",
            io::Error::last_os_error()
        );
    }
}

impl Drop for Populator {
    fn drop(&mut self) {
        self.wake.0.give(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            guest_message!(
                Level::Error,
                "the thread that makes guest memory present panicked"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_thread_works_when_woken_until_nothing_is_left_and_ends_in_the_middle() {
        let left = Arc::new(AtomicUsize::new(0));
        let (idle, is_idle) = mpsc::channel();
        let wake = Wake::new();
        let work = Arc::clone(&left);
        let populator = Populator::start(wake.clone(), move || {
            let is_more = work
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
            if !is_more {
                let _ = idle.send(());
            }
            is_more
        })
        .expect("thread");
        for blocks in [3, 5] {
            left.store(blocks, Ordering::Relaxed);
            wake.wake();
            is_idle.recv().expect("idle");
            assert_eq!(left.load(Ordering::Relaxed), 0);
        }
        // More than can ever be done.
        left.store(usize::MAX, Ordering::Relaxed);
        wake.wake();
        drop(populator);
        wake.wake();
    }
}
