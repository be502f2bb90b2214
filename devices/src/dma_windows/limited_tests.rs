use spapr_hypercalls::abi::ReturnCode;
use spapr_hypercalls::address::Ioba;
use spapr_hypercalls::stats::WindowState;
use spapr_hypercalls::testing::Fault;
use spapr_hypercalls::world::{BindRefusal, HostError};

use super::super::fake::{DEFAULT_WINDOW, FakeBridge, FakeMachine, RAM_BYTES};
use super::super::tests::{PAGE, lpar, put};
use super::super::{DynamicWindows, NewWindow};
use super::*;
use crate::vfio::LIMITED_START;

const FIRST: Liobn = Liobn::of_pci_window(0, 0);
const SECOND: Liobn = Liobn::of_pci_window(0, 1);

fn states(machine: &FakeMachine) -> Vec<WindowState> {
    let snapshot = machine.engine.snapshot();
    snapshot.windows.iter().map(|window| window.state).collect()
}

#[test]
fn a_window_from_4_gib_on_is_beside_the_default_one_in_one_of_the_hosts() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    assert!(machine.windows.can_be_limited(0));
    windows.reset(0, Addressing::Limited).unwrap();
    assert!(machine.host().is_shared());
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    assert_eq!(windows.available(0).unwrap().windows, 1);
    let made = windows.create(0, PAGE, RAM_BYTES).unwrap();
    let expected = NewWindow {
        liobn: SECOND,
        start: LIMITED_START,
    };
    assert_eq!(made, expected);
    assert_eq!(windows.available(0).unwrap().windows, 0);
    // The kernel serves the one at the start of the host's window.
    let inside = WindowState::UserOnly(BindRefusal::InsideAnother);
    assert_eq!(states(&machine), [WindowState::Bound, inside]);
    let start = LIMITED_START.0;
    assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::SUCCESS);
    assert_eq!(put(&machine, SECOND, start, 0x1_0003), ReturnCode::SUCCESS);
    // Between the two nothing can be mapped, nor beyond.
    for ioba in [DEFAULT_WINDOW.bytes().unwrap(), 1 << 31, start - 0x1_0000] {
        assert_eq!(put(&machine, FIRST, ioba, 0x1003), ReturnCode::PARAMETER);
        assert_eq!(put(&machine, SECOND, ioba, 0x1_0003), ReturnCode::PARAMETER);
    }
    let end = start + RAM_BYTES;
    assert_eq!(put(&machine, SECOND, end, 0x1_0003), ReturnCode::PARAMETER);
    assert!(machine.host().inner.violations().is_empty());
}

#[test]
fn full_addressing_comes_back_with_a_reset_with_the_last_window_and_with_the_machine() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    for way in 0..3 {
        windows.reset(0, Addressing::Limited).unwrap();
        windows.create(0, PAGE, RAM_BYTES).unwrap();
        match way {
            0 => windows.reset(0, Addressing::Full).unwrap(),
            1 => {
                windows.remove(FIRST).unwrap();
                windows.remove(SECOND).unwrap();
            }
            _ => {
                // What the machine that starts then has is made anew, and the host is the same.
                machine.engine.reset_windows().unwrap();
                machine.engine.prepare().unwrap();
                assert!(!machine.host().is_shared());
                continue;
            }
        }
        assert!(!machine.host().is_shared());
        assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
        let full = windows.create(0, PAGE, RAM_BYTES).unwrap();
        assert_eq!(full.start, Ioba(1 << 59));
    }
}

/// Nothing would be left to ask for, were the bridge limited without a window.
#[test]
fn a_guest_that_removes_both_windows_can_make_others() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    windows.reset(0, Addressing::Limited).unwrap();
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    windows.remove(SECOND).unwrap();
    windows.remove(FIRST).unwrap();
    assert!(!machine.host().is_shared());
    assert_eq!(windows.available(0).unwrap().windows, 2);
    windows.create(0, PAGE, RAM_BYTES).unwrap();
}

#[test]
fn what_is_mapped_for_others_is_not_taken_away() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    put(&machine, FIRST, 0x3000, 0x1003);
    let error = windows.reset(0, Addressing::Limited).unwrap_err();
    assert!(matches!(error, DmaWindowError::Mapped(0)), "{error}");
    // The entry is still there, and windows are as large as before.
    let full = windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert_eq!(full.start, Ioba(1 << 59));
    put(&machine, FIRST, 0x3000, 0);
    put(&machine, SECOND, 1 << 59, 0x1_0003);
    let error = windows.reset(0, Addressing::Limited).unwrap_err();
    assert!(matches!(error, DmaWindowError::Mapped(0)), "{error}");
    put(&machine, SECOND, 1 << 59, 0);
    windows.reset(0, Addressing::Limited).unwrap();
}

#[test]
fn an_lpar_has_no_such_windows_and_is_not_asked() {
    let machine = FakeMachine::new(&[lpar(2)]);
    let windows = machine.windows.of(&machine.engine);
    assert!(!machine.windows.can_be_limited(0));
    let before = machine.host().creations();
    let error = windows.reset(0, Addressing::Limited).unwrap_err();
    let is_none = matches!(error, DmaWindowError::NoLimitedAddressing(0));
    assert!(is_none, "{error}");
    assert_eq!(machine.host().creations(), before);
    let other = windows.reset(1, Addressing::Limited).unwrap_err();
    assert!(matches!(other, DmaWindowError::NotOffered(1)), "{other}");
}

#[test]
fn a_host_that_refuses_leaves_an_empty_default_window_and_full_addressing() {
    let machine = FakeMachine::new(&[FakeBridge::usual(0)]);
    let windows = machine.windows.of(&machine.engine);
    // The tables are too much for the limit, and with them what the window is for.
    for limit_bytes in [0, RAM_BYTES - 1] {
        *machine.host().limit_bytes.lock() = limit_bytes;
        let error = windows.reset(0, Addressing::Limited).unwrap_err();
        let is_limit = matches!(error, DmaWindowError::MemoryLimit { .. });
        assert!(is_limit, "{limit_bytes}: {error}");
    }
    assert!(!machine.host().is_shared());
    assert_eq!(states(&machine)[0], WindowState::Bound);
    *machine.host().limit_bytes.lock() = u64::MAX;
    // The removal succeeds, and what is made then does not.
    machine.host().inner.inject(Fault {
        after: 1,
        error: HostError::OutOfResources(libc::ENOMEM),
        leaves_traces: false,
    });
    let error = windows.reset(0, Addressing::Limited).unwrap_err();
    assert!(matches!(error, DmaWindowError::Window(_)), "{error}");
    machine.host().inner.clear_faults();
    assert!(!machine.host().is_shared());
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::SUCCESS);
    let full = windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert_eq!(full.start, Ioba(1 << 59));
}
