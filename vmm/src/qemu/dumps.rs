//! Dumps of the guest, one at a time, which a thread writes while monitors and guest state are served
//! by others.
//!
//! The thread is there from the start: whoever starts one later would have to be allowed to.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;

use log::Level;
use parking_lot::Mutex;
use serde_json::{Value, json};
use spapr_devices::guest_message;
use vmm_sys_util::signal::block_signal;

use super::events::Events;
use super::state::{GuestState, WrongTime};
use crate::dump::{self, Cancel, DumpError, NotMemory, Output, Selection, Snapshot};
use crate::sandbox::{self, Role};
use spapr_devices::error_chain::chain;

/// Why a dump does not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Not now.
    #[error(transparent)]
    WrongTime(#[from] WrongTime),
    /// Not that memory.
    #[error(transparent)]
    NotMemory(#[from] NotMemory),
    /// Not to there.
    #[error("the dump's target cannot be written to")]
    Target(#[source] io::Error),
    /// There is no thread to write it.
    #[error("the thread that writes dumps is gone")]
    NoThread,
}

/// What came of a dump, once it has ended; the text is that of its failure.
pub type Outcome = Arc<OnceLock<Result<(), String>>>;

/// A dump for the thread to write.
struct Job {
    snapshot: Snapshot,
    selection: Selection,
    output: Output,
    outcome: Outcome,
}

/// Where the dump that was begun last is, by the words of `query-dump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    None,
    Active,
    Completed,
    Failed,
}

/// What `query-dump` tells.
#[derive(Debug)]
struct Progress {
    status: Mutex<Status>,
    completed: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    fn to_json(&self) -> Value {
        let status = match *self.status.lock() {
            Status::None => "none",
            Status::Active => "active",
            Status::Completed => "completed",
            Status::Failed => "failed",
        };
        json!({
            "status": status,
            "completed": self.completed.load(Ordering::Relaxed),
            "total": self.total.load(Ordering::Relaxed),
        })
    }
}

/// The way to dump the guest.
pub struct Dumps {
    guest: Arc<GuestState>,
    progress: Arc<Progress>,
    jobs: Sender<Job>,
}

impl Dumps {
    /// Starts the thread, which ends with what is returned.
    ///
    /// # Errors
    /// When there are no threads left, or it cannot be confined.
    pub fn start(guest: Arc<GuestState>, events: Events) -> io::Result<Self> {
        let progress = Arc::new(Progress {
            status: Mutex::new(Status::None),
            completed: AtomicU64::new(0),
            total: AtomicU64::new(0),
        });
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (tell_prepared, prepared) = mpsc::channel();
        let writer = Writer {
            guest: Arc::clone(&guest),
            progress: Arc::clone(&progress),
            events,
        };
        thread::Builder::new()
            .name("dump".to_owned())
            .spawn(move || {
                let ready = prepare();
                let is_ready = ready.is_ok();
                if tell_prepared.send(ready).is_err() || !is_ready {
                    return;
                }
                for job in waiting {
                    writer.write(job);
                }
            })?;
        prepared
            .recv()
            .map_err(|_| io::Error::other("the thread for dumps ended at its start"))??;
        Ok(Self {
            guest,
            progress,
            jobs,
        })
    }

    /// Begins to write a dump of the memory from `begin` on, so many bytes of it, or of all memory.
    /// The guest stands still until it is written.
    ///
    /// # Errors
    /// When there is nothing to dump, not that much, or another dump is being written; or when the
    /// target cannot be written to. The guest goes on then as it did.
    pub fn begin(&self, target: OwnedFd, part: Option<(u64, u64)>) -> Result<Outcome, BeginError> {
        let cancel = Arc::new(Cancel::new().map_err(BeginError::Target)?);
        let output = Output::new(target, Arc::clone(&cancel)).map_err(BeginError::Target)?;
        let snapshot = self.guest.hold_for_dump(&cancel)?;
        let ram = snapshot.memory.guest_ranges();
        let selection = match part {
            Some((begin, bytes)) => Selection::part(begin, bytes, &ram),
            None => Ok(Selection::all(&ram)),
        };
        let begun = selection
            .map_err(BeginError::from)
            .and_then(|selection| self.hand_over(snapshot, selection, output));
        if begun.is_err() {
            self.guest.dumped();
        }
        begun
    }

    fn hand_over(
        &self,
        snapshot: Snapshot,
        selection: Selection,
        output: Output,
    ) -> Result<Outcome, BeginError> {
        let outcome = Outcome::default();
        let bytes = selection.bytes();
        let job = Job {
            snapshot,
            selection,
            output,
            outcome: Arc::clone(&outcome),
        };
        // Locked until the thread has it, which changes the numbers.
        let mut status = self.progress.status.lock();
        self.jobs.send(job).map_err(|_| BeginError::NoThread)?;
        self.progress.completed.store(0, Ordering::Relaxed);
        self.progress.total.store(bytes, Ordering::Relaxed);
        *status = Status::Active;
        Ok(outcome)
    }

    /// `query-dump`: the state of the dump that was begun last, and bytes of memory.
    pub fn progress(&self) -> Value {
        self.progress.to_json()
    }
}

/// Has the thread get no signal for a file that becomes too large, but an error, and the system calls
/// of one that writes.
fn prepare() -> io::Result<()> {
    block_signal(libc::SIGXFSZ).map_err(|error| io::Error::other(error.to_string()))?;
    sandbox::enter(Role::Writer)
}

/// What the thread works with.
struct Writer {
    guest: Arc<GuestState>,
    progress: Arc<Progress>,
    events: Events,
}

impl Writer {
    fn write(&self, job: Job) {
        let Job {
            snapshot,
            selection,
            mut output,
            outcome,
        } = job;
        // Until the numbers are this dump's.
        drop(self.progress.status.lock());
        let result = dump::write(&snapshot, &selection, &mut output, &self.progress.completed);
        // The memory before the machine that waits for it, and the file before anyone looks at it.
        drop(snapshot);
        drop(output);
        let result = result.map_err(|error| {
            let text = chain(&error).to_string();
            if !matches!(error, DumpError::Cancelled) {
                // A client of the monitor decides how often.
                guest_message!(Level::Warn, "{text}; the guest is not affected");
            }
            text
        });
        *self.progress.status.lock() = match result {
            Ok(()) => Status::Completed,
            Err(_) => Status::Failed,
        };
        let mut data = json!({"result": self.progress.to_json()});
        if let Err(error) = &result {
            data["error"] = error.as_str().into();
        }
        self.guest.dumped();
        self.events.send("DUMP_COMPLETED", &data);
        // Replied to after the event, which is why the monitors' thread has to look up again.
        let _set = outcome.set(result);
        self.events.wake();
    }
}
