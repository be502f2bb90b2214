//! The threads of the processors, which outlive the guest's reboots: whoever has pinned them to
//! processors of the host or watches them finds the same ones afterwards.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};

use parking_lot::Mutex;

use crate::partition::counters::Counters;
use crate::threads;

/// What a thread does in one life of the machine; the end of the call is the end of the life.
type Work = Box<dyn FnOnce() -> Counters + Send>;

/// Something that a thread does to itself before all else.
pub type Prepare = fn() -> io::Result<()>;

/// One thread for each processor.
pub struct ProcessorThreads {
    threads: Vec<ProcessorThread>,
}

struct ProcessorThread {
    id: u32,
    work: Mutex<Sender<Work>>,
    done: Mutex<Receiver<Counters>>,
}

impl ProcessorThreads {
    /// Starts `count` threads, each of which calls `prepare` first.
    ///
    /// # Errors
    /// When there are no threads left, or one cannot be prepared.
    pub fn spawn(count: u32, prepare: Option<Prepare>) -> io::Result<Self> {
        let threads = (0..count).map(|server| ProcessorThread::spawn(server, prepare));
        let threads = threads.collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// The threads' ids, as the kernel numbers them, in the order of the processors.
    pub fn ids(&self) -> Vec<u32> {
        self.threads.iter().map(|thread| thread.id).collect()
    }

    /// Has the thread of processor `server` do `work`.
    ///
    /// # Errors
    /// When there is no such thread, or it has panicked.
    pub fn start(&self, server: u32, work: Work) -> io::Result<()> {
        let gone = || io::Error::other(format!("the thread of processor {server} is gone"));
        let index = usize::try_from(server).map_err(|_| gone())?;
        let thread = self.threads.get(index).ok_or_else(gone)?;
        let sender = thread.work.lock();
        sender.send(work).map_err(|_| gone())
    }

    /// Waits until the thread of processor `server` has done its work; `None` when it panicked.
    pub fn wait(&self, server: u32) -> Option<Counters> {
        let thread = self.threads.get(usize::try_from(server).ok()?)?;
        let done = thread.done.lock();
        done.recv().ok()
    }
}

impl ProcessorThread {
    fn spawn(server: u32, prepare: Option<Prepare>) -> io::Result<Self> {
        let (work, works) = mpsc::channel::<Work>();
        let (tell_done, done) = mpsc::channel();
        let (tell_id, id) = mpsc::channel();
        threads::spawn(&format!("CPU {server}/KVM"), move || {
            // SAFETY: gettid touches no memory of ours.
            let own = unsafe { libc::gettid() }.unsigned_abs();
            let prepared = prepare.map_or(Ok(()), |prepare| prepare()).map(|()| own);
            if tell_id.send(prepared).is_err() {
                return;
            }
            for work in works {
                if tell_done.send(work()).is_err() {
                    return;
                }
            }
        })?;
        let gone = |_| io::Error::other("a processor's thread ended at its start");
        Ok(Self {
            id: id.recv().map_err(gone)??,
            work: Mutex::new(work),
            done: Mutex::new(done),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_does_one_work_after_another() {
        let threads = ProcessorThreads::spawn(2, None).expect("threads");
        let ids = threads.ids();
        assert_eq!(ids.len(), 2);
        assert_ne!(ids[0], ids[1]);
        for round in 1..4 {
            let work = move || {
                let mut counters = Counters::default();
                // SAFETY: gettid touches no memory of ours.
                counters.mmio = unsafe { libc::gettid() }.unsigned_abs().into();
                counters.interrupted = round;
                counters
            };
            threads.start(1, Box::new(work)).expect("it works");
            let counters = threads.wait(1).expect("no panic");
            assert_eq!(counters.mmio, u64::from(ids[1]));
            assert_eq!(counters.interrupted, round);
        }
    }

    #[test]
    fn a_thread_that_panicked_is_told_of() {
        let threads = ProcessorThreads::spawn(1, None).expect("threads");
        let panics = || -> Counters { panic!("as a test") };
        threads.start(0, Box::new(panics)).expect("it starts");
        assert!(threads.wait(0).is_none());
        assert!(threads.start(0, Box::new(Counters::default)).is_err());
        assert!(threads.start(7, Box::new(Counters::default)).is_err());
    }

    #[test]
    fn a_thread_that_cannot_be_prepared_is_none() {
        let refuse = || Err(io::Error::other("as a test"));
        assert!(ProcessorThreads::spawn(1, Some(refuse)).is_err());
    }
}
