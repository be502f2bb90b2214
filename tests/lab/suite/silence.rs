//! Test programs that stand still: they are killed, so that the others run and the summary tells which.

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::progress::say;

/// How long test programs may say nothing: several times what the longest test takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(20);

/// Kills what `cargo` runs each time that nothing is heard for as long as `patience`, until the sender of
/// `heard` is gone.
///
/// What builds says nothing here either, so only what is after the first line counts: cargo runs no
/// test before all are built.
pub(super) fn ends_what_stands_still(cargo: u32, heard: &Receiver<()>, patience: Duration) {
    if heard.recv().is_err() {
        return;
    }
    loop {
        match heard.recv_timeout(patience) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => kill_all_below(cargo, patience),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn kill_all_below(cargo: u32, patience: Duration) {
    // All are found before the first is killed: orphans would be found no more.
    for process in all_below(cargo) {
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        say(&format!(
            "nothing said for {} s: killing {}",
            patience.as_secs(),
            command.trim_end()
        ));
        if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

/// The processes that `process` has started, and theirs.
fn all_below(process: u32) -> Vec<u32> {
    let mut all = children(process);
    let mut next = 0;
    while let Some(process) = all.get(next) {
        all.extend(children(*process));
        next += 1;
    }
    all
}

/// The children of all threads of a process; none of one that has ended.
fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let numbers = text
                .split_whitespace()
                .filter_map(|number| number.parse().ok());
            numbers.collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// The starter stands for cargo, its children for a test program and what that has started.
    #[test]
    fn what_says_nothing_more_is_killed_with_all_that_it_started() {
        let mut starter = Command::new("sh")
            .args(["-c", "sh -c 'echo begun; sleep 61; true'; echo went on"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let (says, heard) = mpsc::channel();
        let cargo = starter.id();
        let watch = thread::spawn(move || {
            ends_what_stands_still(cargo, &heard, Duration::from_millis(300));
        });
        let mut lines = Vec::new();
        // The end of the output is the end of all that have it.
        for line in BufReader::new(starter.stdout.take().unwrap()).lines() {
            lines.push(line.unwrap());
            says.send(()).unwrap();
        }
        drop(says);
        watch.join().unwrap();
        assert_eq!(lines, ["begun", "went on"]);
        assert!(started.elapsed() < Duration::from_secs(50));
        starter.wait().unwrap();
    }

    #[test]
    fn a_build_may_take_as_long_as_it_likes() {
        let (says, heard) = mpsc::channel();
        let started = Instant::now();
        let mut sleep = Command::new("sh")
            .args(["-c", "sleep 1; true"])
            .spawn()
            .unwrap();
        let cargo = sleep.id();
        let watch = thread::spawn(move || {
            ends_what_stands_still(cargo, &heard, Duration::from_millis(100));
        });
        sleep.wait().unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1));
        drop(says);
        watch.join().unwrap();
    }
}
