//! A driver of an entropy device, a disk, a network card or a serial device that does what it has to (virtio 3.1, 4.1, 5.1,
//! 5.2, 5.3, 5.4).

use core::sync::atomic::{Ordering, fence};

use spapr_test_guests::access::{Width, load, store};
use spapr_test_guests::clock::Clock;
use spapr_test_guests::dma_window::{PAGE_BYTES, Permission, Window};
use spapr_test_guests::machine::Machine;
use spapr_test_guests::pci::ConfigSpace;
use spapr_test_guests::rtas;

use crate::arena::{Arena, Descriptor, QUEUE_SIZE};

/// Vendor and device of a modern entropy device, of a disk, of a network card, and of a serial device.
const ENTROPY: u32 = 0x1044_1af4;
const DISK: u32 = 0x1042_1af4;
const NETWORK: u32 = 0x1041_1af4;
const SERIAL: u32 = 0x1043_1af4;

/// Offsets of the common configuration, which is where the BAR begins (`struct virtio_pci_common_cfg`).
pub(crate) mod register {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(crate) const DEVICE_FEATURE: u64 = 0x04;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const STATUS: u64 = 0x14;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    /// Descriptors, driver's ring and device's ring, 8 bytes each.
    pub(crate) const QUEUE_ADDRESSES: u64 = 0x20;
}
/// Where a disk's configuration begins, with the number of its sectors.
const DISK_SECTORS: u64 = 0x2000;
/// Where the doorbell of queue 0 is, and how far the next ones are from there.
pub(crate) const DOORBELL: u64 = 0x3000;
const DOORBELL_STEP: u64 = 4;
/// The queue that a network card sends from.
const TRANSMIT: u64 = 1;
/// Bytes of a frame, and of the header before it.
const FRAME_BYTES: u32 = 60;
const FRAME_HEADER_BYTES: u32 = 12;
/// Bytes of the BAR.
pub(crate) const BAR_BYTES: u64 = 0x1_0000;

mod status {
    pub(super) const ACKNOWLEDGE: u64 = 1;
    pub(super) const DRIVER: u64 = 2;
    pub(super) const DRIVER_OK: u64 = 4;
    pub(super) const FEATURES_OK: u64 = 8;
    pub(super) const NEEDS_RESET: u64 = 0x40;
}

/// VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, among bits 32 and up.
const VERSION_1: u64 = 1 << 0;
const ACCESS_PLATFORM: u64 = 1 << 1;
/// VIRTIO_RING_F_INDIRECT_DESC.
const INDIRECT: u64 = 1 << 28;
/// VIRTIO_BLK_F_FLUSH: what is written lasts when it is flushed.
const FLUSH: u64 = 1 << 9;
/// VIRTIO_CONSOLE_F_MULTIPORT, and the queue for messages about ports then.
const MULTIPORT: u64 = 1 << 1;
const MESSAGES: u64 = 3;
/// VIRTIO_CONSOLE_DEVICE_READY, with value 1.
const READY: u64 = 1 << 48;

/// VIRTQ_DESC_F_NEXT: the chain goes on.
pub(crate) const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE: the device writes there.
pub(crate) const WRITE: u16 = 2;
/// Bytes of a request for random bytes.
const REQUEST_BYTES: u32 = 256;
/// A disk's sector, and the last of them, which nonsense leaves alone.
const SECTOR_BYTES: u32 = 512;
pub(crate) const LEFT_SECTORS: u64 = 64;
/// The time in which a request is served, on the busiest machine.
const LIMIT_SECONDS: u64 = 30;

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    /// Guest address of the BAR.
    bar: u64,
    arena: Arena,
    clock: Clock,
    /// A disk's sectors; `None` of another device.
    sectors: Option<u64>,
    /// The queue that is used: that for messages of a serial device, that for frames to send of a network card, and the
    /// first of others.
    queue: u64,
}

impl Driver {
    /// Of the machine's disk, or of its network card, or of its serial device, or of its entropy device; `None` if it has
    /// none.
    pub(crate) fn of(machine: &Machine<'_>, clock: Clock) -> Option<Self> {
        let mut kinds = [DISK, NETWORK, SERIAL, ENTROPY].into_iter();
        kinds.find_map(|kind| Self::of_kind(machine, clock, kind))
    }

