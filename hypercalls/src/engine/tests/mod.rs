//! The engine against models of the world: single cases here, random sequences in `model`,
//! several processors in `concurrent`.

mod bulk;
mod concurrent;
mod locking;
mod model;

use super::*;
use crate::address::{Liobn, PageShift};
use crate::locking::RegionSize;
use crate::policy::{LockPolicy, TcePolicy};
use crate::stats::{Counters, WindowState};
use crate::testing::{ContainerVersion, FakeHost, FakeMemory, Fault};
use crate::world::{BindRefusal, HostError};

const MIB: u64 = 1 << 20;
const LIST: u64 = 0x10000;
const SUCCESS: ReturnCode = ReturnCode::SUCCESS;
const PARAMETER: ReturnCode = ReturnCode::PARAMETER;
const EXHAUSTED: ReturnCode = ReturnCode::NOT_ENOUGH_RESOURCES;
const ENOMEM: HostError = HostError::OutOfResources(12);

pub(super) type TestEngine = Engine<FakeMemory, FakeHost>;

fn piece(start: u64, bytes: u64) -> GuestRange {
    GuestRange {
        start: GuestPhysicalAddress(start),
        bytes,
    }
}

/// An engine as a guest finds it, but that locking at attach is left to the test.
fn engine(version: ContainerVersion, tce: TcePolicy, lock: LockPolicy) -> TestEngine {
    let engine = unprepared(version, tce, lock);
    if lock == LockPolicy::FirstMap {
        engine.prepare().unwrap();
    }
    engine
}

/// 4 MiB of RAM in regions of 1 MiB, one bridge with a default window of 1,024 pages of 4 KiB.
fn unprepared(version: ContainerVersion, tce: TcePolicy, lock: LockPolicy) -> TestEngine {
    let ram = vec![piece(0, 4 * MIB)];
    let memory = FakeMemory::new(ram.clone(), GuestPhysicalAddress(LIST), 4);
    let default_window = Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries: 1024,
    };
    let bridge = HostBridge {
        number: 0,
        host: FakeHost::new(version),
        default_window,
    };
    let policy = Policy {
        tce,
        lock,
        region: RegionSize::new(MIB),
        block: None,
    };
    Engine::new(memory, &ram, policy, vec![bridge]).unwrap()
}

fn lazy() -> TestEngine {
    engine(ContainerVersion::V2, TcePolicy::Auto, LockPolicy::FirstMap)
}

const LIOBN: u64 = 0x8000_0000;

impl TestEngine {
    fn call(&self, number: u64, arguments: &[u64]) -> ReturnCode {
        let mut registers = [0; 9];
        registers[..arguments.len()].copy_from_slice(arguments);
        // A list is made again for each piece of memory that it has locked.
        for _ in 0..8 {
            match self.handle(number, &mut registers) {
                Some(Answer::Code(code)) => return code,
                Some(Answer::MakeAgain) => {}
                None => panic!("{number:#x} is not answered"),
            }
        }
        panic!("{number:#x} is made again and again");
    }

    fn put(&self, ioba: u64, tce: u64) -> ReturnCode {
        self.call(abi::H_PUT_TCE, &[LIOBN, ioba, tce])
    }

    fn put_list(&self, ioba: u64, list: &[u64]) -> ReturnCode {
        self.memory.write_list(GuestPhysicalAddress(LIST), list);
        self.call(
            abi::H_PUT_TCE_INDIRECT,
            &[LIOBN, ioba, LIST, list.len() as u64],
        )
    }

    fn stuff(&self, ioba: u64, count: u64) -> ReturnCode {
        self.call(abi::H_STUFF_TCE, &[LIOBN, ioba, 0, count])
    }

    fn get(&self, ioba: u64) -> u64 {
        let mut registers = [LIOBN, ioba, 0, 0, 0, 0, 0, 0, 0];
        let answer = self.handle(abi::H_GET_TCE, &mut registers);
        assert_eq!(answer, Some(Answer::Code(SUCCESS)));
        registers[0]
    }

    fn counters(&self) -> Counters {
        self.snapshot().windows[0].counters
    }

    fn state(&self) -> WindowState {
        self.snapshot().windows[0].state
    }

