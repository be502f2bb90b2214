use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::fake::{FakePlatform, MEMORY, memory};
use super::*;
use crate::pci::MAX_HOST_BRIDGES;

#[path = "msi_tests.rs"]
mod msi;

const BLOCK: u64 = 0x100;
const BUID: [u32; 2] = [0x0800_0000, 0x2000_0000];

/// The two words of the BUID of the machine's bridge.
pub(super) fn buid(platform: &FakePlatform) -> [u32; 2] {
    let buid = platform.fixture.bridge.buid();
    [buid >> 32, buid & 0xffff_ffff].map(|word| u32::try_from(word).unwrap())
}

fn token(name: &str) -> u32 {
    SERVICES
        .iter()
        .find(|service| service.name == name)
        .unwrap()
        .token
}

fn words_at(memory: &GuestMemoryMmap, address: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; count * 4];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
        .chunks(4)
        .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
        .collect()
}

fn write_words(memory: &GuestMemoryMmap, address: u64, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(address)).unwrap();
}

/// A call of a service by name: hypercall's code, outcome and return words.
pub(super) fn call(
    memory: &GuestMemoryMmap,
    platform: &FakePlatform,
    name: &str,
    arguments: &[u32],
    returns: u32,
) -> (ReturnCode, Outcome, Vec<i32>) {
    let count = u32::try_from(arguments.len()).unwrap();
    let mut block = vec![token(name), count, returns];
    block.extend(arguments);
    let returns_at = BLOCK + 4 * u64::try_from(block.len()).unwrap();
    block.resize(block.len() + 17, 0x5555_5555);
    write_words(memory, BLOCK, &block);
    let (code, outcome) = handle(memory, platform, GuestPhysicalAddress(BLOCK));
    let returns = words_at(memory, returns_at, returns as usize);
    (
        code,
        outcome,
        returns.into_iter().map(u32::cast_signed).collect(),
    )
}

pub(super) fn status(
    platform: &FakePlatform,
    name: &str,
    arguments: &[u32],
    returns: u32,
) -> Vec<i32> {
    let (code, outcome, returns) = call(&memory(), platform, name, arguments, returns);
    assert_eq!((code, outcome), (ReturnCode::SUCCESS, Outcome::Done));
    returns
}

#[test]
fn tokens_and_names_are_unique_and_found() {
    let all: Vec<_> = SERVICES
        .iter()
        .map(|service| (service.name, service.token))
        .chain(
            KERNEL_SERVICES
                .iter()
                .map(|service| (service.name, service.token)),
        )
        .collect();
    for (index, (name, token)) in all.iter().enumerate() {
        assert!(
            all[..index]
                .iter()
                .all(|other| other.0 != *name && other.1 != *token),
            "{name}"
        );
    }
    for service in SERVICES {
        assert_eq!(find(service.token).unwrap().name, service.name);
    }
    assert!(find(0x1fff).is_none() && find(0x203f).is_none() && find(u32::MAX).is_none());
}

#[test]
fn unknown_tokens_are_refused_twice_over() {
    let (memory, platform) = (memory(), FakePlatform::new());
    write_words(&memory, BLOCK, &[0x20ff, 0, 1, 0]);
    let (code, outcome) = handle(&memory, &platform, GuestPhysicalAddress(BLOCK));
    assert_eq!((code, outcome), (ReturnCode::PARAMETER, Outcome::Done));
    assert_eq!(words_at(&memory, BLOCK + 12, 1), [(-3i32).cast_unsigned()]);
    // The kernel's own arrive here only by mistake.
    write_words(&memory, BLOCK, &[0x200a, 0, 1, 0]);
    let (code, _) = handle(&memory, &platform, GuestPhysicalAddress(BLOCK));
    assert_eq!(code, ReturnCode::SUCCESS);
    assert_eq!(words_at(&memory, BLOCK + 12, 1), [u32::MAX]);
}

#[test]
fn too_few_arguments_or_returns_are_a_parameter_error() {
    let platform = FakePlatform::new();
    assert_eq!(status(&platform, "start-cpu", &[1], 1), [-3]);
    assert_eq!(
        status(
            &platform,
            "ibm,read-pci-config",
            &[0, BUID[0], BUID[1], 4],
            1
        ),
        [-3]
    );
    assert!(platform.started.borrow().is_empty());
}

