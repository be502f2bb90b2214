//! What the engine answers when the guest or the host says no.

use super::*;

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let engine = lazy();
    assert_eq!(engine.put(0x1000, 0x1003), SUCCESS);
    let calls = engine.fake().calls();
    for (call, arguments) in [
        (abi::H_PUT_TCE, [0x8000_0001, 0, 0x1003, 0]),
        (abi::H_PUT_TCE, [LIOBN | 1 << 32, 0, 0x1003, 0]),
        (abi::H_PUT_TCE, [LIOBN, 0x40_0000, 0x1003, 0]),
        (abi::H_PUT_TCE, [LIOBN, 0x1004, 0x1003, 0]),
        (abi::H_PUT_TCE, [LIOBN, 0, 0x1013, 0]),
        (abi::H_PUT_TCE, [LIOBN, 0, 0x40_0003, 0]),
        (abi::H_PUT_TCE, [LIOBN, 0, u64::MAX, 0]),
        (abi::H_STUFF_TCE, [LIOBN, 0, 0x1001, 1]),
        (abi::H_STUFF_TCE, [LIOBN, 0x1000, 0, 1024]),
        (abi::H_STUFF_TCE, [LIOBN, 0x1000, 0, u64::MAX]),
        (abi::H_PUT_TCE_INDIRECT, [LIOBN, 0, LIST, 513]),
        (abi::H_PUT_TCE_INDIRECT, [LIOBN, 0, LIST + 8, 1]),
        (abi::H_PUT_TCE_INDIRECT, [LIOBN, 0, 0x40_0000, 1]),
        (abi::H_PUT_TCE_INDIRECT, [LIOBN, 0x3f_f000, LIST, 2]),
        (
            abi::H_PUT_TCE_INDIRECT,
            [LIOBN, 0, 0xffff_ffff_ffff_f000, 512],
        ),
        (abi::H_PUT_TCE_INDIRECT, [LIOBN, 0, LIST, u64::MAX]),
        (abi::H_GET_TCE, [LIOBN, 0x40_0000, 0, 0]),
    ] {
        assert_eq!(
            engine.call(call, &arguments),
            PARAMETER,
            "{call:#x} {arguments:#x?}"
        );
    }
    assert_eq!(engine.put_list(0, &[0x2003, 0x3003, 0x40_0003]), PARAMETER);
    assert_eq!((engine.get(0x1000), engine.fake().calls()), (0x1003, calls));
}

#[test]
fn a_refused_region_is_out_of_resources_and_works_once_the_limit_is_raised() {
    let engine = lazy();
    engine.fake().inject(Fault {
        after: 0,
        error: ENOMEM,
        leaves_traces: false,
    });
    assert_eq!(engine.put(0, 0x1003), EXHAUSTED);
    assert_eq!((engine.get(0), engine.live()), (0, 0));
    let locked = engine.snapshot().locked;
    assert_eq!((locked.bytes, locked.refusals), (0, 1));
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(engine.snapshot().locked.bytes, MIB);
}

#[test]
fn a_refused_window_stays_unlocked_and_can_be_had_later_but_without_the_kernel() {
    let engine = unprepared(ContainerVersion::V2, TcePolicy::Auto, LockPolicy::FirstMap);
    let refuse = |after| {
        engine.fake().inject(Fault {
            after,
            error: ENOMEM,
            leaves_traces: false,
        });
    };
    refuse(0);
    engine.prepare().unwrap();
    assert_eq!(engine.state(), WindowState::Unlocked);
    refuse(0);
    assert_eq!(engine.put(0, 0x1003), EXHAUSTED);
    assert_eq!(engine.state(), WindowState::Unlocked);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    // Other processors may be making calls for it.
    assert_eq!(engine.state(), WindowState::UserOnly(BindRefusal::InUse));
}

