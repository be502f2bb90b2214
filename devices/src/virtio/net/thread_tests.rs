//! A card behind a PCI function, whose thread waits for frames.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::driver::{MAC, frame, packet_sockets};
use super::{Net, Nic, NicOptions};
use crate::net::{Backend, HEADER_BYTES, Tap};
use crate::pci::FunctionBackend;
use crate::virtio::driver::{BUFFER, Driver, WRITE_ONLY};

struct Fixture {
    driver: Driver,
    nic: Arc<Nic>,
    peer: File,
    offered: u16,
}

impl Fixture {
    fn new(by_bus_address: bool) -> Self {
        let [own, peer] = packet_sockets();
        let options = NicOptions {
            name: "net0".to_owned(),
            mac: MAC,
            mtu: None,
            receive_entries: 8,
            transmit_entries: 8,
        };
        let nic = Nic::new(Backend::Tap(Tap::of_socket(own)), options).unwrap();
        let nic = Arc::new(nic);
        let net = Net::new(Arc::clone(&nic)).unwrap();
        let driver = Driver::of(Box::new(net), by_bus_address);
        driver.start();
        Self {
            driver,
            nic,
            peer: File::from(peer),
            offered: 0,
        }
    }

    fn offer_room(&mut self) {
        let at = BUFFER + self.driver.base;
        self.driver.descriptor(0, at, 2048, WRITE_ONLY, 0);
        self.offered += 1;
        self.driver.request(self.offered);
    }

    fn send(&mut self) {
        let all = [&[0; HEADER_BYTES][..], &frame(MAC, 100)].concat();
        self.peer.write_all(&all).unwrap();
    }

    #[track_caller]
    fn wait_for(&self, count: u16) {
        self.driver
            .wait("no frame comes", || self.driver.used().0 == count);
        self.driver
            .wait("nobody is told", || self.driver.events[1].read().is_ok());
    }
}

#[test]
fn frames_come_as_the_host_has_them_and_not_while_the_machine_is_paused() {
    for by_bus_address in [false, true] {
        let mut fixture = Fixture::new(by_bus_address);
        for count in 1..5 {
            fixture.offer_room();
            fixture.send();
            fixture.wait_for(count);
            assert_eq!(fixture.driver.used(), (count, 112));
        }
        fixture.offer_room();
        // Its thread waits for a frame by now, or will not.
        thread::sleep(Duration::from_millis(20));
        fixture.driver.function.hold(true);
        fixture.send();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(fixture.driver.used().0, 4);
        fixture.driver.function.hold(false);
        fixture.wait_for(5);
        // Without bus mastering, the same.
        fixture.driver.function.write_config(4, &[2, 0]).unwrap();
        fixture.offer_room();
        fixture.send();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(fixture.driver.used().0, 5);
        fixture.driver.function.write_config(4, &[6, 0]).unwrap();
        fixture.wait_for(6);
    }
}

#[test]
fn a_driver_is_told_that_its_link_is_down() {
    let fixture = Fixture::new(false);
    let driver = &fixture.driver;
    // Changes of configuration have vector 0, unmasked.
    driver.write(0x10, &0_u16.to_le_bytes());
    driver.write(0x8000 + 12, &[0; 4]);
    let generation = driver.read::<1>(0x15);
    fixture.nic.plug(false);
    driver.wait("nobody is told", || driver.events[0].read().is_ok());
    assert_ne!(driver.read::<1>(0x15), generation);
    assert_eq!(driver.read::<2>(0x2000 + 6), [0, 0]);
    fixture.nic.plug(true);
    driver.wait("nobody is told", || driver.events[0].read().is_ok());
    assert_eq!(driver.read::<2>(0x2000 + 6), [1, 0]);
}

#[test]
fn a_card_whose_other_end_is_gone_keeps_nobody_busy() {
    let mut fixture = Fixture::new(false);
    fixture.offer_room();
    fixture.send();
    fixture.wait_for(1);
    fixture.offer_room();
    let [other, _] = packet_sockets();
    fixture.peer = File::from(other);
    fixture
        .driver
        .wait("nobody notices", || !fixture.nic.is_up());
    assert_eq!(fixture.driver.status() & 0x40, 0);
}

#[test]
fn a_network_that_is_gone_is_noticed_though_the_guest_has_no_room_and_sends_nothing() {
    for is_started in [false, true] {
        let mut fixture = Fixture::new(false);
        if !is_started {
            fixture.driver.write(0x14, &[0]);
        }
        // Its thread has looked around by now.
        thread::sleep(Duration::from_millis(20));
        assert!(fixture.nic.is_up());
        let [other, _] = packet_sockets();
        fixture.peer = File::from(other);
        fixture
            .driver
            .wait("nobody notices", || !fixture.nic.is_up());
    }
}
