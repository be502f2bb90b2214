//! Measuring one kind of call, and saying what came out.

use core::fmt::Write;

use spapr_test_guests::clock::Clock;
use spapr_test_guests::console::Line;

/// Calls of one kind that can be kept.
const MOST_CALLS: usize = 512;

/// A kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// What it is called, in two parts.
    pub(crate) name: &'static str,
    /// The second part.
    pub(crate) detail: &'static str,
    /// Entries that it is about.
    pub(crate) n: u64,
}

/// How calls are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter<'a> {
    pub(crate) clock: Clock,
    pub(crate) calls: u64,
    pub(crate) settle_milliseconds: u64,
    pub(crate) only: &'a str,
}

impl Meter<'_> {
    /// Makes `prepare` and then `call`, again and again, and times `call`. Both return 0 when
    /// they went well.
    pub(crate) fn measure(
        &mut self,
        kind: Kind,
        mut prepare: impl FnMut() -> i64,
        mut call: impl FnMut() -> i64,
    ) {
        if !kind.name.starts_with(self.only) {
            return;
        }
        let start = self.clock.now();
        let settled = self.settle_milliseconds * 1_000_000;
        let mut failed = 0u64;
        // A few in any case: the first call makes the window and locks memory.
        let mut unmeasured = 8u64;
        while unmeasured > 0 || self.clock.nanoseconds(self.clock.now() - start) < settled {
            failed += u64::from(prepare() != 0) + u64::from(call() != 0);
            unmeasured = unmeasured.saturating_sub(1);
        }
        let mut times = [0u64; MOST_CALLS];
        let count =
            usize::try_from(self.calls).map_or(MOST_CALLS, |count| count.clamp(1, MOST_CALLS));
        let times = &mut times[..count];
        for time in times.iter_mut() {
            failed += u64::from(prepare() != 0);
            let before = self.clock.now();
            let code = call();
            let after = self.clock.now();
            *time = self.clock.nanoseconds(after - before);
            failed += u64::from(code != 0);
        }
        report(kind, times, failed);
    }
}

fn report(kind: Kind, times: &mut [u64], failed: u64) {
    times.sort_unstable();
    let count = times.len();
    let at = |percent: usize| times[(count * percent / 100).min(count - 1)];
    let sum: u64 = times.iter().sum();
    let mean = sum / count as u64;
    let Kind { name, detail, n } = kind;
    let mut line = Line::default();
    // A terminal that does not take it shows in what is missing.
    write!(
        line,
        "TCE-COST {name}{detail} n={n} calls={count} median={} min={} p99={} max={} mean={mean} \
         failed={failed}",
        at(50),
        times[0],
        at(99),
        times[count - 1],
    )
    .unwrap_or_default();
    line.print().unwrap_or_default();
}