#[test]
fn a_refused_binding_leaves_the_window_to_user_space() {
    let engine = unprepared(ContainerVersion::V2, TcePolicy::Auto, LockPolicy::FirstMap);
    engine.fake().inject(Fault {
        after: 1,
        error: HostError::Refused(22),
        leaves_traces: false,
    });
    engine.prepare().unwrap();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(
        engine.state(),
        WindowState::UserOnly(BindRefusal::SetSpaprTceRefused(22))
    );
    assert_eq!((engine.get(0), engine.live()), (0x1003, 1));
}

#[test]
fn a_failed_map_leaves_no_entry_of_its_call_mapped() {
    let engine = lazy();
    assert_eq!(engine.put_list(0, &contiguous(0, 4)), SUCCESS);
    for (error, traces) in [(ENOMEM, false), (HostError::Refused(14), true)] {
        assert_eq!(engine.put_list(0x5000, &contiguous(0x8000, 1)), SUCCESS);
        // The second of two runs fails.
        engine.fake().inject(Fault {
            after: 1,
            error,
            leaves_traces: traces,
        });
        assert_eq!(
            engine.put_list(0x4000, &[0x9003, 0x8003, 0xb003]),
            EXHAUSTED
        );
        assert_eq!(
            [0x4000, 0x5000, 0x6000].map(|ioba| engine.get(ioba)),
            [0; 3]
        );
        assert_eq!((engine.get(0x3000), engine.live()), (0x3003, 4));
    }
}

#[test]
fn a_refused_unmap_is_a_hardware_error_and_the_view_keeps_the_entry() {
    let engine = lazy();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    engine.fake().inject(Fault {
        after: 0,
        error: ENOMEM,
        leaves_traces: false,
    });
    assert_eq!(engine.stuff(0, 2), ReturnCode::HARDWARE);
    assert_eq!((engine.get(0), engine.live()), (0x1003, 1));
    assert_eq!(engine.counters().unmap_failures, 1);
    assert_eq!(engine.put(0, 0), SUCCESS);
    assert_eq!((engine.get(0), engine.live()), (0, 0));
}

#[test]
fn impossible_windows_are_refused_by_name() {
    let engine = lazy();
    let at = |shift, entries| Geometry {
        bus_offset: Ioba(1 << 59),
        page_shift: PageShift::new(shift).unwrap(),
        entries,
    };
    let second = Liobn(0x8000_0001);
    let error = engine.add_window(second, at(21, 16)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "DMA window pages of 2 MiB are larger than 1 MiB, the most that guest RAM allows"
    );
    assert!(matches!(
        engine.add_window(second, at(12, 0)),
        Err(WindowError::BadGeometry(_))
    ));
    let occupied = engine.add_window(Liobn(0x8000_0000), at(12, 16));
    assert_eq!(occupied, Err(WindowError::Occupied(Liobn(0x8000_0000))));
    let unknown = engine.add_window(Liobn(0x8000_0100), at(12, 16));
    assert_eq!(unknown, Err(WindowError::UnknownLiobn(Liobn(0x8000_0100))));
    let calls = engine.fake().calls();
    let make = |liobn, entries| {
        let page = PageShift::SIZE_4K;
        let made = engine.make_window(Liobn(liobn), page, entries);
        made.expect_err("a window that makes no sense")
    };
    assert!(matches!(make(second.0, 0), WindowError::BadGeometry(_)));
    assert!(matches!(make(0x8000_0000, 16), WindowError::Occupied(_)));
    let unknown = make(0x8000_0100, 16);
    assert!(matches!(unknown, WindowError::UnknownLiobn(_)));
    assert_eq!(engine.fake().calls(), calls, "the host is not asked");
    assert_eq!(
        engine.remove_window(second),
        Err(WindowError::NoWindow(second))
    );
}

