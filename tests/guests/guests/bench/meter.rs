//! Measuring one row, and saying what came out.

use core::fmt::Write;

use spapr_test_guests::clock::Clock;
use spapr_test_guests::console::Line;
use spapr_test_guests::digest::Digest;

use crate::calls::{PAGE_BYTES, Window};

/// Samples of a row that can be kept.
pub(crate) const MOST_SAMPLES: usize = 512;
/// Calls before the first one that is measured, for as long as they take no longer than
/// [`WARM_UP_NANOSECONDS`]. More than 256, so that the host's kernel has stopped to load a VMM's
/// floating-point and vector registers at each exit, if the VMM does not use them (Linux loads them
/// for so many exits after their last use; `thread.load_fp` in arch/powerpc/kernel/process.c).
const UNMEASURED: u64 = 288;
const WARM_UP_NANOSECONDS: u64 = 20_000_000;
/// Calls before the first one that is measured, however long they take.
const UNMEASURED_AT_LEAST: u64 = 8;
/// Calls that are measured where nothing comes before them.
const FIRST_CALLS: u64 = 16;
/// The quantiles that are printed.
const PERCENTS: [usize; 22] = [
    0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 99, 100,
];

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What it is called, in two parts.
    pub(crate) name: &'static str,
    /// The second part.
    pub(crate) detail: &'static str,
    /// The number that its cost depends on: entries, processors, ….
    pub(crate) n: u64,
}

impl Row {
    /// A row of single calls.
    pub(crate) const fn single(name: &'static str) -> Self {
        Self {
            name,
            detail: "",
            n: 1,
        }
    }
}

/// How rows are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    pub(crate) clock: Clock,
    pub(crate) samples: u64,
    /// How the calls before those that are measured go.
    pub(crate) warm_up: WarmUp,
}

/// Calls of the same kind that come before those that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarmUp {
    /// None: the first calls of all are measured, and their rows' names begin with `cold-`.
    None,
    /// As many as the host's kernel needs, and for so many milliseconds at least.
    Milliseconds(u64),
}

impl WarmUp {
    /// What rows' names begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::None => "cold-",
            Self::Milliseconds(_) => "",
        }
    }
}

/// What came of a row.
#[derive(Debug)]
pub(crate) struct Samples {
    ticks: [u64; MOST_SAMPLES],
    count: usize,
    failed: u64,
    digest: Digest,
    prefix: &'static str,
}

impl Samples {
    pub(crate) fn new() -> Self {
        Self {
            ticks: [0; MOST_SAMPLES],
            count: 0,
            failed: 0,
            digest: Digest::default(),
            prefix: "",
        }
    }

    /// Adds a call that took `ticks` and returned `code`, and was to return `expected`.
    pub(crate) fn add(&mut self, ticks: u64, code: i64, expected: i64) {
        if let Some(place) = self.ticks.get_mut(self.count) {
            *place = ticks;
            self.count += 1;
        }
        self.failed += u64::from(code != expected);
        self.digest.add(code.cast_unsigned());
    }

    /// Adds the first `n` entries of a window, and the one behind them, to what is compared.
    pub(crate) fn read_back(&mut self, window: Window, n: u64) {
        for index in 0..=n {
            let (code, entry) = window.get_at(index * PAGE_BYTES);
            self.digest.add(code.cast_unsigned());
            self.digest.add(entry);
        }
    }

    /// Prints the row.
    pub(crate) fn report(&mut self, row: Row) {
        let Row { name, detail, n } = row;
        let Self {
            ticks,
            count,
            failed,
            digest,
            prefix,
        } = self;
        let ticks = &mut ticks[..*count];
        let Some(last) = ticks.len().checked_sub(1) else {
            return;
        };
        ticks.sort_unstable();
        let mean = ticks.iter().sum::<u64>() / (last as u64 + 1);
        let digest = digest.value();
        let mut line = Line::default();
        // A terminal that does not take it shows in what is missing.
        write!(
            line,
            "BENCH row={prefix}{name}{detail} n={n} samples={count} failed={failed} digest={digest:016x} \
             mean={mean} ticks=",
        )
        .unwrap_or_default();
        for percent in PERCENTS {
            let comma = if percent == 0 { "" } else { "," };
            let value = ticks[(last * percent + 50) / 100];
            write!(line, "{comma}{value}").unwrap_or_default();
        }
        line.print().unwrap_or_default();
    }
}

impl Meter {
    /// Makes `prepare` and then `call`, again and again, and times `call`. Both are given the number
    /// of the sample; `call` is to return `expected`.
    pub(crate) fn sample(
        &self,
        expected: i64,
        mut prepare: impl FnMut(u64),
        mut call: impl FnMut(u64) -> i64,
    ) -> Samples {
        if let WarmUp::Milliseconds(milliseconds) = self.warm_up {
            self.warm_up_for(milliseconds, &mut prepare, &mut call);
        }
        let mut samples = Samples::new();
        samples.prefix = self.warm_up.prefix();
        for number in 0..self.samples {
            prepare(number);
            let before = self.clock.now();
            let code = call(number);
            let after = self.clock.now();
            samples.add(after - before, code, expected);
        }
        samples
    }

    fn warm_up_for(
        &self,
        milliseconds: u64,
        prepare: &mut impl FnMut(u64),
        call: &mut impl FnMut(u64) -> i64,
    ) {
        let start = self.clock.now();
        let mut unmeasured = 0;
        loop {
            let passed = self.clock.nanoseconds(self.clock.now() - start);
            let is_warm = unmeasured >= UNMEASURED || passed >= WARM_UP_NANOSECONDS;
            let is_settled = passed >= milliseconds * 1_000_000;
            if is_warm && unmeasured >= UNMEASURED_AT_LEAST && is_settled {
                return;
            }
            prepare(unmeasured);
            call(unmeasured);
            unmeasured += 1;
        }
    }

    /// As it is, but without calls before those that are measured, which are few.
    pub(crate) const fn cold(&self) -> Self {
        Self {
            clock: self.clock,
            samples: FIRST_CALLS,
            warm_up: WarmUp::None,
        }
    }

    /// As it is, but with fewer samples for `n` entries: long lists vary little and take long.
    pub(crate) fn for_entries(&self, n: u64) -> Self {
        let most = if n >= 64 { 40 } else { self.samples };
        Self {
            samples: self.samples.min(most),
            ..*self
        }
    }
}
