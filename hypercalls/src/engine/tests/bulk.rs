//! Lists are handed over to the kernel's handler and taken back; other bulk calls are not.

use super::*;
use crate::testing::FakeHandlers;
use crate::world::BulkCall;

const LIST_CALL: BulkCall = BulkCall::PutIndirect;

fn adaptive(version: ContainerVersion, tce: TcePolicy) -> (TestEngine, FakeHandlers) {
    let handlers = FakeHandlers::default();
    let engine = engine(version, tce, LockPolicy::FirstMap);
    (engine.with_kernel_handlers(handlers.clone()), handlers)
}

/// 512 entries of which no two follow each other, in one region.
fn scattered() -> Vec<u64> {
    (0..512).map(|page| ((page * 5 % 128) << 12) | 3).collect()
}

fn answer(engine: &TestEngine, list: &[u64]) -> Answer {
    engine.memory.write_list(GuestPhysicalAddress(LIST), list);
    let mut registers = [LIOBN, 0, LIST, list.len() as u64, 0, 0, 0, 0, 0];
    let before = registers;
    let answer = engine.handle(abi::H_PUT_TCE_INDIRECT, &mut registers);
    assert_eq!(registers, before);
    answer.unwrap()
}

/// Scattered lists, until the kernel has to do one.
fn until_made_again(engine: &TestEngine) {
    for _ in 0..100 {
        if answer(engine, &scattered()) == Answer::MakeAgain {
            return;
        }
    }
    panic!("the kernel is never asked");
}

/// The window of 16,384 pages, all of which lead to one page, and a call that clears from its entry 1 on.
fn full_window(tce: TcePolicy) -> (TestEngine, [u64; 9]) {
    let bridge = HostBridge {
        number: 0,
        host: FakeHost::new(ContainerVersion::V2),
        default_window: Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::SIZE_4K,
            entries: 16384,
        },
    };
    let engine = with(tce, LockPolicy::FirstMap, bridge);
    engine.prepare().unwrap();
    for first in (0..16384).step_by(512) {
        assert_eq!(engine.put_list(first << 12, &[0x1003; 512]), SUCCESS);
    }
    assert_eq!(engine.live(), 16384);
    (engine, [LIOBN, 4096, 0, 16383, 0, 0, 0, 0, 0])
}

#[test]
fn a_long_range_is_cleared_in_parts_and_the_call_made_again_for_the_rest() {
    for tce in [TcePolicy::Auto, TcePolicy::User] {
        let (engine, mut registers) = full_window(tce);
        for part in 1..=3u64 {
            let answer = engine.handle(abi::H_STUFF_TCE, &mut registers);
            assert_eq!(answer, Some(Answer::MakeAgain));
            let (start, rest) = (4096 + (part << 24), 16383 - part * 4096);
            assert_eq!(registers[..4], [LIOBN, start, 0, rest]);
            assert_eq!(engine.live() as u64, rest + 1);
        }
        let answer = engine.handle(abi::H_STUFF_TCE, &mut registers);
        assert_eq!(answer, Some(Answer::Code(SUCCESS)));
        assert_eq!((engine.live(), engine.get(0)), (1, 0x1003));
        engine.assert_no_violation();
    }
}

/// Such a window may lie inside one of the host's with pages of 4 KiB: the host clears sixteen entries for each.
#[test]
fn of_larger_pages_that_the_kernel_does_not_serve_fewer_entries_are_cleared_at_once() {
    let bridge = HostBridge {
        number: 0,
        host: FakeHost::new(ContainerVersion::V2),
        default_window: Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::SIZE_64K,
            entries: 1024,
        },
    };
    let engine = with(TcePolicy::User, LockPolicy::FirstMap, bridge);
    engine.prepare().unwrap();
    for first in [0, 512] {
        assert_eq!(engine.put_list(first << 16, &[0x3; 512]), SUCCESS);
    }
    let mut registers = [LIOBN, 0, 0, 1024, 0, 0, 0, 0, 0];
    let answer = engine.handle(abi::H_STUFF_TCE, &mut registers);
    assert_eq!(answer, Some(Answer::MakeAgain));
    assert_eq!(registers[..4], [LIOBN, 512 << 16, 0, 512]);
    assert_eq!(engine.live(), 512);
    engine.assert_no_violation();
}

#[test]
fn of_a_long_range_that_ends_beyond_the_window_nothing_is_cleared() {
    let (engine, mut registers) = full_window(TcePolicy::Auto);
    registers[3] = 16384;
    let before = registers;
    let answer = engine.handle(abi::H_STUFF_TCE, &mut registers);
    assert_eq!(answer, Some(Answer::Code(PARAMETER)));
    assert_eq!((registers, engine.live()), (before, 16384));
    // Nor if the value has permission.
    (registers[2], registers[3]) = (3, 16383);
    let answer = engine.handle(abi::H_STUFF_TCE, &mut registers);
    assert_eq!(answer, Some(Answer::Code(PARAMETER)));
    assert_eq!(engine.live(), 16384);
}

#[test]
fn a_scattered_list_is_made_again_and_nothing_is_done_here() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    assert_eq!(engine.put(0x8000, 0x1003), SUCCESS);
    let (calls, counters) = (engine.fake().calls(), engine.counters());
    until_made_again(&engine);
    assert!(handlers.is_in_kernel(LIST_CALL));
    assert_eq!(
        (engine.fake().calls(), engine.counters()),
        (calls, counters)
    );
    assert_eq!(engine.get(0x8000), 0x1003);
    // The kernel left it to us after all: it is served, whatever it costs.
    assert_eq!(answer(&engine, &scattered()), Answer::Code(SUCCESS));
    assert_eq!((engine.live(), handlers.requests()), (512, 1));
}