#[test]
fn the_machine_s_end_is_left_to_the_caller() {
    let (memory, platform) = (memory(), FakePlatform::new());
    for (name, arguments, expected) in [
        ("power-off", &[u32::MAX, u32::MAX][..], Outcome::PowerOff),
        ("system-reboot", &[], Outcome::Reboot),
        ("stop-self", &[], Outcome::StopSelf),
    ] {
        let (code, outcome, returns) = call(&memory, &platform, name, arguments, 1);
        assert_eq!(
            (code, outcome, returns),
            (ReturnCode::SUCCESS, expected, vec![0]),
            "{name}"
        );
    }
    memory
        .write_slice(b"Attempted\x1b[2J to kill init!\0more", GuestAddress(0x800))
        .unwrap();
    let (_, outcome, _) = call(&memory, &platform, "ibm,os-term", &[0x800], 1);
    assert_eq!(
        outcome,
        Outcome::OsTerm(Some("Attempted.[2J to kill init!".into()))
    );
    let (_, outcome, _) = call(&memory, &platform, "ibm,os-term", &[u32::MAX], 1);
    assert_eq!(outcome, Outcome::OsTerm(None));
    memory
        .write_slice(&[b'x'; 0x400], GuestAddress(0x1c00))
        .unwrap();
    let (_, outcome, _) = call(&memory, &platform, "ibm,os-term", &[0x1fff], 1);
    assert_eq!(outcome, Outcome::OsTerm(Some("x".into())), "up to the hole");
    // What Linux passes; what a kernel has at 0 is code.
    memory.write_slice(b"code", GuestAddress(0)).unwrap();
    let (_, outcome, _) = call(&memory, &platform, "ibm,os-term", &[0], 1);
    assert_eq!(outcome, Outcome::OsTerm(None));
}

#[test]
fn processors_start_once_and_tell_their_state() {
    let platform = FakePlatform::new();
    assert_eq!(status(&platform, "start-cpu", &[1, 0x2000, 7], 1), [0]);
    assert_eq!(*platform.started.borrow(), [(1, 0x2000, 7)]);
    assert_eq!(status(&platform, "start-cpu", &[0, 0x2000, 7], 1), [-1]);
    assert_eq!(status(&platform, "start-cpu", &[9, 0x2000, 7], 1), [-3]);
    for (server, expected) in [(0, [0, 2]), (1, [0, 0]), (2, [0, 1])] {
        assert_eq!(
            status(&platform, "query-cpu-stopped-state", &[server], 2),
            expected
        );
    }
    assert_eq!(status(&platform, "query-cpu-stopped-state", &[9], 2)[0], -3);
}

#[test]
fn characters_reach_the_console_or_are_asked_for_again() {
    let platform = FakePlatform::new();
    assert_eq!(
        status(&platform, "display-character", &[u32::from(b'A')], 1),
        [0]
    );
    platform.console_busy.set(true);
    assert_eq!(
        status(&platform, "display-character", &[u32::from(b'B')], 1),
        [-2]
    );
    assert_eq!(*platform.console.borrow(), b"A");
}

#[test]
fn the_clock_can_be_set_and_read_back() {
    let platform = FakePlatform::new();
    assert_eq!(
        status(&platform, "set-time-of-day", &[1971, 2, 3, 4, 5, 6, 0], 1),
        [0]
    );
    let returns = status(&platform, "get-time-of-day", &[], 8);
    assert_eq!(returns[..6], [0, 1971, 2, 3, 4, 5]);
    assert!(
        (6..30).contains(&returns[6]),
        "the clock runs on from the second that was set"
    );
    assert_eq!(
        status(&platform, "set-time-of-day", &[1971, 13, 3, 4, 5, 6, 0], 1),
        [-3]
    );
}

#[test]
fn system_parameters_fit_the_guest_s_buffer() {
    let (memory, platform) = (memory(), FakePlatform::new());
    let get = |arguments: [u32; 3]| {
        call(
            &memory,
            &platform,
            "ibm,get-system-parameter",
            &arguments,
            1,
        )
        .2[0]
    };
    assert_eq!(get([48, 0x800, 100]), 0);
    let mut buffer = [0; 19];
    memory.read_slice(&mut buffer, GuestAddress(0x800)).unwrap();
    assert_eq!(&buffer, b"\x00\x100123456789abcdef\x00");
    assert_eq!(get([20, 0x900, 1000]), 0);
    let expected = b"\x00\x37MaxEntCap=400,DesMem=1024,DesProcs=3,MaxPlatProcs=4\0";
    let mut buffer = vec![0; expected.len()];
    memory.read_slice(&mut buffer, GuestAddress(0x900)).unwrap();
    assert_eq!(buffer[2..], expected[2..]);
    assert_eq!(
        usize::from(u16::from_be_bytes([buffer[0], buffer[1]])),
        expected.len() - 2
    );
    // A short buffer gets the length of all, and what fits.
    memory.write_slice(&[0xee; 8], GuestAddress(0xa00)).unwrap();
    assert_eq!(get([48, 0xa00, 4]), 0);
    let mut buffer = [0; 5];
    memory.read_slice(&mut buffer, GuestAddress(0xa00)).unwrap();
    assert_eq!(&buffer, b"\x00\x1001\xee");
    assert_eq!(get([48, 0xa00, 1]), -9999);
    assert_eq!(get([48, 0x1ff8, 100]), -3, "across the hole");
    assert_eq!(get([47, 0xa00, 100]), -3);
    assert_eq!(
        call(&memory, &platform, "ibm,set-system-parameter", &[48, 0], 1).2,
        [-3]
    );
}

