//! The engine against models of the world: single cases here, random sequences in `model`,
//! several processors in `concurrent`.

mod bulk;
mod concurrent;
mod locking;
mod model;
mod refusals;
mod resets;
mod translations;

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
    with(tce, lock, bridge)
}

/// 4 MiB of RAM in regions of 1 MiB, and one bridge.
fn with(tce: TcePolicy, lock: LockPolicy, bridge: HostBridge<FakeHost>) -> TestEngine {
    let ram = vec![piece(0, 4 * MIB)];
    let memory = FakeMemory::new(ram.clone(), GuestPhysicalAddress(LIST), 4);
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
        // A call is made again for each piece of memory that is locked or made present for it.
        for _ in 0..32 {
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

    /// Fails if the host was asked for what no host may be asked for.
    #[track_caller]
    fn assert_no_violation(&self) {
        assert_eq!(self.fake().violations(), Vec::<String>::new());
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
    engine.assert_no_violation();
}

#[test]
fn the_user_policy_asks_for_no_kernel_table() {
    let engine = engine(ContainerVersion::V2, TcePolicy::User, LockPolicy::FirstMap);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_eq!(engine.state(), WindowState::UserOnly(BindRefusal::NotAsked));
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

/// To lock all of it at once would keep the processor for too long.
#[test]
fn a_list_all_over_memory_is_made_again_until_all_of_it_is_locked() {
    let engine = lazy();
    let list = [0x3, 0x10_0003, 0x20_0003, 0x30_0003];
    engine.memory.write_list(GuestPhysicalAddress(LIST), &list);
    let call = [LIOBN, 0, LIST, list.len() as u64, 0, 0, 0, 0, 0];
    let mut registers = call;
    for pieces in 1..=list.len() as u64 {
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
