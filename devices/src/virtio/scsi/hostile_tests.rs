//! A driver that asks for whatever.

use std::fs;

use proptest::prelude::*;

use super::Scsi;
use super::cdb;
use super::driver::{
    ANSWER_BYTES, CONTROL, DATA, DISK, DISK_BYTES, Driver, GOOD, HEADER_BYTES, RAM_BYTES, REQUESTS,
    WATCHED, on_blocks,
};
use crate::virtio::device::Device;
use crate::virtio::queues::{QUEUE_SIZE, Queues, WRITE};

/// A request of a hostile driver: its address, command, where the rest of its chain is.
#[derive(Clone, Debug)]
struct Nonsense {
    header: [u8; 51],
    parts: Vec<(u64, u32, u16)>,
    parameters: Vec<u8>,
    function: [u8; 24],
}

fn any_nonsense() -> impl Strategy<Value = Nonsense> {
    let lun = prop_oneof![
        8 => (0_u8..4, 0_u8..3).prop_map(|(target, lun)| [1, target, 0x40, lun, 0, 0, 0, 0]),
        1 => any::<[u8; 8]>(),
    ];
    let opcode = prop_oneof![
        8 => prop::sample::select(vec![
            0x00_u8, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x2e, 0x2f, 0x35, 0x41, 0x42, 0x43,
            0x46, 0x4a, 0x51, 0x55, 0x5a, 0x88, 0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa, 0xae, 0xbd,
        ]),
        1 => any::<u8>(),
    ];
    let rest = prop_oneof![
        4 => prop::array::uniform15(0_u8..4),
        1 => any::<[u8; 15]>(),
    ];
    let bytes = prop_oneof![
        4 => Just(HEADER_BYTES),
        4 => Just(ANSWER_BYTES),
        4 => (0_u32..9).prop_map(|blocks| blocks * 512),
        2 => 0_u32..5000,
        1 => any::<u32>(),
    ];
    let address = prop_oneof![
        12 => 0x8000_u64..WATCHED - 5000,
        1 => (RAM_BYTES as u64 - 64)..(RAM_BYTES as u64 + 64),
        1 => any::<u64>(),
    ];
    let flags = prop_oneof![3 => Just(0_u16), 3 => Just(WRITE)];
    let parts = prop::collection::vec((address, bytes, flags), 1..6);
    let parameters = prop::collection::vec(prop_oneof![2 => Just(0_u8), 1 => any::<u8>()], 0..64);
    let function = prop::array::uniform24(0_u8..8);
    (lun, opcode, rest, parts, parameters, function).prop_map(
        |(lun, opcode, rest, parts, parameters, function)| {
            let mut header = [0; 51];
            header[..8].copy_from_slice(&lun);
            header[19] = opcode;
            header[20..35].copy_from_slice(&rest);
            Nonsense {
                header,
                parts,
                parameters,
                function,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_a_driver_asks_for_nothing_else_is_touched(all in prop::collection::vec(any_nonsense(), 1..12)) {
        let mut driver = Driver::new();
        let watched: Vec<u8> = (0..0x1000_u32).map(|at| at.to_le_bytes()[0] ^ 0x3c).collect();
        driver.put(WATCHED, &watched);
        for nonsense in all {
            let at = Queues::<Scsi>::buffers(REQUESTS);
            driver.put(at, &nonsense.header);
            driver.put(DATA, &nonsense.parameters);
            // Most have a header in its place; none names what is watched.
            let mut parts = nonsense.parts;
            parts[0] = (at, HEADER_BYTES, 0);
            for (address, bytes, _) in &mut parts {
                if (0x8000..WATCHED).contains(address) {
                    *bytes = (*bytes).min(u32::try_from(WATCHED - *address).unwrap());
                }
            }
            driver.chain(REQUESTS, &parts);
            let control = Queues::<Scsi>::buffers(CONTROL);
            driver.put(control, &nonsense.function);
            driver.put(control, &[nonsense.function[0] % 3, 0, 0, 0]);
            driver.chain(CONTROL, &[(control, 24, 0), (control + 40, 5, WRITE)]);
            let rung = driver.queues.ring(REQUESTS);
            let rung = rung.and_then(|()| driver.queues.ring(CONTROL));
            let settled = driver.settle();
            if rung.and(settled).is_err() {
                let _whatever = driver.settle();
                driver.queues.start();
            }
            prop_assert_eq!(driver.get(WATCHED, 0x1000), &watched[..]);
        }
        let length = fs::metadata(&driver.path).unwrap().len();
        prop_assert_eq!(length, DISK_BYTES);
        let _whatever = driver.settle();
        driver.queues.start();
        driver.forget_attentions();
        prop_assert_eq!(driver.command(DISK, &on_blocks(cdb::READ_10, 0, 1), 512), GOOD);
        prop_assert_eq!(driver.data(512), &fs::read(&driver.path).unwrap()[..512]);
        prop_assert!(u16::try_from(driver.queues.device.in_flight()).unwrap() < QUEUE_SIZE);
    }
}