#[test]
fn configuration_space_is_reached_by_bridge_and_address() {
    let platform = FakePlatform::new();
    let [high, low] = BUID;
    assert_eq!(
        status(&platform, "ibm,read-pci-config", &[0, high, low, 4], 2),
        [0, 0x10_1b36]
    );
    assert_eq!(
        status(&platform, "read-pci-config", &[0, 2], 2),
        [0, 0x1b36]
    );
    assert_eq!(
        status(
            &platform,
            "ibm,write-pci-config",
            &[0x3c, high, low, 1, 0x2a],
            1
        ),
        [0]
    );
    assert_eq!(
        status(&platform, "write-pci-config", &[0x3c, 1, 0x2b], 1),
        [0]
    );
    assert_eq!(
        status(&platform, "ibm,read-pci-config", &[0x3c, high, low, 1], 2),
        [0, 0x2b]
    );
    // Extended: register 0x110.
    let extended = 0x1000_0010;
    assert_eq!(
        status(
            &platform,
            "ibm,read-pci-config",
            &[extended, high, low, 4],
            2
        ),
        [0, 0x0002_0001]
    );
    for (address, buid, size) in [
        (0x0000_0800, low, 4), // no such device
        (0x0001_0000, low, 4), // no such bus
        (0x0100_0000, low, 4), // no such register
        (0, low + 1, 4),       // no such bridge
        (0, low, 3),
        (2, low, 4),
        (0, low, 0),
        (0, low, u32::MAX),
    ] {
        let returns = status(
            &platform,
            "ibm,read-pci-config",
            &[address, high, buid, size],
            2,
        );
        assert_eq!(returns, [-1, 0x5555_5555]);
    }
}

#[test]
fn a_function_behind_any_bridge_is_reached_by_the_bridges_buid_alone() {
    for bridge in [1, 5, MAX_HOST_BRIDGES - 1] {
        let platform = FakePlatform::with_bridge(bridge);
        let [high, low] = buid(&platform);
        assert_eq!((high, low), (BUID[0], BUID[1] + u32::from(bridge)));
        for (low, read, granted) in [(low, 0, 0), (BUID[1], -1, -3), (low + 1, -1, -3)] {
            let returns = status(&platform, "ibm,read-pci-config", &[0, high, low, 4], 2);
            assert_eq!(returns[0], read, "bridge {bridge}");
            let change = [0, high, low, 4, 65, 1];
            let returns = status(&platform, "ibm,change-msi", &change, 4);
            assert_eq!(returns[0], granted, "bridge {bridge}");
        }
        let query = [0, high, low, 64];
        let source = status(&platform, "ibm,query-interrupt-source-number", &query, 3);
        assert_eq!(source, [0, 0x1340, 1]);
    }
}

#[test]
fn blocks_that_leave_memory_are_refused_unwritten() {
    let (memory, platform) = (memory(), FakePlatform::new());
    let event_scan = token("event-scan");
    for block in [
        0x1ffc,
        0x2000,
        0x2ffc,
        0x3ffc,
        0x4000,
        u64::MAX,
        u64::MAX - 11,
    ] {
        let (code, _) = handle(&memory, &platform, GuestPhysicalAddress(block));
        assert_eq!(code, ReturnCode::PARAMETER, "{block:#x}");
    }
    // The last return word is in the hole.
    write_words(&memory, 0x1fe8, &[event_scan, 0, 4, 7, 7, 7]);
    let (code, _) = handle(&memory, &platform, GuestPhysicalAddress(0x1fe8));
    assert_eq!(code, ReturnCode::PARAMETER);
    assert_eq!(words_at(&memory, 0x1fe8, 6), [event_scan, 0, 4, 7, 7, 7]);
    for counts in [[17, 0], [0, 17], [u32::MAX, 1], [1, u32::MAX]] {
        write_words(&memory, BLOCK, &[event_scan, counts[0], counts[1], 7]);
        let (code, _) = handle(&memory, &platform, GuestPhysicalAddress(BLOCK));
        assert_eq!(code, ReturnCode::PARAMETER);
        assert_eq!(words_at(&memory, BLOCK + 12, 1), [7]);
    }
}

