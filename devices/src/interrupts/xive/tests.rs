use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use spapr_hypercalls::abi::{self, Arguments, ReturnCode};

use super::fake::{FakeDevice, assert_told_as_done, fail_call};
use super::*;

const SERVERS: u32 = 4;
const RAM: u64 = 1 << 30;
const EDGE: Lisn = Lisn(0x1100);
const LSI: Lisn = Lisn(0x1200);

const SUCCESS: ReturnCode = ReturnCode::SUCCESS;
const PARAMETER: ReturnCode = ReturnCode::PARAMETER;
const P2: ReturnCode = ReturnCode::P2;
const P3: ReturnCode = ReturnCode::P3;
const P4: ReturnCode = ReturnCode::P4;
const P5: ReturnCode = ReturnCode::P5;

/// A controller with the processors' sources, one edge-triggered and one level-triggered.
fn xive() -> Xive<FakeDevice> {
    let ram = GuestRange {
        start: GuestPhysicalAddress(0),
        bytes: RAM,
    };
    let xive = Xive::new(FakeDevice::new(SERVERS, RAM), SERVERS, vec![ram]);
    let processors = LisnBlock::new(Lisn::IPI, SERVERS).unwrap();
    xive.make_sources(processors, Trigger::Edge).unwrap();
    xive.make_sources(LisnBlock::of_one(EDGE), Trigger::Edge)
        .unwrap();
    xive.make_sources(LisnBlock::of_one(LSI), Trigger::Level)
        .unwrap();
    xive
}

/// A call's code and what is in the registers then.
fn call(xive: &Xive<FakeDevice>, number: u64, arguments: &[u64]) -> (ReturnCode, Arguments) {
    let mut args = [0; 9];
    args[..arguments.len()].copy_from_slice(arguments);
    let code = xive.serve(number, &mut args).expect("one of XIVE's");
    (code, args)
}

fn code(xive: &Xive<FakeDevice>, number: u64, arguments: &[u64]) -> ReturnCode {
    call(xive, number, arguments).0
}

fn edge() -> u64 {
    EDGE.0.into()
}

fn lsi() -> u64 {
    LSI.0.into()
}

fn queue(server: u32, priority: u64) -> QueueName {
    let priority = Priority::new(priority).unwrap();
    QueueName { server, priority }
}

#[test]
fn a_guest_finds_the_pages_of_an_edge_triggered_source() {
    let (code, args) = call(&xive(), abi::H_INT_GET_SOURCE_INFO, &[0, edge()]);
    assert_eq!(code, SUCCESS);
    let trigger = 0x0006_0100_0000_0000 + 0x1100 * 0x2_0000;
    assert_eq!(args[..4], [0, trigger + 0x1_0000, trigger, 16]);
}

#[test]
fn a_level_triggered_source_is_used_by_hypercall() {
    let (code, args) = call(&xive(), abi::H_INT_GET_SOURCE_INFO, &[0, lsi()]);
    assert_eq!(code, SUCCESS);
    assert_eq!(args[..4], [0b1100, u64::MAX, u64::MAX, 16]);
}

#[test]
fn an_event_goes_where_the_guest_says() {
    let xive = xive();
    let place = [1, 2, 6, 0x20_0000, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    let to = [2, edge(), 2, 6, 0x7fff_fffe];
    assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to), SUCCESS);
    let state = xive.device().state();
    let data = EventData::new(0x7fff_fffe).unwrap();
    assert_eq!(
        state.sources[&EDGE],
        (Trigger::Edge, Some((queue(2, 6), data)))
    );
    assert_eq!(state.queues[&queue(2, 6)], GuestPhysicalAddress(0x20_0000));
    drop(state);
    let (_, args) = call(&xive, abi::H_INT_GET_SOURCE_CONFIG, &[0, edge()]);
    assert_eq!(args[..3], [2, 6, 0x7fff_fffe]);
    // Without the flag the data stays as it is.
    let place = [1, 3, 6, 0x30_0000, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    let to = [0, edge(), 3, 6, 5];
    assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to), SUCCESS);
    let (_, args) = call(&xive, abi::H_INT_GET_SOURCE_CONFIG, &[0, edge()]);
    assert_eq!(args[..3], [3, 6, 0x7fff_fffe]);
    // As Linux does when an interrupt is freed.
    let masked = [2, edge(), 3, 0xff, 0x7fff_ffff];
    assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &masked), SUCCESS);
    let (_, args) = call(&xive, abi::H_INT_GET_SOURCE_CONFIG, &[0, edge()]);
    assert_eq!(args[1], 0xff);
    assert_eq!(xive.device().state().sources[&EDGE].1, None);
}

