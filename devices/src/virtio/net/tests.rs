//! A driver of a card, one that says what it likes, and other ends that do.

use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

use super::driver::{Driver, MAC, NEXT, QUEUE_SIZE, RAM_BYTES, WATCHED, WRITE, buffers, frame};
use super::drops::Reason;
use super::{CONTROL, Net, RECEIVE, TRANSMIT};
use crate::net::{HEADER_BYTES, MOST_FRAME_BYTES, Mac};
use crate::virtio::device::{Device, ServeError, Served};

pub(super) const PLAIN: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
pub(super) const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(super) const MERGED: u64 = 1 << 15;

/// `num_buffers` of the header at `at`.
fn count(driver: &Driver, at: u64) -> u16 {
    driver
        .ram
        .read_obj(GuestAddress(at + 10))
        .map(u16::from_le)
        .unwrap()
}

#[test]
fn a_frame_of_the_hosts_is_received_in_a_buffer() {
    for mut driver in [Driver::of_interface(), Driver::of_stream()] {
        let at = buffers(RECEIVE);
        driver.room(0, at, 2048);
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::Full);
        assert_eq!(driver.net.wanted(), EventSet::IN);
        driver.hear();
        assert_eq!(driver.net.next_due(), None);
        let sent = frame(MAC, 700);
        driver.send(PLAIN, &sent);
        driver.hear();
        assert_eq!(driver.net.next_due(), Some(RECEIVE));
        assert_eq!(driver.net.next_due(), None);
        // The next one waits where it is until there is room for it.
        driver.send(PLAIN, &frame(OTHER, 60));
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::All);
        assert_eq!(driver.net.wanted(), EventSet::empty());
        assert_eq!((driver.used(RECEIVE), driver.written(RECEIVE, 0)), (1, 712));
        assert_eq!(count(&driver, at), 1);
        assert_eq!(driver.read(at + 12, 700), sent);
        driver.room(1, at, 2048);
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::All);
        assert_eq!((driver.used(RECEIVE), driver.written(RECEIVE, 1)), (2, 72));
    }
}

#[test]
fn a_long_frame_is_in_as_many_buffers_as_it_takes_all_at_once() {
    let mut driver = Driver::of_interface();
    let at = buffers(RECEIVE);
    let sent = frame(MAC, 3000);
    driver.send(PLAIN, &sent);
    for index in 0..2 {
        driver.room(index, at + 0x400 * u64::from(index), 1024);
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::All);
        assert_eq!(driver.used(RECEIVE), 0);
        // It waits for others than it has: it is not served again before there is one.
        assert_eq!(driver.queues[RECEIVE].next_avail(), index + 1);
    }
    driver.room(2, at + 0x800, 1024);
    assert_eq!(driver.serve(RECEIVE).unwrap(), Served::All);
    assert_eq!((driver.used(RECEIVE), count(&driver, at)), (3, 3));
    let lengths = [0, 1, 2].map(|number| driver.written(RECEIVE, number));
    assert_eq!(lengths, [1024, 1024, 964]);
    assert_eq!(driver.read(at + 12, 3000), sent);
    // More than all of a queue's buffers hold.
    driver.send(PLAIN, &frame(MAC, 9000));
    driver.send(PLAIN, &frame(MAC, 50));
    for index in 0..QUEUE_SIZE {
        driver.room(index, at + 0x400 * u64::from(index), 1024);
    }
    driver.serve(RECEIVE).unwrap();
    assert_eq!((driver.used(RECEIVE), driver.written(RECEIVE, 3)), (4, 62));
}

#[test]
fn a_driver_of_whole_buffers_gets_what_fits_into_one() {
    let mut driver = Driver::of_interface();
    driver.start(driver.net.features() & !MERGED);
    let at = buffers(RECEIVE);
    driver.room(0, at, 1526);
    driver.send(PLAIN, &frame(MAC, 1515));
    driver.send(PLAIN, &frame(MAC, 1514));
    driver.serve(RECEIVE).unwrap();
    assert_eq!(
        (driver.used(RECEIVE), driver.written(RECEIVE, 0)),
        (1, 1526)
    );
    assert_eq!(count(&driver, at), 1);
}

