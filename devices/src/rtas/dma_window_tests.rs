use proptest::prelude::*;

use spapr_hypercalls::abi::H_PUT_TCE;
use spapr_hypercalls::engine::Answer;

use super::fake::FakePlatform;
use super::tests::{buid, status};
use super::{DDW_APPLICABLE, SERVICES, ddw_extensions};
use crate::pci::MAX_HOST_BRIDGES;

const FIRST: u32 = 0x8000_0000;
const SECOND: u32 = 0x8000_0001;
/// log2 of the machine's memory, the most that a window may have.
const RAM_SHIFT: u32 = 26;

const PAGES_4K_AND_64K: i32 = 3;
const ENTRIES: i32 = 1 << (RAM_SHIFT - 16);

fn query(platform: &FakePlatform, returns: u32) -> Vec<i32> {
    let [high, low] = buid(platform);
    let arguments = [0, high, low];
    status(platform, "ibm,query-pe-dma-window", &arguments, returns)
}

fn create(platform: &FakePlatform, page_shift: u32, window_shift: u32) -> Vec<i32> {
    let [high, low] = buid(platform);
    let arguments = [0, high, low, page_shift, window_shift];
    status(platform, "ibm,create-pe-dma-window", &arguments, 4)
}

fn remove(platform: &FakePlatform, liobn: u32) -> Vec<i32> {
    status(platform, "ibm,remove-pe-dma-window", &[liobn], 1)
}

fn reset(platform: &FakePlatform) -> Vec<i32> {
    let [high, low] = buid(platform);
    let arguments = [0, high, low];
    status(platform, "ibm,reset-pe-dma-window", &arguments, 1)
}

/// As Linux asks for limited addressing, with 1.
fn reset_with(platform: &FakePlatform, limited: u32) -> Vec<i32> {
    let [high, low] = buid(platform);
    let arguments = [0, high, low, limited];
    status(platform, "ibm,reset-pe-dma-window", &arguments, 1)
}

#[test]
fn a_reset_with_a_fourth_argument_has_windows_where_devices_of_fewer_than_64_bits_reach_them() {
    let platform = FakePlatform::new();
    // What it was told before holds: the order of Linux' enable_ddw.
    assert_eq!(query(&platform, 6)[..2], [0, 1]);
    assert_eq!(reset_with(&platform, 2), [-3]);
    assert_eq!(reset_with(&platform, 1), [0]);
    let second = SECOND.cast_signed();
    assert_eq!(create(&platform, 16, RAM_SHIFT), [0, second, 1, 0]);
    assert_eq!(create(&platform, 16, RAM_SHIFT)[0], -1);
    // With something mapped there, another function may be at work.
    let put = [u64::from(SECOND), 1 << 32, 0x1_0003, 0, 0, 0, 0, 0, 0];
    let mut arguments = put;
    while platform.dma.engine.handle(H_PUT_TCE, &mut arguments) == Some(Answer::MakeAgain) {}
    assert_eq!(reset_with(&platform, 1), [-1]);
    assert_eq!(query(&platform, 6)[..2], [0, 0]);
    // Without the argument, or with 0, all is as before.
    for limited in [None, Some(0)] {
        let answer = limited.map_or_else(
            || reset(&platform),
            |limited| reset_with(&platform, limited),
        );
        assert_eq!(answer, [0]);
        assert_eq!(create(&platform, 16, RAM_SHIFT), [0, second, 1 << 27, 0]);
    }
}

#[test]
fn properties_name_the_services_tokens() {
    let tokens = ["query", "create", "remove", "reset"].map(|verb| {
        let name = format!("ibm,{verb}-pe-dma-window");
        let service = SERVICES.iter().find(|service| service.name == name);
        service.unwrap().token
    });
    assert_eq!(tokens, [0x2026, 0x2027, 0x2028, 0x2029]);
    assert_eq!(DDW_APPLICABLE, tokens[..3]);
    assert_eq!(ddw_extensions(false), [3, tokens[3], 1, 0]);
    assert_eq!(ddw_extensions(true), [3, tokens[3], 1, 1]);
}

#[test]
fn a_query_tells_the_number_of_entries_in_one_word_or_two() {
    let platform = FakePlatform::new();
    assert_eq!(query(&platform, 5), [0, 1, ENTRIES, PAGES_4K_AND_64K, 0]);
    assert_eq!(query(&platform, 6), [0, 1, 0, ENTRIES, PAGES_4K_AND_64K, 0]);
}