    fn of_kind(machine: &Machine<'_>, clock: Clock, kind: u32) -> Option<Self> {
        for bridge in machine.host_bridges() {
            for function in bridge.functions() {
                let config = ConfigSpace::of(machine, &bridge, &function)?;
                if config.read(0) != kind {
                    continue;
                }
                config.enable(true);
                let bar = bridge.bar(&function, 0)?.start;
                let mut driver = Self {
                    bar,
                    arena: Arena::new(0),
                    clock,
                    sectors: None,
                    queue: match kind {
                        SERIAL => MESSAGES,
                        NETWORK => TRANSMIT,
                        _ => 0,
                    },
                };
                let by_bus_address = driver.takes_bus_addresses();
                if kind == DISK {
                    let [low, high] = [0, 4].map(|at| driver.read(DISK_SECTORS + at, Width::Word));
                    driver.sectors = Some(low | high << 32);
                }
                let window = Window::of(&bridge.window);
                let bus_offset = if by_bus_address { window.start } else { 0 };
                let arena = Arena::new(bus_offset);
                if by_bus_address {
                    for page in 0..2 {
                        let offset = page * PAGE_BYTES;
                        let memory = arena.pages().part(offset, PAGE_BYTES);
                        window.map(arena.of_device(offset), memory, Permission::ReadWrite);
                    }
                }
                driver.arena = arena;
                return Some(driver);
            }
        }
        None
    }

    /// Sectors of the disk, if it is one.
    pub(crate) fn sectors(&self) -> Option<u64> {
        self.sectors
    }

    /// Its memory.
    pub(crate) fn arena(&self) -> Arena {
        self.arena
    }

    fn takes_bus_addresses(&self) -> bool {
        self.write(register::DEVICE_FEATURE_SELECT, Width::Word, 1);
        self.read(register::DEVICE_FEATURE, Width::Word) & ACCESS_PLATFORM != 0
    }

    /// Resets the device and waits until it is.
    pub(crate) fn reset(&self) {
        self.write(register::STATUS, Width::Byte, 0);
        let _checked_by_who_starts = self.clock.wait_until(LIMIT_SECONDS, || {
            self.read(register::STATUS, Width::Byte) == 0
        });
    }

