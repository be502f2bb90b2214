use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_hypercalls::engine::Answer;
use spapr_hypercalls::stats::WindowState;
use spapr_hypercalls::world::BindRefusal;

use super::fake::{DEFAULT_WINDOW, FakeBridge, FakeMachine, RAM_BYTES};
use super::*;
use crate::pci::MAX_HOST_BRIDGES;
use crate::vfio::Platform;

const FIRST: Liobn = Liobn::of_pci_window(0, 0);
const SECOND: Liobn = Liobn::of_pci_window(0, 1);
pub(super) const PAGE: PageShift = PageShift::SIZE_64K;

pub(super) fn put(machine: &FakeMachine, liobn: Liobn, ioba: u64, tce: u64) -> ReturnCode {
    let mut arguments = [u64::from(liobn.0), ioba, tce, 0, 0, 0, 0, 0, 0];
    loop {
        match machine.engine.handle(abi::H_PUT_TCE, &mut arguments) {
            Some(Answer::Code(code)) => return code,
            // Memory was locked for it.
            Some(Answer::MakeAgain) => {}
            None => panic!("not served"),
        }
    }
}

#[test]
fn a_window_beside_an_unused_default_one_is_where_the_host_puts_the_second() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    assert_eq!(windows.available(0).unwrap().windows, 1);
    assert_eq!(machine.host().windows(), [Some(Ioba(0)), None]);
    let window = windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert_eq!((window.liobn, window.start), (SECOND, Ioba(1 << 59)));
    assert_eq!(
        machine.host().windows(),
        [Some(Ioba(0)), Some(Ioba(1 << 59))]
    );
    assert_eq!(windows.available(0).unwrap().windows, 0);
    assert_eq!(
        put(&machine, SECOND, 1 << 59, 0x1_0003),
        ReturnCode::SUCCESS
    );
    assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::SUCCESS);
    let error = windows.create(0, PAGE, RAM_BYTES).unwrap_err();
    assert!(matches!(error, DmaWindowError::NoneLeft { windows: 2, .. }));
    assert!(machine.host().inner.violations().is_empty());
}

#[test]
fn a_window_in_place_of_the_default_one_is_at_its_address() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    put(&machine, FIRST, 0, 0x1003);
    windows.remove(FIRST).unwrap();
    assert_eq!(windows.available(0).unwrap().windows, 2);
    assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::PARAMETER);
    let window = windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert_eq!((window.liobn, window.start), (FIRST, Ioba(0)));
    // The last dynamic window gone, the default one is back.
    windows.remove(FIRST).unwrap();
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::SUCCESS);
}

#[test]
fn the_default_window_comes_back_when_the_last_dynamic_one_goes() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    windows.remove(FIRST).unwrap();
    assert_eq!(machine.guest_windows()[0], None);
    // Its place is free for a window of another shape, at its address.
    let window = windows.create(0, PAGE, 1 << 20).unwrap();
    assert_eq!((window.liobn, window.start), (FIRST, Ioba(0)));
    windows.remove(FIRST).unwrap();
    windows.remove(SECOND).unwrap();
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    let error = windows.remove(SECOND).unwrap_err();
    assert!(matches!(error, DmaWindowError::NoSuchWindow(SECOND)));
}

/// Where an LPAR's platform puts its windows.
const ELSEWHERE: [Ioba; 2] = [Ioba(1 << 40), Ioba(1 << 41)];

/// A bridge in an LPAR, with so many windows at a time.
pub(super) fn lpar(places: u32) -> FakeBridge {
    FakeBridge {
        platform: Platform::Lpar,
        places,
        starts: ELSEWHERE,
        ..FakeBridge::usual(0)
    }
}

