//! The file system device with a back end in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vhost::vhost_user::message::FrontendReq;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::driver::{
    ACKNOWLEDGE_AND_DRIVER, BUFFER, DRIVER_OK, Driver, FEATURES_OK, NEEDS_RESET, RAM_BYTES,
    WRITE_ONLY,
};
use super::{FileSystem, FsHost};
use crate::pci::FunctionBackend;
use crate::vhost::user::fake::{ALL, Fake, Has, Manner};

const RUNNING: u8 = ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK;

/// Memory with a descriptor.
fn memory() -> GuestMemoryMmap {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(RAM_BYTES as u64).expect("its size");
    let file = FileOffset::new(file, 0);
    GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), RAM_BYTES, Some(file))])
        .expect("memory")
}

fn driver_with(has: Has) -> (Driver, Fake) {
    let (fake, back_end) = Fake::connected(has);
    let host = FsHost::of_back_end(back_end.expect("a back end"), "lab");
    let ram = memory();
    let device = FileSystem::new(Arc::new(host), &ram).expect("a device");
    (Driver::in_memory(ram, Box::new(device), false), fake)
}

fn started() -> (Driver, Fake) {
    let (driver, fake) = driver_with(ALL);
    driver.start();
    assert_eq!(driver.status(), RUNNING);
    assert!(
        fake.heard().rings[0].is_on,
        "a driver that is ready is served"
    );
    (driver, fake)
}

#[test]
fn a_back_end_serves_a_queue_by_the_memory_that_it_is_given() {
    let (driver, fake) = started();
    for count in 1..=3_u16 {
        driver.descriptor(0, BUFFER, 64, WRITE_ONLY, 0);
        driver.request(count);
        assert!(fake.was_rung_for(0));
        let bytes = [count.to_le_bytes()[0]; 64];
        fake.serve(0, &bytes);
        assert_eq!(driver.events[1].read().expect("signalled"), 1);
        assert_eq!(driver.used(), (count, 64));
        let mut found = [0; 64];
        driver
            .ram
            .read_slice(&mut found, GuestAddress(BUFFER))
            .expect("memory");
        assert_eq!(found, bytes);
        // It goes on where it was.
        driver.function.hold(true);
        assert!(!fake.heard().rings[0].is_on);
        driver.function.hold(false);
        assert_eq!(fake.heard().rings[0].base, u32::from(count));
    }
    driver.write(0x14, &[0]);
    assert!(!fake.heard().rings[0].is_on);
    driver.start();
    assert_eq!(fake.heard().rings[0].base, 0, "a reset is a beginning");
}

