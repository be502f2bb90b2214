//! event-scan and check-exception (PAPR 7.3.3), and the one event there is: the request to shut
//! down, an environmental and power warning (EPOW).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use time::OffsetDateTime;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::call::Call;
use super::{Outcome, Platform, Status};

/// The class of environmental and power warnings in an event mask (PAPR 7.3.3, table "Event
/// Classes").
const EPOW_CLASS: u32 = 0x4000_0000;

/// Bytes of a log: the fixed part, and the sections behind it.
const FIXED_BYTES: usize = 8;
const HEADER_BYTES: usize = 16;
const MAIN_A_BYTES: usize = 48;
const MAIN_B_BYTES: usize = 24;
const EPOW_BYTES: usize = 20;
const EXTENDED_BYTES: usize = HEADER_BYTES + MAIN_A_BYTES + MAIN_B_BYTES + EPOW_BYTES;
const LOG_BYTES: usize = FIXED_BYTES + EXTENDED_BYTES;

/// Requests to a guest about its power.
#[derive(Debug)]
pub struct PowerEvents {
    shutdown: AtomicBool,
    interrupt: EventFd,
}

impl PowerEvents {
    /// No request yet.
    ///
    /// # Errors
    /// That of eventfd(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            shutdown: AtomicBool::new(false),
            interrupt: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Asks the guest's operating system to shut down and power off. A second request before the
    /// guest has seen the first adds nothing.
    pub fn request_shutdown(&self) {
        self.shutdown.store(true, Ordering::SeqCst);
        // Fails only when the counter is full, and then an interrupt is pending.
        let _signalled = self.interrupt.write(1);
    }

    /// Signalled at a request; the machine connects it to the interrupt source
    /// [`Lisn::EPOW`](crate::interrupts::Lisn::EPOW).
    pub const fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }
}

/// Arguments: event mask, critical, address and length of a buffer for a log. Events that have an
/// interrupt are told by check-exception, and there are no others.
pub(super) fn event_scan(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::NoEvent);
    Outcome::Done
}

/// Arguments: vector, what else is known of the interrupt, event mask, critical, address and length
/// of a buffer, which gets as much of the log as it has room for.
pub(super) fn check_exception(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [_vector, _interrupt, mask, _critical, address, length] = call.arguments();
    let status = if mask & EPOW_CLASS == 0 {
        Status::NoEvent
    } else {
        take_shutdown(call, platform.power_events(), address, length)
    };
    call.status(status);
    Outcome::Done
}

fn take_shutdown(call: &Call<'_>, events: &PowerEvents, address: u32, length: u32) -> Status {
    let room = usize::try_from(length).unwrap_or(usize::MAX).min(LOG_BYTES);
    let address = GuestAddress(address.into());
    if room > 0 && !call.memory().check_range(address, room, Permissions::Write) {
        return Status::Parameter;
    }
    if !events.shutdown.swap(false, Ordering::SeqCst) {
        return Status::NoEvent;
    }
    let log = shutdown_log(OffsetDateTime::now_utc());
    match call.memory().write_slice(&log[..room], address) {
        Ok(()) => Status::Success,
        Err(_) => Status::Parameter,
    }
}