#[test]
fn a_host_of_one_window_gives_it_when_the_default_one_has_gone_and_that_one_comes_back_at_a_reset()
{
    let machine = FakeMachine::new(&[lpar(1)]);
    let windows = machine.windows.of(&machine.engine);
    for back_by_removal in [false, true] {
        assert_eq!(machine.host().windows(), [Some(Ioba(0)), None]);
        assert_eq!(windows.available(0).unwrap().windows, 0);
        // Refused here: the host would blacklist the device.
        let error = windows.create(0, PAGE, RAM_BYTES).unwrap_err();
        assert!(matches!(error, DmaWindowError::NoneLeft { windows: 1, .. }));
        assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::SUCCESS);

        windows.remove(FIRST).unwrap();
        assert_eq!(windows.available(0).unwrap().windows, 1);
        assert_eq!(machine.host().windows(), [None, None]);
        let window = windows.create(0, PAGE, RAM_BYTES).unwrap();
        assert_eq!((window.liobn, window.start), (FIRST, ELSEWHERE[0]));
        assert_eq!(windows.available(0).unwrap().windows, 0);
        assert!(windows.create(0, PAGE, RAM_BYTES).is_err());
        let start = window.start.0;
        assert_eq!(put(&machine, FIRST, start, 0x1_0003), ReturnCode::SUCCESS);
        assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::PARAMETER);

        match back_by_removal {
            true => windows.remove(FIRST).unwrap(),
            false => windows.reset(0, Addressing::Full).unwrap(),
        }
        assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
        assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::SUCCESS);
        assert_eq!(put(&machine, FIRST, start, 0x1_0003), ReturnCode::PARAMETER);
    }
    // The default one three times, the guest's two times.
    assert_eq!(machine.host().creations(), 5);
    assert!(!machine.host().is_blacklisted());
    assert!(machine.host().inner.violations().is_empty());
}

#[test]
fn the_machines_reset_gives_a_host_of_one_window_its_default_one_back() {
    let machine = FakeMachine::new(&[lpar(1)]);
    let windows = machine.windows.of(&machine.engine);
    windows.remove(FIRST).unwrap();
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    machine.engine.reset_windows().unwrap();
    assert_eq!(machine.host().windows(), [None, None]);
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    machine.engine.prepare().unwrap();
    assert_eq!(machine.host().windows(), [Some(Ioba(0)), None]);
    assert!(!machine.host().is_blacklisted());
}

#[test]
fn a_default_window_of_the_hosts_own_shape_comes_back_as_it_was() {
    let (start, elsewhere) = (Ioba(0x8000_0000), Ioba(1 << 40));
    let default_window = Geometry {
        bus_offset: start,
        page_shift: PageShift::SIZE_4K,
        entries: 1 << 16,
    };
    let machine = FakeMachine::new(&[FakeBridge {
        starts: [start, elsewhere],
        default_window,
        ..FakeBridge::usual(0)
    }]);
    let windows = machine.windows.of(&machine.engine);
    assert_eq!(machine.host().windows(), [Some(start), None]);
    let window = windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert_eq!((window.liobn, window.start), (SECOND, elsewhere));
    windows.remove(FIRST).unwrap();
    windows.remove(SECOND).unwrap();
    assert_eq!(machine.guest_windows(), [Some(default_window), None]);
    let success = ReturnCode::SUCCESS;
    assert_eq!(put(&machine, FIRST, start.0, 0x1003), success);
    assert_eq!(put(&machine, FIRST, 0, 0x1003), ReturnCode::PARAMETER);
    windows.reset(0, Addressing::Full).unwrap();
    assert_eq!(machine.guest_windows(), [Some(default_window), None]);
}

#[test]
fn where_the_host_puts_the_second_window_is_where_it_is_and_one_creation_is_enough() {
    let machine = FakeMachine::new(&[lpar(2)]);
    let windows = machine.windows.of(&machine.engine);
    assert_eq!(machine.host().creations(), 1);
    for made in 2..4 {
        let window = windows.create(0, PAGE, RAM_BYTES).unwrap();
        assert_eq!((window.liobn, window.start), (SECOND, ELSEWHERE[0]));
        assert_eq!(machine.host().creations(), made);
        windows.remove(SECOND).unwrap();
    }
    assert!(!machine.host().is_blacklisted());
}

