//! A driver that goes by the book, and one that does not.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;
use crate::pci::fake::Fixture;
use crate::pci::{DeviceFunction, FunctionBackend, HostBridge, InterruptKind, MsiGrant};

#[test]
fn a_driver_gets_random_bytes_by_guest_address_and_by_bus_address() {
    for by_bus_address in [false, true] {
        let driver = Driver::new(by_bus_address);
        driver.start();
        driver.descriptor(0, BUFFER + driver.base, 100, WRITE_ONLY | NEXT, 1);
        driver.descriptor(1, BUFFER + 0x1000 + driver.base, 28, WRITE_ONLY, 0);
        for count in 1..=20 {
            driver.request(count);
            driver.wait("the request is done", || driver.used() == (count, 128));
            driver.wait("it is signalled", || driver.events[1].read().is_ok());
        }
        let mut bytes = [0; 28];
        driver
            .ram
            .read_slice(&mut bytes, GuestAddress(BUFFER + 0x1000))
            .unwrap();
        let last = bytes[27];
        let expected: Vec<u8> = (0..28).map(|back| last.wrapping_sub(27 - back)).collect();
        assert_eq!(bytes.as_slice(), expected);
        let mut after = [0xff; 4];
        driver
            .ram
            .read_slice(&mut after, GuestAddress(BUFFER + 0x1000 + 28))
            .unwrap();
        assert_eq!(after, [0; 4]);
        assert!(driver.events[0].read().is_err());
    }
}

#[test]
fn features_are_agreed_on_only_whole() {
    let driver = Driver::new(true);
    assert_eq!(
        driver.offered() & (VERSION_1 | ACCESS_PLATFORM),
        VERSION_1 | ACCESS_PLATFORM
    );
    for wrong in [
        0,
        VERSION_1,
        ACCESS_PLATFORM,
        VERSION_1 | ACCESS_PLATFORM | 1 << 50,
    ] {
        assert!(!driver.accept(wrong), "{wrong:#x}");
        driver.write(0x14, &[ACKNOWLEDGE_AND_DRIVER | DRIVER_OK]);
        assert_eq!(driver.status(), ACKNOWLEDGE_AND_DRIVER);
    }
    assert!(driver.accept(VERSION_1 | ACCESS_PLATFORM));
    assert_eq!(Driver::new(false).offered() & ACCESS_PLATFORM, 0);
}

#[test]
fn a_ring_or_buffer_out_of_reach_stops_the_device_until_it_is_reset() {
    let far = RAM_BYTES as u64;
    for (address, bytes, ring_index) in [(far, 1, 1), (BUFFER, 1, 100), (u64::MAX - 4, 64, 1)] {
        let driver = Driver::new(false);
        // Changes of configuration are signalled, too.
        driver.write(0x10, &[0, 0]);
        driver.write(0x8000 + 12, &[0; 4]);
        driver.start();
        driver.write(0x10, &[0, 0]);
        driver.descriptor(0, address, bytes, WRITE_ONLY, 0);
        driver
            .ram
            .write_obj(0_u16, GuestAddress(DRIVER_RING + 4))
            .unwrap();
        driver.request(ring_index);
        driver.wait("it stops", || driver.status() & NEEDS_RESET != 0);
        driver.wait("it says so", || driver.events[0].read().is_ok());
        // It does nothing any more.
        driver.descriptor(0, BUFFER, 8, WRITE_ONLY, 0);
        driver.request(2);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(driver.used().0, 0);
        driver.write(0x14, &[0]);
        assert_eq!(driver.status(), 0);
        driver
            .ram
            .write_obj(0_u16, GuestAddress(DRIVER_RING + 2))
            .unwrap();
        driver.start();
        driver.request(1);
        driver.wait("it works again", || driver.used() == (1, 8));
    }
}

#[test]
fn no_dma_is_done_before_bus_mastering_is_on() {
    let driver = Driver::new(false);
    driver.start();
    driver.function.write_config(4, &[2, 0]).unwrap();
    driver.descriptor(0, BUFFER, 8, WRITE_ONLY, 0);
    driver.request(1);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used().0, 0);
    driver.function.write_config(4, &[6, 0]).unwrap();
    driver.wait("it is done then", || driver.used() == (1, 8));
}