#[test]
fn a_frame_of_the_guests_is_sent_with_its_header() {
    let mut driver = Driver::of_interface();
    let sent = frame(OTHER, 1500);
    driver.offer_frame(&sent);
    assert_eq!(driver.serve(TRANSMIT).unwrap(), Served::All);
    assert_eq!((driver.used(TRANSMIT), driver.written(TRANSMIT, 0)), (1, 0));
    assert_eq!(driver.received(), [&PLAIN[..], &sent].concat());
    // What is no frame is given back.
    driver.offer_frame(&frame(OTHER, 13));
    driver.serve(TRANSMIT).unwrap();
    assert_eq!((driver.used(TRANSMIT), driver.received()), (2, Vec::new()));
}

#[test]
fn a_stream_has_lengths_before_frames_and_whole_frames() {
    let mut driver = Driver::of_stream();
    assert_eq!(driver.net.features() & 3, 0, "it computes no checksums");
    let sent = frame(OTHER, 60_000);
    let mut offered = 0_usize;
    let waits = |driver: &Driver| driver.net.wanted().contains(EventSet::OUT);
    while !waits(&driver) {
        driver.offer_frame(&sent);
        driver.serve(TRANSMIT).unwrap();
        offered += 1;
        assert!(offered < 1000, "its socket has no end");
    }
    let mut all = Vec::new();
    while driver.used(TRANSMIT) < u16::try_from(offered).unwrap() || waits(&driver) {
        all.extend(driver.received());
        // Nobody rings: that there is room again is enough.
        driver.wake().unwrap();
    }
    loop {
        let more = driver.received();
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    let one = [&60_000_u32.to_be_bytes()[..], &sent].concat();
    assert_eq!(all.len(), offered * one.len());
    assert!(all.chunks(one.len()).all(|chunk| chunk == one));
}

#[test]
fn the_number_of_buffers_may_be_in_two_of_them() {
    let mut driver = Driver::of_interface();
    let at = buffers(RECEIVE);
    driver.descriptor(RECEIVE, 0, (at, 11, WRITE | NEXT, 1));
    driver.descriptor(RECEIVE, 1, (at + 0x100, 100, WRITE, 0));
    driver.offer(RECEIVE, 0);
    driver.room(2, at + 0x200, 2048);
    driver
        .ram
        .write_slice(&[0xaa; 0x100], GuestAddress(at))
        .unwrap();
    driver.send(PLAIN, &frame(MAC, 200));
    driver.serve(RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), 2);
    assert_eq!(driver.read(at + 10, 2), [2, 0xaa]);
    assert_eq!(driver.read(at + 0x100, 1), [0]);
}

#[test]
fn a_driver_gets_the_frames_that_it_asks_for() {
    let mut driver = Driver::of_interface();
    let at = buffers(RECEIVE);
    let gets = |driver: &mut Driver, to: Mac| {
        let before = driver.used(RECEIVE);
        if driver.queues[RECEIVE].next_avail() == before {
            driver.room(0, at, 2048);
        }
        driver.send(PLAIN, &frame(to, 60));
        driver.serve(RECEIVE).unwrap();
        driver.used(RECEIVE) != before
    };
    assert!(gets(&mut driver, OTHER));
    assert!(driver.command(&[0, 0, 0]));
    assert!(!gets(&mut driver, OTHER) && gets(&mut driver, MAC));
    let mut command = vec![1, 0];
    command.extend(1_u32.to_le_bytes());
    command.extend(OTHER.0);
    command.extend([0; 4]);
    assert!(driver.command(&command));
    assert!(gets(&mut driver, OTHER));
    assert_eq!(driver.nic.filter().unicast.addresses, [OTHER]);
    assert!(driver.command(&[1, 1, 2, 0, 0, 0, 0, 9]));
    assert!(!gets(&mut driver, MAC) && gets(&mut driver, Mac([2, 0, 0, 0, 0, 9])));
    assert!(!driver.command(&[9, 9, 9]));
    driver.start(driver.net.features());
    assert!(gets(&mut driver, Mac([2, 1, 1, 1, 1, 1])));
    assert_eq!(driver.nic.filter().mac, MAC);
}

