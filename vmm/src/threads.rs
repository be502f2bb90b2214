//! Starting threads, and saying what stands in the way.

use std::fmt;
use std::io;
use std::thread::{Builder, JoinHandle};

use crate::process_limits::{Limit, soft_limit};

/// The stack of each thread. More than any of them uses, and a size that can be told.
const STACK_BYTES: usize = 2 << 20;

/// A thread cannot be started; the cause is the kernel's.
#[derive(Debug, thiserror::Error)]
#[error(
    "no more threads: each takes {} KiB of address space, of which this process may have {address_space} \
     (ulimit -v); this user may have {processes} processes and threads (ulimit -u), and a cgroup may \
     allow fewer (pids.max, TasksMax= of a systemd unit)",
    STACK_BYTES >> 10
)]
struct NoThread {
    address_space: Amount,
    processes: Amount,
    source: io::Error,
}

/// A limit as people read it.
#[derive(Debug)]
struct Amount(Option<u64>, &'static str);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}{}", self.1),
            None => f.write_str("any number of"),
        }
    }
}

/// Starts a thread called `name` that does `work`.
///
/// # Errors
/// The kernel's refusal, behind the limits that may be the reason for it.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    thread.spawn(work).map_err(|source| {
        let address_space = soft_limit(Limit::AddressSpace).map(|bytes| bytes >> 10);
        io::Error::new(
            source.kind(),
            NoThread {
                address_space: Amount(address_space, " KiB"),
                processes: Amount(soft_limit(Limit::Processes), ""),
                source,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spapr_devices::error_chain::chain;

    #[test]
    fn a_refusal_tells_the_limits_and_the_kernels_reason_once() {
        let error = NoThread {
            address_space: Amount(Some(100_000), " KiB"),
            processes: Amount(None, ""),
            source: io::Error::from_raw_os_error(libc::EAGAIN),
        };
        let text = chain(&io::Error::other(error));
        for part in [
            "each takes 2048 KiB",
            "may have 100000 KiB (ulimit -v)",
            "any number of processes and threads (ulimit -u)",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert_eq!(text.matches("os error").count(), 1, "{text}");
    }
}
