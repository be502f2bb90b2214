//! Regions that are not present are locked block by block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::world::HostRange;

/// Regions of 1 MiB in blocks of a quarter.
const BLOCK: u64 = MIB / 4;

struct Machine {
    engine: TestEngine,
    wakes: Arc<AtomicU64>,
}

fn machine(lock: LockPolicy) -> Machine {
    machine_with_blocks(lock, BLOCK)
}

fn machine_with_blocks(lock: LockPolicy, block_bytes: u64) -> Machine {
    machine_of(Policy {
        lock,
        region: RegionSize::new(MIB),
        block: RegionSize::new(block_bytes),
        ..Policy::default()
    })
}

fn machine_of(policy: Policy) -> Machine {
    let ram = vec![piece(0, 4 * MIB)];
    let memory = FakeMemory::new(ram.clone(), GuestPhysicalAddress(LIST), 4);
    let bridge = HostBridge {
        number: 0,
        host: FakeHost::new(ContainerVersion::V2),
        default_window: Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::SIZE_4K,
            entries: 1024,
        },
    };
    let wakes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&wakes);
    let engine = Engine::new(memory, &ram, policy, vec![bridge]).unwrap();
    let engine = engine.with_populator(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    engine.prepare().unwrap();
    Machine { engine, wakes }
}

impl Machine {
    fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// What is registered, as offsets in guest memory and lengths, in blocks.
    fn pieces(&self) -> Vec<(u64, u64)> {
        let start = self.engine.memory.host_range(GuestPhysicalAddress(0));
        let start = start.unwrap().start.0;
        let registered = self.engine.fake().registered();
        let blocks = |range: &HostRange| ((range.start.0 - start) / BLOCK, range.bytes / BLOCK);
        registered.iter().map(blocks).collect()
    }

    fn map(&self, block: u64) {
        assert_eq!(self.engine.put(0, (block * BLOCK) | 3), SUCCESS);
    }
}

#[test]
fn memory_that_the_host_will_hold_is_settled_before_unless_it_is_locked() {
    let engine = lazy();
    let settled = |address, bytes| {
        let before = engine.fake().settled().len();
        engine.settle(GuestPhysicalAddress(address), bytes);
        let ranges = engine.fake().settled().split_off(before);
        let start = engine
            .memory
            .host_range(GuestPhysicalAddress(0))
            .unwrap()
            .start
            .0;
        let ranges = ranges
            .iter()
            .map(|range| (range.start.0 - start, range.bytes));
        ranges.collect::<Vec<_>>()
    };
    assert_eq!(settled(MIB + 0x1280, 640), [(MIB + 0x1280, 640)]);
    // Over the end of a block, and of RAM.
    let two = [(2 * MIB - 0x1000, 0x1000), (2 * MIB, 0x3000)];
    assert_eq!(settled(2 * MIB - 0x1000, 0x4000), two);
    assert_eq!(settled(4 * MIB - 8, u64::MAX), [(4 * MIB - 8, 8)]);
    assert_eq!(settled(1 << 40, 64), []);
    assert_eq!(engine.put(0, MIB + 0x1003), SUCCESS);
    assert_eq!(settled(MIB + 0x1280, 640), []);
    engine.assert_no_violation();
}

#[test]
fn of_a_region_that_is_not_present_one_block_is_locked_and_the_rest_made_present() {
    let machine = machine(LockPolicy::FirstMap);
    machine.map(5);
    assert_eq!((machine.pieces(), machine.wakes()), (vec![(5, 1)], 1));
    assert_eq!(machine.engine.snapshot().locked.bytes, BLOCK);
    // The other three of its region, and no more.
    assert_eq!((0..9).filter(|_| machine.engine.populate_some()).count(), 3);
    // Present is not locked, and is locked as one.
    assert_eq!(machine.pieces(), [(5, 1)]);
    machine.map(6);
    assert_eq!(machine.pieces(), [(5, 1), (6, 2)]);
    machine.map(4);
    assert_eq!(machine.pieces(), [(5, 1), (6, 2), (4, 1)]);
    assert_eq!(machine.wakes(), 1);
    assert_eq!(machine.engine.snapshot().locked.registrations, 3);
}

