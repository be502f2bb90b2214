//! What a guest does with its windows, in any order.

use proptest::prelude::*;
use spapr_hypercalls::abi::ReturnCode;

use super::fake::{DEFAULT_WINDOW, FakeBridge, FakeMachine};
use super::tests::{NUMBERS, PAGE, lpar, put};
use super::*;

/// What a guest may do, sensible or not.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create(u8, u8, u32),
    Remove(u32),
    Reset(u8, Addressing),
    Put(u8, u64),
    Refuse(u64),
}

fn step(number: u8) -> impl Strategy<Value = Step> {
    let [first, second] = [0, 1].map(|place| Liobn::of_pci_window(number, place));
    let bridge = || prop_oneof![4 => Just(number), 1 => any::<u8>()];
    let shift = prop_oneof![Just(12u8), Just(16), 12u8..=34];
    prop_oneof![
        4 => (bridge(), shift, 10u32..64).prop_map(|(bridge, page, bytes)| Step::Create(bridge, page, bytes)),
        3 => prop_oneof![Just(first.0), Just(second.0), any::<u32>()].prop_map(Step::Remove),
        2 => (bridge(), prop_oneof![Just(Addressing::Full), Just(Addressing::Limited)])
            .prop_map(|(bridge, addressing)| Step::Reset(bridge, addressing)),
        4 => (0u8..2, 0u64..1024).prop_map(|(place, page)| Step::Put(place, page)),
        1 => (0u64..8).prop_map(Step::Refuse),
    ]
}

fn apply(machine: &FakeMachine, step: Step) {
    let windows = machine.windows.of(&machine.engine);
    match step {
        Step::Create(bridge, page, bytes) => {
            let page = PageShift::new(page).unwrap();
            if let Ok(window) = windows.create(bridge, page, 1 << bytes) {
                let (_, place) = window.liobn.pci_window().unwrap();
                let geometry = machine.guest_windows()[usize::from(place)].unwrap();
                assert_eq!(geometry.bus_offset, window.start);
                assert_eq!(geometry.bytes(), Some(1 << bytes));
                assert!(machine.host().windows().contains(&Some(window.start)));
            }
        }
        Step::Remove(liobn) => {
            if windows.remove(Liobn(liobn)).is_ok() {
                let places = [0, 1].map(|place| Liobn::of_pci_window(machine.bridge, place));
                assert!(places.contains(&Liobn(liobn)));
            }
        }
        Step::Reset(bridge, addressing) => {
            if windows.reset(bridge, addressing).is_ok() {
                assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
            }
        }
        Step::Put(place, page) => {
            let liobn = Liobn::of_pci_window(machine.bridge, place);
            if let Some(window) = machine.guest_windows()[usize::from(place)] {
                let ioba = window.bus_offset.0 + (page << window.page_shift.get());
                put(machine, liobn, ioba, 0x10_0003);
            }
        }
        Step::Refuse(after) => machine
            .host()
            .inner
            .inject(spapr_hypercalls::testing::Fault {
                after,
                error: spapr_hypercalls::world::HostError::OutOfResources(libc::ENOMEM),
                leaves_traces: false,
            }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_a_guest_does_a_reset_gives_it_its_default_window(
        (number, steps) in prop::sample::select(NUMBERS.to_vec())
            .prop_flat_map(|number| (Just(number), prop::collection::vec(step(number), 0..60))),
        places in 1u32..3,
        is_lpar: bool,
    ) {
        let machine = FakeMachine::new(&[if is_lpar {
            FakeBridge { number, ..lpar(places) }
        } else {
            FakeBridge { places, ..FakeBridge::usual(number) }
        }]);
        for step in steps {
            apply(&machine, step);
        }
        let windows = machine.windows.of(&machine.engine);
        let guest = machine.guest_windows().into_iter().flatten().count();
        let available = windows.available(number).unwrap();
        let left = places.saturating_sub(u32::try_from(guest).unwrap());
        // With limited addressing there is one place, behind the default window.
        let fewer = is_lpar || windows.is_limited(number);
        prop_assert!(available.windows == left || fewer && available.windows < 2);
        machine.host().inner.clear_faults();
        // What is told to be available is to be had, and nothing else is.
        let made = windows.create(number, PAGE, PAGE.bytes());
        prop_assert_eq!(made.is_ok(), available.windows > 0, "{:?}", made);
        // A window that the host would not remove before can keep memory locked.
        let reset = windows.reset(number, Addressing::Full);
        prop_assert!(reset.is_ok() || machine.host().inner.failures().0 > 0, "{reset:?}");
        prop_assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
        prop_assert_eq!(put(&machine, Liobn::of_pci_window(number, 0), 0, 0x1003), ReturnCode::SUCCESS);
        prop_assert!(!machine.host().is_blacklisted());
        // One that it would not remove is in the way of the default window, which the guest may use all the same.
        prop_assert!(machine.host().leaks() == 0 || machine.host().inner.failures().0 > 0);
        prop_assert!(machine.host().inner.violations().is_empty());
    }
}