#[test]
fn a_guest_finds_the_file_systems_name_and_one_queue_for_requests() {
    let (driver, _fake) = driver_with(ALL);
    let config: [u8; 44] = driver.read(0x2000);
    assert_eq!(&config[..4], b"lab\0");
    assert_eq!(&config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
    // Mass storage, of another kind; and the device's number.
    let mut ids = [0; 4];
    driver.function.read_config(0, &mut ids).expect("read");
    assert_eq!(ids, [0xf4, 0x1a, 0x5a, 0x10]);
    // Nothing of the back end's own is offered.
    assert_eq!(driver.offered(), 1 << 28 | 1 << 29 | 1 << 32);
}

#[test]
fn a_back_end_without_acknowledgements_or_switches_is_asked_in_another_way() {
    for has in [
        Has { protocol: 0, ..ALL },
        Has {
            features: ALL.features & !(1 << 30),
            ..ALL
        },
    ] {
        let (driver, fake) = driver_with(has);
        driver.start();
        assert_eq!(driver.status(), RUNNING);
        driver.descriptor(0, BUFFER, 64, WRITE_ONLY, 0);
        driver.request(1);
        fake.serve(0, b"served");
        assert_eq!(driver.used(), (1, 6));
        let heard = fake.heard();
        assert_eq!(heard.protocol, 0);
        let switched = heard.requests.contains(&FrontendReq::SET_VRING_ENABLE);
        assert_eq!(switched, has.features & 1 << 30 != 0);
    }
    // What it has and nobody asks for is not agreed on: MQ and REPLY_ACK are.
    let (_driver, fake) = started();
    assert_eq!(fake.heard().protocol, 9);
}

#[test]
fn a_back_end_that_lacks_something_or_is_none_is_refused() {
    let refusal = |has| Fake::connected(has).1.err().expect("refused").to_string();
    let few = refusal(Has { queues: 1, ..ALL });
    assert_eq!(
        few,
        "the back end at /fake serves 1 queues, and 2 are needed"
    );
    let old = refusal(Has {
        features: 1 << 30,
        ..ALL
    });
    assert!(
        old.contains("it has 0x40000000, and 0x130000000 are needed"),
        "{old}"
    );
}

#[test]
fn a_back_end_that_ends_stops_the_device_and_the_driver_is_told_once() {
    let (driver, fake) = started();
    // Changes of configuration have vector 0, unmasked.
    driver.write(0x10, &[0, 0]);
    driver.write(0x8000 + 12, &[0; 4]);
    fake.end();
    driver.wait("it does not stop", || driver.status() & NEEDS_RESET != 0);
    driver.wait("nobody is told", || driver.events[0].read().is_ok());
    assert!(driver.events[0].read().is_err(), "told twice");
    // A driver can reset it, and finds it as it is.
    driver.write(0x14, &[0]);
    assert_eq!(driver.status(), 0);
    driver.start();
    assert_eq!(driver.status(), RUNNING | NEEDS_RESET);
    driver.function.hold(true);
    driver.function.hold(false);
    driver.function.reset().expect("reset");
    assert_eq!(driver.status(), 0);
}

#[test]
fn nobody_waits_long_for_a_back_end_that_does_not_answer_as_it_should() {
    for manner in [
        Manner::Silent,
        Manner::Nonsense,
        Manner::Elsewhere,
        Manner::Half,
        Manner::Refusing,
    ] {
        let (driver, fake) = started();
        fake.heard().manner = manner;
        let start = Instant::now();
        // It may still write to memory: a driver is not to use that for something else.
        for _ in 0..20 {
            driver.write(0x14, &[0]);
            assert_ne!(driver.status(), 0, "{manner:?}");
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{manner:?}: {took:?}");
        // When it has ended, it does not.
        fake.end();
        driver.wait("the reset has no end", || driver.status() == 0);
        driver.start();
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET, "{manner:?}");
    }
}

#[test]
fn a_back_end_that_takes_its_time_with_each_answer_is_not_waited_for_longer() {
    let (driver, fake) = started();
    fake.heard().manner = Manner::Slow;
    let start = Instant::now();
    for _ in 0..5 {
        driver.function.hold(true);
        driver.function.hold(false);
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Hold(bool),
    Master(bool),
    Mask(bool),
    Reset,
    FunctionReset,
    Start,
    Turn(Manner),
    End,
    Write(u64, Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let data = prop::collection::vec(any::<u8>(), 1..=4);
    let data = data.prop_filter("a size", |data| data.len() != 3);
    let manner = prop_oneof![
        Just(Manner::Nonsense),
        Just(Manner::Elsewhere),
        Just(Manner::Refusing),
    ];
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Hold),
        3 => any::<bool>().prop_map(Step::Master),
        3 => any::<bool>().prop_map(Step::Mask),
        3 => Just(Step::Reset),
        2 => Just(Step::FunctionReset),
        6 => Just(Step::Start),
        1 => manner.prop_map(Step::Turn),
        1 => Just(Step::End),
        // The common configuration, the device's own, and the table of vectors.
        6 => (0..0x40_u64, data.clone()).prop_map(|(at, data)| Step::Write(at, data)),
        1 => (0x2000..0x2040_u64, data.clone()).prop_map(|(at, data)| Step::Write(at, data)),
        1 => (0x8000..0x8040_u64, data).prop_map(|(at, data)| Step::Write(at, data)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_guest_writes_a_back_end_serves_only_a_driver_that_is_ready(
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        let (driver, fake) = driver_with(ALL);
        let (mut held, mut master) = (false, false);
        for step in steps {
            match step {
                Step::Hold(is) => {
                    held = is;
                    driver.function.hold(is);
                }
                Step::Master(is) => {
                    master = is;
                    driver.function.write_config(4, &[if is { 6 } else { 2 }, 0]).unwrap();
                }
                Step::Mask(is) => driver.write(0x8000 + 16 + 12, &[u8::from(is), 0, 0, 0]),
                Step::Reset => driver.write(0x14, &[0]),
                Step::FunctionReset => {
                    master = false;
                    driver.function.reset().unwrap();
                }
                Step::Start => {
                    driver.write(0x14, &[0]);
                    // A back end that does not answer may still write to memory: the reset has no end before it has.
                    if driver.status() == 0 {
                        master = true;
                        driver.start();
                    } else {
                        prop_assert!(fake.heard().manner != Manner::Good);
                    }
                }
                Step::Turn(manner) => fake.heard().manner = manner,
                Step::End => {
                    fake.heard().manner = Manner::Silent;
                    fake.end();
                }
                Step::Write(at, data) => driver.write(at, &data),
            }
            let status = driver.status();
            let heard = fake.heard();
            if heard.manner == Manner::Good {
                let is_ready = status & DRIVER_OK != 0 && status & NEEDS_RESET == 0;
                let is_on = heard.rings.iter().any(|ring| ring.is_on);
                prop_assert!(is_ready && master && !held || !is_on, "{status:#x} {master} {held}");
            }
        }
    }
}