#[test]
fn nothing_passes_a_link_that_is_down() {
    let mut driver = Driver::of_interface();
    let status = |driver: &Driver| {
        let mut data = [0; 12];
        driver.net.read_config(0, &mut data);
        assert_eq!(
            (&data[..6], &data[10..]),
            (&MAC.0[..], &1400_u16.to_le_bytes()[..])
        );
        data[6]
    };
    assert_eq!(status(&driver), 1);
    driver.nic.plug(false);
    assert!(driver.net.config_has_changed() && !driver.net.config_has_changed());
    assert_eq!(status(&driver), 0);
    driver.room(0, buffers(RECEIVE), 2048);
    driver.send(PLAIN, &frame(MAC, 60));
    driver.offer_frame(&frame(OTHER, 60));
    driver.serve(RECEIVE).unwrap();
    driver.serve(TRANSMIT).unwrap();
    assert_eq!((driver.used(RECEIVE), driver.used(TRANSMIT)), (0, 1));
    driver.nic.plug(true);
    // What came meanwhile is lost.
    driver.serve(RECEIVE).unwrap();
    assert_eq!((driver.used(RECEIVE), driver.received()), (0, Vec::new()));
    driver.send(PLAIN, &frame(MAC, 60));
    driver.serve(RECEIVE).unwrap();
    assert_eq!((status(&driver), driver.used(RECEIVE)), (1, 1));
}

#[test]
fn what_a_driver_does_not_compute_does_not_reach_it() {
    let mut driver = Driver::of_interface();
    let (checksum, tso4) = (1 << 1, 1 << 7);
    let all = driver.net.features();
    // NEEDS_CSUM, and a frame to be cut of TCP over IPv4.
    let mut to_cut = PLAIN;
    to_cut[0] = 1;
    to_cut[1] = 1;
    let mut to_sum = PLAIN;
    to_sum[0] = 1;
    let mut of_udp = to_cut;
    of_udp[1] = 3;
    for (features, wanted) in [
        (all, [true, true, false]),
        (all & !tso4, [false, true, false]),
        (all & !checksum, [false, false, false]),
    ] {
        for (header, wanted) in [to_cut, to_sum, of_udp].into_iter().zip(wanted) {
            driver.start(features);
            driver.room(0, buffers(RECEIVE), 2048);
            driver.send(header, &frame(MAC, 60));
            driver.serve(RECEIVE).unwrap();
            assert_eq!(driver.used(RECEIVE) == 1, wanted, "{header:?}");
        }
    }
}

#[test]
fn each_frame_that_goes_nowhere_is_counted_for_its_reason() {
    let mut driver = Driver::of_interface();
    // Without room for more than a frame of the network's.
    driver.start(driver.net.features() & !MERGED & !(1 << 7));
    driver.room(0, buffers(RECEIVE), 1526);
    let mut to_cut = PLAIN;
    to_cut[..2].fill(1);
    driver.send(PLAIN, &frame(MAC, 13));
    driver.send(to_cut, &frame(MAC, 60));
    driver.send(PLAIN, &frame(MAC, 1515));
    driver.serve(RECEIVE).unwrap();
    driver.offer_frame(&frame(OTHER, 13));
    driver.serve(TRANSMIT).unwrap();
    driver.nic.plug(false);
    driver.send(PLAIN, &frame(MAC, 60));
    driver.serve(RECEIVE).unwrap();
    driver.offer_frame(&frame(OTHER, 60));
    driver.serve(TRANSMIT).unwrap();
    driver.nic.plug(true);
    // Not promiscuous.
    assert!(driver.command(&[0, 0, 0]));
    driver.send(PLAIN, &frame(OTHER, 60));
    driver.serve(RECEIVE).unwrap();
    driver.peer = Driver::of_interface().peer;
    driver.offer_frame(&frame(OTHER, 60));
    driver.serve(TRANSMIT).unwrap();
    let drops = driver.net.drops();
    let counts = [
        (Reason::LinkDown, 2),
        (Reason::Length, 2),
        (Reason::Unwanted, 1),
        (Reason::Offload, 1),
        (Reason::NoRoom, 1),
        (Reason::Refused, 1),
    ];
    for (reason, count) in counts {
        assert_eq!(drops.of(reason), count, "{reason:?}");
    }
    assert_eq!((driver.used(RECEIVE), driver.used(TRANSMIT)), (0, 3));
}