#[test]
fn a_queue_is_told_of_as_it_was_placed_and_how_far_it_is_filled() {
    let xive = xive();
    let (code_, args) = call(&xive, abi::H_INT_GET_QUEUE_CONFIG, &[0, 1, 6]);
    assert_eq!((code_, &args[..4]), (SUCCESS, &[0, 0, 0, 0][..]));
    let place = [1, 1, 6, 0x40_0000, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    let (_, args) = call(&xive, abi::H_INT_GET_QUEUE_CONFIG, &[0, 1, 6]);
    assert_eq!(args[..4], [1, 0x40_0000, 16, 0]);
    let (_, args) = call(&xive, abi::H_INT_GET_QUEUE_CONFIG, &[1, 1, 6]);
    assert_eq!(args[..4], [1 | 1 << 62, 0x40_0000, 16, 0x123]);
    let (code_, args) = call(&xive, abi::H_INT_GET_QUEUE_INFO, &[0, 1, 6]);
    assert_eq!((code_, &args[..2]), (SUCCESS, &[u64::MAX, 0][..]));
    // Moved, and removed.
    let place = [1, 1, 6, 0x50_0000, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    let (_, args) = call(&xive, abi::H_INT_GET_QUEUE_CONFIG, &[0, 1, 6]);
    assert_eq!(args[..3], [1, 0x50_0000, 16]);
    let remove = [0, 1, 6, 0, 0];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &remove), SUCCESS);
    assert!(xive.device().state().queues.is_empty());
}

#[test]
fn a_queue_lies_in_ram_and_is_aligned() {
    let xive = xive();
    let place = |address| code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, address, 16]);
    for wrong in [
        RAM,
        RAM - 0x1_0000 + 0x1000,
        0x1000,
        1,
        management_page(EDGE).0,
        OS_THREAD_MANAGEMENT.0,
        1 << 63,
        u64::MAX,
        u64::MAX - 0xffff,
    ] {
        assert_eq!(place(wrong), P4, "{wrong:#x}");
    }
    assert_eq!(place(RAM - 0x1_0000), SUCCESS);
    assert_eq!(place(0), SUCCESS);
}

