use proptest::prelude::*;

use super::super::fake::FakePlatform;
use super::super::tests::{buid, status};
use super::super::{SERVICES, Service};
use super::*;

/// The endpoint's address, as the guest is told.
const PE: u32 = 1;

fn ask<const N: usize>(platform: &FakePlatform, name: &str, address: u32, more: [u32; N]) -> i32 {
    let [high, low] = buid(platform);
    let arguments = [&[address, high, low][..], &more].concat();
    status(platform, name, &arguments, 1)[0]
}

fn state(platform: &FakePlatform) -> Vec<i32> {
    let [high, low] = buid(platform);
    status(platform, "ibm,read-slot-reset-state2", &[PE, high, low], 5)
}

fn info(platform: &FakePlatform, address: u32, what: u32) -> Vec<i32> {
    let [high, low] = buid(platform);
    let arguments = [address, high, low, what];
    status(platform, "ibm,get-config-addr-info2", &arguments, 2)
}

fn set_option(platform: &FakePlatform, option: u32) -> i32 {
    ask(platform, "ibm,set-eeh-option", PE, [option])
}

fn reset(platform: &FakePlatform, which: u32) -> i32 {
    ask(platform, "ibm,set-slot-reset", PE, [which])
}

fn eeh_services() -> Vec<Service> {
    let services = SERVICES.iter().copied();
    let is_one = |service: &Service| TOKENS.contains(&service.token);
    services.filter(is_one).collect()
}

#[test]
fn the_services_that_linux_wants_are_those_of_eeh() {
    let names: Vec<_> = eeh_services().iter().map(|service| service.name).collect();
    let wanted = [
        "ibm,set-eeh-option",
        "ibm,get-config-addr-info2",
        "ibm,read-slot-reset-state2",
        "ibm,set-slot-reset",
        "ibm,configure-pe",
        "ibm,slot-error-detail",
        "ibm,configure-bridge",
    ];
    assert_eq!(names, wanted);
    assert_eq!(eeh_services().len(), TOKENS.len());
}

/// `pseries_eeh_init_edev` in arch/powerpc/platforms/pseries/eeh_pseries.c.
#[test]
fn linux_finds_the_endpoint_of_a_device_and_enables_eeh_for_it() {
    let platform = FakePlatform::with_eeh();
    assert_eq!(info(&platform, 0, 1), [0, 1], "in an endpoint, alone");
    assert_eq!(info(&platform, 0, 0), [0, 1], "whose address is not 0");
    assert_eq!(set_option(&platform, 1), 0);
    // By the function's address, as before Linux 5.10.
    assert_eq!(ask(&platform, "ibm,set-eeh-option", 0, [1]), 0);
    assert_eq!(state(&platform), [0, 0, 1, 0, 0]);
    for (address, what) in [
        (0x800, 0),
        (0x800, 1),
        (0, 2),
        (0, u32::MAX),
        (0x1_0000, 1),
        (4, 1),
        (0x1000_0000, 0),
    ] {
        assert_eq!(info(&platform, address, what)[0], -3, "{address:#x} {what}");
    }
}

#[test]
fn a_guest_is_told_that_a_device_is_in_no_endpoint_where_the_host_has_no_eeh() {
    let platform = FakePlatform::new();
    assert_eq!(info(&platform, 0, 1), [0, 0]);
    assert_eq!(info(&platform, 0, 0)[0], -3);
    assert_eq!(set_option(&platform, 1), -3);
    assert_eq!(state(&platform)[0], -3);
    assert_eq!(reset(&platform, 1), -3);
    assert_eq!(ask(&platform, "ibm,configure-pe", PE, []), -3);
    let log = [0, 0, 0, 0, 1];
    assert_eq!(ask(&platform, "ibm,slot-error-detail", PE, log), -3);
}

