//! The first two mappings of a window, made at once.

use core::fmt;

use spapr_test_guests::dma_window::{DynamicWindows, PAGE_BYTES, Window};
use spapr_test_guests::hypercall::code;
use spapr_test_guests::random::Random;
use spapr_test_guests::rtas;

use crate::race::{Budget, Call, Hunt, Made, race};
use crate::witness::{FIRST_PAGE, PAGES, TARGETS, Witness};

/// Of dynamic windows: 4 KiB and 16 MiB, as powers of two.
pub(crate) const PAGE_SHIFT: u32 = 12;
pub(crate) const WINDOW_SHIFT: u32 = 24;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    rounds: u64,
    together: u64,
    lost: u64,
    unseen: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            together,
            lost,
            unseen,
        } = self;
        write!(
            f,
            "rounds={rounds} together={together} lost={lost} unseen={unseen}"
        )
    }
}

/// In the default window, reset before each round.
pub(crate) fn in_default_window(
    witness: &mut Witness,
    windows: DynamicWindows,
    budget: Budget,
    random: &mut Random,
) -> Seen {
    let (mut seen, mut hunt, rounds) = (Seen::default(), Hunt::new(), budget.start());
    while rounds.go_on(seen.rounds, seen.together) {
        if let Err(status) = windows.reset() {
            rtas::stop_with(format_args!("no default window: {status}"));
        }
        let window = witness.default;
        round(
            witness,
            &window,
            &mut seen,
            &mut hunt,
            random,
            Witness::start,
        );
    }
    seen
}

/// In a dynamic window, made anew for each round. The device runs, its queues are elsewhere.
pub(crate) fn in_dynamic_windows(
    witness: &mut Witness,
    windows: DynamicWindows,
    budget: Budget,
    random: &mut Random,
) -> Seen {
    let (mut seen, mut hunt, rounds) = (Seen::default(), Hunt::new(), budget.start());
    while rounds.go_on(seen.rounds, seen.together) {
        let window = make(windows);
        round(witness, &window, &mut seen, &mut hunt, random, |_| ());
        remove(windows, &window);
    }
    seen
}

/// A dynamic window.
pub(crate) fn make(windows: DynamicWindows) -> Window {
    windows
        .create(PAGE_SHIFT, WINDOW_SHIFT)
        .unwrap_or_else(|status| rtas::stop_with(format_args!("no dynamic window: {status}")))
}

/// Takes one away again.
pub(crate) fn remove(windows: DynamicWindows, window: &Window) {
    if let Err(status) = windows.remove(window) {
        rtas::stop_with(format_args!("a window was not removed: {status}"));
    }
}

/// The race, and then, when the device runs, what it says.
fn round(
    witness: &mut Witness,
    window: &Window,
    seen: &mut Seen,
    hunt: &mut Hunt,
    random: &mut Random,
    start_device: impl FnOnce(&mut Witness),
) {
    // Even ones for the first processor, odd ones for the other.
    let mut ioba = |processor| {
        let page = FIRST_PAGE + TARGETS * random.below(PAGES / TARGETS) + processor;
        window.start + page * PAGE_BYTES
    };
    let places = [ioba(0), ioba(1)];
    let entries = [witness.entry(0), witness.entry(1)];
    let put = |processor: usize| Call::put(window.liobn, places[processor], entries[processor]);
    let [first, second] = race([put(0), put(1)], hunt.delay());
    for made in [first, second] {
        if made.code != code::H_SUCCESS {
            rtas::stop_with(format_args!("H_PUT_TCE returned {}", made.code));
        }
    }
    hunt.note(is_late(first, second), random);
    start_device(witness);
    seen.rounds += 1;
    seen.together += u64::from(first.start < second.end && second.start < first.end);
    for (target, (ioba, entry)) in (0..).zip(places.into_iter().zip(entries)) {
        if window.entry(ioba) != entry {
            seen.unseen += 1;
        } else if witness.arrives_at(ioba) != Some(target) {
            seen.lost += 1;
        }
    }
}

/// Whether the second call should come later. A machine that makes a window only when it is first used
/// holds up the second call until that is done, if it comes before the kernel knows the window; what is
/// looked for is the moment after.
fn is_late(first: Made, second: Made) -> bool {
    let was_held_up = second.start < first.end && second.end >= first.end;
    was_held_up || second.end < first.start
}