/// Linux 6.12 fails at the second, having had the platform make it, and blacklists the device until the LPAR restarts.
#[test]
fn in_an_lpar_a_guest_has_one_window_of_its_own_at_a_time_in_whatever_order_it_makes_and_removes_them()
 {
    let machine = FakeMachine::new(&[lpar(2)]);
    let windows = machine.windows.of(&machine.engine);
    let refused = |page, bytes| {
        let before = machine.host().creations();
        assert_eq!(windows.available(0).unwrap().windows, 0);
        let error = windows.create(0, page, bytes).unwrap_err();
        assert!(matches!(error, DmaWindowError::NoneLeft { .. }), "{error}");
        assert_eq!(machine.host().creations(), before);
    };
    // In place of the default one.
    windows.remove(FIRST).unwrap();
    assert_eq!(windows.available(0).unwrap().windows, 1);
    assert_eq!(windows.create(0, PAGE, RAM_BYTES).unwrap().liobn, FIRST);
    refused(PAGE, RAM_BYTES);
    refused(PageShift::SIZE_4K, 1 << 20);
    windows.remove(FIRST).unwrap();
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    // Beside it, and when it has gone.
    assert_eq!(windows.create(0, PAGE, RAM_BYTES).unwrap().liobn, SECOND);
    refused(PAGE, RAM_BYTES);
    windows.remove(FIRST).unwrap();
    refused(PAGE, RAM_BYTES);
    refused(PageShift::SIZE_4K, 1 << 20);
    windows.remove(SECOND).unwrap();
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert!(!machine.host().is_blacklisted());
    assert_eq!(machine.host().leaks(), 0);
}

#[test]
fn a_window_that_is_too_large_for_an_lpars_platform_is_asked_for_once() {
    let machine = FakeMachine::new(&[lpar(2)]);
    let windows = machine.windows.of(&machine.engine);
    let entries = RAM_BYTES >> PAGE.get();
    *machine.host().most_entries.lock() = entries / 4;
    let create = |page, bytes| windows.create(0, page, bytes);
    assert!(matches!(
        create(PAGE, RAM_BYTES),
        Err(DmaWindowError::Window(_))
    ));
    let asked = machine.host().creations();
    for (page, bytes, most) in [
        (PAGE, RAM_BYTES, RAM_BYTES / 2),
        (PageShift::SIZE_4K, RAM_BYTES, RAM_BYTES >> 5),
    ] {
        let error = create(page, bytes).unwrap_err();
        assert!(matches!(error, DmaWindowError::TooLarge { most: told, .. } if told == most));
    }
    windows.reset(0, Addressing::Full).unwrap();
    assert!(create(PAGE, RAM_BYTES).is_err());
    assert_eq!((machine.host().creations(), asked), (asked + 1, 2));
    assert!(create(PAGE, RAM_BYTES / 2).is_err());
    create(PAGE, RAM_BYTES / 4).unwrap();
    assert_eq!(machine.host().leaks(), 2);
    assert!(!machine.host().is_blacklisted());
}

/// Both refusals are EINVAL, as that of a window that is too large for an LPAR's platform.
#[test]
fn a_window_that_is_not_bound_or_not_removed_is_not_taken_for_too_large() {
    use spapr_hypercalls::testing::Fault;
    let machine = FakeMachine::new(&[lpar(2)]);
    let windows = machine.windows.of(&machine.engine);
    let refuse = |after| {
        machine.host().inner.inject(Fault {
            after,
            error: HostError::Refused(libc::EINVAL),
            leaves_traces: false,
        });
    };
    // The host makes it, and KVM does not bind its LIOBN: the guest has it nevertheless.
    refuse(1);
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    let unbound = WindowState::UserOnly(BindRefusal::SetSpaprTceRefused(libc::EINVAL));
    assert_eq!(machine.engine.snapshot().windows[1].state, unbound);
    // The host does not remove it, nor when the next one is asked for.
    refuse(0);
    windows.remove(SECOND).unwrap_err();
    refuse(0);
    let error = windows.create(0, PAGE, RAM_BYTES).unwrap_err();
    let of_removal = DmaWindowError::Window(WindowError::Remove {
        liobn: SECOND,
        source: HostError::Refused(libc::EINVAL),
    });
    assert_eq!(error.to_string(), of_removal.to_string());
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert!(!machine.host().is_blacklisted());
}