#[test]
fn a_frame_without_a_whole_header_stops_the_device() {
    let mut driver = Driver::of_interface();
    driver.descriptor(TRANSMIT, 0, (buffers(TRANSMIT), 11, 0, 0));
    driver.offer(TRANSMIT, 0);
    assert!(matches!(
        driver.serve(TRANSMIT),
        Err(ServeError::Request(_))
    ));
    driver.start(driver.net.features());
    driver.room(0, buffers(RECEIVE), 11);
    driver.room(1, buffers(RECEIVE) + 64, 2048);
    driver.send(PLAIN, &frame(MAC, 60));
    assert!(matches!(driver.serve(RECEIVE), Err(ServeError::Request(_))));
    driver.start(driver.net.features());
    driver.descriptor(CONTROL, 0, (buffers(CONTROL), 3, 0, 0));
    driver.offer(CONTROL, 0);
    assert!(matches!(driver.serve(CONTROL), Err(ServeError::Request(_))));
}

#[test]
fn a_card_has_one_device_at_a_time_and_keeps_its_network() {
    let mut driver = Driver::of_interface();
    assert!(Net::new(driver.nic.clone()).is_none());
    let other = Driver::of_interface();
    drop(std::mem::replace(&mut driver.net, other.net));
    driver.net = Net::new(driver.nic.clone()).unwrap();
    driver.start(driver.net.features());
    driver.offer_frame(&frame(OTHER, 60));
    driver.serve(TRANSMIT).unwrap();
    assert_eq!(driver.received().len(), HEADER_BYTES + 60);
}

/// A descriptor as a hostile driver may have it.
fn any_descriptor(queue: usize) -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        8 => buffers(queue)..buffers(queue) + 0x8000,
        1 => (RAM_BYTES as u64 - 64)..(RAM_BYTES as u64 + 64),
        1 => any::<u64>(),
    ];
    let bytes = prop_oneof![
        3 => 0_u32..64,
        4 => 0_u32..3000,
        1 => 0_u32..0x1_8000,
        1 => any::<u32>(),
    ];
    let flags = prop_oneof![
        4 => Just(WRITE * u16::from(queue == RECEIVE)),
        2 => Just(NEXT),
        2 => Just(NEXT | WRITE),
        2 => Just(WRITE),
        1 => any::<u16>(),
    ];
    (address, bytes, flags, 0..QUEUE_SIZE + 1)
}

/// A buffer that reaches what is watched would make it the driver's own, and so would a table of descriptors that it has
/// there.
fn keep_from_watched((address, bytes, flags, _): &mut (u64, u32, u16, u16)) {
    if *address < WATCHED {
        let most = u32::try_from(WATCHED - *address).unwrap();
        *bytes = (*bytes).min(most);
        *flags &= !4;
    }
}

/// Descriptors, and heads of chains.
pub(super) type Ring = (Vec<(u64, u32, u16, u16)>, Vec<u16>);

