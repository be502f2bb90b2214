//! A driver of a serial device and peers that do what they like.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::tests::{FROM_DRIVER, Guest, QUEUE_BYTES, QUEUES, RAM_BYTES, RECEIVE, TO_DRIVER};
use crate::pci::FunctionBackend;

#[derive(Clone, Debug)]
enum Step {
    Register(u64, [u8; 4]),
    Memory(u64, u64),
    Offer(usize, u64, u32, u16),
    Say([u8; 8]),
    Connect,
    Send(Vec<u8>),
    Hear,
    Leave,
    Open,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let address =
        prop_oneof![4 => 0..RAM_BYTES, 1 => RAM_BYTES - 8..RAM_BYTES + 8, 1 => any::<u64>()];
    let length = prop_oneof![4 => 0..300_u32, 1 => any::<u32>()];
    let place = prop_oneof![0..0x40_u64, 0x2000..0x200c_u64, 0x3000..0x3020_u64];
    let memory = (0..QUEUES, 0..0x3000_u64).prop_map(|(queue, at)| queue as u64 * QUEUE_BYTES + at);
    let message = [0..3_u8, 0..1, 0..1, 0..1, 0..9, 0..1, 0..3, 0..1];
    prop_oneof![
        2 => (place, any::<[u8; 4]>()).prop_map(|(at, data)| Step::Register(at, data)),
        2 => (memory, any::<u64>()).prop_map(|(at, value)| Step::Memory(at, value)),
        6 => (0..QUEUES, address, length, 0..8_u16)
            .prop_map(|(queue, at, bytes, flags)| Step::Offer(queue, at, bytes, flags)),
        4 => message.prop_map(Step::Say),
        2 => Just(Step::Connect),
        3 => proptest::collection::vec(any::<u8>(), 0..2000).prop_map(Step::Send),
        2 => Just(Step::Hear),
        1 => Just(Step::Leave),
        2 => Just(Step::Open),
        1 => Just(Step::Reset),
    ]
}

fn take(guest: &mut Guest, peers: &mut Vec<UnixStream>, step: Step) {
    match step {
        Step::Register(at, data) => guest.write(at, &data),
        Step::Memory(at, value) => guest.ram.write_obj(value, GuestAddress(at)).unwrap(),
        Step::Offer(queue, at, bytes, flags) => guest.offer_at(queue, at, bytes, flags),
        Step::Say(message) => guest.send(FROM_DRIVER, &message),
        Step::Connect if peers.len() < 4 => {
            let peer = guest.connect();
            peer.set_nonblocking(true).unwrap();
            peers.push(peer);
        }
        // What does not fit or is not there is nothing.
        Step::Send(bytes) => peers.iter_mut().for_each(|peer| drop(peer.write(&bytes))),
        Step::Hear => peers
            .iter_mut()
            .for_each(|peer| drop(peer.read(&mut [0; 4096]))),
        Step::Leave => drop(peers.pop()),
        Step::Open => {
            guest.start();
            for (queue, bytes) in [(TO_DRIVER, 64), (TO_DRIVER, 64), (RECEIVE, 256)] {
                guest.offer(queue, bytes);
            }
            for message in [[0, 0, 1], [1, 3, 1], [1, 6, 1]] {
                let [port, event, value] = message;
                guest.send(FROM_DRIVER, &[port, 0, 0, 0, event, 0, value, 0]);
            }
        }
        Step::Reset => guest.function.reset().unwrap(),
        Step::Connect => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_driver_and_peers_do_the_device_can_be_reset_and_works(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut guest = Guest::new();
        let mut peers = Vec::new();
        for step in steps {
            take(&mut guest, &mut peers, step);
        }
        peers.clear();
        guest.function.reset().unwrap();
        guest.function.write_config(4, &[6, 0]).unwrap();
        guest.start();
        guest.say(0, 0, 1);
        guest.message();
        guest.say(1, 3, 1);
        guest.message();
        guest.say(1, 6, 1);
        // Peers that were waiting come and go first.
        let mut peer = guest.connect();
        peer.write_all(b"last").unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"last") {
            guest.offer(RECEIVE, 0x4000);
            got = guest.take(RECEIVE);
        }
    }
}