#[test]
fn reset_leaves_the_default_window_alone_and_memory_locked_until_the_machine_is_reset() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    put(&machine, SECOND, 1 << 59, 0x1_0003);
    put(&machine, FIRST, 0, 0x1003);
    assert!(!machine.host().inner.registered().is_empty());
    windows.remove(FIRST).unwrap();
    windows.reset(0, Addressing::Full).unwrap();
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    // Bound anew before the guest hears that it is back.
    assert_eq!(machine.host().windows(), [Some(Ioba(0)), None]);
    let snapshot = machine.engine.snapshot();
    assert_eq!(snapshot.windows[0].state, WindowState::Bound);
    assert!(!machine.host().inner.registered().is_empty());
    machine.engine.reset_windows().unwrap();
    assert!(machine.host().inner.registered().is_empty());
    assert_eq!(windows.available(0).unwrap().windows, 1);
}

#[test]
fn a_window_for_all_of_memory_needs_all_of_it_to_be_lockable() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    *machine.host().limit_bytes.lock() = RAM_BYTES - 1;
    let error = windows.create(0, PAGE, RAM_BYTES).unwrap_err();
    assert!(matches!(
        error,
        DmaWindowError::MemoryLimit {
            memory: RAM_BYTES,
            ..
        }
    ));
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    assert_eq!(
        machine.host().windows(),
        [Some(Ioba(0)), None],
        "what the first one takes counts, and nothing more is made"
    );
    // What is locked already is not needed again.
    put(&machine, FIRST, 0, 0x1003);
    *machine.host().limit_bytes.lock() = 0;
    windows.create(0, PAGE, RAM_BYTES).unwrap();
    assert_eq!(*machine.host().asked.lock(), [(RAM_BYTES, true), (0, true)]);
}

#[test]
fn sizes_that_are_not_offered_are_refused() {
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    let create = |page, bytes| windows.create(0, page, bytes).unwrap_err();
    assert!(matches!(
        create(PageShift::SIZE_2M, RAM_BYTES),
        DmaWindowError::Page { .. }
    ));
    assert!(matches!(create(PAGE, 0x8000), DmaWindowError::Page { .. }));
    assert!(matches!(
        create(PAGE, RAM_BYTES << 1),
        DmaWindowError::TooLarge {
            most: RAM_BYTES,
            ..
        }
    ));
    assert!(matches!(
        windows.create(1, PAGE, RAM_BYTES).unwrap_err(),
        DmaWindowError::NotOffered(1)
    ));
}

#[test]
fn a_bridge_that_offers_none_has_none() {
    let machine = FakeMachine::new(&[FakeBridge {
        places: 0,
        ..FakeBridge::usual(0)
    }]);
    let windows = machine.windows.of(&machine.engine);
    assert!(!machine.windows.are_offered(0) && windows.available(0).is_none());
    assert!(matches!(
        windows.create(0, PAGE, RAM_BYTES),
        Err(DmaWindowError::NotOffered(0))
    ));
    assert!(matches!(
        windows.remove(FIRST),
        Err(DmaWindowError::NoSuchWindow(_))
    ));
    assert!(matches!(
        windows.reset(0, Addressing::Full),
        Err(DmaWindowError::NotOffered(0))
    ));
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
}

