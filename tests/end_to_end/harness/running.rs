//! A run of the VMM under way.

use std::fs;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::finished::Finished;
use super::vmm::Folder;

/// How often a run's end is looked for.
const TICK: Duration = Duration::from_millis(20);

/// Bytes that a stream has given so far.
#[derive(Debug, Default)]
struct Collected {
    bytes: Mutex<Vec<u8>>,
    /// Whether the stream has given all; changed under the lock of `bytes`.
    ended: AtomicBool,
    more: Condvar,
}

/// A stream that is being read.
#[derive(Debug)]
struct Collector {
    collected: Arc<Collected>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Reads `stream`, if there is one, to its end.
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let collected = Arc::new(Collected::default());
        let thread = stream.map(|mut stream| {
            let collected = Arc::clone(&collected);
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut chunk) {
                    let mut bytes = collected.bytes.lock().expect("no reader panics");
                    bytes.extend_from_slice(&chunk[..length]);
                    collected.more.notify_all();
                }
                let _bytes = collected.bytes.lock().expect("no reader panics");
                collected.ended.store(true, Ordering::SeqCst);
                collected.more.notify_all();
            })
        });
        Self { collected, thread }
    }

    fn text(&self) -> String {
        let bytes = self.collected.bytes.lock().expect("no reader panics");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the stream has given `text` so often; false when it ends or the time is over
    /// first.
    fn wait_for(&self, text: &str, times: usize, limit: Duration) -> bool {
        let bytes = self.collected.bytes.lock().expect("no reader panics");
        let found = |bytes: &[u8]| String::from_utf8_lossy(bytes).matches(text).count() >= times;
        let (bytes, _timed_out) = self
            .collected
            .more
            .wait_timeout_while(bytes, limit, |bytes| {
                !found(bytes) && !self.collected.ended.load(Ordering::SeqCst)
            })
            .expect("no reader panics");
        found(&bytes)
    }

    /// All of the stream. A stream that another process holds open is not waited for.
    fn finish(mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(5);
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(TICK);
            }
        }
        self.text()
    }
}

/// A run under way; it is killed when the test forgets it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: Option<Folder>,
    started: Instant,
    limit: Duration,
    stdout: Option<Collector>,
    stderr: Option<Collector>,
}

impl Running {
    /// Starts the command.
    pub(crate) fn start(mut command: Command, folder: Folder, limit: Duration) -> Self {
        let started = Instant::now();
        let mut child = command.spawn().expect("cannot start spapr-vmm");
        let stdout = Some(Collector::of(child.stdout.take()));
        let stderr = Some(Collector::of(child.stderr.take()));
        Self {
            child,
            folder: Some(folder),
            started,
            limit,
            stdout,
            stderr,
        }
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its threads, by their ids, with their names.
    pub(crate) fn threads(&self) -> Vec<(i32, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it has ended");
        let describe = |task: io::Result<fs::DirEntry>| {
            let task = task.expect("a thread");
            let id = task.file_name().to_str().and_then(|id| id.parse().ok());
            let name = fs::read_to_string(task.path().join("comm")).expect("a thread has ended");
            (id.expect("a number"), name.trim().to_owned())
        };
        tasks.map(describe).collect()
    }

    /// The id of the thread with this name.
    pub(crate) fn thread(&self, name: &str) -> i32 {
        let threads = self.threads();
        let found = threads.iter().find(|(_, its_name)| its_name == name);
        found
            .unwrap_or_else(|| panic!("no thread {name} in {threads:?}"))
            .0
    }

    /// The run's standard input, if it is a pipe.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is no pipe")
    }

    /// Waits until the guest has printed `text` so often.
    pub(crate) fn wait_for_console(&mut self, text: &str, times: usize) {
        let found = self
            .stdout
            .as_ref()
            .is_some_and(|it| it.wait_for(text, times, self.limit));
        self.or_give_up(found, text);
    }

    /// Waits until standard error has `text`, and returns all of it.
    pub(crate) fn wait_for_message(&mut self, text: &str) -> String {
        let found = self
            .stderr
            .as_ref()
            .is_some_and(|it| it.wait_for(text, 1, self.limit));
        self.or_give_up(found, text);
        self.stderr
            .as_ref()
            .map(Collector::text)
            .unwrap_or_default()
    }

    /// What the guest has printed so far.
    pub(crate) fn console(&self) -> String {
        self.stdout
            .as_ref()
            .map(Collector::text)
            .unwrap_or_default()
    }

    fn or_give_up(&mut self, found: bool, text: &str) {
        if !found {
            self.kill();
            let [console, errors] = self.finish_streams();
            panic!(
                "no {text:?} within {:?}\nconsole:\n{console}\nstderr:\n{errors}",
                self.limit
            );
        }
    }

    /// All of standard output and standard error.
    fn finish_streams(&mut self) -> [String; 2] {
        [self.stdout.take(), self.stderr.take()]
            .map(|stream| stream.map(Collector::finish).unwrap_or_default())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("cannot send the signal");
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Finished {
        let status = self.wait();
        let [console, errors] = self.finish_streams();
        let folder = self.folder.take().expect("taken once");
        let finished = Finished::new(status, self.started.elapsed(), console, errors, folder);
        assert!(
            status.is_some(),
            "not ended within {:?}\n{finished}",
            self.limit
        );
        finished
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        while self.started.elapsed() < self.limit {
            if let Some(status) = self.child.try_wait().expect("cannot wait for spapr-vmm") {
                return Some(status);
            }
            thread::sleep(TICK);
        }
        self.kill();
        None
    }

    fn kill(&mut self) {
        // It may have ended by itself by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Types `line` and the key that ends it.
pub(crate) fn type_line(terminal: &mut impl Write, line: &str) {
    terminal
        .write_all(format!("{line}\n").as_bytes())
        .expect("cannot write to the terminal");
    terminal.flush().expect("cannot write to the terminal");
}
