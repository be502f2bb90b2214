//! The scales and the back-off, with a guest whose calls cost what the estimates say.

use proptest::prelude::*;

use super::*;

/// A list that a guest makes, again and again on one processor.
#[derive(Clone, Copy, Debug)]
struct List {
    entries: usize,
    runs: usize,
}

impl List {
    fn excess(self) -> i64 {
        excess_of_list(self.entries, self.runs)
    }

    /// What the kernel's handler takes for it: about 2,400 for an entry.
    fn in_kernel(self) -> i64 {
        3_200 + times(2_400, self.entries)
    }
}

/// What a change of place costs beside the call: the ioctl, the timer, another thread woken.
const SWITCH: i64 = 10_000;

/// A guest, its time, and what all of it has cost. One instruction takes a nanosecond.
struct World {
    scales: Scales,
    back_off: BackOff,
    now: Duration,
    cost: i64,
    /// Calls that were carried out here.
    here: u64,
}

impl World {
    fn new() -> Self {
        Self {
            scales: Scales::new(),
            back_off: BackOff::new(),
            now: Duration::ZERO,
            cost: 0,
            here: 0,
        }
    }

    fn spend(&mut self, cost: i64) {
        self.cost += cost;
        self.now += Duration::from_nanos(cost.unsigned_abs());
    }

    fn make(&mut self, call: List) {
        if self.back_off.due().is_some_and(|due| due <= self.now) {
            self.back_off.take_back(self.now);
            self.scales.taken_back();
            self.spend(SWITCH);
        }
        if self.scales.is_in_kernel() {
            self.spend(call.in_kernel());
            return;
        }
        let advice = self.scales.weigh(call.excess());
        if advice != Advice::Kernel {
            self.here += 1;
            self.spend(call.in_kernel() + call.excess());
        }
        if advice != Advice::Here {
            self.scales.handed_over();
            self.back_off.hand_over(self.now);
            self.spend(SWITCH);
        }
        if advice == Advice::Kernel {
            self.spend(MAKING_AGAIN + call.in_kernel());
        }
    }

    fn make_for(&mut self, call: List, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.make(call);
        }
    }
}

fn list(entries: usize, runs: usize) -> List {
    List { entries, runs }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_break_even_points_are_those_that_were_measured() {
    let cheaper_here = |call: List| call.excess() < 0;
    for entries in [4, 6, 8, 16, 64, 512] {
        assert!(cheaper_here(list(entries, 1)), "{entries} contiguous");
        assert!(!cheaper_here(list(entries, entries)), "{entries} scattered");
    }
    for entries in [1, 2, 3] {
        assert!(!cheaper_here(list(entries, 1)), "{entries} contiguous");
    }
    assert!(cheaper_here(list(512, 200)) && !cheaper_here(list(512, 300)));
}

#[test]
fn what_is_cheaper_here_never_leaves() {
    for call in [list(512, 1), list(4, 1), list(512, 64)] {
        let mut world = World::new();
        world.make_for(call, SECOND);
        assert_eq!(world.back_off.hand_overs(), 0, "{call:?}");
    }
}

#[test]
fn what_is_cheaper_in_the_kernel_goes_there_and_looking_again_costs_next_to_nothing() {
    for call in [list(512, 512), list(2, 2), list(1, 1), list(64, 60)] {
        let mut world = World::new();
        world.make_for(call, SECOND);
        let (here, cost, calls) = (world.here, world.cost, world.back_off.hand_overs());
        world.make_for(call, SECOND);
        let share = |cost: i64| cost as f64 / 1e9;
        assert!(world.scales.is_in_kernel(), "{call:?}");
        let looked = world.back_off.hand_overs() - calls;
        assert!(
            (7..=9).contains(&looked),
            "{call:?}: {looked} looks in a second"
        );
        let spent_here = (world.here - here) as f64 * call.excess() as f64;
        let looking = (looked.cast_signed() * (2 * SWITCH + MAKING_AGAIN)) as f64 + spent_here;
        assert!(
            looking / 1e9 < 0.01,
            "{call:?}: {looking} of {}",
            share(world.cost - cost)
        );
    }
}

#[test]
fn a_change_to_long_runs_is_seen_within_the_longest_stay() {
    let mut world = World::new();
    world.make_for(list(512, 512), SECOND);
    let before = world.now;
    let here = world.here;
    while world.here == here {
        world.make(list(512, 1));
    }
    assert!(world.now - before <= LONGEST + Duration::from_millis(2));
    let hand_overs = world.back_off.hand_overs();
    world.make_for(list(512, 1), SECOND);
    assert_eq!(world.back_off.hand_overs(), hand_overs);
}

#[test]
fn a_change_to_short_lists_costs_no_more_than_what_is_remembered() {
    let mut world = World::new();
    world.make_for(list(512, 1), SECOND);
    let here = world.here;
    while !world.scales.is_in_kernel() {
        world.make(list(2, 2));
    }
    let lost = (world.here - here).cast_signed() * list(2, 2).excess();
    assert!(lost <= MEMORY + TIPPING + list(2, 2).excess());
}

#[test]
fn a_call_that_the_kernel_left_to_us_is_carried_out() {
    let scales = Scales::new();
    while scales.weigh(1_000_000) == Advice::Here {}
    scales.handed_over();
    for _ in 0..100 {
        assert_eq!(scales.weigh(1_000_000), Advice::Here);
    }
    scales.taken_back();
    assert_eq!(scales.weigh(1_000_000), Advice::Kernel);
    scales.refused();
    assert_eq!(scales.weigh(1_000_000), Advice::Here);
    assert!(!scales.is_in_kernel() && !scales.is_here());
}

#[test]
fn counts_without_end_are_no_danger() {
    let scales = Scales::new();
    for _ in 0..10 {
        scales.weigh(excess_of_list(0, usize::MAX));
        scales.weigh(i64::MIN);
    }
}

fn any_call() -> impl Strategy<Value = List> {
    prop_oneof![
        (1..=512usize, 1..=512usize).prop_map(|(entries, runs)| list(entries, runs.min(entries))),
        (1..=16usize).prop_map(|entries| list(entries, entries)),
        (1..=512usize).prop_map(|entries| list(entries, 1)),
    ]
}

proptest! {
    #[test]
    fn whatever_the_guest_does_it_changes_no_more_often_than_is_promised(
        phases in prop::collection::vec((any_call(), 1..400u64), 1..40),
    ) {
        let mut world = World::new();
        for (call, times) in phases {
            for _ in 0..times {
                world.make(call);
            }
            let periods = world.now.as_nanos() / LONGEST.as_nanos() + 1;
            prop_assert!(u128::from(world.back_off.hand_overs()) <= 8 * periods);
            prop_assert!(world.back_off.hand_overs() - world.back_off.take_backs() <= 1);
        }
    }

    #[test]
    fn a_steady_load_costs_what_the_better_place_costs(call in any_call()) {
        let mut world = World::new();
        world.make_for(call, SECOND);
        let (cost, mut calls) = (world.cost, 0i64);
        let end = world.now + SECOND;
        while world.now < end {
            world.make(call);
            calls += 1;
        }
        let better = call.in_kernel() + call.excess().min(0);
        let spent = (world.cost - cost) as f64;
        prop_assert!(spent <= 1.01 * (calls * better) as f64, "{spent} for {calls} of {better}");
    }
}
