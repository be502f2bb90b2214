//! A window comes, or comes back, while an entry of it is mapped.

use core::fmt;

use spapr_test_guests::dma_window::{DynamicWindows, PAGE_BYTES, Window};
use spapr_test_guests::hypercall::code;
use spapr_test_guests::random::Random;
use spapr_test_guests::rtas;

use crate::first_mappings::{PAGE_SHIFT, WINDOW_SHIFT, make, remove};
use crate::race::{Budget, Call, Hunt, race};
use crate::witness::{FIRST_PAGE, PAGES, Witness};

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    rounds: u64,
    shown: u64,
    clear: u64,
    lost: u64,
    leaked: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            shown,
            clear,
            lost,
            leaked,
        } = self;
        write!(
            f,
            "rounds={rounds} shown={shown} clear={clear} lost={lost} leaked={leaked}"
        )
    }
}

/// The default window, reset in each round.
pub(crate) fn resets(
    witness: &mut Witness,
    windows: DynamicWindows,
    budget: Budget,
    random: &mut Random,
) -> Seen {
    let (mut seen, mut hunt, rounds) = (Seen::default(), Hunt::new(), budget.start());
    let window = witness.default;
    let reset = Call::service(windows.reset_call());
    while rounds.go_on(seen.rounds, seen.shown.min(seen.clear)) {
        round(
            witness,
            &window,
            reset,
            &mut seen,
            &mut hunt,
            random,
            Witness::start,
        );
    }
    seen
}

/// A dynamic window, made in each round; where it will be is known from one before. The device runs, its queues
/// are elsewhere.
pub(crate) fn made(
    witness: &mut Witness,
    windows: DynamicWindows,
    budget: Budget,
    random: &mut Random,
) -> Seen {
    let (mut seen, mut hunt, rounds) = (Seen::default(), Hunt::new(), budget.start());
    let window = make(windows);
    remove(windows, &window);
    let create = Call::service(windows.create_call(PAGE_SHIFT, WINDOW_SHIFT));
    while rounds.go_on(seen.rounds, seen.shown.min(seen.clear)) {
        round(
            witness,
            &window,
            create,
            &mut seen,
            &mut hunt,
            random,
            |_| (),
        );
        remove(windows, &window);
    }
    seen
}

fn round(
    witness: &mut Witness,
    window: &Window,
    service: Call,
    seen: &mut Seen,
    hunt: &mut Hunt,
    random: &mut Random,
    start_device: impl FnOnce(&mut Witness),
) {
    let ioba = window.start + (FIRST_PAGE + random.below(PAGES)) * PAGE_BYTES;
    let entry = witness.entry(0);
    let put = Call::put(window.liobn, ioba, entry);
    let [served, mapped] = race([service, put], hunt.delay());
    if served.code != 0 {
        rtas::stop_with(format_args!("an RTAS service returned {}", served.code));
    }
    // There is no window in between.
    if ![code::H_SUCCESS, code::H_PARAMETER].contains(&mapped.code) {
        rtas::stop_with(format_args!("H_PUT_TCE returned {}", mapped.code));
    }
    start_device(witness);
    let is_shown = window.entry(ioba) == entry;
    hunt.note(!is_shown, random);
    seen.rounds += 1;
    let arrives = witness.arrives_at(ioba);
    if is_shown {
        seen.shown += 1;
        seen.lost += u64::from(arrives != Some(0));
    } else {
        seen.clear += 1;
        seen.leaked += u64::from(arrives.is_some());
    }
    if Call::put(window.liobn, ioba, 0).make() != code::H_SUCCESS {
        rtas::stop_with("an entry was not cleared");
    }
}
