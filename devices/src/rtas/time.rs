//! get-time-of-day and set-time-of-day (PAPR 7.3.2), in UTC.

use parking_lot::Mutex;

use time::{Date, Duration, Month, OffsetDateTime, Time};

use super::call::Call;
use super::{Outcome, Platform, Status};

/// The guest's clock: the host's, and how far the guest has set it off.
#[derive(Debug, Default)]
pub struct TimeOfDayClock {
    /// Positive when the guest's clock is ahead.
    offset: Mutex<Duration>,
}

impl TimeOfDayClock {
    /// A clock that shows the host's time.
    pub const fn new() -> Self {
        Self {
            offset: Mutex::new(Duration::ZERO),
        }
    }

    /// A clock that shows so many seconds more than the host's, or fewer.
    pub const fn ahead_of_host(seconds: i64) -> Self {
        Self {
            offset: Mutex::new(Duration::seconds(seconds)),
        }
    }

    /// The guest's time when the host's is `host`; `None` past the end of the calendar.
    fn get(&self, host: OffsetDateTime) -> Option<OffsetDateTime> {
        host.checked_add(*self.offset.lock())
    }

    /// Sets the clock to `guest` when the host's time is `host`.
    fn set(&self, host: OffsetDateTime, guest: OffsetDateTime) {
        *self.offset.lock() = guest - host;
    }
}

/// No arguments. Returns: year, month, day, hour, minute, second, nanosecond.
pub(super) fn get_time_of_day(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let now = platform.clock().get(OffsetDateTime::now_utc());
    match now.and_then(|now| Some((now, u32::try_from(now.year()).ok()?))) {
        Some((now, year)) => call.returns(
            Status::Success,
            &[
                year,
                u8::from(now.month()).into(),
                now.day().into(),
                now.hour().into(),
                now.minute().into(),
                now.second().into(),
                now.nanosecond(),
            ],
        ),
        None => call.status(Status::Hardware),
    }
    Outcome::Done
}

/// Arguments: year, month, day, hour, minute, second, nanosecond.
pub(super) fn set_time_of_day(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    match calendar(call.arguments()) {
        Some(guest) => {
            platform.clock().set(OffsetDateTime::now_utc(), guest);
            call.status(Status::Success);
        }
        None => call.status(Status::Parameter),
    }
    Outcome::Done
}

fn calendar(arguments: [u32; 7]) -> Option<OffsetDateTime> {
    let [year, month, day, hour, minute, second, nanosecond] = arguments;
    let byte = |value: u32| u8::try_from(value).ok();
    let month = Month::try_from(byte(month)?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, byte(day)?).ok()?;
    let time = Time::from_hms_nano(byte(hour)?, byte(minute)?, byte(second)?, nanosecond).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_keeps_the_offset_that_the_guest_set() {
        let clock = TimeOfDayClock::new();
        let host = calendar([2024, 2, 28, 23, 59, 58, 0]).unwrap();
        assert_eq!(clock.get(host), Some(host));
        clock.set(host, calendar([1999, 12, 31, 23, 59, 59, 0]).unwrap());
        let later = host + Duration::seconds(2);
        assert_eq!(clock.get(later), calendar([2000, 1, 1, 0, 0, 1, 0]));
    }

    #[test]
    fn dates_that_no_calendar_has_are_refused() {
        assert!(calendar([2024, 2, 29, 0, 0, 0, 0]).is_some());
        assert!(calendar([2023, 2, 29, 0, 0, 0, 0]).is_none());
        assert!(calendar([2023, 0, 1, 0, 0, 0, 0]).is_none());
        assert!(calendar([2023, 1, 1, 24, 0, 0, 0]).is_none());
        assert!(calendar([u32::MAX; 7]).is_none());
        assert!(calendar([2023, 257, 1, 0, 0, 0, 0]).is_none());
    }
}
