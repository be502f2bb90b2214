//! Random sequences of calls, sensible and not, against a plain model: the same codes, the same
//! tables, and hardware that maps exactly what the guest's view shows, whatever the host refuses.
//!
//! `PROPTEST_CASES` raises the number of sequences; a failing one is printed with its seed.

mod steps;

use proptest::prelude::*;

use super::*;
use crate::engine::model::{Machine, Step, run_all};
use steps::step;

fn policy(tce: TcePolicy) -> impl Strategy<Value = Policy> {
    let lock = prop_oneof![4 => Just(LockPolicy::FirstMap), 1 => Just(LockPolicy::Attach)];
    let block = prop_oneof![1 => Just(None), 2 => Just(RegionSize::new(MIB / 4))];
    (lock, block).prop_map(move |(lock, block)| Policy {
        tce,
        lock,
        region: RegionSize::new(MIB),
        block,
    })
}

fn sequence() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

proptest! {
    // Shorter sequences are nice to have, not worth minutes of shrinking.
    #![proptest_config(ProptestConfig { max_shrink_time: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_is_right_in_auto_mode(
        policy in policy(TcePolicy::Auto),
        steps in sequence(),
    ) {
        run_all(policy, &steps);
    }

    #[test]
    fn any_sequence_of_calls_is_right_in_kernel_mode(
        policy in policy(TcePolicy::Kernel),
        steps in sequence(),
    ) {
        run_all(policy, &steps);
    }

    #[test]
    fn any_sequence_of_calls_is_right_in_user_mode(
        policy in policy(TcePolicy::User),
        steps in sequence(),
    ) {
        run_all(policy, &steps);
    }
}

#[test]
fn the_sequences_reach_every_outcome_and_mostly_succeed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let sequences = prop::collection::vec(step(), 40..60);
    let mut sum = Counters::default();
    let mut in_kernel = 0;
    for _ in 0..400 {
        let mut machine = Machine::new(Policy {
            region: RegionSize::new(MIB),
            block: None,
            ..Policy::default()
        });
        let steps = sequences.new_tree(&mut runner).unwrap().current();
        steps.iter().for_each(|step| machine.run(step));
        in_kernel += machine.in_kernel;
        for Counters {
            put,
            put_indirect,
            stuff,
            map_calls,
            refused_to_guest,
            refused_by_host,
            unmap_failures,
            ..
        } in machine
            .engine
            .snapshot()
            .windows
            .iter()
            .map(|window| window.counters)
        {
            sum.put += put + put_indirect + stuff;
            sum.map_calls += map_calls;
            sum.refused_to_guest += refused_to_guest;
            sum.refused_by_host += refused_by_host;
            sum.unmap_failures += unmap_failures;
        }
    }
    assert!(in_kernel > 20, "{in_kernel} bulk calls in the kernel");
    assert!(sum.map_calls > 300 && sum.refused_to_guest > 50, "{sum:?}");
    assert!(
        sum.refused_by_host > 20 && sum.unmap_failures > 5,
        "{sum:?}"
    );
    assert!(sum.refused_to_guest * 2 < sum.put, "{sum:?}");
}
