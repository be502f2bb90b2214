//! A driver of a balloon as a fuzzer's bytes have it.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Balloon, BalloonControl, BalloonOptions};
use crate::virtio::device::Device;
use crate::virtio::queues::Queues;

const QUEUES: usize = 4;
/// Behind the queues are pages that may be given away.
const FIRST_PAGE: u64 = 0x10_0000;
const PAGE_BYTES: u64 = PAGE.len() as u64;
const RAM_BYTES: u64 = FIRST_PAGE + 16 * PAGE_BYTES;
/// What each of them has at first. It is written and looked at as a whole: word by word, each with its way through
/// guest memory, a run takes some seven times as long.
static PAGE: [u8; 0x1_0000] = [0xff; 0x1_0000];
/// Steps of one run at the most.
const MOST_STEPS: usize = 48;

/// Has a driver give away, take back, report and tell what `bytes` say.
///
/// # Panics
/// When a page has neither what it had nor nothing, or the device does not work after a reset.
pub fn balloon(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let length = usize::try_from(RAM_BYTES).expect("little");
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), length)]).expect("memory");
    for at in (FIRST_PAGE..RAM_BYTES).step_by(PAGE.len()) {
        ram.write_slice(&PAGE, GuestAddress(at)).expect("memory");
    }
    let control = Arc::new(BalloonControl::new(RAM_BYTES, |_| {}).expect("an eventfd"));
    let releases = input.arbitrary().unwrap_or_default();
    let options = BalloonOptions {
        deflates_on_oom: false,
        reports_free_pages: true,
        released_page_bytes: if releases { Some(PAGE_BYTES) } else { None },
    };
    let balloon = Balloon::new(Arc::clone(&control), ram.clone(), options).expect("a timer");
    let mut queues = Queues::new(balloon, ram);
    queues.start();
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &mut queues, &control).is_err() {
            break;
        }
    }
    assert_whole(&queues, releases);
    queues.start();
    let at = Queues::<Balloon>::buffers(0);
    let number = u32::try_from(FIRST_PAGE >> 12).expect("little");
    let written = queues.ram.write_obj(number.to_le(), GuestAddress(at));
    written.expect("memory");
    queues.descriptor((0, 0), at, 4, 0, 0);
    queues.offer((0, 0));
    queues.ring(0).expect("a list that makes sense");
    assert_eq!(queues.used(0), 1);
}

fn step(
    input: &mut Unstructured<'_>,
    queues: &mut Queues<Balloon>,
    control: &BalloonControl,
) -> Result<()> {
    let outcome = match input.int_in_range(0..=7u8)? {
        0..=2 => {
            // A list of numbers, most of which are of pages.
            let queue = input.int_in_range(0..=1)?;
            let count = input.int_in_range(0..=64u32)?;
            let at = Queues::<Balloon>::buffers(queue);
            for place in 0..count {
                let number: u32 = match input.int_in_range(0..=15u8)? {
                    0 => input.arbitrary()?,
                    _ => input.int_in_range(0x100..=0x1ff)?,
                };
                let at = GuestAddress(at + 4 * u64::from(place));
                queues.ram.write_obj(number.to_le(), at).expect("memory");
            }
            queues.descriptor((queue, 0), at, 4 * count, 0, 0);
            queues.offer((queue, 0));
            queues.ring(queue)
        }
        3 | 4 => {
            let queue = input.int_in_range(0..=QUEUES - 1)?;
            for index in 0..input.int_in_range(1..=4)? {
                let address = match input.int_in_range(0..=7u8)? {
                    0 => input.arbitrary()?,
                    // What is reported may be empty from then on, and so may queues.
                    _ => input.int_in_range(FIRST_PAGE..=RAM_BYTES)?,
                };
                let length = input.int_in_range(0..=0x4_0000)?;
                let (flags, next) = (input.int_in_range(0..=7)?, input.int_in_range(0..=8)?);
                queues.descriptor((queue, index), address, length, flags, next);
            }
            queues.offer((queue, 0));
            queues.ring(queue)
        }
        5 => {
            let data: [u8; 4] = input.arbitrary()?;
            queues
                .device
                .write_config(input.int_in_range(0..=16)?, &data);
            queues.collect()
        }
        6 => {
            control.leave(input.arbitrary()?);
            control.set_interval_seconds(input.arbitrary()?);
            queues.collect()
        }
        _ => {
            queues.start();
            Ok(())
        }
    };
    if outcome.is_err() {
        queues.start();
    }
    Ok(())
}

fn assert_whole(queues: &Queues<Balloon>, releases: bool) {
    let mut page = vec![0; PAGE.len()];
    for at in (FIRST_PAGE..RAM_BYTES).step_by(PAGE.len()) {
        let read = queues.ram.read_slice(&mut page, GuestAddress(at));
        read.expect("memory");
        let is_whole = page == PAGE;
        let is_empty = || page.iter().all(|byte| *byte == 0);
        assert!(is_whole || releases && is_empty(), "page at {at:#x}");
    }
}