/// `eeh_handle_normal_event` in arch/powerpc/kernel/eeh_driver.c.
#[test]
fn a_guest_recovers_from_six_freezes_by_either_reset() {
    let platform = FakePlatform::with_eeh();
    let endpoint = platform.endpoint.clone().unwrap();
    for round in 0..6 {
        endpoint.freeze();
        assert_eq!(state(&platform), [0, 2, 1, 0, 0]);
        let log = [0, 0, 0x1000, 2048, 1];
        assert_eq!(
            ask(&platform, "ibm,slot-error-detail", PE, log),
            1,
            "no log"
        );
        assert_eq!(set_option(&platform, 2), 0);
        assert_eq!(state(&platform)[1], 4);
        assert_eq!(reset(&platform, [1, 3][round % 2]), 0);
        assert_eq!(state(&platform)[1], 1);
        assert_eq!(reset(&platform, 0), 0);
        assert_eq!(ask(&platform, "ibm,configure-pe", PE, []), 0);
        assert_eq!(ask(&platform, "ibm,configure-bridge", PE, []), 0);
        assert_eq!(state(&platform), [0, 0, 1, 0, 0]);
    }
    // By thawing alone, which some drivers want.
    endpoint.freeze();
    assert_eq!((set_option(&platform, 2), set_option(&platform, 3)), (0, 0));
    assert_eq!(state(&platform)[1], 0);
}

#[test]
fn a_state_that_nobody_can_tell_is_to_be_asked_for_again() {
    let platform = FakePlatform::with_eeh();
    *platform.endpoint.as_ref().unwrap().state.lock() = PeState::Unavailable;
    assert_eq!(state(&platform), [0, 5, 1, 1000, 0]);
}

#[test]
fn what_there_is_not_is_a_parameter_error_and_what_the_host_refuses_a_hardware_error() {
    let platform = FakePlatform::with_eeh();
    for option in [4, 5, u32::MAX] {
        assert_eq!(set_option(&platform, option), -3);
    }
    for which in [2, 4, u32::MAX] {
        assert_eq!(reset(&platform, which), -3);
    }
    for kind in [0, 3, u32::MAX] {
        let log = [0, 0, 0, 0, kind];
        assert_eq!(ask(&platform, "ibm,slot-error-detail", PE, log), -3);
    }
    assert_eq!(ask(&platform, "ibm,set-eeh-option", 0x800, [1]), -3);
    let arguments = [PE, 0, 0, 1];
    assert_eq!(status(&platform, "ibm,set-slot-reset", &arguments, 1), [-3]);
    let endpoint = platform.endpoint.as_ref().unwrap();
    assert!(endpoint.requests.lock().is_empty());
    let calls: [fn(&FakePlatform) -> i32; 3] =
        [|it| set_option(it, 1), |it| reset(it, 1), |it| state(it)[0]];
    for failing in calls {
        endpoint.fault.fail_call(1);
        assert_eq!(failing(&platform), -1);
    }
    // A guest then tries a hot one.
    endpoint.fault.fail_call(1);
    assert_eq!(reset(&platform, 3), -8);
    assert_eq!((reset(&platform, 1), reset(&platform, 0)), (0, 0));
}

proptest! {
    #[test]
    fn any_arguments_end_in_a_status_that_the_service_has(
        calls in prop::collection::vec(
            (0..TOKENS.len(), prop::collection::vec(any::<u32>(), 8), any::<[bool; 2]>(), 0..6u32),
            1..20,
        ),
    ) {
        let platform = FakePlatform::with_eeh();
        let services = eeh_services();
        for (service, mut arguments, [right_bridge, right_address], small) in calls {
            let service = services[service];
            if right_bridge {
                arguments[1..3].copy_from_slice(&buid(&platform));
            }
            if right_address {
                arguments[0] = PE;
                arguments[3] = small;
            }
            arguments.truncate(service.arguments as usize);
            let returned = status(&platform, service.name, &arguments, service.returns);
            prop_assert!([0, 1, -1, -3].contains(&returned[0]), "{}: {returned:?}", service.name);
            if !right_bridge && service.name != "ibm,get-config-addr-info2" {
                prop_assert_eq!(returned[0], -3);
            }
        }
    }
}
