//! Frames that go straight into room that the driver has made for them.

use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::RECEIVE;
use super::driver::{Driver, MAC, QUEUE_SIZE, WATCHED, buffers, frame};
use super::room::MOST_PIECES;
use super::tests::{MERGED, PLAIN, any_frames, any_ring, offer_ring};
use crate::net::HEADER_BYTES;
use crate::virtio::device::{Device, Served};

/// Offers a buffer of that many bytes as number `count`.
fn offer(driver: &mut Driver, count: u16, bytes: usize) -> u64 {
    let index = count % QUEUE_SIZE;
    let at = buffers(RECEIVE) + 0x1000 * u64::from(index);
    driver.room(index, at, u32::try_from(bytes).unwrap());
    at
}

#[test]
fn a_frame_that_is_left_where_it_is_comes_without_another() {
    let mut driver = Driver::of_interface();
    let mut offered = 0;
    let mut come = 0;
    // First one by one, as often as it takes to count on that; then two together, and three.
    for together in [1; 10].into_iter().chain([2; 10]).chain([3; 10]) {
        for _ in 0..together {
            offer(&mut driver, offered, 0x1000);
            offered += 1;
        }
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::Full);
        for _ in 0..together {
            driver.send(PLAIN, &frame(MAC, 60));
        }
        driver.wake().unwrap();
        come += together;
        assert_eq!(driver.used(RECEIVE), come);
    }
}

#[test]
fn nothing_of_what_comes_while_the_link_is_down_is_in_the_guests_memory() {
    let mut driver = Driver::of_interface();
    offer(&mut driver, 0, 0x1000);
    let long = frame(MAC, 4000);
    driver.send(PLAIN, &long);
    driver.serve(RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), 1);
    // From now on frames go straight into buffers.
    driver.nic.plug(false);
    let at = offer(&mut driver, 1, 0x1000);
    driver.send(PLAIN, &long);
    driver.serve(RECEIVE).unwrap();
    assert_eq!(driver.read(at, 0x1000), [0; 0x1000]);
    driver.nic.plug(true);
    driver.send(PLAIN, &long);
    driver.serve(RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), 2);
    assert_eq!(driver.read(at + 12, 4000), long);
}

#[test]
fn room_that_was_taken_is_there_for_whoever_serves_the_queue_next() {
    let mut driver = Driver::of_interface();
    offer(&mut driver, 0, 0x1000);
    offer(&mut driver, 1, 0x1000);
    driver.send(PLAIN, &frame(MAC, 60));
    driver.serve(RECEIVE).unwrap();
    let queue = &mut driver.queues[RECEIVE];
    assert_eq!((queue.next_used(), queue.next_avail()), (1, 2));
    driver.net.give_up_room(queue);
    assert_eq!(queue.next_avail(), 1);
    driver.send(PLAIN, &frame(MAC, 61));
    driver.serve(RECEIVE).unwrap();
    assert_eq!((driver.used(RECEIVE), driver.written(RECEIVE, 1)), (2, 73));
}

#[test]
fn an_end_is_told_once() {
    for mut driver in [Driver::of_interface(), Driver::of_stream()] {
        offer(&mut driver, 0, 0x1000);
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::Full);
        driver.send(PLAIN, &frame(MAC, 60));
        driver.peer = Driver::of_interface().peer;
        for _ in 0..3 {
            driver.wake().unwrap();
        }
        assert_eq!(
            driver.used(RECEIVE),
            1,
            "what came before its end is not lost"
        );
        assert!(!driver.nic.is_up());
        driver.hear();
        assert_eq!(driver.hear(), 0);
    }
}

/// A driver's room, and what has come into it.
struct Rooms {
    driver: Driver,
    /// Where each buffer is, by its number, and how long.
    offered: Vec<(u64, usize)>,
    given_back: usize,
}

impl Rooms {
    /// Offers a buffer, if there is room for it in the ring.
    fn offer(&mut self, bytes: usize) {
        if self.offered.len() - self.given_back < usize::from(QUEUE_SIZE) {
            let count = u16::try_from(self.offered.len()).unwrap();
            let at = offer(&mut self.driver, count, bytes);
            self.offered.push((at, bytes));
        }
    }