    fn fake(&self) -> &FakeHost {
        self.host(0).unwrap()
    }

    fn live(&self) -> usize {
        self.fake()
            .hardware(Ioba(0))
            .unwrap_or_default()
            .iter()
            .flatten()
            .count()
    }
}

fn contiguous(start: u64, count: u64) -> Vec<u64> {
    (0..count).map(|page| (start + page * 4096) | 3).collect()
}

#[test]
fn other_hypercalls_are_left_alone() {
    assert_eq!(lazy().handle(abi::H_SET_MODE, &mut [0; 9]), None);
}

#[test]
fn what_cannot_be_bound_is_not_made_at_the_host_before_the_first_entry_is_written() {
    for (version, tce) in [
        (ContainerVersion::V2, TcePolicy::User),
        (ContainerVersion::V1, TcePolicy::Auto),
    ] {
        nothing_is_made_before_the_first_entry(&engine(version, tce, LockPolicy::FirstMap));
    }
}

fn nothing_is_made_before_the_first_entry(engine: &TestEngine) {
    assert_eq!(engine.put(0, 0), SUCCESS);
    assert_eq!(engine.stuff(0, 1024), SUCCESS);
    assert_eq!(engine.put_list(0, &[0; 512]), SUCCESS);
    assert_eq!(engine.get(0), 0);
    assert_eq!(engine.put(1, 0), PARAMETER);
    assert_eq!(
        (engine.fake().calls(), engine.state()),
        (0, WindowState::Unlocked)
    );
}

#[test]
fn a_window_is_bound_before_the_guest_runs_and_the_first_entry_locks_one_region() {
    let engine = lazy();
    assert_eq!(engine.state(), WindowState::Bound);
    assert_eq!(engine.snapshot().locked.bytes, 0);
    assert_eq!(engine.fake().registered(), []);
    assert_eq!(engine.put(0x3000, 0x12_3003), SUCCESS);
    assert_eq!(engine.get(0x3000), 0x12_3003);
    assert_eq!(engine.snapshot().locked.bytes, MIB);
    // Window, table, region, map.
    assert_eq!(engine.fake().calls(), 4);
}

#[test]
fn a_contiguous_list_is_one_map_and_a_stuff_is_one_unmap() {
    let engine = lazy();
    assert_eq!(engine.put_list(0x1000, &contiguous(MIB, 256)), SUCCESS);
    assert_eq!(engine.counters().map_calls, 1);
    assert_eq!(engine.stuff(0, 512), SUCCESS);
    assert_eq!(engine.counters().unmap_calls, 1);
    assert_eq!(engine.live(), 0);
}

#[test]
fn runs_end_with_a_region_with_the_order_and_with_the_permission() {
    let engine = lazy();
    assert_eq!(engine.put_list(0, &contiguous(MIB - 0x2000, 4)), SUCCESS);
    assert_eq!(engine.counters().map_calls, 2);
    assert_eq!(
        engine.put_list(0, &[0x5003, 0x4003, 0x5001, 0x6001, 0, 0, 0x7001]),
        SUCCESS
    );
    assert_eq!(engine.counters().map_calls, 2 + 4);
}

#[test]
fn clearing_what_is_clear_asks_nothing_of_the_host_where_user_space_alone_maps() {
    let engine = engine(ContainerVersion::V2, TcePolicy::User, LockPolicy::FirstMap);
    assert_eq!(engine.put(0x3000, 0x1003), SUCCESS);
    let calls = engine.fake().calls();
    assert_eq!(engine.stuff(0x4000, 512), SUCCESS);
    assert_eq!(engine.put(0, 0), SUCCESS);
    assert_eq!(engine.fake().calls(), calls);
}

