//! A thread that does operations one after the other, and waits for each.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use vmm_sys_util::eventfd::EventFd;

use super::operation::Job;
use super::{Image, raw};

/// A job that is done, with the slot that it came from.
pub(super) type DoneJob = (usize, Job, io::Result<()>);

/// The thread; it ends when this is dropped, after what it was given.
pub(super) struct Helper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    image: Arc<Image>,
    given: Mutex<Given>,
    wakes: Condvar,
    done: Mutex<Vec<DoneJob>>,
    /// Signalled when something is done.
    event: Arc<EventFd>,
}

#[derive(Default)]
struct Given {
    jobs: VecDeque<(usize, Job)>,
    ends: bool,
}

impl Helper {
    /// Starts it. It does `prepare` first; what fails of that fails all operations.
    ///
    /// # Errors
    /// When there is no thread left.
    pub(super) fn start(
        image: Arc<Image>,
        event: Arc<EventFd>,
        prepare: fn() -> io::Result<()>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            image,
            given: Mutex::default(),
            wakes: Condvar::new(),
            done: Mutex::default(),
            event,
        });
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&its, prepare()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Gives it a job.
    pub(super) fn give(&self, slot: usize, job: Job) {
        self.shared.given.lock().jobs.push_back((slot, job));
        self.shared.wakes.notify_one();
    }

    /// Takes what it has done.
    pub(super) fn take_done(&self, done: &mut Vec<DoneJob>) {
        done.append(&mut self.shared.done.lock());
    }
}

/// It goes no deeper than a system call.
const STACK_BYTES: usize = 256 << 10;

impl Drop for Helper {
    fn drop(&mut self) {
        self.shared.given.lock().ends = true;
        self.shared.wakes.notify_one();
        if let Some(thread) = self.thread.take() {
            // What panics in it is caught.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, prepared: io::Result<()>) {
    let refusal = prepared.err().map(|error| error.to_string());
    while let Some((slot, mut job)) = next(shared) {
        let result = match &refusal {
            Some(why) => Err(io::Error::other(why.clone())),
            None => {
                let perform = AssertUnwindSafe(|| raw::perform(&shared.image, &mut job));
                panic::catch_unwind(perform)
                    .unwrap_or_else(|_| Err(io::Error::other("the disk's thread panicked")))
            }
        };
        shared.done.lock().push((slot, job, result));
        // It fails only where 2^64 - 2 signals have not been heard.
        let _ = shared.event.write(1);
    }
}

/// The next job; `None` when there will be none.
fn next(shared: &Shared) -> Option<(usize, Job)> {
    let mut given = shared.given.lock();
    loop {
        if let Some(job) = given.jobs.pop_front() {
            return Some(job);
        }
        if given.ends {
            return None;
        }
        shared.wakes.wait(&mut given);
    }
}