/// Arguments as random guests have them: sometimes meaningful.
fn argument() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => any::<u32>(),
        2 => 0u32..8,
        3 => prop::sample::select(vec![BUID[0], BUID[1]]),
        1 => 0u32..0x4000,
        1 => prop::sample::select(vec![20u32, 48, 0x10, 0x44, 0x800]),
    ]
}

proptest! {
    #[test]
    fn no_call_panics_or_writes_outside_its_returns(
        calls in prop::collection::vec(
            (
                prop_oneof![4 => 0x2000u32..0x2030, 1 => any::<u32>()],
                prop::collection::vec(argument(), 0..10),
                prop_oneof![6 => 0u32..9, 1 => any::<u32>()],
                prop_oneof![3 => 0u64..0x4100, 1 => any::<u64>()],
                any::<bool>(),
            ),
            1..30,
        )
    ) {
        let (memory, platform) = (memory(), FakePlatform::new());
        for (token, arguments, returns, block, sensible) in calls {
            // A sensible guest passes as many as the service takes, and finds its buffers apart.
            let service = find(token);
            let mut words = vec![token, 0, returns];
            words.extend(&arguments);
            if sensible && let Some(service) = service {
                words.resize(3 + service.arguments as usize, 0);
                words[2] = service.returns + 1;
            }
            words[1] = u32::try_from(words.len() - 3).unwrap();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let placed = memory.write_slice(&bytes, GuestAddress(block)).is_ok();
            let before = contents(&memory);
            let (code, outcome) = handle(&memory, &platform, GuestPhysicalAddress(block));
            let after = contents(&memory);
            prop_assert!(code == ReturnCode::SUCCESS || code == ReturnCode::PARAMETER);
            if !placed {
                // Whatever lies there by chance may be a call; the bounds still hold.
                continue;
            }
            if service.is_none() {
                prop_assert_eq!(outcome, Outcome::Done);
            }
            let first = block + 4 * words.len() as u64;
            let own = first..first + 4 * u64::from(words[2].min(16));
            // More arguments than a service takes are no error: it does not look at them.
            let buffer = if token == 0x2008 && words.len() >= 6 {
                u64::from(words[4])..u64::from(words[4]) + u64::from(words[5].min(100))
            } else {
                0..0
            };
            for ((address, old), (_, new)) in before.iter().zip(&after) {
                prop_assert!(
                    old == new || own.contains(address) || buffer.contains(address),
                    "{:#x} changed in a call at {:#x}", address, block
                );
            }
        }
    }
}

fn contents(memory: &GuestMemoryMmap) -> Vec<(u64, u8)> {
    MEMORY
        .iter()
        .flat_map(|&(start, length)| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, start).unwrap();
            (start.0..).zip(bytes)
        })
        .collect()
}

#[test]
fn a_request_to_shut_down_is_told_once_to_a_guest_that_asks_for_its_class() {
    const BUFFER: u32 = 0x1000;
    let (memory, platform) = (memory(), FakePlatform::new());
    let ask = |mask: u32, address: u32, length: u32| {
        let arguments = [0x500, 0x1000, mask, 0, address, length];
        call(&memory, &platform, "check-exception", &arguments, 1).2[0]
    };
    assert_eq!(ask(0x4000_0000, BUFFER, 2048), 1, "no event");
    platform.power.request_shutdown();
    assert_eq!(platform.power.interrupt().read().unwrap(), 1);
    assert_eq!(ask(0x8000_0000, BUFFER, 2048), 1, "not of another class");
    assert_eq!(ask(0x4000_0000, 0x1fff, 2048), -3, "into a hole");
    assert_eq!(ask(0x4000_0000, BUFFER, 2048), 0);
    let mut log = [0; 8];
    memory
        .read_slice(&mut log, GuestAddress(BUFFER.into()))
        .unwrap();
    assert_eq!((log[0], log[3]), (6, 0x40));
    assert_eq!(ask(0x4000_0000, BUFFER, 2048), 1, "told");
    platform.power.request_shutdown();
    assert_eq!(ask(0xffff_ffff, BUFFER, 0), 0, "no room at all");
}
