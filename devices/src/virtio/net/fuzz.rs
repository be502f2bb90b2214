//! A driver of a network card and the other end of its network, as a fuzzer's bytes have them. What rings is served at
//! once, in the same thread, so that a run can be repeated.

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress};

use super::driver::{Driver, MAC, QUEUE_SIZE, RAM_BYTES, buffers, frame};
use super::{CONTROL, RECEIVE, TRANSMIT};
use crate::net::HEADER_BYTES;
use crate::virtio::device::Device;

/// Steps of one run at the most.
const MOST_STEPS: usize = 64;

/// Has a driver offer what `bytes` say in its queues, and the other end send what they say.
///
/// # Panics
/// When the device does not end a turn, or does not work after a reset.
pub fn card(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut driver = match input.arbitrary::<u8>().unwrap_or_default() % 4 {
        0 => Driver::of_interface(),
        2 => Driver::of_two_pairs(),
        _ => Driver::of_stream(),
    };
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &mut driver).is_err() {
            break;
        }
    }
    assert_works(&mut driver);
}

fn step(input: &mut Unstructured<'_>, driver: &mut Driver) -> Result<()> {
    // Queue 4, where there is one, is for commands if the driver knows of two pairs.
    let last = driver.queues.len() - 1;
    let queue = *input.choose(&[RECEIVE, TRANSMIT, CONTROL, last, last - 1])?;
    match input.int_in_range(0..=9u8)? {
        0..=2 => descriptor(input, driver, queue)?,
        3 => driver.offer(queue, input.int_in_range(0..=QUEUE_SIZE)?),
        4 => {
            let _whatever = driver.serve(queue);
        }
        5 => {
            let _whatever = driver.wake();
        }
        6 => {
            let length = usize::from(input.arbitrary::<u16>()?);
            let mut header: [u8; HEADER_BYTES] = input.arbitrary()?;
            header[0] &= 3;
            driver.send_bytes(&[&header[..], &frame(MAC, length)].concat());
        }
        7 => {
            let length = input.int_in_range(0..=64)?;
            driver.send_bytes(input.bytes(length)?);
        }
        8 => {
            let length = input.int_in_range(0..=64)?;
            let data = input.bytes(length)?;
            let at = buffers(queue) + input.int_in_range(0..=0x200u64)?;
            driver.ram.write_slice(data, GuestAddress(at)).expect("RAM");
        }
        _ => match input.arbitrary()? {
            true => driver.nic.plug(input.arbitrary()?),
            false => driver.start(driver.net.features() & input.arbitrary::<u64>()?),
        },
    }
    Ok(())
}

fn descriptor(input: &mut Unstructured<'_>, driver: &Driver, queue: usize) -> Result<()> {
    let address = match input.int_in_range(0..=7u8)? {
        0 => input.arbitrary()?,
        1 => RAM_BYTES as u64 - input.int_in_range(0..=64u64)?,
        _ => buffers(queue) + input.int_in_range(0..=0x200u64)?,
    };
    let length = match input.int_in_range(0..=3u8)? {
        0 => input.arbitrary()?,
        _ => input.int_in_range(0..=2048u32)?,
    };
    let (flags, next) = (
        input.int_in_range(0..=7)?,
        input.int_in_range(0..=QUEUE_SIZE)?,
    );
    let index = input.int_in_range(0..=QUEUE_SIZE - 1)?;
    driver.descriptor(queue, index, (address, length, flags, next));
    Ok(())
}

/// That frames pass both ways, whatever was before a reset; unless the other end has sent nonsense.
fn assert_works(driver: &mut Driver) {
    driver.start(driver.net.features());
    driver.nic.plug(false);
    driver.room(0, buffers(RECEIVE), 2048);
    driver.serve(RECEIVE).expect("an empty buffer");
    while !driver.received().is_empty() {}
    driver.nic.plug(true);
    if !driver.nic.is_up() || driver.is_amid_a_frame() {
        return;
    }
    let sent = frame(MAC, 100);
    driver.send([0; HEADER_BYTES], &sent);
    // Nobody rings for it.
    driver.wake().expect("a frame");
    assert_eq!((driver.used(RECEIVE), driver.written(RECEIVE, 0)), (1, 112));
    assert_eq!(
        driver.read(buffers(RECEIVE) + HEADER_BYTES as u64, 100),
        sent
    );
    driver.offer_frame(&sent);
    driver.serve(TRANSMIT).expect("a frame");
    assert!(driver.received().ends_with(&sent));
}