/// What a hostile driver offers in a queue.
pub(super) fn any_ring(queue: usize) -> impl Strategy<Value = Ring> {
    let descriptors = prop::collection::vec(any_descriptor(queue), usize::from(QUEUE_SIZE));
    let heads = prop::collection::vec(0..QUEUE_SIZE + 1, 1..9);
    (descriptors, heads)
}

/// Has a driver offer that, none of which reaches what is watched.
pub(super) fn offer_ring(driver: &mut Driver, queue: usize, (mut descriptors, heads): Ring) {
    descriptors.iter_mut().for_each(keep_from_watched);
    for (index, &descriptor) in (0..).zip(&descriptors) {
        driver.descriptor(queue, index, descriptor);
    }
    for head in heads {
        driver.offer(queue, head);
    }
}

/// What another end sends: a header and the length of a frame.
pub(super) fn any_frames() -> impl Strategy<Value = Vec<([u8; HEADER_BYTES], usize)>> {
    let length = prop_oneof![0_usize..100, 0_usize..4000, 0..MOST_FRAME_BYTES + 1];
    let header = prop_oneof![3 => Just(PLAIN), 1 => any::<[u8; HEADER_BYTES]>()];
    prop::collection::vec((header, length), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn whatever_a_driver_offers_nothing_else_is_touched(
        rounds in prop::collection::vec((any_ring(RECEIVE), any_ring(TRANSMIT), any_ring(CONTROL), any_frames()), 1..4),
        features: u64,
        command: [u8; 16],
    ) {
        let mut driver = Driver::of_interface();
        let watched: Vec<u8> = (0..0x1000_u32).map(|at| at.to_le_bytes()[0] ^ 0x3c).collect();
        for (receive, transmit, control, frames) in rounds {
            driver.start(driver.net.features() & features);
            let at = GuestAddress(buffers(CONTROL));
            driver.ram.write_slice(&command, at).unwrap();
            for (queue, ring) in [receive, transmit, control].into_iter().enumerate() {
                offer_ring(&mut driver, queue, ring);
            }
            driver.ram.write_slice(&watched, GuestAddress(WATCHED)).unwrap();
            for (header, bytes) in frames {
                driver.send(header, &frame(MAC, bytes)[..bytes]);
            }
            for queue in [RECEIVE, TRANSMIT, CONTROL] {
                let _whatever = driver.serve(queue);
            }
            prop_assert_eq!(driver.read(WATCHED, 0x1000), &watched[..]);
            while !driver.received().is_empty() {}
        }
        driver.start(driver.net.features());
        // What was not taken before comes first.
        driver.nic.plug(false);
        driver.room(0, buffers(RECEIVE), 2048);
        driver.serve(RECEIVE).unwrap();
        driver.nic.plug(true);
        driver.send(PLAIN, &frame(MAC, 100));
        driver.serve(RECEIVE).unwrap();
        prop_assert_eq!(driver.used(RECEIVE), 1);
        prop_assert_eq!(driver.read(buffers(RECEIVE) + 12, 100), frame(MAC, 100));
        driver.offer_frame(&frame(OTHER, 100));
        driver.serve(TRANSMIT).unwrap();
        prop_assert_eq!(driver.received().len(), HEADER_BYTES + 100);
    }

    #[test]
    fn whatever_a_stream_sends_what_comes_are_frames_or_nothing(
        pieces in prop::collection::vec(prop_oneof![
            3 => (0_usize..300).prop_map(|bytes| [&u32::try_from(bytes).unwrap().to_be_bytes()[..], &frame(MAC, bytes.max(6))[..bytes]].concat()),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ], 0..12),
    ) {
        let mut driver = Driver::of_stream();
        for (index, piece) in (0..).zip(pieces) {
            driver.room(index % QUEUE_SIZE, buffers(RECEIVE), 4096);
            driver.send_bytes(&piece);
            driver.serve(RECEIVE).unwrap();
            let used = driver.used(RECEIVE);
            if used > 0 {
                prop_assert!(driver.written(RECEIVE, used - 1) >= 26);
            }
        }
    }
}
