//! Frames that go nowhere: each is counted, and told to whoever logs at debug level.

use std::io;

use log::Level;

use crate::guest_message;
use crate::limited_message;
use crate::rate_limit::RateLimiter;

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The link is down.
    LinkDown,
    /// It is shorter than an Ethernet header, or longer than any frame.
    Length,
    /// The guest's driver has not asked for frames to that address.
    Unwanted,
    /// It leaves to the guest what its driver has not offered to do.
    Offload,
    /// It is longer than what the guest's driver has for one.
    NoRoom,
    /// The host refused it.
    Refused,
}

impl Reason {
    const COUNT: usize = Self::Refused as usize + 1;

    const fn text(self) -> &'static str {
        match self {
            Self::LinkDown => "the link is down",
            Self::Length => "there are none of that length",
            Self::Unwanted => "the guest has not asked for it",
            Self::Offload => "it leaves work to the guest that the guest has not offered to do",
            Self::NoRoom => "the guest has less room for one",
            Self::Refused => "the host refuses it",
        }
    }
}

/// Whoever sends frames can have one told twice a second of each kind.
static LIMITERS: [RateLimiter; Reason::COUNT] = [const { RateLimiter::following() }; Reason::COUNT];

/// The frames of one card that went nowhere.
#[derive(Debug, Default)]
pub(super) struct Drops([u64; Reason::COUNT]);

impl Drops {
    /// Counts a frame of card `name`, `bytes` long without the header before it.
    #[cold]
    pub(super) fn count(&mut self, name: &str, reason: Reason, bytes: usize) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(1);
        limited_message!(
            &LIMITERS[reason as usize],
            Level::Debug,
            "{name}: a frame of {bytes} bytes is left out, the {count}. for this reason: {}",
            reason.text()
        );
    }

    /// Counts one that the host refused, which is worth a warning.
    #[cold]
    pub(super) fn refused(&mut self, name: &str, bytes: usize, error: &io::Error) {
        self.count(name, Reason::Refused, bytes);
        guest_message!(
            Level::Warn,
            "{name}: the host refuses a frame of the guest's: {error}"
        );
    }

    /// How many there were for that reason.
    #[cfg(test)]
    pub(super) const fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }
}
