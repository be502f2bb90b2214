//! How much a turn takes of a driver whose requests are long and have little in them.

use std::fs::File;
use std::io::Write;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::driver::{MAC, NEXT, WRITE, frame, packet_sockets};
use super::drops::Reason;
use super::{DESCRIPTOR_BYTES, MOST_TURN_BYTES, Net, Nic, NicOptions, RECEIVE, TRANSMIT};
use crate::dma::DmaMemory;
use crate::net::{Backend, HEADER_BYTES, Tap};
use crate::virtio::device::{Device, Served};

/// The longest queue that a card has.
const ENTRIES: u16 = 1024;
/// Frames that wait at the host.
const FRAMES: u64 = 64;
const DRIVER_RING: u64 = 0x4000;
const DEVICE_RING: u64 = 0x5000;
const BUFFER: u64 = 0x8000;
/// Chains of that many descriptors in one turn, of which the last one goes beyond.
const MOST_CHAINS: u16 = 8;
const _: () =
    assert!(MOST_TURN_BYTES == DESCRIPTOR_BYTES * ENTRIES as usize * MOST_CHAINS as usize);

/// A card, the other end of its network, and a ring full of one chain, as long as the ring: its first buffer has
/// `bytes`, the others none.
fn fixture(bytes: usize, flags: u16) -> (Net, File, Queue, DmaMemory) {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    for index in 0..ENTRIES {
        let length = if index == 0 {
            u32::try_from(bytes).unwrap()
        } else {
            0
        };
        let is_last = index + 1 == ENTRIES;
        let flags = flags | if is_last { 0 } else { NEXT };
        let parts = [
            &BUFFER.to_le_bytes()[..],
            &length.to_le_bytes(),
            &flags.to_le_bytes(),
            &(index + 1).to_le_bytes(),
        ];
        let at = GuestAddress(16 * u64::from(index));
        ram.write_slice(&parts.concat(), at).unwrap();
    }
    // The entries are all of chain 0.
    ram.write_obj(ENTRIES.to_le(), GuestAddress(DRIVER_RING + 2))
        .unwrap();
    let mut queue = Queue::new(ENTRIES).unwrap();
    let places = [0, DRIVER_RING, DEVICE_RING].map(GuestAddress);
    queue.try_set_desc_table_address(places[0]).unwrap();
    queue.try_set_avail_ring_address(places[1]).unwrap();
    queue.try_set_used_ring_address(places[2]).unwrap();
    queue.set_ready(true);
    let [own, peer] = packet_sockets();
    let options = NicOptions {
        name: "net0".to_owned(),
        mac: MAC,
        mtu: None,
        receive_entries: ENTRIES,
        transmit_entries: ENTRIES,
    };
    let nic = Nic::new(Backend::Tap(Tap::of_socket(own)), options).unwrap();
    let mut net = Net::new(nic.into()).unwrap();
    net.start(net.features());
    (
        net,
        File::from(peer),
        queue,
        DmaMemory::by_guest_address(ram),
    )
}

#[test]
fn frames_in_many_buffers_without_bytes_do_not_hold_the_thread() {
    let (mut net, _peer, mut queue, memory) = fixture(HEADER_BYTES + 60, 0);
    for turn in 1..=3 {
        let served = net.serve(TRANSMIT, &mut queue, &memory).unwrap();
        assert_eq!(served, Served::Some);
        assert_eq!(queue.next_used(), turn * MOST_CHAINS);
    }
}

#[test]
fn room_in_many_buffers_without_bytes_does_not_hold_the_thread() {
    let (mut net, mut peer, mut queue, memory) = fixture(HEADER_BYTES, WRITE);
    let sent = [&[0; HEADER_BYTES][..], &frame(MAC, 1500)].concat();
    peer.write_all(&sent).unwrap();
    let chains = u16::try_from(sent.len().div_ceil(HEADER_BYTES)).unwrap();
    let mut taken = 0;
    while queue.next_used() == 0 {
        let served = net.serve(RECEIVE, &mut queue, &memory).unwrap();
        assert!(matches!(served, Served::Some | Served::Full));
        let in_this_turn = queue.next_avail() - taken;
        assert!((1..=MOST_CHAINS).contains(&in_this_turn), "{in_this_turn}");
        taken = queue.next_avail();
    }
    assert_eq!(queue.next_used(), chains);
    // Some more may be taken ahead.
    assert!((chains..chains + MOST_CHAINS).contains(&taken), "{taken}");
}

#[test]
fn room_that_was_taken_and_has_no_bytes_holds_no_later_turn_and_is_not_kept() {
    let (mut net, mut peer, mut queue, memory) = fixture(HEADER_BYTES, WRITE);
    // All chains but the first are of buffers without bytes.
    for entry in 1..u64::from(ENTRIES) {
        let at = GuestAddress(DRIVER_RING + 4 + 2 * entry);
        memory.write_obj(1_u16.to_le(), at).unwrap();
    }
    let sent = [&[0; HEADER_BYTES][..], &frame(MAC, 60)].concat();
    for _ in 0..FRAMES {
        peer.write_all(&sent).unwrap();
    }
    let mut dropped = 0;
    while dropped < FRAMES {
        net.serve(RECEIVE, &mut queue, &memory).unwrap();
        let in_this_turn = net.drops().of(Reason::NoRoom) - dropped;
        // Each frame goes through the whole ring before it is known to be too long.
        assert!(in_this_turn <= u64::from(MOST_CHAINS), "{in_this_turn}");
        dropped += in_this_turn;
    }
    assert_eq!(queue.next_used(), 0);
}
