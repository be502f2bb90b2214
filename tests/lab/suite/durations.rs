//! How long single tests took, by when their results came.

use std::time::{Duration, Instant};

/// The durations of a program's tests, which run one at a time.
#[derive(Debug)]
pub(super) struct Durations {
    last: Instant,
    tests: Vec<(String, Duration)>,
}

impl Durations {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            tests: Vec::new(),
        }
    }

    /// Takes a line of libtest's: `running 3 tests` starts the clock, and `test NAME ... ok` or what a failed
    /// one has there is the end of a test. What a test printed may stand before that.
    pub(super) fn note(&mut self, line: &str, now: Instant) {
        if line.starts_with("running ") {
            self.last = now;
            return;
        }
        let Some((name, _)) = line
            .strip_prefix("test ")
            .and_then(|test| test.split_once(" ... "))
        else {
            return;
        };
        self.tests
            .push((name.to_owned(), now.saturating_duration_since(self.last)));
        self.last = now;
    }

    /// The tests that took longest, the longest first.
    pub(super) fn longest(mut self, most: usize) -> Vec<(String, Duration)> {
        self.tests.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        self.tests.truncate(most);
        self.tests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_took_from_the_result_before_it_to_its_own() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut durations = Durations::new(start);
        for (line, seconds) in [
            ("running 3 tests", 2),
            ("test one ... ok", 5),
            ("test result: ok. 3 passed", 5),
            ("test two ... FAILED", 12),
            ("test three ... ok", 13),
        ] {
            durations.note(line, at(seconds));
        }
        let expected = [("two", 7), ("one", 3)]
            .map(|(name, seconds)| (name.to_owned(), Duration::from_secs(seconds)));
        assert_eq!(durations.longest(2), expected);
    }
}