#[test]
fn a_guest_that_is_ahead_of_the_thread_locks_block_by_block() {
    let machine = machine(LockPolicy::FirstMap);
    for block in 0..4 {
        machine.map(block);
    }
    assert_eq!(machine.pieces(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    machine.engine.reset_windows().unwrap();
    assert_eq!(
        (machine.pieces(), machine.engine.snapshot().locked.bytes),
        (vec![], 0)
    );
    // What was there stays there.
    machine.map(2);
    assert_eq!(machine.pieces(), [(0, 4)]);
}

#[test]
fn a_list_over_blocks_locks_each_and_maps_them_in_one_request_each() {
    let machine = machine(LockPolicy::FirstMap);
    let list = contiguous(BLOCK - 0x2000, 4);
    assert_eq!(machine.engine.put_list(0, &list), SUCCESS);
    assert_eq!(machine.pieces(), [(0, 1), (1, 1)]);
    assert_eq!(machine.engine.counters().map_calls, 2);
}

#[test]
fn a_page_that_cannot_be_locked_costs_its_block_and_not_the_region() {
    let machine = machine(LockPolicy::FirstMap);
    machine.map(0);
    while machine.engine.populate_some() {}
    let refuse = || {
        machine.engine.fake().inject(Fault {
            after: 0,
            error: ENOMEM,
            leaves_traces: false,
        });
    };
    refuse();
    machine.map(2);
    assert_eq!(machine.pieces(), [(0, 1), (2, 1)]);
    assert_eq!(machine.engine.snapshot().locked.refusals, 1);
    // Nor can the block itself be: the guest is told, and may try again.
    refuse();
    assert_eq!(machine.engine.put(0, BLOCK | 3), EXHAUSTED);
    assert_eq!(machine.engine.snapshot().locked.refusals, 2);
    assert_eq!(machine.engine.put(0, BLOCK | 3), SUCCESS);
}

#[test]
fn locking_at_attach_takes_whole_regions() {
    let machine = machine(LockPolicy::Attach);
    assert_eq!(machine.pieces(), [(0, 4), (4, 4), (8, 4), (12, 4)]);
    assert_eq!(machine.engine.snapshot().locked.regions, 4);
}

/// Blocks of a region of 1 MiB, of which there are more than pieces may be.
const SMALL: u64 = 0x1_0000;

#[test]
fn however_a_guest_maps_a_region_is_in_few_pieces() {
    let machine = machine_with_blocks(LockPolicy::FirstMap, SMALL);
    // From high to low, which is never the next of what is locked; the thread never gets a turn.
    for block in (0..16).rev().step_by(2) {
        assert_eq!(machine.engine.put(0, (block * SMALL) | 3), SUCCESS);
    }
    let registered = machine.engine.fake().registered();
    assert!(registered.len() <= 9, "{registered:x?}");
    machine.engine.assert_no_violation();
}

#[test]
fn a_processor_does_not_wait_for_one_that_locks_memory() {
    let machine = machine(LockPolicy::FirstMap);
    // Somebody registers.
    let busy = machine
        .engine
        .regions
        .pieces_within(Duration::ZERO)
        .unwrap();
    let mut arguments = [LIOBN, 0, 3, 0, 0, 0, 0, 0, 0];
    let call = |arguments: &mut _| machine.engine.handle(abi::H_PUT_TCE, arguments);
    let before = machine.engine.snapshot();
    assert_eq!(call(&mut arguments), Some(Answer::MakeAgain));
    assert_eq!(machine.pieces(), []);
    drop(busy);
    assert_eq!(call(&mut arguments), Some(Answer::MakeAgain));
    assert_eq!(machine.pieces(), [(0, 1)]);
    // What was not carried out is not counted.
    assert_eq!(
        machine.engine.snapshot().windows[0].counters,
        before.windows[0].counters
    );
    assert_eq!(call(&mut arguments), Some(Answer::Code(SUCCESS)));
    assert_eq!(machine.engine.counters().put, 1);
}

#[test]
fn with_lists_in_the_kernel_memory_is_one_piece_and_no_call_makes_more_than_a_block_present() {
    let machine = machine_of(Policy {
        tce: TcePolicy::Kernel,
        region: RegionSize::new(4 * MIB),
        block: RegionSize::new(BLOCK),
        ..Policy::default()
    });
    let mut arguments = [LIOBN, 0, 3, 0, 0, 0, 0, 0, 0];
    let mut calls = 0;
    while machine.engine.handle(abi::H_PUT_TCE, &mut arguments) == Some(Answer::MakeAgain) {
        calls += 1;
        let pieces = machine.pieces();
        // One for each of its 16 blocks, and one that locks.
        assert_eq!(pieces.len(), usize::from(calls == 17), "{pieces:?}");
    }
    assert_eq!((calls, machine.pieces()), (17, vec![(0, 16)]));
}
