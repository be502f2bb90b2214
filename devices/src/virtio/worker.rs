//! The thread that serves a device's queues when their doorbells ring.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::shared::Shared;
use super::signals::{Signal, Signals};
use crate::poll::{polled_for_input, wait};

/// The thread; it ends when this is dropped.
pub(super) struct Worker {
    end: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it, with the name of the kind of device. It does `prepare` first.
    ///
    /// # Errors
    /// When there is no thread or no descriptor left.
    pub(super) fn start(shared: Arc<Shared>, prepare: fn() -> io::Result<()>) -> io::Result<Self> {
        let end = EventFd::new(EFD_NONBLOCK)?;
        let signals = Signals::new(&shared, &end)?;
        let thread = thread::Builder::new()
            .name(shared.identity.name.to_owned())
            .spawn(move || match prepare() {
                Ok(()) => {
                    let told = GiveUpOnPanic(&shared);
                    run(told.0, signals);
                }
                Err(error) => shared.give_up(&error),
            })?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

/// A driver is to know that nobody serves it any more.
struct GiveUpOnPanic<'a>(&'a Shared);

impl Drop for GiveUpOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.give_up(&"its thread panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A first write never fails.
        let _ = self.end.write(1);
        let is_itself = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !is_itself(thread)) {
            // It does not panic: what it is given comes as errors.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, mut signals: Signals) {
    loop {
        let heard = match signals.wait() {
            Ok(heard) => heard,
            Err(error) => {
                shared.give_up(&error);
                return;
            }
        };
        if heard.clone().any(|signal| signal == Signal::Host) {
            shared.finish_and_serve();
        }
        if heard.clone().any(|signal| signal == Signal::End) {
            break;
        }
        for signal in heard {
            if let Signal::Own(which, events) = signal {
                shared.hear_and_serve(which, events);
            }
            // Heard before the queue is looked at: what is put in later rings anew.
            if let Signal::Doorbell(queue) = signal
                && shared.serve(queue)
            {
                // After the others had their turn.
                shared.ring(queue);
            }
        }
        if shared.vhost_queues != 0 {
            let left = shared.steer();
            if let Err(error) = signals.leave_to_vhost(shared, left) {
                shared.give_up(&error);
                return;
            }
        }
    }
    shared.end_vhost(&mut shared.state());
    if let Some(event) = &shared.host_event {
        drain(shared, event);
    }
}

/// Waits until the host no longer touches memory for this device.
fn drain(shared: &Shared, event: &EventFd) {
    let mut polled = [polled_for_input(event.as_raw_fd())];
    while shared.is_busy() {
        if let Err(error) = wait(&mut polled, None) {
            shared.give_up(&error);
            return;
        }
        let _spurious = event.read();
        shared.finish();
    }
}
