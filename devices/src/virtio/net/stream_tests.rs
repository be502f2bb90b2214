//! A card whose frames a stream carries, to an end that is slow, or gone.

use std::net::Shutdown;

use vmm_sys_util::epoll::EventSet;

use super::driver::{Driver, MAC, Peer, buffers, frame};
use super::tests::{OTHER, PLAIN};
use super::{RECEIVE, TRANSMIT};
use crate::virtio::device::{Device, Served};

#[test]
fn the_rest_of_a_streams_last_frame_is_sent_though_the_guest_sends_no_more() {
    let mut driver = Driver::of_stream();
    let sent = frame(OTHER, 60_000);
    let mut offered = 0;
    // Until a frame counts as sent of which some is left.
    while !driver.net.wanted().contains(EventSet::OUT) {
        driver.offer_frame(&sent);
        driver.serve(TRANSMIT).unwrap();
        offered += 1;
        assert!(offered < 1000, "its socket has no end");
    }
    assert_eq!(driver.used(TRANSMIT), offered, "all were taken");
    let mut bytes = 0;
    loop {
        let more = driver.received().len();
        driver.wake().unwrap();
        if more == 0 {
            break;
        }
        bytes += more;
    }
    assert_eq!(bytes, usize::from(offered) * (4 + sent.len()));
    assert!(!driver.net.wanted().contains(EventSet::OUT));
}

#[test]
fn a_stream_that_takes_nothing_more_takes_the_link_down_and_uses_frames_up() {
    let mut driver = Driver::of_stream();
    if let Peer::Stream(socket) = &driver.peer {
        socket.shutdown(Shutdown::Read).unwrap();
    }
    for count in 1..=4 {
        driver.offer_frame(&frame(OTHER, 60));
        assert_eq!(driver.serve(TRANSMIT).unwrap(), Served::All);
        assert_eq!(driver.used(TRANSMIT), count);
        assert!(!driver.nic.is_up());
    }
}

#[test]
fn an_other_end_that_is_gone_or_sends_nonsense_takes_the_link_down() {
    for nonsense in [None, Some(u32::MAX), Some(0x1_0000 + 15)] {
        let mut driver = Driver::of_stream();
        driver.room(0, buffers(RECEIVE), 2048);
        assert_eq!(driver.serve(RECEIVE).unwrap(), Served::Full);
        match nonsense {
            // Too short to be a frame, which is let be, and then the longest that there is.
            Some(length) => {
                driver.send(PLAIN, &[1; 13]);
                driver.send(PLAIN, &frame(MAC, 60));
                driver.serve(RECEIVE).unwrap();
                assert_eq!((driver.used(RECEIVE), driver.written(RECEIVE, 0)), (1, 72));
                driver.room(1, buffers(RECEIVE), 2048);
                driver.send_bytes(&length.to_be_bytes());
            }
            None => driver.peer = Driver::of_stream().peer,
        }
        // Its room stays, and it is not asked about that again and again.
        for _ in 0..2 {
            assert_eq!(driver.serve(RECEIVE).unwrap(), Served::Full);
        }
        assert!(!driver.nic.is_up() && driver.net.config_has_changed());
        assert_eq!(driver.net.wanted(), EventSet::empty());
        driver.offer_frame(&frame(OTHER, 60));
        assert_eq!(driver.serve(TRANSMIT).unwrap(), Served::All);
        assert_eq!(driver.used(TRANSMIT), 1);
    }
}
