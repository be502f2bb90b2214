use proptest::prelude::*;
use spapr_hypercalls::abi::ReturnCode;
use vm_memory::GuestMemoryMmap;

use super::super::fake::{FakePlatform, memory};
use super::super::tests::{buid, call as call_of, status};
use super::*;
use crate::pci::PeState;

/// Where the error is described; the endpoint's address.
const AT: u32 = 0x1000;
const PE: u32 = 1;

fn open(platform: &FakePlatform) -> Vec<i32> {
    status(platform, "ibm,open-errinjct", &[], 2)
}

fn close(platform: &FakePlatform, token: u32) -> i32 {
    status(platform, "ibm,close-errinjct", &[token], 1)[0]
}

fn inject(platform: &FakePlatform, memory: &GuestMemoryMmap, arguments: [u32; 3]) -> i32 {
    let (code, _, returns) = call_of(memory, platform, "ibm,errinjct", &arguments, 1);
    assert_eq!(code, ReturnCode::SUCCESS);
    returns[0]
}

fn described(words: &[u32]) -> GuestMemoryMmap {
    let memory = memory();
    for (index, word) in (0..).zip(words) {
        let at = GuestAddress(u64::from(AT) + 4 * index);
        memory.write_slice(&word.to_be_bytes(), at).unwrap();
    }
    memory
}

#[test]
fn a_guest_has_its_device_run_into_an_error_of_either_kind() {
    let platform = FakePlatform::with_eeh();
    let endpoint = platform.endpoint.clone().unwrap();
    let [high, low] = buid(&platform);
    assert_eq!(open(&platform), [1, 0], "the token comes first");
    let short = described(&[0x8000_0000, 0xffff, PE, high, low, 6]);
    assert_eq!(inject(&platform, &short, [IOA_BUS_ERROR, 1, AT]), 0);
    assert_eq!(*endpoint.state.lock(), PeState::Stopped);
    let long = described(&[1, 2, 3, 4, PE, high, low, PeError::LAST_FUNCTION]);
    assert_eq!(inject(&platform, &long, [IOA_BUS_ERROR_64, 1, AT]), 0);
    assert_eq!(close(&platform, 1), 0);
    let error = |is_64_bit, function| PeError {
        is_64_bit,
        function,
    };
    assert_eq!(*endpoint.errors.lock(), [error(false, 6), error(true, 19)]);
}

#[test]
fn who_has_not_opened_it_injects_nothing_and_one_has_it_at_a_time() {
    let platform = FakePlatform::with_eeh();
    let [high, low] = buid(&platform);
    let good = described(&[0, 0, PE, high, low, 6]);
    let attempt = |token| inject(&platform, &good, [IOA_BUS_ERROR, token, AT]);
    assert_eq!((attempt(0), attempt(1), close(&platform, 0)), (-4, -4, -4));
    assert_eq!(
        (open(&platform), open(&platform)),
        (vec![1, 0], vec![0, -4])
    );
    assert_eq!((attempt(2), close(&platform, 2)), (-4, -4));
    assert_eq!((attempt(1), close(&platform, 1)), (0, 0));
    assert_eq!((attempt(1), close(&platform, 1)), (-4, -4));
    assert_eq!(open(&platform), [2, 0]);
}

#[test]
fn what_there_is_not_is_a_parameter_error_and_what_the_host_refuses_a_hardware_error() {
    let platform = FakePlatform::with_eeh();
    let endpoint = platform.endpoint.clone().unwrap();
    let [high, low] = buid(&platform);
    open(&platform);
    for wrong in [
        [0x800, high, low, 0],
        [PE, !high, low, 0],
        [PE, high, !low, 0],
        [PE, high, low, 20],
        [PE, high, low, u32::MAX],
    ] {
        let memory = described(&[&[0, 0], &wrong[..]].concat());
        assert_eq!(
            inject(&platform, &memory, [IOA_BUS_ERROR, 1, AT]),
            -3,
            "{wrong:x?}"
        );
    }
    let good = described(&[0, 0, PE, high, low, 0]);
    for kind in [0, 1, 6, 8, 14, 16, u32::MAX] {
        assert_eq!(inject(&platform, &good, [kind, 1, AT]), -3, "{kind}");
    }
    for nowhere in [0x1ff4, 0x2000, 0x3ff4, u32::MAX] {
        assert_eq!(
            inject(&platform, &good, [IOA_BUS_ERROR, 1, nowhere]),
            -3,
            "{nowhere:#x}"
        );
    }
    endpoint.fault.fail_call(1);
    assert_eq!(inject(&platform, &good, [IOA_BUS_ERROR, 1, AT]), -1);
    assert!(endpoint.errors.lock().is_empty());
    // Nobody's registers can be reached over a reset.
    let reset = |which| status(&platform, "ibm,set-slot-reset", &[PE, high, low, which], 1);
    assert_eq!(reset(1), [0]);
    assert_eq!(inject(&platform, &good, [IOA_BUS_ERROR, 1, AT]), -1);
    assert_eq!(reset(0), [0]);
    assert_eq!(inject(&platform, &good, [IOA_BUS_ERROR, 1, AT]), 0);
}

#[test]
fn the_device_tree_names_the_kinds() {
    assert_eq!(
        kinds(),
        b"ioa-bus-error\0\0\0\0\x07ioa-bus-error-64\0\0\0\0\x0f"
    );
}

proptest! {
    #[test]
    fn any_arguments_end_in_a_status_that_the_service_has(
        calls in prop::collection::vec(
            (0..3usize, any::<[u32; 3]>(), any::<[bool; 3]>(), 0..18u32, any::<[u32; 8]>(), 0..24u32),
            1..20,
        ),
    ) {
        let platform = FakePlatform::with_eeh();
        let [high, low] = buid(&platform);
        for (service, mut arguments, [right_token, right_place, right_bridge], kind, mut words, function) in calls {
            if right_token {
                arguments = [kind, 1, arguments[2]];
            }
            if right_place {
                arguments[2] = AT;
            }
            if right_bridge {
                words[2..6].copy_from_slice(&[PE, high, low, function]);
                words[7] = function;
            }
            let memory = described(&words);
            let (name, arguments, returns) = match service {
                0 => ("ibm,open-errinjct", &[][..], 2),
                1 => ("ibm,errinjct", &arguments[..], 1),
                _ => ("ibm,close-errinjct", &arguments[1..2], 1),
            };
            let (code, outcome, returned) = call_of(&memory, &platform, name, arguments, returns);
            prop_assert_eq!((code, outcome), (ReturnCode::SUCCESS, Outcome::Done));
            let status = returned.last().copied().unwrap();
            prop_assert!([0, -1, -3, -4].contains(&status), "{}: {:?}", name, returned);
        }
    }
}
