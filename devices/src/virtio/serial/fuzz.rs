//! A driver of a serial device, and peers, as a fuzzer's bytes have them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Outlet, PortOptions, Ports, Serial};
use crate::virtio::ServeError;
use crate::virtio::device::Device;
use crate::virtio::queues::{QUEUE_BYTES, Queues, WRITE};

/// Queues of ports 0 and 1, and those for messages about ports.
const QUEUES: usize = 6;
const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;
const RAM_BYTES: u64 = QUEUES as u64 * QUEUE_BYTES + 0x1_0000;
/// Steps of one run at the most.
const MOST_STEPS: usize = 64;

/// What the device finds wrong with what its driver did, if anything.
type Outcome = std::result::Result<(), ServeError>;

/// Has a driver offer what `bytes` say, with peers that send, read and leave.
///
/// # Panics
/// When the device does not work after a reset.
pub fn serial(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (mut peers, mut options) = (Vec::new(), Vec::new());
    for number in 0..2 {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        theirs.set_nonblocking(true).expect("a socket");
        peers.push(Some(theirs));
        options.push(PortOptions {
            number,
            name: format!("port{number}"),
            is_console: number == 0,
            outlet: Outlet::Connected(ours.into()),
        });
    }
    let ports = Ports::new(options, |_, _| {}).expect("descriptors");
    let serial = Serial::new(Arc::new(ports)).expect("its first device");
    let length = usize::try_from(RAM_BYTES).expect("little");
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), length)]).expect("memory");
    let mut queues = Queues::new(serial, ram);
    queues.start();
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &mut queues, &mut peers).is_err() {
            break;
        }
    }
    assert_works(&mut queues);
}

fn step(
    input: &mut Unstructured<'_>,
    queues: &mut Queues<Serial>,
    peers: &mut [Option<UnixStream>],
) -> Result<()> {
    let outcome = match input.int_in_range(0..=9u8)? {
        0..=2 => offer_chain(input, queues)?,
        3 | 4 => {
            let message = [
                input.int_in_range(0..=2u8)?,
                *input.choose(&[0, 3, 6, 1])?,
                input.int_in_range(0..=1)?,
            ];
            say(queues, message)
        }
        5 => {
            let bytes = input.bytes(input.len().min(64))?;
            let place = input.int_in_range(0..=1)?;
            if let Some(Some(peer)) = peers.get_mut(place) {
                // What does not fit is not sent.
                let _ = peer.write(bytes);
            }
            queues.collect()
        }
        6 => {
            let place = input.int_in_range(0..=1)?;
            if let Some(Some(peer)) = peers.get_mut(place) {
                let _ = peer.read(&mut [0; 4096]);
            }
            queues.collect()
        }
        7 => {
            if let Some(peer) = peers.get_mut(usize::from(input.ratio(1, 2)?)) {
                *peer = None;
            }
            queues.collect()
        }
        8 => {
            let mut data = [0; 8];
            // Where a BAR has it.
            let [from, to] = [
                input.int_in_range(0..=0xfff)?,
                input.int_in_range(0..=0xfff)?,
            ];
            queues.device.read_config(from, &mut data);
            queues.device.write_config(to, &data);
            Ok(())
        }
        _ => {
            queues.start();
            Ok(())
        }
    };
    if outcome.is_err() {
        // A driver has to, then.
        queues.start();
    }
    Ok(())
}

/// Offers a chain of buffers in one of the queues, most of them in RAM, and has it served.
fn offer_chain(input: &mut Unstructured<'_>, queues: &mut Queues<Serial>) -> Result<Outcome> {
    let queue = input.int_in_range(0..=QUEUES - 1)?;
    for index in 0..input.int_in_range(1..=4)? {
        let address = match input.int_in_range(0..=7u8)? {
            0 => input.arbitrary()?,
            _ => input.int_in_range(0..=RAM_BYTES)?,
        };
        let length = match input.int_in_range(0..=3u8)? {
            0 => input.arbitrary()?,
            _ => input.int_in_range(0..=0x2000)?,
        };
        let (flags, next) = (input.int_in_range(0..=7)?, input.int_in_range(0..=8)?);
        queues.descriptor((queue, index), address, length, flags, next);
    }
    queues.offer((queue, 0));
    Ok(queues.ring(queue))
}

/// Says something of a port, about an event, with a value.
fn say(queues: &mut Queues<Serial>, [port, event, value]: [u8; 3]) -> Outcome {
    let at = Queues::<Serial>::buffers(FROM_DRIVER);
    let message = [port, 0, 0, 0, event, 0, value, 0];
    let written = queues.ram.write_slice(&message, GuestAddress(at));
    written.expect("memory");
    queues.descriptor((FROM_DRIVER, 7), at, 8, 0, 0);
    queues.offer((FROM_DRIVER, 7));
    queues.ring(FROM_DRIVER)
}

fn assert_works(queues: &mut Queues<Serial>) {
    queues.start();
    say(queues, [0, 0, 1]).expect("a message that makes sense");
    let at = Queues::<Serial>::buffers(TO_DRIVER);
    queues.descriptor((TO_DRIVER, 0), at, 64, WRITE, 0);
    queues.offer((TO_DRIVER, 0));
    queues.ring(TO_DRIVER).expect("a buffer that makes sense");
    let message: u64 = queues.ram.read_obj(GuestAddress(at)).expect("memory");
    // Port 0 is there.
    assert_eq!(u64::from_le(message), 0x0001_0001_0000_0000);
}
