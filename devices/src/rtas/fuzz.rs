//! RTAS calls as a fuzzer's bytes have them, on a machine with one host bridge and a function behind it.

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::fake::{FakePlatform, MEMORY, memory};
use super::*;

/// Calls of one run at the most.
const MOST_CALLS: usize = 48;

/// Tokens of services that write into a buffer, and which of a call's words say where it is and how long.
const BUFFERS: [(u32, usize, usize); 2] = [(0x2008, 4, 5), (0x200e, 7, 8)];

/// Makes the calls that `bytes` are read as.
///
/// # Panics
/// When a call has another code than it may, or changes memory other than its own return words and buffer.
pub fn calls(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (memory, platform) = match input.ratio(1, 4) {
        Ok(true) => (memory(), FakePlatform::new()),
        _ => (memory(), FakePlatform::with_eeh()),
    };
    for _ in 0..MOST_CALLS {
        if input.is_empty() || call(&mut input, &memory, &platform).is_err() {
            break;
        }
    }
}

fn call(
    input: &mut Unstructured<'_>,
    memory: &GuestMemoryMmap,
    platform: &FakePlatform,
) -> Result<()> {
    platform.console_busy.set(input.ratio(1, 8)?);
    if input.ratio(1, 16)? {
        platform.power.request_shutdown();
    }
    if let Some(endpoint) = &platform.endpoint {
        if input.ratio(1, 8)? {
            endpoint.freeze();
        }
        endpoint.fault.fail_call(input.ratio(1, 8)?.into());
    }
    let words = words(input, platform)?;
    let block: u64 = match input.ratio(1, 16)? {
        true => input.arbitrary()?,
        false => 4 * input.int_in_range(0..=0x1040u64)?,
    };
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let placed = memory.write_slice(&bytes, GuestAddress(block)).is_ok();
    let before = contents(memory);
    let (code, _) = handle(memory, platform, GuestPhysicalAddress(block));
    assert!(code == ReturnCode::SUCCESS || code == ReturnCode::PARAMETER);
    if placed {
        assert_own_is_changed(&words, block, &before, &contents(memory));
    }
    Ok(())
}

/// The words of an argument block.
fn words(input: &mut Unstructured<'_>, platform: &FakePlatform) -> Result<Vec<u32>> {
    let service = SERVICES[input.choose_index(SERVICES.len())?];
    let token = match input.ratio(1, 16)? {
        true => input.arbitrary()?,
        false => service.token,
    };
    let count = match input.ratio(1, 8)? {
        true => input.int_in_range(0..=18)?,
        false => service.arguments,
    };
    let returns = match input.ratio(1, 8)? {
        true => input.arbitrary()?,
        false => service.returns + u32::from(input.arbitrary::<bool>()?),
    };
    let mut words = vec![token, count, returns];
    for _ in 0..count {
        words.push(argument(input, platform)?);
    }
    Ok(words)
}

/// An argument: the bridge's unit ID, a small number or an address, or anything.
fn argument(input: &mut Unstructured<'_>, platform: &FakePlatform) -> Result<u32> {
    let [a, b, c, d, e, f, g, h] = platform.fixture.bridge.buid().to_be_bytes();
    Ok(match input.int_in_range(0..=7u8)? {
        0 | 1 => u32::from_be_bytes([a, b, c, d]),
        2 | 3 => u32::from_be_bytes([e, f, g, h]),
        4 => input.int_in_range(0..=8)?,
        5 => input.int_in_range(0..=0x4000)?,
        6 => *input.choose(&[12, 16, 20, 48, 0x10, 0x44, 0x500, 0x800, 0x8000_0001])?,
        _ => input.arbitrary()?,
    })
}

fn assert_own_is_changed(words: &[u32], block: u64, before: &[Vec<u8>], after: &[Vec<u8>]) {
    let first = block + 4 * words.len() as u64;
    let own = first..first + 4 * u64::from(words[2].min(16));
    let buffer = BUFFERS.iter().find(|(token, ..)| *token == words[0]);
    let buffer = buffer.and_then(|&(_, address, length)| {
        let (start, length) = (*words.get(address)?, *words.get(length)?);
        Some(u64::from(start)..u64::from(start) + u64::from(length))
    });
    let may_change =
        |at: u64| own.contains(&at) || buffer.as_ref().is_some_and(|buffer| buffer.contains(&at));
    for ((start, _), (old, new)) in MEMORY.iter().zip(before.iter().zip(after)) {
        for (at, (old, new)) in (start.0..).zip(old.iter().zip(new)) {
            assert!(
                old == new || may_change(at),
                "{at:#x} changed in a call at {block:#x}: {words:x?}"
            );
        }
    }
}

fn contents(memory: &GuestMemoryMmap) -> Vec<Vec<u8>> {
    let piece = |&(start, length): &(GuestAddress, usize)| {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, start).expect("RAM");
        bytes
    };
    MEMORY.iter().map(piece).collect()
}
