//! A thread that does operations one after the other, and waits for each.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use log::Level;
use parking_lot::{Condvar, Mutex};
use vmm_sys_util::eventfd::EventFd;

use super::operation::Job;
use super::{Image, raw};
use crate::guest_message;

/// A job that is done, with the slot that it came from.
pub(super) type DoneJob = (usize, Job, io::Result<()>);

/// The thread; it ends when this is dropped, after what it was given.
pub(super) struct Helper {
    shared: Arc<Shared>,
    /// None where a fuzzer does its work ([`Helper::work`]).
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
    /// Sizes that the image is to have, in bytes, with who waits to hear of it.
    sizes: VecDeque<(u64, SyncSender<io::Result<()>>)>,
    ends: bool,
}

/// Has an image be of another size, from whichever thread.
#[derive(Clone)]
pub struct Resizer(Arc<Shared>);

impl Resizer {
    /// Has it be of `bytes`, after what is under way, and waits for that.
    ///
    /// # Errors
    /// The host's, or there is no thread any more that would do it.
    pub fn resize(&self, bytes: u64) -> io::Result<()> {
        let (says, hears) = mpsc::sync_channel(1);
        {
            let mut given = self.0.given.lock();
            if given.ends {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            given.sizes.push_back((bytes, says));
        }
        self.0.wakes.notify_one();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        hears.recv().map_err(gone)?
    }
}

impl Helper {
    /// One that has not started: what it is given waits.
    pub(super) fn new(image: Arc<Image>, event: Arc<EventFd>) -> Self {
        let shared = Arc::new(Shared {
            image,
            given: Mutex::default(),
            wakes: Condvar::new(),
            done: Mutex::default(),
            event,
        });
        Self {
            shared,
            thread: None,
        }
    }

    /// Starts it. It does `prepare` first; what fails of that fails all operations.
    ///
    /// # Errors
    /// When there is no thread left.
    pub(super) fn start(&mut self, prepare: fn() -> io::Result<()>) -> io::Result<()> {
        let its = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&its, prepare()))?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Does here and now what it was given, as its thread would.
    #[cfg(feature = "fuzz")]
    pub(super) fn work(&self) {
        loop {
            let Some((slot, job)) = self.shared.given.lock().jobs.pop_front() else {
                return;
            };
            do_job(&self.shared, None, slot, job);
        }
    }

    /// What has it resize the image.
    pub(super) fn resizer(&self) -> Resizer {
        Resizer(Arc::clone(&self.shared))
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
    let refusal = refusal.as_deref();
    while let Some(work) = next(shared) {
        match work {
            Work::Job(slot, job) => do_job(shared, refusal, slot, job),
            Work::Resize(bytes, says) => {
                let result = perform(refusal, || shared.image.resize(bytes));
                // Who asked may have gone.
                let _ = says.send(result);
            }
        }
    }
    // Whoever closes it may have a filter of system calls that does not let it write.
    if let Err(error) = perform(refusal, || shared.image.settle()) {
        let path = shared.image.options().path.display();
        guest_message!(
            Level::Error,
            "{path}: what was written last is lost: {error}"
        );
    }
}

/// Does a job, and tells of it.
fn do_job(shared: &Shared, refusal: Option<&str>, slot: usize, mut job: Job) {
    let result = perform(refusal, || raw::perform(&shared.image, &mut job));
    shared.done.lock().push((slot, job, result));
    // It fails only where 2^64 - 2 signals have not been heard.
    let _ = shared.event.write(1);
}

/// Does `work`, unless it is refused; a panic is an error.
fn perform(refusal: Option<&str>, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match refusal {
        Some(why) => Err(io::Error::other(why)),
        None => panic::catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(io::Error::other("the disk's thread panicked"))),
    }
}

/// Something to do.
enum Work {
    Job(usize, Job),
    Resize(u64, SyncSender<io::Result<()>>),
}

/// What is next; `None` when there will be nothing.
fn next(shared: &Shared) -> Option<Work> {
    let mut given = shared.given.lock();
    loop {
        if let Some((slot, job)) = given.jobs.pop_front() {
            return Some(Work::Job(slot, job));
        }
        if let Some((bytes, says)) = given.sizes.pop_front() {
            return Some(Work::Resize(bytes, says));
        }
        if given.ends {
            return None;
        }
        shared.wakes.wait(&mut given);
    }
}
