//! Looking now and then whether the host has frozen a passed-through device (EEH): it tells nobody, and a guest
//! finds out when it next reads a register, or never.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use spapr_devices::pci::HostBridge;
use vmm_sys_util::timerfd::TimerFd;

use crate::control::Alarm;
use crate::partition::Partition;

/// How often. Each look is a call of the host's firmware for each group.
const PERIOD: Duration = Duration::from_secs(5);

/// When to look next, with what becomes readable then.
pub(super) struct Timer {
    timer: TimerFd,
    alarm: OwnedFd,
}

/// A timer, if there is something to look at behind `bridges`.
///
/// # Errors
/// When there are no descriptors left.
pub(super) fn timer(bridges: &[HostBridge]) -> io::Result<Option<Timer>> {
    if !bridges.iter().any(HostBridge::has_eeh) {
        return Ok(None);
    }
    let mut timer = TimerFd::new()?;
    timer.reset(PERIOD, Some(PERIOD))?;
    // SAFETY: the descriptor is the timer's, which is open.
    let alarm = unsafe { BorrowedFd::borrow_raw(timer.as_raw_fd()) }.try_clone_to_owned()?;
    Ok(Some(Timer { timer, alarm }))
}

/// What looks whenever the timer says so.
pub(super) fn alarm(timer: Timer, partition: &Arc<Partition>) -> Alarm {
    let Timer { mut timer, alarm } = timer;
    let partition = Arc::clone(partition);
    Alarm::new(alarm, move || {
        // It is ready, or the alarm would not ring; if not, the next time is soon.
        let _periods = timer.wait();
        let bridges = partition.bridges.iter();
        bridges.for_each(HostBridge::look_for_freeze);
    })
}
