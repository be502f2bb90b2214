//! A card with two pairs of queues: a driver that uses them, and one that says what it likes.

use std::io::{Read, Write};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{Driver, MAC, WATCHED, buffers, frame};
use super::tests::{PLAIN, any_ring, offer_ring};
use super::{CONTROL, Net, RECEIVE, TRANSMIT};
use crate::virtio::device::{Device, Served};

/// Queues of the second pair, and the one for commands of a driver that knows of both.
const SECOND_RECEIVE: usize = 2;
const SECOND_TRANSMIT: usize = 3;
const LAST: usize = 4;
const PAIRS: u64 = 1 << 22;

/// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.
fn set_pairs(count: u16) -> [u8; 4] {
    let [low, high] = count.to_le_bytes();
    [4, 0, low, high]
}

/// Sends a frame by the interface's second queue.
fn send_by_second(driver: &mut Driver, bytes: usize) {
    let all = [&PLAIN[..], &frame(MAC, bytes)].concat();
    driver.more[0].write_all(&all).unwrap();
}

/// What came to the interface's second queue.
fn received_by_second(driver: &mut Driver) -> usize {
    driver.more[0].read(&mut [0; 0x1_0000]).unwrap_or(0)
}

#[test]
fn pairs_are_offered_where_there_are_several() {
    for (driver, pairs) in [(Driver::of_two_pairs(), 2), (Driver::of_interface(), 1)] {
        assert_eq!(driver.net.features() & PAIRS != 0, pairs > 1);
        assert_eq!(driver.net.queue_sizes().len(), 2 * pairs + 1);
        let mut config = [0; 12];
        driver.net.read_config(0, &mut config);
        assert_eq!(usize::from(config[8]), pairs);
    }
}

#[test]
fn a_second_pair_passes_frames_from_when_its_driver_uses_it_until_it_does_not() {
    let mut driver = Driver::of_two_pairs();
    driver.room_in(SECOND_RECEIVE, 0, buffers(SECOND_RECEIVE), 2048);
    assert_eq!(driver.serve(SECOND_RECEIVE).unwrap(), Served::Full);
    driver.offer_frame_in(SECOND_TRANSMIT, &frame(MAC, 60));
    driver.serve(SECOND_TRANSMIT).unwrap();
    assert_eq!(driver.net.attached(), [true, false]);
    assert_eq!(
        (
            driver.used(SECOND_TRANSMIT),
            received_by_second(&mut driver)
        ),
        (0, 0)
    );
    // What waited in both is due.
    assert!(driver.command_in(LAST, &set_pairs(2)));
    assert_eq!(driver.net.attached(), [true, true]);
    driver.wake().unwrap();
    assert_eq!(
        (
            driver.used(SECOND_TRANSMIT),
            received_by_second(&mut driver)
        ),
        (1, 72)
    );
    send_by_second(&mut driver, 100);
    driver.wake().unwrap();
    assert_eq!(
        (
            driver.used(SECOND_RECEIVE),
            driver.written(SECOND_RECEIVE, 0)
        ),
        (1, 112)
    );
    // The first goes on by itself.
    driver.room(0, buffers(RECEIVE), 2048);
    driver.send(PLAIN, &frame(MAC, 50));
    driver.serve(RECEIVE).unwrap();
    assert_eq!((driver.used(RECEIVE), driver.used(SECOND_RECEIVE)), (1, 1));
    assert!(driver.command_in(LAST, &set_pairs(1)));
    assert_eq!(driver.net.attached(), [true, false]);
    driver.offer_frame_in(SECOND_TRANSMIT, &frame(MAC, 60));
    driver.serve(SECOND_TRANSMIT).unwrap();
    assert_eq!(driver.used(SECOND_TRANSMIT), 1);
    driver.offer_frame(&frame(MAC, 60));
    driver.serve(TRANSMIT).unwrap();
    assert_eq!(driver.used(TRANSMIT), 1);
}

#[test]
fn a_number_of_pairs_that_there_are_not_changes_nothing() {
    let mut driver = Driver::of_two_pairs();
    assert!(driver.command_in(LAST, &set_pairs(2)));
    for count in [0, 3, 0x102, u16::MAX] {
        assert!(!driver.command_in(LAST, &set_pairs(count)), "{count}");
        assert_eq!(driver.net.attached(), [true, true], "{count}");
    }
    let mut single = Driver::of_interface();
    for count in 0..3 {
        assert!(!single.command(&set_pairs(count)), "{count}");
    }
}

