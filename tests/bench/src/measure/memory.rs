//! What a process has in memory, and how long it has run.

use std::fs;
use std::io;

use spapr_lab::proc_sizes;

/// A process's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident, without guest RAM.
    pub(crate) resident: u64,
    /// Locked.
    pub(crate) locked: u64,
}

/// The memory of process `pid`; guest RAM is what is mapped in one piece of at least `guest_bytes`.
///
/// # Errors
/// When the process is gone.
pub(crate) fn of(pid: u32, guest_bytes: u64) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(Memory {
        resident: proc_sizes::resident_without_guest(&text, guest_bytes),
        locked: locked(pid)?,
    })
}

/// VmLck of process `pid` in bytes.
///
/// # Errors
/// When the process is gone.
pub(crate) fn locked(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(status
        .lines()
        .find_map(|line| proc_sizes::bytes(line, "VmLck:"))
        .unwrap_or(0))
}

/// The time that all threads of process `pid` have run, guest code included, in nanoseconds; those that have
/// ended do not count.
///
/// # Errors
/// When the process is gone.
pub(crate) fn run_time(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // The first of three numbers: time on a processor (Documentation/scheduler/sched-stats.rst).
        let times = match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(times) => times,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        sum += times
            .split_whitespace()
            .next()
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(sum)
}

/// What the kernel says of a thread that has ended since it was listed.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_has_run() {
        let pid = std::process::id();
        assert!(of(pid, 1 << 40).unwrap().resident > 0);
        assert!(run_time(pid).is_ok());
        assert!(of(u32::MAX, 1).is_err());
    }
}