/// The log of a request to shut down now (PAPR 10.3, "RTAS Error/Event Return Format", and 10.3.2,
/// version 6).
fn shutdown_log(now: OffsetDateTime) -> [u8; LOG_BYTES] {
    let mut log = Vec::with_capacity(LOG_BYTES);
    // Fixed part: version 6; severity "event", not recovered, with an extended log; type EPOW.
    log.extend([6, 1 << 5 | 2 << 3 | 1 << 2, 0, 0x40]);
    log.extend(u32::try_from(EXTENDED_BYTES).unwrap_or(0).to_be_bytes());
    // Extended log: valid, new, big-endian; in the PowerPC format of version 6, by IBM.
    log.extend([0x80 | 0x04 | 0x02, 0, 0x80 | 0x0e, 0]);
    log.extend([0; 8]);
    log.extend(*b"IBM\0");
    // Main-A: when, by whom (the hypervisor), and how many sections.
    section(&mut log, *b"PH", MAIN_A_BYTES, 1);
    log.extend(date(now));
    log.extend(time_of_day(now));
    log.extend([0; 8]);
    log.extend([b'H', 0, 0, 3]);
    log.extend([0; 4 + 8 + 4 + 4]);
    // Main-B: subsystem "power/cooling", informational, not applicable.
    section(&mut log, *b"UH", MAIN_B_BYTES, 1);
    log.extend([0x60, 0, 0, 0x0d]);
    log.extend([0; 4 + 2 + 2 + 4]);
    // EPOW: action "shut down", normal, the whole partition; no reason code.
    section(&mut log, *b"EP", EPOW_BYTES, 2);
    log.extend([3, 1, 0, 0]);
    log.extend([0; 8]);
    let mut bytes = [0; LOG_BYTES];
    for (to, from) in bytes.iter_mut().zip(log) {
        *to = from;
    }
    bytes
}

fn section(log: &mut Vec<u8>, id: [u8; 2], bytes: usize, version: u8) {
    log.extend(id);
    log.extend(u16::try_from(bytes).unwrap_or(0).to_be_bytes());
    // Subtype and creator's component are none.
    log.extend([version, 0, 0, 0]);
}

/// Year, month and day, two decimal digits in each byte.
fn date(now: OffsetDateTime) -> [u8; 4] {
    let year = now.year().clamp(0, 9999).unsigned_abs();
    [
        decimal(year / 100),
        decimal(year % 100),
        decimal(u8::from(now.month()).into()),
        decimal(now.day().into()),
    ]
}

/// Hour, minute, second and hundredths, two decimal digits in each byte.
fn time_of_day(now: OffsetDateTime) -> [u8; 4] {
    [
        decimal(now.hour().into()),
        decimal(now.minute().into()),
        decimal(now.second().into()),
        0,
    ]
}

fn decimal(below_100: u32) -> u8 {
    u8::try_from(below_100 / 10 % 10 * 16 + below_100 % 10).unwrap_or(0)
}

#[cfg(test)]
mod log_tests {
    use super::*;

    /// What Linux looks for: `get_pseries_errorlog` in arch/powerpc/kernel/rtas.c and
    /// `rtas_parse_epow_errlog` in arch/powerpc/platforms/pseries/ras.c.
    #[test]
    fn a_guest_finds_the_section_that_says_shut_down() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_370_591).expect("a time");
        let log = shutdown_log(now);
        assert_eq!(log[0], 6);
        assert_eq!(log[1] & 0x04, 0x04, "an extended log is there");
        let extended = &log[FIXED_BYTES..];
        assert_eq!(
            log[4..8],
            u32::try_from(extended.len()).unwrap().to_be_bytes()
        );
        assert_eq!(extended[0] & 0x80, 0x80, "valid");
        assert_eq!(extended[2] & 0x0f, 14, "platform event log");
        assert_eq!(&extended[12..16], b"IBM\0");
        let mut sections = Vec::new();
        let mut at = HEADER_BYTES;
        while at < extended.len() {
            let bytes = usize::from(u16::from_be_bytes([extended[at + 2], extended[at + 3]]));
            sections.push((extended[at..at + 2].to_vec(), bytes));
            if &extended[at..at + 2] == b"EP" {
                assert_eq!(extended[at + 8] & 0x0f, 3, "action: shut down");
                assert_eq!(extended[at + 9], 1, "normal");
            }
            at += bytes;
        }
        assert_eq!(at, extended.len());
        let expected = [
            (b"PH".to_vec(), 48),
            (b"UH".to_vec(), 24),
            (b"EP".to_vec(), 20),
        ];
        assert_eq!(sections, expected);
        let main_a = &extended[HEADER_BYTES..];
        assert_eq!(main_a[8..16], [0x20, 0x26, 0x11, 0x22, 0x18, 0x03, 0x11, 0]);
        assert_eq!(main_a[0x1b], 3, "as many sections as it says");
    }
}