/// Makes calls to a controller with one queue. They have their codes, and change nothing.
#[track_caller]
fn assert_refused(calls: &[(u64, &[u64], ReturnCode)]) {
    let xive = xive();
    let place = [1, 0, 6, 0, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    for &(number, arguments, expected) in calls {
        let answer = code(&xive, number, arguments);
        assert_eq!(answer, expected, "{number:#x} {arguments:x?}");
    }
    let state = xive.device().state();
    assert_eq!(state.sources[&EDGE].1, None);
    assert_eq!(state.queues.len(), 1);
    assert!(state.loads.is_empty() && state.stores.is_empty() && state.synced.is_empty());
}

#[test]
fn wrong_arguments_about_sources_have_their_codes() {
    let none = 0x1101;
    let end = u64::from(Lisn::END.0);
    assert_refused(&[
        (abi::H_INT_GET_SOURCE_INFO, &[1, edge()], PARAMETER),
        (abi::H_INT_GET_SOURCE_INFO, &[0, none], P2),
        (abi::H_INT_GET_SOURCE_INFO, &[0, end], P2),
        (abi::H_INT_GET_SOURCE_INFO, &[0, 1 << 32], P2),
        (
            abi::H_INT_SET_SOURCE_CONFIG,
            &[4, edge(), 0, 6, 1],
            PARAMETER,
        ),
        (abi::H_INT_SET_SOURCE_CONFIG, &[2, none, 0, 6, 1], P2),
        (abi::H_INT_SET_SOURCE_CONFIG, &[2, edge(), 4, 6, 1], P3),
        (
            abi::H_INT_SET_SOURCE_CONFIG,
            &[2, edge(), 1 << 32, 6, 1],
            P3,
        ),
        (abi::H_INT_SET_SOURCE_CONFIG, &[2, edge(), 0, 7, 1], P4),
        (abi::H_INT_SET_SOURCE_CONFIG, &[2, edge(), 0, 0x106, 1], P4),
        // There is no such queue.
        (abi::H_INT_SET_SOURCE_CONFIG, &[2, edge(), 0, 5, 1], P4),
        (
            abi::H_INT_SET_SOURCE_CONFIG,
            &[2, edge(), 0, 6, 1 << 31],
            P5,
        ),
        (abi::H_INT_GET_SOURCE_CONFIG, &[1, edge()], PARAMETER),
        (abi::H_INT_GET_SOURCE_CONFIG, &[0, none], P2),
        (abi::H_INT_ESB, &[2, edge(), 0, 0], PARAMETER),
        (abi::H_INT_ESB, &[0, none, 0, 0], P2),
        (abi::H_INT_ESB, &[0, edge(), 0x1_0000, 0], P3),
        (abi::H_INT_ESB, &[1, edge(), 4, 0], P3),
        (abi::H_INT_ESB, &[0, edge(), u64::MAX, 0], P3),
        (abi::H_INT_SYNC, &[1, edge()], PARAMETER),
        (abi::H_INT_SYNC, &[0, none], P2),
    ]);
}

#[test]
fn wrong_arguments_about_queues_have_their_codes() {
    assert_refused(&[
        (abi::H_INT_GET_QUEUE_INFO, &[1, 0, 6], PARAMETER),
        (abi::H_INT_GET_QUEUE_INFO, &[0, 4, 6], P2),
        (abi::H_INT_GET_QUEUE_INFO, &[0, 0, 7], P3),
        (abi::H_INT_SET_QUEUE_CONFIG, &[2, 0, 6, 0, 16], PARAMETER),
        // Notifications cannot be coalesced.
        (abi::H_INT_SET_QUEUE_CONFIG, &[0, 0, 6, 0, 16], PARAMETER),
        (abi::H_INT_SET_QUEUE_CONFIG, &[1, 4, 6, 0, 16], P2),
        (abi::H_INT_SET_QUEUE_CONFIG, &[1, 0, 0xff, 0, 16], P3),
        (abi::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0, 12], P5),
        (abi::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0, 1 << 32], P5),
        (abi::H_INT_GET_QUEUE_CONFIG, &[2, 0, 6], PARAMETER),
        (abi::H_INT_GET_QUEUE_CONFIG, &[0, u64::MAX, 6], P2),
        (abi::H_INT_GET_QUEUE_CONFIG, &[0, 0, u64::MAX], P3),
    ]);
}

#[test]
fn a_reset_takes_no_flags_and_there_are_no_reporting_lines() {
    assert_refused(&[
        (abi::H_INT_RESET, &[1], PARAMETER),
        (
            abi::H_INT_SET_OS_REPORTING_LINE,
            &[0, 0],
            ReturnCode::FUNCTION,
        ),
        (
            abi::H_INT_GET_OS_REPORTING_LINE,
            &[0, 0],
            ReturnCode::FUNCTION,
        ),
    ]);
}

#[test]
fn a_call_that_is_not_of_xive_is_not_answered() {
    assert_eq!(xive().serve(abi::H_PUT_TCE, &mut [0; 9]), None);
}

#[test]
fn a_management_page_is_reached_by_hypercall() {
    let xive = xive();
    let (code, args) = call(&xive, abi::H_INT_ESB, &[0, edge(), 0xfff8, 0]);
    assert_eq!((code, args[0]), (SUCCESS, 3));
    let (code, args) = call(&xive, abi::H_INT_ESB, &[1, edge(), 0x400, 7]);
    assert_eq!((code, args[0]), (SUCCESS, u64::MAX));
    let state = xive.device().state();
    assert_eq!(state.loads, [(EDGE, 0xfff8)]);
    assert_eq!(state.stores, [(EDGE, 0x400, 7)]);
}

/// A line that counts how often it is sampled.
#[derive(Default)]
struct FakeLine(AtomicU32);