#[test]
fn the_bar_is_reached_through_configuration_space_too() {
    let driver = Driver::new(false);
    let mut window = 0x34;
    // The last capability.
    loop {
        let mut link = [0];
        driver.function.read_config(window, &mut link).unwrap();
        if link[0] == 0 {
            break;
        }
        window = u16::from(link[0]) + 1;
    }
    let window = window - 1;
    let set = |offset: u32, bytes: u32| {
        driver
            .function
            .write_config(window + 8, &offset.to_le_bytes())
            .unwrap();
        driver
            .function
            .write_config(window + 12, &bytes.to_le_bytes())
            .unwrap();
    };
    set(0x14, 1);
    driver
        .function
        .write_config(window + 16, &[3, 0, 0, 0])
        .unwrap();
    assert_eq!(driver.status(), 3);
    let mut data = [0; 4];
    driver.function.read_config(window + 16, &mut data).unwrap();
    assert_eq!(data[0], 3);
    for (offset, bytes) in [(0x15, 2), (0x14, 3), (u32::MAX, 4), (0x14, 0)] {
        set(offset, bytes);
        driver.function.write_config(window + 16, &[0; 4]).unwrap();
        assert_eq!(driver.status(), 3);
    }
}

#[test]
fn behind_a_bridge_its_doorbell_follows_its_bar_and_vectors_are_the_machines() {
    let Driver {
        function,
        ram: _ram,
        ..
    } = Driver::new(false);
    let bell = function.bar(0).unwrap().doorbells[0].event.as_raw_fd();
    let fixture = Fixture::new();
    let at: Vec<(DeviceFunction, Arc<dyn FunctionBackend>)> =
        vec![(DeviceFunction::from_byte(0), Arc::new(function))];
    let bridge = HostBridge::new(1, &fixture.board, at).unwrap();
    let function = &bridge.functions()[0];
    let doorbells = || fixture.space.doorbells.lock().clone();
    assert!(doorbells().is_empty());
    let bar = u64::from(function.read_config(0x10, 4).unwrap() & !0xf);
    function.write_config(4, 2, 6).unwrap();
    let found = doorbells();
    assert_eq!(found.len(), 1);
    let (&first, &event) = found.iter().next().unwrap();
    assert_eq!((event, first & 0xffff), (bell, 0x3000));
    // Moved with decoding on, as nobody should.
    let moved = u32::try_from(bar + 0x10_0000).unwrap();
    function.write_config(0x10, 4, moved).unwrap();
    let found: Vec<u64> = doorbells().into_keys().collect();
    assert_eq!(found, [first + 0x10_0000]);
    let granted = function.change_msi(InterruptKind::MsiX, 2).unwrap();
    assert_eq!(granted, MsiGrant::Granted(2));
    assert_eq!(fixture.lines.connected.lock().len(), 2);
    bridge.quiesce().unwrap();
    assert!(doorbells().is_empty() && fixture.lines.connected.lock().is_empty());
    // As a guest finds it at its start.
    bridge.reset().unwrap();
    function.write_config(4, 2, 2).unwrap();
    assert_eq!(doorbells().into_keys().collect::<Vec<_>>(), [first]);
}

#[derive(Clone, Debug)]
enum Nonsense {
    Bar(u64, Vec<u8>),
    Config(u16, Vec<u8>),
    Memory(u64, u64),
    Read(u64),
    Start,
    Reset,
}