#[test]
fn a_window_that_the_host_puts_where_none_can_be_is_removed_again() {
    let engine = lazy();
    let second = Liobn(0x8000_0001);
    let make = |start| {
        engine.fake().put_windows_at(Ioba(start));
        engine.make_window(second, PageShift::SIZE_64K, 16)
    };
    for start in [(1 << 59) + 0x1000, u64::MAX << 16] {
        assert!(matches!(make(start), Err(WindowError::BadGeometry(_))));
        assert_eq!(engine.fake().hardware(Ioba(start)), None);
    }
    assert_eq!(make(1 << 40).unwrap().bus_offset, Ioba(1 << 40));
    engine.assert_no_violation();
}

#[test]
fn a_range_ends_where_its_window_ends_whatever_the_bridges_number() {
    let ram = [piece(0, 4 * MIB)];
    for number in [1, 5, 30, 255] {
        let memory = FakeMemory::new(ram.to_vec(), GuestPhysicalAddress(LIST), 1);
        memory.write_list(GuestPhysicalAddress(LIST), &[0x1003, 0x2003]);
        let bridge = HostBridge {
            number,
            host: FakeHost::new(ContainerVersion::V2),
            default_window: Geometry {
                bus_offset: Ioba(0),
                page_shift: PageShift::SIZE_4K,
                entries: 16,
            },
        };
        let engine = Engine::new(memory, &ram, Policy::default(), vec![bridge]).unwrap();
        let liobn = LIOBN | u64::from(number) << 8;
        for (call, ioba, argument, count, code) in [
            (abi::H_PUT_TCE, 0xf000, 0x1003, 0, SUCCESS),
            (abi::H_PUT_TCE, 0x1_0000, 0x1003, 0, PARAMETER),
            (abi::H_STUFF_TCE, 0xf000, 0, 1, SUCCESS),
            (abi::H_STUFF_TCE, 0xf000, 0, 2, PARAMETER),
            (abi::H_PUT_TCE_INDIRECT, 0xe000, LIST, 2, SUCCESS),
            (abi::H_PUT_TCE_INDIRECT, 0xf000, LIST, 2, PARAMETER),
        ] {
            let answer = engine.call(call, &[liobn, ioba, argument, count]);
            assert_eq!(answer, code, "{call:#x} {ioba:#x} behind {number}");
            let other = engine.call(call, &[LIOBN, ioba, argument, count]);
            assert_eq!(
                other, PARAMETER,
                "{call:#x} behind a bridge that is not there"
            );
        }
    }
}

#[test]
fn machines_that_make_no_sense_are_refused() {
    let window = |entries| Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries,
    };
    let make = |ram: &[GuestRange], numbers: &[u8], entries| {
        let memory = FakeMemory::new(vec![piece(0, 8 * MIB)], GuestPhysicalAddress(0), 0);
        let bridges = numbers.iter().map(|&number| HostBridge {
            number,
            host: FakeHost::new(ContainerVersion::V2),
            default_window: window(entries),
        });
        Engine::new(memory, ram, Policy::default(), bridges.collect()).err()
    };
    let ram = [piece(0, MIB)];
    assert_eq!(make(&ram, &[1, 1], 16), Some(EngineError::SameNumber(1)));
    assert!(matches!(
        make(&ram, &[1], 0),
        Some(EngineError::DefaultWindow { number: 1, .. })
    ));
    let overlap = [piece(MIB, MIB), piece(0x18_0000, MIB)];
    let unsorted = RamError::Unsorted(GuestPhysicalAddress(0x18_0000));
    assert_eq!(make(&overlap, &[], 0), Some(EngineError::Ram(unsorted)));
    let missing = RamError::NoMemory(GuestPhysicalAddress(8 * MIB));
    assert_eq!(
        make(&[piece(0, 9 * MIB)], &[], 0),
        Some(EngineError::Ram(missing))
    );
    assert!(matches!(
        make(&[piece(8, 4096)], &[], 0),
        Some(EngineError::Ram(RamError::BadPiece { .. }))
    ));
}