/// What Linux does with the windows of its one bridge, number `bridge`.
fn do_what_linux_does(bridge: u8) {
    let platform = FakePlatform::with_bridge(bridge);
    let [first, second] = [FIRST, SECOND].map(|liobn| liobn | u32::from(bridge) << 8);
    assert_eq!(query(&platform, 6)[..2], [0, 1], "bridge {bridge}");
    let liobn = second.cast_signed();
    assert_eq!(create(&platform, 16, RAM_SHIFT), [0, liobn, 1 << 27, 0]);
    assert_eq!(query(&platform, 6)[..2], [0, 0]);
    assert_eq!(create(&platform, 16, RAM_SHIFT)[0], -1);
    assert_eq!(remove(&platform, second), [0]);
    assert_eq!(remove(&platform, second), [-3]);
    // Without the default window, the new one takes its place.
    assert_eq!(remove(&platform, first), [0]);
    assert_eq!(query(&platform, 6)[..2], [0, 2]);
    let liobn = first.cast_signed();
    assert_eq!(create(&platform, 12, 20), [0, liobn, 0, 0]);
    assert_eq!(reset(&platform), [0]);
    assert_eq!(query(&platform, 6)[..2], [0, 1]);
}

#[test]
fn a_guest_does_what_linux_does_behind_any_bridge() {
    for bridge in [0, 1, 5, MAX_HOST_BRIDGES - 1] {
        do_what_linux_does(bridge);
    }
}

#[test]
fn mistakes_are_parameter_errors_and_what_cannot_be_had_is_a_hardware_error() {
    let platform = FakePlatform::new();
    for (page_shift, window_shift, expected) in [
        (21, RAM_SHIFT, -3),
        (16, 15, -3),
        (11, RAM_SHIFT, -3),
        (0, 0, -3),
        (16, 64, -3),
        (16, u32::MAX, -3),
        (u32::MAX, RAM_SHIFT, -3),
        (0x110, RAM_SHIFT, -3),
        (16, RAM_SHIFT + 1, -1),
        (12, 63, -1),
    ] {
        assert_eq!(
            create(&platform, page_shift, window_shift)[0],
            expected,
            "{page_shift} {window_shift}"
        );
    }
    *platform.dma.host().limit_bytes.lock() = 0;
    assert_eq!(create(&platform, 16, RAM_SHIFT)[0], -1);
    let [high, low] = buid(&platform);
    let other = [0, high, low ^ 1];
    for (name, arguments, returns) in [
        ("ibm,query-pe-dma-window", &other[..], 5),
        ("ibm,reset-pe-dma-window", &other, 1),
        ("ibm,create-pe-dma-window", &[0, high, low ^ 1, 16, 20], 4),
    ] {
        assert_eq!(status(&platform, name, arguments, returns)[0], -3, "{name}");
    }
    for liobn in [0, 0x8000_0002, 0x8000_0100, 0x7100_0000, u32::MAX] {
        assert_eq!(remove(&platform, liobn), [-3], "{liobn:#x}");
    }
}

proptest! {
    #[test]
    fn every_answer_is_a_status_of_papr_and_success_is_as_a_query_then_says(
        calls in prop::collection::vec(
            (0u8..5, prop_oneof![Just(12u32), Just(16), 0u32..70, any::<u32>()],
             prop_oneof![18u32..30, any::<u32>()],
             prop_oneof![Just(FIRST), Just(SECOND), any::<u32>()]),
            1..40,
        )
    ) {
        let platform = FakePlatform::new();
        for (service, page_shift, window_shift, liobn) in calls {
            let before = query(&platform, 6)[1];
            let answer = match service {
                0 => query(&platform, 5),
                1 => create(&platform, page_shift, window_shift),
                2 => remove(&platform, liobn),
                3 => reset(&platform),
                _ => reset_with(&platform, 1),
            };
            let after = query(&platform, 6)[1];
            prop_assert!([0, -1, -3].contains(&answer[0]), "{answer:?}");
            match (service, answer[0]) {
                (1, 0) => {
                    prop_assert_eq!(after, before - 1);
                    prop_assert!(page_shift <= window_shift && window_shift <= RAM_SHIFT);
                }
                // The default window may be back in its place; and with limited addressing no window can be made
                // without that one.
                (2, 0) => prop_assert!(after == before + 1 || after <= before),
                (3 | 4, 0) => prop_assert_eq!(after, 1),
                _ => prop_assert_eq!(after, before),
            }
        }
        prop_assert!(platform.dma.host().inner.violations().is_empty());
    }
}