    /// The next frame that has come, with its header.
    fn next(&mut self) -> Option<Vec<u8>> {
        let used = usize::from(self.driver.used(RECEIVE));
        let (at, _) = *self
            .offered
            .get(self.given_back)
            .filter(|_| self.given_back < used)?;
        let count = self.driver.ram.read_obj(GuestAddress(at + 10)).unwrap();
        let end = self.given_back + usize::from(u16::from_le(count));
        assert!(end <= used, "a part of it comes later");
        let mut all = Vec::new();
        for number in self.given_back..end {
            let (at, bytes) = self.offered[number];
            let written = self.driver.written(RECEIVE, u16::try_from(number).unwrap());
            let written = usize::try_from(written).unwrap();
            assert!(written == bytes || number + 1 == end);
            all.extend(self.driver.read(at, written));
        }
        self.given_back = end;
        Some(all)
    }
}

proptest! {
    #[test]
    fn frames_of_any_length_come_whole_into_buffers_of_any_length(
        merges: bool,
        rounds in prop::collection::vec(
            (prop::collection::vec(14_usize..7000, 0..3), prop::collection::vec(12_usize..0x1000, 0..8)),
            1..8,
        ),
    ) {
        let mut driver = Driver::of_interface();
        let features = driver.net.features();
        driver.start(if merges { features } else { features & !MERGED });
        let mut rooms = Rooms { driver, offered: Vec::new(), given_back: 0 };
        let mut sent = Vec::new();
        let mut come = Vec::new();
        for (lengths, buffers) in rounds {
            for length in lengths {
                rooms.driver.send(PLAIN, &frame(MAC, length));
                sent.push(length);
            }
            buffers.into_iter().for_each(|bytes| rooms.offer(bytes));
            rooms.driver.serve(RECEIVE).unwrap();
            rooms.driver.wake().unwrap();
            while let Some(got) = rooms.next() {
                let length = got.len() - HEADER_BYTES;
                prop_assert_eq!(&got[HEADER_BYTES..], frame(MAC, length));
                come.push(length);
            }
        }
        // All but those for which there was no room, in their order.
        let mut of_sent = sent.iter();
        prop_assert!(come.iter().all(|length| of_sent.any(|it| it == length)), "{come:?} of {sent:?}");
    }
    #[test]
    fn whatever_a_driver_does_to_room_that_was_taken_nothing_else_is_touched(
        rounds in prop::collection::vec((any_ring(RECEIVE), any_frames()), 1..8),
        features: u64,
    ) {
        let mut driver = Driver::of_interface();
        let features = driver.net.features() & features;
        driver.start(features);
        let watched: Vec<u8> = (0..0x1000_u32).map(|at| at.to_le_bytes()[0] ^ 0x3c).collect();
        driver.ram.write_slice(&watched, GuestAddress(WATCHED)).unwrap();
        for (ring, frames) in rounds {
            // Descriptors that were taken are others then, too.
            offer_ring(&mut driver, RECEIVE, ring);
            for (header, bytes) in frames {
                driver.send_bytes(&[&header[..], &frame(MAC, bytes)].concat());
            }
            if driver.serve(RECEIVE).and_then(|_| driver.wake()).is_err() {
                driver.start(features);
            }
            prop_assert_eq!(driver.read(WATCHED, 0x1000), &watched[..]);
            let queue = &driver.queues[RECEIVE];
            let taken = usize::from(queue.next_avail().wrapping_sub(queue.next_used()));
            prop_assert!(taken <= MOST_PIECES, "{taken} chains");
        }
        driver.start(driver.net.features());
        // What was not taken before comes first.
        driver.nic.plug(false);
        offer(&mut driver, 0, 0x1000);
        driver.serve(RECEIVE).unwrap();
        driver.nic.plug(true);
        driver.send(PLAIN, &frame(MAC, 100));
        driver.serve(RECEIVE).unwrap();
        prop_assert_eq!(driver.used(RECEIVE), 1);
    }
}