#[test]
fn an_entry_without_permission_is_stored_as_it_is_and_maps_nothing() {
    let engine = lazy();
    assert_eq!(engine.put(0, 0xdead_beef_0000_0004), SUCCESS);
    assert_eq!(engine.get(0), 0xdead_beef_0000_0004);
    assert_eq!(
        engine.call(abi::H_STUFF_TCE, &[LIOBN, 0x1000, 0x0bad_0000, 3]),
        SUCCESS
    );
    assert_eq!((engine.get(0x3000), engine.get(0x4000)), (0x0bad_0000, 0));
    assert_eq!((engine.live(), engine.snapshot().locked.bytes), (0, 0));
}

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
fn a_v1_container_is_served_from_user_space_and_registers_nothing() {
    let engine = engine(
        ContainerVersion::V1,
        TcePolicy::Kernel,
        LockPolicy::FirstMap,
    );
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(
        engine.state(),
        WindowState::UserOnly(BindRefusal::ContainerV1)
    );
    engine.reset_windows().unwrap();
    assert!(
        engine.fake().violations().is_empty(),
        "{:?}",
        engine.fake().violations()
    );
}

#[test]
fn the_user_policy_asks_for_no_kernel_table() {
    let engine = engine(ContainerVersion::V2, TcePolicy::User, LockPolicy::FirstMap);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(engine.state(), WindowState::UserOnly(BindRefusal::NotAsked));
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
fn locking_at_attach_locks_everything_or_nothing() {
    let engine = engine(ContainerVersion::V2, TcePolicy::Auto, LockPolicy::Attach);
    engine.fake().inject(Fault {
        after: 4,
        error: ENOMEM,
        leaves_traces: false,
    });
    let error = engine.prepare().unwrap_err();
    assert_eq!(
        error,
        WindowError::Lock {
            liobn: Liobn(0x8000_0000),
            source: ENOMEM
        }
    );
    assert_eq!(
        (engine.snapshot().locked.bytes, engine.state()),
        (0, WindowState::Unlocked)
    );

    engine.prepare().unwrap();
    assert_eq!(
        (engine.snapshot().locked.bytes, engine.state()),
        (4 * MIB, WindowState::Bound)
    );
    let calls = engine.fake().calls();
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(engine.fake().calls(), calls + 1);
}

#[test]
fn a_reset_unmaps_and_unlocks_all_and_puts_the_default_window_back() {
    let engine = lazy();
    let dynamic = Geometry {
        bus_offset: Ioba(1 << 59),
        page_shift: PageShift::SIZE_64K,
        entries: 64,
    };
    engine.add_window(Liobn(0x8000_0001), dynamic).unwrap();
    assert_eq!(
        engine.activate(Liobn(0x8000_0001), Use::NotYet),
        Ok(WindowState::Bound)
    );
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
    assert!(
        engine.fake().violations().is_empty(),
        "{:?}",
        engine.fake().violations()
    );
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
    assert!(
        engine.fake().violations().is_empty(),
        "{:?}",
        engine.fake().violations()
    );
}

#[test]
fn memory_stays_locked_until_the_machine_is_reset() {
    let engine = lazy();
    let dynamic = Geometry {
        bus_offset: Ioba(1 << 59),
        page_shift: PageShift::SIZE_64K,
        entries: 64,
    };
    engine.add_window(Liobn(0x8000_0001), dynamic).unwrap();
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
    assert_eq!(engine.fake().violations(), Vec::<String>::new());
}

/// To lock all of it at once would keep the processor for too long.
#[test]
fn a_list_all_over_memory_is_made_again_until_all_of_it_is_locked() {
    let engine = lazy();
    let list = [0x3, 0x10_0003, 0x20_0003, 0x30_0003];
    engine.memory.write_list(GuestPhysicalAddress(LIST), &list);
    let call = [LIOBN, 0, LIST, list.len() as u64, 0, 0, 0, 0, 0];
    let mut registers = call;
    for pieces in 1..list.len() as u64 {
        let answer = engine.handle(abi::H_PUT_TCE_INDIRECT, &mut registers);
        assert_eq!(answer, Some(Answer::MakeAgain));
        assert_eq!(registers, call);
        assert_eq!(engine.snapshot().locked.bytes, pieces * MIB);
        assert_eq!((engine.live(), engine.counters().put_indirect), (0, 0));
    }
    let answer = engine.handle(abi::H_PUT_TCE_INDIRECT, &mut registers);
    assert_eq!(answer, Some(Answer::Code(SUCCESS)));
    assert_eq!((engine.live(), engine.counters().put_indirect), (4, 1));
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
    assert_eq!(
        engine.remove_window(second),
        Err(WindowError::NoWindow(second))
    );
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