impl LevelLine for FakeLine {
    fn sample(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn sample_again(&self) {
        unreachable!("the guest lets know when it is to be");
    }
}

#[test]
fn lines_are_sampled_whenever_their_source_accepts_events_and_at_no_other_time() {
    const SHARED: Lisn = Lisn(0x1201);
    let xive = xive();
    let lines = [(); 3].map(|()| Arc::new(FakeLine::default()));
    let shared = |line: &Arc<FakeLine>| -> Weak<dyn LevelLine> {
        let line: Weak<FakeLine> = Arc::downgrade(line);
        line
    };
    for (lisn, line) in [LSI, SHARED, SHARED].into_iter().zip(&lines) {
        xive.make_level(lisn, shared(line)).unwrap();
    }
    let esb = |flags, lisn: Lisn, offset| {
        let (code, args) = call(&xive, abi::H_INT_ESB, &[flags, lisn.0.into(), offset, 0]);
        assert_eq!(code, SUCCESS);
        args[0]
    };
    let sampled = || {
        let counts = lines
            .each_ref()
            .map(|line| line.0.swap(0, Ordering::Relaxed));
        (counts[0], counts[1], counts[2])
    };
    let pq = |lisn| xive.device().state().pq[&lisn];
    // Unmasked, as a driver does when it asks for its interrupt.
    esb(0, SHARED, 0xd00);
    assert_eq!(sampled(), (0, 0, 0));
    assert_eq!(esb(0, SHARED, 0xc00), 1);
    assert_eq!(sampled(), (0, 1, 1));
    // An interrupt is pending, and one more came: it ends, and the lines say what comes next.
    for state in [0xe00, 0xf00] {
        esb(0, SHARED, state);
        assert_eq!(sampled(), (0, 0, 0));
        assert_eq!(esb(0, SHARED, 0), 0);
        assert_eq!((sampled(), pq(SHARED)), ((0, 1, 1), 0));
    }
    // Masked meanwhile, as by a driver whose handler has a thread.
    esb(0, SHARED, 0xd00);
    esb(0, SHARED, 0);
    assert_eq!((sampled(), pq(SHARED)), ((0, 0, 0), 1));
    esb(0, SHARED, 0xc00);
    assert_eq!(sampled(), (0, 1, 1));
    // The other source, stores, looking only, and an edge-triggered source.
    esb(0, LSI, 0x1c08);
    assert_eq!(sampled(), (1, 0, 0));
    esb(1, LSI, 0xc00);
    esb(0, LSI, 0x800);
    esb(0, EDGE, 0xc00);
    assert_eq!(sampled(), (0, 0, 0));
    // A device that is gone is not asked.
    let [_, gone, _] = lines;
    drop(gone);
    esb(0, SHARED, 0xc00);
}

#[test]
fn a_reset_forgets_queues_and_masks_sources() {
    let xive = xive();
    let place = [1, 0, 6, 0x10_0000, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    let to = [2, edge(), 0, 6, 9];
    assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to), SUCCESS);
    assert_eq!(code(&xive, abi::H_INT_RESET, &[0]), SUCCESS);
    let (_, args) = call(&xive, abi::H_INT_GET_SOURCE_CONFIG, &[0, edge()]);
    assert_eq!(args[..3], [0, 0xff, 0]);
    assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to), P4);
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to), SUCCESS);
}

#[test]
fn a_queue_that_kvm_takes_for_full_gives_way_to_another_of_its_priority() {
    let xive = xive();
    for (server, priority) in [(0, 6), (1, 5), (2, 6)] {
        let place = [1, server, priority, 0x10_0000 << server, 16];
        assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    }
    let mut data = 0;
    let mut target = || {
        data += 1;
        let to = [2, edge(), 0, 6, data];
        let answer = code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to);
        let target = xive.device().state().sources[&EDGE].1;
        (answer, target.map(|(queue, _)| queue))
    };
    for _ in 0..book::MOST_TARGETED {
        assert_eq!(target(), (SUCCESS, Some(queue(0, 6))));
    }
    for _ in 0..book::MOST_TARGETED {
        assert_eq!(target(), (SUCCESS, Some(queue(2, 6))));
    }
    assert_eq!(target(), (ReturnCode::RESOURCE, Some(queue(2, 6))));
}

#[test]
fn a_source_that_stays_where_it_is_is_not_sent_there_again() {
    let xive = xive();
    let place = [1, 0, 6, 0x10_0000, 16];
    assert_eq!(code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &place), SUCCESS);
    for _ in 0..=book::MOST_TARGETED {
        let to = [2, edge(), 0, 6, 1];
        assert_eq!(code(&xive, abi::H_INT_SET_SOURCE_CONFIG, &to), SUCCESS);
    }
}