    /// Resets the device and makes it ready, with empty rings.
    pub(crate) fn start(&mut self) -> Result<(), &'static str> {
        self.start_with(if self.queue == MESSAGES { MULTIPORT } else { 0 })
    }

    /// The same of a disk, which is to be flushed.
    pub(crate) fn start_flushing(&mut self) -> Result<(), &'static str> {
        self.start_with(FLUSH)
    }

    /// Waits until `holds` does, as long as a request may take on the busiest machine; false if it never does.
    pub(crate) fn wait_until(&self, holds: impl FnMut() -> bool) -> bool {
        self.clock.wait_until(LIMIT_SECONDS, holds)
    }

    fn start_with(&mut self, own: u64) -> Result<(), &'static str> {
        self.reset();
        if self.read(register::STATUS, Width::Byte) != 0 {
            return Err("the device stays as it is");
        }
        let mut status = status::ACKNOWLEDGE | status::DRIVER;
        self.write(register::STATUS, Width::Byte, status);
        let offered = self.takes_bus_addresses();
        let high = VERSION_1 | if offered { ACCESS_PLATFORM } else { 0 };
        for (half, features) in [(0, INDIRECT | own), (1, high)] {
            self.write(register::DRIVER_FEATURE_SELECT, Width::Word, half);
            self.write(register::DRIVER_FEATURE, Width::Word, features);
        }
        status |= status::FEATURES_OK;
        self.write(register::STATUS, Width::Byte, status);
        if self.read(register::STATUS, Width::Byte) & status::FEATURES_OK == 0 {
            return Err("the device does not take its own features");
        }
        self.arena.clear_rings();
        self.write(register::QUEUE_SELECT, Width::Halfword, self.queue);
        self.write(register::QUEUE_SIZE, Width::Halfword, QUEUE_SIZE);
        for (place, address) in (0..).zip(self.arena.rings()) {
            let at = register::QUEUE_ADDRESSES + 8 * place;
            self.write(at, Width::Word, address & 0xffff_ffff);
            self.write(at + 4, Width::Word, address >> 32);
        }
        self.write(register::QUEUE_ENABLE, Width::Halfword, 1);
        self.write(register::STATUS, Width::Byte, status | status::DRIVER_OK);
        Ok(())
    }

    /// Makes a request and waits until it is served as it has to be. The rings are empty, and stay so.
    pub(crate) fn request(&mut self) -> Result<(), &'static str> {
        match self.sectors {
            Some(sectors) => self.request_sector(sectors.saturating_sub(1)),
            None if self.queue == MESSAGES => self.say_ready(),
            None if self.queue == TRANSMIT => self.request_frame(),
            None => self.request_random(),
        }
    }

    /// Sends a frame to all.
    fn request_frame(&mut self) -> Result<(), &'static str> {
        let buffer = self.arena.buffer_memory();
        // The header asks for nothing; the address is behind it.
        buffer.fill(|word| match word {
            0 => 0,
            1 => 0xffff_ffff << 32,
            2 => 0x0200_0000_0000_ffff,
            _ => 0,
        });
        let descriptor = Descriptor {
            address: self.arena.buffer(),
            bytes: FRAME_HEADER_BYTES + FRAME_BYTES,
            flags: 0,
            next: 0,
        };
        self.arena.set_descriptor(0, descriptor);
        self.arena.offer([0; 4], 1);
        self.ring();
        let served = || self.arena.used() == 1;
        if self.clock.wait_until(LIMIT_SECONDS, served) {
            Ok(())
        } else {
            Err("a frame is not sent")
        }
    }

    /// Reads a sector that nobody has written to.
    fn request_sector(&mut self, sector: u64) -> Result<(), &'static str> {
        let buffer = self.arena.buffer_memory();
        buffer.fill(|_| u64::MAX);
        // A read (VIRTIO_BLK_T_IN is 0).
        buffer.write(0, 0);
        buffer.write(1, sector);
        let start = self.arena.buffer();
        let sector_bytes = u64::from(SECTOR_BYTES);
        for (index, (offset, bytes, flags)) in (0..).zip([
            (0, 16, NEXT),
            (sector_bytes, SECTOR_BYTES, NEXT | WRITE),
            (16, 1, WRITE),
        ]) {
            let descriptor = Descriptor {
                address: start + offset,
                bytes,
                flags,
                next: index + 1,
            };
            self.arena.set_descriptor(index.into(), descriptor);
        }
        self.arena.offer([0; 4], 1);
        self.ring();
        let served = || self.arena.used() == 1;
        if !self.clock.wait_until(LIMIT_SECONDS, served) {
            return Err("a request is not served");
        }
        if buffer.read(2) != u64::MAX << 8 {
            return Err("a read fails");
        }
        let sector = sector_bytes / 8..sector_bytes / 4;
        let mut words = 3..buffer.words();
        match words.find(|word| {
            let expected = if sector.contains(word) { 0 } else { u64::MAX };
            buffer.read(*word) != expected
        }) {
            Some(_) => Err("what came is not what the disk has"),
            None => Ok(()),
        }
    }

    /// Says that it is ready for messages, and waits until that is heard.
    fn say_ready(&mut self) -> Result<(), &'static str> {
        let buffer = self.arena.buffer_memory();
        buffer.fill(|_| READY);
        let descriptor = Descriptor {
            address: self.arena.buffer(),
            bytes: 8,
            flags: 0,
            next: 0,
        };
        self.arena.set_descriptor(0, descriptor);
        self.arena.offer([0; 4], 1);
        self.ring();
        let heard = || self.arena.used() == 1;
        if !self.clock.wait_until(LIMIT_SECONDS, heard) {
            return Err("a message is not heard");
        }
        match (0..buffer.words()).find(|&word| buffer.read(word) != READY) {
            Some(_) => Err("a message was written to"),
            None => Ok(()),
        }
    }

    /// Asks for random bytes and waits until they are there.
    fn request_random(&mut self) -> Result<(), &'static str> {
        let buffer = self.arena.buffer_memory();
        buffer.fill(|_| 0);
        let descriptor = Descriptor {
            address: self.arena.buffer(),
            bytes: REQUEST_BYTES,
            flags: WRITE,
            next: 0,
        };
        self.arena.set_descriptor(0, descriptor);
        self.arena.offer([0; 4], 1);
        self.ring();
        if !self
            .clock
            .wait_until(LIMIT_SECONDS, || self.arena.used() == 1)
        {
            return Err("a request is not served");
        }
        let words = u64::from(REQUEST_BYTES) / 8;
        if (0..words).any(|word| buffer.read(word) == 0) {
            return Err("what came is not random");
        }
        match (words..buffer.words()).find(|&word| buffer.read(word) != 0) {
            Some(_) => Err("more came than was asked for"),
            None => Ok(()),
        }
    }

    /// Rings the doorbell of the queue.
    pub(crate) fn ring(&self) {
        let step = DOORBELL_STEP * self.queue;
        self.write(DOORBELL + step, Width::Halfword, self.queue);
    }

    /// Whether the device asks for its reset.
    pub(crate) fn needs_reset(&self) -> bool {
        self.read(register::STATUS, Width::Byte) & status::NEEDS_RESET != 0
    }

    /// Writes to the BAR.
    pub(crate) fn write(&self, offset: u64, width: Width, value: u64) {
        // What was written to memory before is there when the device looks.
        fence(Ordering::SeqCst);
        // SAFETY: registers are there; what the device then does to memory is ruled by the rings, which name memory
        // of the arena and places without RAM.
        if unsafe { store(self.bar + offset, width, value) }.is_err() {
            rtas::stop_with(format_args!(
                "a write to register {offset:#x} is interrupted"
            ));
        }
    }

    /// Reads from the BAR.
    pub(crate) fn read(&self, offset: u64, width: Width) -> u64 {
        // SAFETY: reading this device's registers changes nothing that matters to Rust.
        match unsafe { load(self.bar + offset, width) } {
            Ok(value) => value,
            Err(_) => rtas::stop_with(format_args!(
                "a read of register {offset:#x} is interrupted"
            )),
        }
    }
}