#[test]
fn a_host_that_refuses_leaves_the_windows_as_they_were() {
    use spapr_hypercalls::testing::Fault;
    use spapr_hypercalls::world::HostError;
    let machine = FakeMachine::usual();
    let windows = machine.windows.of(&machine.engine);
    machine.host().inner.inject(Fault {
        after: 0,
        error: HostError::OutOfResources(libc::ENOMEM),
        leaves_traces: false,
    });
    let error = windows.create(0, PAGE, RAM_BYTES).unwrap_err();
    assert!(matches!(error, DmaWindowError::Window(_)));
    assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
    assert_eq!(windows.available(0).unwrap().windows, 1);
    assert_eq!(windows.create(0, PAGE, RAM_BYTES).unwrap().liobn, SECOND);
}

/// The numbers that bridges can have at both ends, that of libvirt's first one, and one after a gap.
pub(super) const NUMBERS: [u8; 4] = [0, 1, 5, MAX_HOST_BRIDGES - 1];

#[test]
fn a_bridge_of_any_number_has_the_windows_of_its_own_container() {
    for number in NUMBERS {
        let machine = FakeMachine::new(&[FakeBridge::usual(number)]);
        let windows = machine.windows.of(&machine.engine);
        let [first, second] = [0, 1].map(|place| Liobn::of_pci_window(number, place));
        assert!(machine.windows.are_offered(number), "bridge {number}");
        assert_eq!(windows.available(number).unwrap().windows, 1);
        let window = windows.create(number, PAGE, RAM_BYTES).unwrap();
        assert_eq!((window.liobn, window.start), (second, Ioba(1 << 59)));
        let (start, end) = (1 << 59, (1 << 59) + RAM_BYTES);
        for (ioba, code) in [
            (start - PAGE.bytes(), ReturnCode::PARAMETER),
            (start, ReturnCode::SUCCESS),
            (end - PAGE.bytes(), ReturnCode::SUCCESS),
            (end, ReturnCode::PARAMETER),
        ] {
            assert_eq!(put(&machine, second, ioba, 0x1_0003), code, "{ioba:#x}");
        }
        windows.remove(first).unwrap();
        windows.remove(second).unwrap();
        windows.create(number, PAGE, RAM_BYTES).unwrap();
        windows.reset(number, Addressing::Full).unwrap();
        assert_eq!(machine.guest_windows(), [Some(DEFAULT_WINDOW), None]);
        for other in NUMBERS.into_iter().filter(|&other| other != number) {
            assert!(!machine.windows.are_offered(other) && windows.available(other).is_none());
            assert!(windows.create(other, PAGE, RAM_BYTES).is_err());
            let liobn = Liobn::of_pci_window(other, 0);
            assert_eq!(put(&machine, liobn, 0, 0x1003), ReturnCode::PARAMETER);
            assert!(
                windows.remove(liobn).is_err() && windows.reset(other, Addressing::Full).is_err()
            );
        }
    }
}

#[test]
fn bridges_named_in_any_order_do_not_take_each_others_limits() {
    let machine = FakeMachine::new(&[
        FakeBridge {
            bytes: 1 << 20,
            ..FakeBridge::usual(5)
        },
        FakeBridge {
            places: 0,
            ..FakeBridge::usual(1)
        },
        FakeBridge::usual(30),
    ]);
    let windows = machine.windows.of(&machine.engine);
    let most = |number| Some(windows.available(number)?.limits.bytes());
    let offered = [0, 1, 2, 5, 30].map(most);
    assert_eq!(offered, [None, None, None, Some(1 << 20), Some(RAM_BYTES)]);
    windows.create(30, PAGE, RAM_BYTES).unwrap();
    assert_eq!(machine.windows_of(5), [Some(DEFAULT_WINDOW), None]);
    assert!(machine.windows_of(30)[1].is_some());
    // What one bridge has is not taken from another's places.
    assert_eq!(windows.available(5).unwrap().windows, 1);
    windows.create(5, PAGE, 1 << 20).unwrap();
    windows.reset(30, Addressing::Full).unwrap();
    assert!(machine.windows_of(5)[1].is_some());
}