/// Each is a call of the host's for each pair, and whoever waits for the device waits for one turn.
#[test]
fn one_turn_changes_the_number_of_pairs_once() {
    let mut driver = Driver::of_two_pairs();
    assert!(driver.command_in(LAST, &set_pairs(1)));
    for _ in 0..3 {
        driver.offer(LAST, 0);
    }
    for done in 2..=4 {
        assert_eq!(driver.turn(LAST).unwrap(), Served::Some);
        assert_eq!(driver.used(LAST), done);
    }
}

#[test]
fn a_driver_that_knows_of_one_pair_has_its_commands_in_the_third_queue() {
    let mut driver = Driver::of_two_pairs();
    driver.start(driver.net.features() & !PAIRS);
    assert!(driver.command_in(CONTROL, &[1, 1, 2, 9, 9, 9, 9, 9]));
    assert!(!driver.command_in(CONTROL, &set_pairs(2)));
    assert_eq!(driver.net.attached(), [true, false]);
    driver.offer_frame_in(SECOND_TRANSMIT, &frame(MAC, 60));
    driver.serve(SECOND_TRANSMIT).unwrap();
    assert_eq!(driver.used(SECOND_TRANSMIT), 0);
    driver.start(driver.net.features());
    assert!(driver.command_in(LAST, &set_pairs(2)));
}

#[test]
fn a_reset_and_another_device_begin_with_one_pair() {
    let mut driver = Driver::of_two_pairs();
    assert!(driver.command_in(LAST, &set_pairs(2)));
    driver.start(driver.net.features());
    driver.serve(RECEIVE).unwrap();
    assert_eq!(driver.net.attached(), [true, false]);
    assert!(driver.command_in(LAST, &set_pairs(2)));
    let other = Driver::of_interface();
    drop(std::mem::replace(&mut driver.net, other.net));
    driver.net = Net::new(driver.nic.clone()).unwrap();
    assert_eq!(driver.net.attached(), [true, true]);
    driver.start(driver.net.features());
    driver.serve(RECEIVE).unwrap();
    assert_eq!(driver.net.attached(), [true, false]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_a_driver_of_two_pairs_offers_nothing_else_is_touched(
        rounds in prop::collection::vec((prop::collection::vec(any_ring(RECEIVE), 5), 0..4_u16, 0..2000_usize), 1..4),
        features: u64,
    ) {
        let mut driver = Driver::of_two_pairs();
        let watched: Vec<u8> = (0..0x1000_u32).map(|at| at.to_le_bytes()[0] ^ 0x3c).collect();
        for (rings, count, bytes) in rounds {
            driver.start(driver.net.features() & features);
            for queue in [CONTROL, LAST] {
                let at = GuestAddress(buffers(queue));
                driver.ram.write_slice(&set_pairs(count), at).unwrap();
            }
            for (queue, ring) in rings.into_iter().enumerate() {
                offer_ring(&mut driver, queue, ring);
            }
            driver.ram.write_slice(&watched, GuestAddress(WATCHED)).unwrap();
            driver.send(PLAIN, &frame(MAC, bytes));
            send_by_second(&mut driver, bytes);
            for queue in [LAST, CONTROL, RECEIVE, SECOND_RECEIVE, TRANSMIT, SECOND_TRANSMIT] {
                let _whatever = driver.serve(queue);
            }
            let _whatever = driver.wake();
            prop_assert_eq!(driver.read(WATCHED, 0x1000), &watched[..]);
            while !driver.received().is_empty() {}
            while received_by_second(&mut driver) != 0 {}
        }
        driver.start(driver.net.features());
        prop_assert!(driver.command_in(LAST, &set_pairs(2)));
        // What was not taken before comes first.
        driver.nic.plug(false);
        driver.room_in(SECOND_RECEIVE, 0, buffers(SECOND_RECEIVE), 2048);
        driver.serve(SECOND_RECEIVE).unwrap();
        driver.nic.plug(true);
        send_by_second(&mut driver, 100);
        driver.serve(SECOND_RECEIVE).unwrap();
        prop_assert_eq!(driver.used(SECOND_RECEIVE), 1);
    }
}