fn nonsense() -> impl Strategy<Value = Nonsense> {
    let bytes = || {
        prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)].prop_flat_map(|length| {
            prop_oneof![
                proptest::collection::vec(any::<u8>(), length),
                proptest::collection::vec(0_u8..16, length),
            ]
        })
    };
    let place = prop_oneof![
        0_u64..0x40,
        0x3000_u64..0x3010,
        0x8000_u64..0x8040,
        0_u64..0x1_0000
    ];
    let memory = prop_oneof![
        DESCRIPTORS..DESCRIPTORS + 128,
        DRIVER_RING..DRIVER_RING + 32,
        DEVICE_RING..DEVICE_RING + 80,
    ];
    prop_oneof![
        4 => (place.clone(), bytes()).prop_map(|(at, bytes)| Nonsense::Bar(at, bytes)),
        1 => (0_u16..256, bytes()).prop_map(|(at, bytes)| Nonsense::Config(at, bytes)),
        4 => (memory, any::<u64>()).prop_map(|(at, value)| Nonsense::Memory(at, value)),
        1 => place.prop_map(Nonsense::Read),
        1 => Just(Nonsense::Start),
        1 => Just(Nonsense::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_driver_writes_the_device_can_be_reset_and_works(
        by_bus_address: bool,
        steps in proptest::collection::vec(nonsense(), 1..60),
    ) {
        let driver = Driver::new(by_bus_address);
        for step in steps {
            match step {
                Nonsense::Bar(at, bytes) => driver.write(at, &bytes),
                Nonsense::Config(at, bytes) => {
                    driver.function.write_config(at, &bytes).unwrap();
                }
                Nonsense::Memory(at, value) => {
                    driver.ram.write_obj(value, GuestAddress(at)).unwrap();
                }
                Nonsense::Read(at) => {
                    driver.read::<8>(at);
                }
                Nonsense::Start => {
                    driver.write(0x14, &[0]);
                    let wanted = driver.offered() & !EVENT_IDX;
                    driver.accept(wanted);
                    driver.place_queue();
                    driver.write(0x14, &[0xf & !NEEDS_RESET]);
                }
                Nonsense::Reset => driver.function.reset().unwrap(),
            }
        }
        driver.function.reset().unwrap();
        for at in [DRIVER_RING, DEVICE_RING] {
            driver.ram.write_slice(&[0; 128], GuestAddress(at)).unwrap();
        }
        driver.start();
        driver.descriptor(0, BUFFER + driver.base, 8, WRITE_ONLY, 0);
        driver.request(1);
        driver.wait("it works", || driver.used() == (1, 8));
    }
}

#[test]
fn a_ring_whose_entry_is_out_of_reach_stops_the_device() {
    let driver = Driver::new(false);
    let wanted = driver.offered() & !EVENT_IDX;
    assert!(driver.accept(wanted));
    driver.place_queue();
    driver.write(0x14, &[0]);
    assert!(driver.accept(wanted));
    driver.function.write_config(4, &[6, 0]).unwrap();
    // Flags and index are the last four bytes of memory.
    let ring = RAM_BYTES as u64 - 4;
    for (offset, address) in [(0x20, DESCRIPTORS), (0x28, ring), (0x30, DEVICE_RING)] {
        driver.write(offset, &address.to_le_bytes());
    }
    driver.write(0x18, &8_u16.to_le_bytes());
    driver.write(0x1c, &1_u16.to_le_bytes());
    driver.write(0x14, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK]);
    driver
        .ram
        .write_obj(1_u16.to_le(), GuestAddress(ring + 2))
        .unwrap();
    driver.write(0x3000, &[0, 0]);
    driver.wait("it stops", || driver.status() & NEEDS_RESET != 0);
}

#[test]
fn a_request_longer_than_the_queue_stops_the_device() {
    let driver = Driver::new(false);
    driver.start();
    // A table in memory whose only descriptor follows itself.
    let table = BUFFER + 0x2000;
    driver.descriptor(0, table, 16 * 0xffff, 4, 0);
    for (offset, value) in [
        (0, BUFFER.to_le()),
        (8, 1 | u64::from(WRITE_ONLY | NEXT) << 32),
    ] {
        driver
            .ram
            .write_obj(value, GuestAddress(table + offset))
            .unwrap();
    }
    driver.request(1);
    driver.wait("it stops", || driver.status() & NEEDS_RESET != 0);
    assert_eq!(driver.used().0, 0);
}

#[test]
fn a_paused_machines_device_leaves_memory_alone_until_it_goes_on() {
    let driver = Driver::new(false);
    driver.start();
    driver.function.hold(true);
    driver.descriptor(0, BUFFER, 8, WRITE_ONLY, 0);
    driver.request(1);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used().0, 0);
    driver.function.hold(false);
    driver.wait("it is done then", || driver.used() == (1, 8));
}

#[test]
fn a_ring_that_nobody_rang_for_is_not_served_when_bus_mastering_comes_on() {
    let driver = Driver::new(false);
    driver.start();
    driver.descriptor(0, BUFFER, 8, WRITE_ONLY, 0);
    driver.request(1);
    driver.wait("it is done", || driver.used() == (1, 8));
    // As by kexec: off and on, and what was the ring is another kernel's by then.
    driver.function.write_config(4, &[2, 0]).unwrap();
    driver
        .ram
        .write_obj(2_u16.to_le(), GuestAddress(DRIVER_RING + 2))
        .unwrap();
    driver.function.write_config(4, &[6, 0]).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used().0, 1);
}