#[test]
fn a_queue_that_cannot_be_moved_is_nowhere() {
    let xive = xive();
    let place = |address| code(&xive, abi::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, address, 16]);
    for address in [0x20_0000, 0x21_0000] {
        assert_eq!(place(0x10_0000), SUCCESS);
        fail_call(1);
        assert_eq!(place(address), ReturnCode::HARDWARE);
        assert!(xive.device().state().queues.is_empty());
        let (_, args) = call(&xive, abi::H_INT_GET_QUEUE_CONFIG, &[0, 0, 6]);
        assert_eq!(args[..4], [0; 4]);
    }
}

const CALLS: [u64; 11] = [
    abi::H_INT_GET_SOURCE_INFO,
    abi::H_INT_SET_SOURCE_CONFIG,
    abi::H_INT_GET_SOURCE_CONFIG,
    abi::H_INT_GET_QUEUE_INFO,
    abi::H_INT_SET_QUEUE_CONFIG,
    abi::H_INT_GET_QUEUE_CONFIG,
    abi::H_INT_SET_OS_REPORTING_LINE,
    abi::H_INT_GET_OS_REPORTING_LINE,
    abi::H_INT_ESB,
    abi::H_INT_SYNC,
    abi::H_INT_RESET,
];

/// Anything, with a liking for what is right and for what is just wrong.
fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..8,
        Just(16),
        Just(0xff),
        Just(edge()),
        Just(lsi()),
        (0u64..0x4001).prop_map(|page| page << 16),
        Just(RAM - 8),
        Just(u64::from(Lisn::END.0)),
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn whatever_a_guest_passes_the_device_is_asked_for_what_there_is(
        calls in prop::collection::vec(
            (0..CALLS.len(), prop::array::uniform9(argument()), 0u32..6),
            1..60,
        )
    ) {
        let xive = xive();
        for (number, arguments, fault) in calls {
            fail_call(fault);
            let mut args = arguments;
            let code = xive.serve(CALLS[number], &mut args).expect("one of XIVE's");
            fail_call(0);
            prop_assert!((-512..=0).contains(&code.0));
            if code != SUCCESS {
                prop_assert_eq!(args, arguments, "a call that fails has no results");
            }
            assert_told_as_done(&xive);
        }
    }

    #[test]
    fn whatever_a_guest_does_with_a_source_its_line_is_sampled_when_it_accepts_events_and_only_then(
        calls in prop::collection::vec(
            (0u64..3, prop::bool::weighted(0.8), 0u64..0x200, prop::bool::weighted(0.1)),
            1..80,
        )
    ) {
        let xive = xive();
        let line = Arc::new(FakeLine::default());
        let shared: Weak<FakeLine> = Arc::downgrade(&line);
        xive.make_level(LSI, shared).unwrap();
        for (flags, is_level, doubleword, is_odd) in calls {
            let lisn = if is_level { LSI } else { EDGE };
            let offset = 8 * doubleword + u64::from(is_odd);
            let pq = || xive.device().state().pq.get(&LSI).copied();
            let before = pq();
            let code = code(&xive, abi::H_INT_ESB, &[flags, lisn.0.into(), offset, 0]);
            let does = offset & 0xfff;
            let accepts = (does < 0x400 && before != Some(1)) || (0xc00..0xd00).contains(&does);
            let expected = code == SUCCESS && flags == 0 && is_level && accepts;
            prop_assert_eq!(line.0.swap(0, Ordering::Relaxed), u32::from(expected));
            if expected {
                prop_assert_eq!(pq(), Some(0));
            }
        }
    }

    #[test]
    fn pages_of_sources_are_apart_and_below_those_of_processors(a in 0..Lisn::END.0, b in 0..Lisn::END.0) {
        let pages = |lisn| [trigger_page(Lisn(lisn)).0, management_page(Lisn(lisn)).0];
        if a != b {
            for page in pages(a) {
                prop_assert!(!pages(b).contains(&page));
            }
        }
        prop_assert!(management_page(Lisn(a)).0 + PAGE_BYTES <= OS_THREAD_MANAGEMENT.0);
    }
}
