//! Waiting for descriptors to have input.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

pub(crate) const fn polled_for_input(descriptor: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd: descriptor,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits until one of them has input, or until the time is over.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn wait(polled: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let count = libc::nfds_t::try_from(polled.len()).unwrap_or(libc::nfds_t::MAX);
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    loop {
        // SAFETY: the first pointer is to as many structures as are said, the second to a time or to
        // nothing, and no signal is blocked.
        let result = unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, ptr::null()) };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