#[test]
fn lists_are_taken_back_when_due_and_not_before() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    until_made_again(&engine);
    engine.take_back_calls();
    assert!(handlers.is_in_kernel(LIST_CALL));
    assert!(handlers.sleep());
    engine.take_back_calls();
    assert!(!handlers.is_in_kernel(LIST_CALL));
    // Nothing is due, so nobody is woken.
    assert!(!handlers.sleep());
    assert_eq!(answer(&engine, &contiguous(0, 256)), Answer::Code(SUCCESS));
    let [lists, stuffs] = engine.snapshot().bulk_calls;
    assert_eq!((lists.handed_over, lists.taken_back), (1, 1));
    assert_eq!((lists.in_kernel, stuffs.handed_over), (false, 0));
}

#[test]
fn a_steady_load_is_looked_at_ever_more_seldom() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    let mut stays = Vec::new();
    for _ in 0..10 {
        until_made_again(&engine);
        let before = handlers.time();
        assert!(handlers.sleep());
        stays.push((handlers.time() - before).as_millis());
        engine.take_back_calls();
    }
    assert_eq!(stays, [1, 2, 4, 8, 16, 32, 64, 128, 128, 128]);
}

#[test]
fn stuffs_are_never_handed_over() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    for _ in 0..1_000 {
        assert_eq!(engine.put(0, 0x1003), SUCCESS);
        assert_eq!(engine.stuff(0, 1), SUCCESS);
        assert_eq!((engine.get(0), engine.live()), (0, 0));
    }
    assert_eq!(handlers.requests(), 0);
    assert!(!engine.snapshot().bulk_calls[1].in_kernel);
}

#[test]
fn without_a_kernel_that_checks_ranges_lists_are_never_handed_over() {
    let engine = engine(ContainerVersion::V2, TcePolicy::Auto, LockPolicy::FirstMap);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    for _ in 0..100 {
        assert_eq!(answer(&engine, &scattered()), Answer::Code(SUCCESS));
    }
    let [lists, _] = engine.snapshot().bulk_calls;
    assert_eq!((lists.in_kernel, lists.handed_over), (false, 0));
}

#[test]
fn calls_of_windows_that_the_kernel_does_not_serve_do_not_count() {
    let (engine, handlers) = adaptive(ContainerVersion::V1, TcePolicy::Auto);
    for _ in 0..100 {
        assert_eq!(answer(&engine, &scattered()), Answer::Code(SUCCESS));
        assert_eq!(engine.stuff(0, 1), SUCCESS);
    }
    assert_eq!(handlers.requests(), 0);
}

#[test]
fn what_the_kernel_would_get_wrong_or_could_not_do_stays_here() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    let mut with_hole = scattered();
    with_hole[100] = 0;
    let mut beyond = scattered();
    beyond[511] = 0x40_0003;
    for _ in 0..100 {
        assert_eq!(answer(&engine, &with_hole), Answer::Code(SUCCESS));
        assert_eq!(answer(&engine, &beyond), Answer::Code(PARAMETER));
    }
    assert_eq!(handlers.requests(), 0);
    // Not before the memory is registered that the list names.
    until_made_again(&engine);
    engine.assert_no_violation();
}

#[test]
fn a_kernel_that_refuses_is_asked_once_and_no_call_is_lost() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    handlers.refuse(true);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    for _ in 0..100 {
        assert_eq!(answer(&engine, &scattered()), Answer::Code(SUCCESS));
        assert_eq!(engine.stuff(0, 1), SUCCESS);
    }
    assert_eq!(handlers.requests(), 1);
    assert_eq!(engine.counters().put_indirect, 100);
    assert!(!engine.snapshot().bulk_calls[0].in_kernel);
}

#[test]
fn calls_that_cannot_be_taken_back_are_tried_again_later() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    until_made_again(&engine);
    handlers.refuse(true);
    assert!(handlers.sleep());
    engine.take_back_calls();
    assert!(engine.snapshot().bulk_calls[0].in_kernel);
    handlers.refuse(false);
    assert!(handlers.sleep());
    engine.take_back_calls();
    assert!(!handlers.is_in_kernel(LIST_CALL));
}

#[test]
fn forced_policies_ask_for_nothing() {
    for (tce, in_kernel) in [(TcePolicy::User, false), (TcePolicy::Kernel, true)] {
        let (engine, handlers) = adaptive(ContainerVersion::V2, tce);
        assert_eq!(engine.put(0, 0x1003), SUCCESS);
        for _ in 0..100 {
            assert_eq!(answer(&engine, &scattered()), Answer::Code(SUCCESS));
        }
        assert_eq!(handlers.requests(), 0);
        assert_eq!(engine.snapshot().bulk_calls[0].in_kernel, in_kernel);
    }
}

#[test]
fn several_processors_hand_over_once() {
    let (engine, handlers) = adaptive(ContainerVersion::V2, TcePolicy::Auto);
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    engine
        .memory
        .write_list(GuestPhysicalAddress(LIST), &scattered());
    let made_again = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let mut registers = [LIOBN, 0, LIST, 512, 0, 0, 0, 0, 0];
                    let answer = engine.handle(abi::H_PUT_TCE_INDIRECT, &mut registers);
                    if answer == Some(Answer::MakeAgain) {
                        made_again.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    // Those that were on their way when the first one handed over may have been sent back, too.
    assert!((1..=4).contains(&made_again.into_inner()));
    assert_eq!(handlers.requests(), 1);
}
