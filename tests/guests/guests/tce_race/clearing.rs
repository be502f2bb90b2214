//! A range of entries is cleared while one of them is mapped.

use core::fmt;

use spapr_test_guests::dma_window::{PAGE_BYTES, Window};
use spapr_test_guests::hypercall::code;
use spapr_test_guests::random::Random;
use spapr_test_guests::rtas;

use crate::race::{Budget, Call, Hunt, race};
use crate::witness::{FIRST_PAGE, Witness};

/// Lengths of the ranges that are cleared.
const LENGTHS: [u64; 3] = [1, 16, 512];
const READ_WRITE: u64 = 3;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    rounds: u64,
    shown: u64,
    clear: u64,
    leaked: u64,
    stuck: u64,
    dead: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            shown,
            clear,
            leaked,
            stuck,
            dead,
        } = self;
        write!(
            f,
            "rounds={rounds} shown={shown} clear={clear} leaked={leaked} stuck={stuck} dead={dead}"
        )
    }
}

/// All rounds in a window that has been used. The device runs.
pub(crate) fn rounds(
    witness: &mut Witness,
    window: &Window,
    budget: Budget,
    random: &mut Random,
) -> Seen {
    let mut seen = Seen::default();
    // What the calls take depends on the length of the range.
    let mut hunts = LENGTHS.map(|length| (length, Hunt::new()));
    let rounds = budget.start();
    while rounds.go_on(seen.rounds, seen.shown.min(seen.clear)) {
        let index = usize::try_from(seen.rounds % LENGTHS.len() as u64).unwrap_or(0);
        let (length, hunt) = &mut hunts[index];
        self::round(witness, window, *length, &mut seen, hunt, random);
    }
    seen
}

fn round(
    witness: &mut Witness,
    window: &Window,
    length: u64,
    seen: &mut Seen,
    hunt: &mut Hunt,
    random: &mut Random,
) {
    let start = window.start + FIRST_PAGE * PAGE_BYTES;
    let ioba = start + random.below(length) * PAGE_BYTES;
    let [before, after] = [witness.entry(0), witness.entry(1)];
    let put = |tce| Call::put(window.liobn, ioba, tce);
    let stuff = Call::stuff(window.liobn, start, length);
    // Sometimes something is mapped there already.
    if random.below(2) == 0 {
        must(put(before).make());
    }
    let both = race([stuff, put(after)], hunt.delay());
    both.iter().for_each(|made| must(made.code));
    let is_shown = window.entry(ioba) & READ_WRITE != 0;
    // An entry that was mapped before it was cleared should have been later.
    hunt.note(!is_shown, random);
    seen.rounds += 1;
    if is_shown {
        seen.shown += 1;
    } else {
        seen.clear += 1;
        seen.leaked += u64::from(witness.arrives_at(ioba).is_some());
    }
    let clear_again = if random.below(2) == 0 { put(0) } else { stuff };
    must(clear_again.make());
    seen.stuck += u64::from(witness.arrives_at(ioba).is_some());
    must(put(before).make());
    seen.dead += u64::from(witness.arrives_at(ioba) != Some(0));
    must(put(0).make());
}

fn must(code: i64) {
    if code != code::H_SUCCESS {
        rtas::stop_with(format_args!("a TCE call returned {code}"));
    }
}
