//! Rate limiting of log messages that a guest can trigger.
//!
//! A guest decides how often it makes mistakes; it must not decide how much a host logs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Messages let through in each period.
const BURST: u32 = 10;
/// Length of a period.
const PERIOD: Duration = Duration::from_secs(10);

/// Lines that follow what a guest does, let through in each second.
const FOLLOWED: u32 = 2;

/// Lets so many messages through in so much time, ten in ten seconds at first, and counts the others.
/// One for each call site; see [`guest_message!`](crate::guest_message).
#[derive(Debug)]
pub struct RateLimiter {
    /// When the present period began, in milliseconds since the first use of any limiter, plus
    /// one; 0 before the first message.
    period_start: AtomicU64,
    admitted: AtomicU32,
    dropped: AtomicU64,
    burst: u32,
    period: Duration,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl RateLimiter {
    /// A limiter that has seen no message, for ten in ten seconds: what goes wrong.
    pub const fn new() -> Self {
        Self::of(BURST, PERIOD)
    }

    /// A limiter that has seen no message, for two a second: what shows that a guest does something,
    /// and what.
    pub const fn following() -> Self {
        Self::of(FOLLOWED, Duration::from_secs(1))
    }

    const fn of(burst: u32, period: Duration) -> Self {
        Self {
            burst,
            period,
            period_start: AtomicU64::new(0),
            admitted: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Whether a message may be logged now; if so, how many were dropped since the last one that
    /// was let through.
    pub fn admit(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        self.admit_at(START.get_or_init(Instant::now).elapsed())
    }

    /// [`RateLimiter::admit`] at time `now`, which never goes back by more than threads race.
    fn admit_at(&self, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_millis())
            .unwrap_or(u64::MAX - 1)
            .saturating_add(1);
        let start = self.period_start.load(Ordering::Relaxed);
        let expired =
            start == 0 || u128::from(now.saturating_sub(start)) >= self.period.as_millis();
        if expired
            && self
                .period_start
                .compare_exchange(start, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.admitted.store(0, Ordering::Relaxed);
        }
        let admitted = self
            .admitted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.burst).then_some(count + 1)
            })
            .is_ok();
        if admitted {
            Some(self.dropped.swap(0, Ordering::Relaxed))
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Logs a message that a guest can trigger, at most ten times in ten seconds for each call site.
/// The first one after a pause says how many were dropped.
///
/// ```
/// spapr_devices::guest_message!(log::Level::Warn, "RTAS token {:#x} is unknown", 0x4711);
/// ```
#[macro_export]
macro_rules! guest_message {
    ($level:expr, $($argument:tt)+) => {{
        static LIMITER: $crate::rate_limit::RateLimiter = $crate::rate_limit::RateLimiter::new();
        $crate::limited_message!(&LIMITER, $level, $($argument)+)
    }};
}

/// Logs what a guest does, for whoever wants to follow it: at most two lines a second for each call site.
/// The first one after a pause says how many were dropped. When nobody wants the level, this costs a
/// comparison.
///
/// ```
/// spapr_devices::guest_activity!(log::Level::Debug, "hypercall {:#x}", 0x300);
/// ```
#[macro_export]
macro_rules! guest_activity {
    ($level:expr, $($argument:tt)+) => {{
        static LIMITER: $crate::rate_limit::RateLimiter =
            $crate::rate_limit::RateLimiter::following();
        $crate::limited_message!(&LIMITER, $level, $($argument)+)
    }};
}

/// Logs a message if the [`RateLimiter`](crate::rate_limit::RateLimiter) lets it through.
#[macro_export]
macro_rules! limited_message {
    ($limiter:expr, $level:expr, $($argument:tt)+) => {{
        let level: ::log::Level = $level;
        if ::log::log_enabled!(level) {
            let limiter: &$crate::rate_limit::RateLimiter = $limiter;
            match limiter.admit() {
                Some(0) => ::log::log!(level, $($argument)+),
                Some(dropped) => ::log::log!(
                    level,
                    "{} ({dropped} more like this were not logged)",
                    ::core::format_args!($($argument)+)
                ),
                None => {}
            }
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_messages_pass_and_the_rest_is_counted() {
        let limiter = RateLimiter::new();
        let at = Duration::from_millis;
        for i in 0..10 {
            assert_eq!(limiter.admit_at(at(i)), Some(0));
        }
        for i in 10..1000 {
            assert_eq!(limiter.admit_at(at(i)), None);
        }
        assert_eq!(limiter.admit_at(at(10_001)), Some(990));
        assert_eq!(limiter.admit_at(at(10_002)), Some(0));
    }

    #[test]
    fn what_a_guest_does_is_followed_with_two_lines_a_second() {
        let limiter = RateLimiter::following();
        let second = |second: u64| {
            let milliseconds = (0..1000).map(move |ms| Duration::from_millis(1000 * second + ms));
            let admitted = milliseconds.filter_map(|at| limiter.admit_at(at));
            admitted.collect::<Vec<_>>()
        };
        assert_eq!(second(0), [0, 0]);
        assert_eq!(second(1), [998, 0]);
    }

    #[test]
    fn threads_together_get_no_more_than_the_burst() {
        let limiter = RateLimiter::new();
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if limiter.admit_at(Duration::ZERO).is_some() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        // The store that opens the first period can let a race admit a burst once more.
        let passed = passed.into_inner();
        assert!((BURST..=2 * BURST).contains(&passed), "{passed} passed");
    }
}
