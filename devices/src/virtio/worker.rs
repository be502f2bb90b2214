//! The thread that serves a device's queues when their doorbells ring.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::shared::Shared;
use crate::poll::{polled_for_input, wait};

/// The thread; it ends when this is dropped.
pub(super) struct Worker {
    end: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it, with the name of the kind of device. It does `prepare` first.
    ///
    /// # Errors
    /// When there is no thread or no descriptor left.
    pub(super) fn start(shared: Arc<Shared>, prepare: fn() -> io::Result<()>) -> io::Result<Self> {
        // Shared and not duplicated: a sandbox has no call for that.
        let end = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let ends = Arc::clone(&end);
        let thread = thread::Builder::new()
            .name(shared.identity.name.to_owned())
            .spawn(move || match prepare() {
                Ok(()) => {
                    let told = GiveUpOnPanic(&shared);
                    run(told.0, &ends);
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

fn run(shared: &Shared, ends: &EventFd) {
    // Those of queues that the kernel serves it hears itself.
    let doorbells = shared.doorbells.iter().skip(shared.kernel_queues);
    let events = &shared.kernel_events;
    let descriptors = doorbells.chain(events).chain(&shared.host_event);
    let descriptors = descriptors.map(|event| event.as_raw_fd());
    let watched = shared.watched.iter().map(|it| it.as_raw_fd());
    let mut polled: Vec<libc::pollfd> = [ends.as_raw_fd()]
        .into_iter()
        .chain(descriptors)
        .chain(watched)
        .map(polled_for_input)
        .collect();
    loop {
        if let Err(error) = wait(&mut polled, None) {
            shared.give_up(&error);
            return;
        }
        let host_event = shared.host_event.as_ref();
        let has_event = host_event.is_some_and(|event| event.read().is_ok());
        let is_watched = shared.watched.is_some();
        if has_event || is_watched && polled.last().is_some_and(|it| it.revents != 0) {
            shared.finish();
        }
        if polled.first().is_none_or(|end| end.revents != 0) {
            break;
        }
        let bells = shared.doorbells.iter().enumerate();
        for (queue, bell) in bells.skip(shared.kernel_queues) {
            // Heard before the queue is looked at: what is put in later rings anew.
            let rang = bell.read().is_ok();
            if rang && shared.serve(queue) {
                // After the others had their turn.
                let _ = bell.write(1);
            }
        }
        if shared.kernel_queues != 0 {
            shared.steer();
        }
    }
    shared.end_kernel(&mut shared.state());
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
