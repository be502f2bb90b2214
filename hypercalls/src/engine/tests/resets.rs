//! What a reset gives back, and what stays locked.

use super::*;

/// A dynamic window for all of memory.
const DYNAMIC: Geometry = Geometry {
    bus_offset: Ioba(1 << 59),
    page_shift: PageShift::SIZE_64K,
    entries: 64,
};

#[test]
fn a_reset_unmaps_and_unlocks_all_and_puts_the_default_window_back() {
    let engine = lazy();
    engine.fake().put_windows_at(DYNAMIC.bus_offset);
    let made = engine.make_window(Liobn(0x8000_0001), DYNAMIC.page_shift, DYNAMIC.entries);
    assert_eq!(made, Ok(DYNAMIC));
    assert_eq!(engine.snapshot().windows[1].state, WindowState::Bound);
    assert_eq!(
        engine.call(abi::H_PUT_TCE, &[0x8000_0001, 1 << 59, 0x10_0003]),
        SUCCESS
    );
    engine.remove_window(Liobn(0x8000_0000)).unwrap();
    assert_eq!(engine.put(0, 0x1003), PARAMETER);
    assert_eq!(engine.snapshot().locked.bytes, MIB);

    engine.reset_windows().unwrap();
    assert_eq!(engine.snapshot().locked.bytes, 0);
    assert_eq!(
        engine.call(abi::H_GET_TCE, &[0x8000_0001, 1 << 59]),
        PARAMETER
    );
    assert_eq!(engine.get(0), 0);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    engine.assert_no_violation();
}

#[test]
fn a_host_window_that_could_not_be_removed_is_emptied_and_removed_later() {
    let engine = lazy();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    engine.fake().inject(Fault {
        after: 0,
        error: HostError::Refused(16),
        leaves_traces: false,
    });
    assert!(matches!(
        engine.reset_windows(),
        Err(WindowError::Remove { .. })
    ));
    assert_eq!((engine.get(0), engine.live()), (0, 0));
    assert_eq!(engine.put(0x2000, 0x1003), SUCCESS);
    assert_eq!((engine.get(0x2000), engine.live()), (0x1003, 1));
    engine.assert_no_violation();
}

#[test]
fn while_a_host_window_cannot_be_removed_the_next_is_refused_for_that_and_not_asked_for() {
    let engine = lazy();
    engine.fake().put_windows_at(DYNAMIC.bus_offset);
    let (liobn, source) = (Liobn(0x8000_0001), HostError::Refused(22));
    let make = || engine.make_window(liobn, DYNAMIC.page_shift, DYNAMIC.entries);
    let refuse = || {
        engine.fake().inject(Fault {
            after: 0,
            error: source,
            leaves_traces: false,
        });
    };
    make().unwrap();
    refuse();
    engine.remove_window(liobn).unwrap_err();
    refuse();
    let before = engine.fake().calls();
    assert_eq!(make(), Err(WindowError::Remove { liobn, source }));
    assert_eq!(engine.fake().calls(), before + 1);
    assert_eq!(make(), Ok(DYNAMIC));
    engine.assert_no_violation();
}

#[test]
fn memory_stays_locked_until_the_machine_is_reset() {
    let engine = lazy();
    engine.add_window(Liobn(0x8000_0001), DYNAMIC).unwrap();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(
        engine.call(abi::H_PUT_TCE, &[0x8000_0001, 1 << 59, 0x20_0003]),
        SUCCESS
    );
    engine.remove_window(Liobn(0x8000_0001)).unwrap();
    assert_eq!(engine.snapshot().locked.bytes, 2 * MIB);
    // Another processor may be mapping in the kernel.
    engine.remove_window(Liobn(0x8000_0000)).unwrap();
    assert_eq!(engine.snapshot().locked.bytes, 2 * MIB);
    engine.reset_windows().unwrap();
    assert_eq!(engine.snapshot().locked.bytes, 0);
}

#[test]
fn memory_that_a_window_may_still_map_is_not_unlocked() {
    let engine = lazy();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    // Neither can the window be removed, nor emptied.
    for after in 0..2 {
        engine.fake().inject(Fault {
            after,
            error: HostError::Refused(16),
            leaves_traces: false,
        });
    }
    assert!(engine.reset_windows().is_err());
    assert_eq!(engine.snapshot().locked.bytes, MIB);
    engine.reset_windows().unwrap();
    assert_eq!(engine.snapshot().locked.bytes, 0);
    engine.assert_no_violation();
}

#[test]
fn memory_that_the_host_holds_on_to_is_told() {
    let engine = lazy();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(engine.put(0x1000, 0x10_0003), SUCCESS);
    engine.fake().miscount();
    let WindowError::KeptByHost { bytes } = engine.reset_windows().unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(bytes, 2 * MIB);
    assert_eq!(engine.snapshot().locked.bytes, 0);
}

#[test]
fn memory_registered_with_two_containers_is_counted_once() {
    let ram = [piece(0, 4 * MIB)];
    let memory = FakeMemory::new(ram.to_vec(), GuestPhysicalAddress(LIST), 1);
    let default_window = Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries: 16,
    };
    let bridges = [0, 7].map(|number| HostBridge {
        number,
        host: FakeHost::new(ContainerVersion::V2),
        default_window,
    });
    let policy = Policy {
        region: RegionSize::new(MIB),
        ..Policy::default()
    };
    let engine = Engine::new(memory, &ram, policy, bridges.into()).unwrap();
    for liobn in [0x8000_0000, 0x8000_0700] {
        assert_eq!(engine.call(abi::H_PUT_TCE, &[liobn, 0, 0x1003]), SUCCESS);
    }
    let locked = engine.snapshot().locked;
    assert_eq!(
        (locked.bytes, locked.peak_bytes, locked.registrations),
        (MIB, MIB, 2)
    );
    assert_eq!(
        engine.call(abi::H_PUT_TCE, &[0x8000_0100, 0, 0x1003]),
        PARAMETER
    );
    engine.reset_windows().unwrap();
    assert_eq!(engine.snapshot().locked.bytes, 0);
    assert_eq!(engine.snapshot().unknown_liobn, 1);
}
