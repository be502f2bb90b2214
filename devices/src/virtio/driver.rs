//! A driver that goes by the book, for tests.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba};
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::GuestRange;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Device, Rng, VirtioFunction, VirtioOptions};
use crate::dma::{DmaMemory, Translate, Windows};
use crate::interrupts::Signal;
use crate::pci::{FunctionBackend, InterruptKind};

pub(super) const RAM_BYTES: usize = 0x2_0000;
/// Where the driver has its queue and its buffers.
pub(super) const DESCRIPTORS: u64 = 0x1000;
pub(super) const DRIVER_RING: u64 = 0x2000;
pub(super) const DEVICE_RING: u64 = 0x3000;
pub(super) const BUFFER: u64 = 0x4000;
/// Bus addresses are that much above guest addresses.
pub(super) const BUS: u64 = 0x10_0000;

pub(super) const ACKNOWLEDGE_AND_DRIVER: u8 = 3;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const NEEDS_RESET: u8 = 0x40;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const ACCESS_PLATFORM: u64 = 1 << 33;
pub(super) const EVENT_IDX: u64 = 1 << 29;

pub(super) struct Shifted;

impl Translate for Shifted {
    fn translate(&self, bridge: u8, ioba: Ioba, _: Permission) -> Option<GuestRange> {
        let address = ioba.0.checked_sub(BUS).filter(|_| bridge == 2)?;
        (address < RAM_BYTES as u64).then_some(GuestRange {
            start: GuestPhysicalAddress(address),
            bytes: 0x1000 - address % 0x1000,
        })
    }
}

pub(super) struct Driver {
    pub(super) ram: GuestMemoryMmap,
    pub(super) function: VirtioFunction,
    pub(super) events: [Arc<EventFd>; 2],
    /// What is added to addresses that the device gets.
    pub(super) base: u64,
    _windows: Arc<dyn Translate>,
}

impl Driver {
    /// Of an entropy device, whose bytes count up.
    pub(super) fn new(by_bus_address: bool) -> Self {
        let mut next = 0_u8;
        let counting = move |bytes: &mut [u8]| {
            for byte in bytes {
                next = next.wrapping_add(1);
                *byte = next;
            }
            Ok(())
        };
        Self::of(Box::new(Rng::new(counting)), by_bus_address)
    }

    /// Of any device.
    pub(super) fn of(device: Box<dyn Device>, by_bus_address: bool) -> Self {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        Self::in_memory(ram, device, by_bus_address)
    }

    /// The same, in that memory.
    pub(super) fn in_memory(
        ram: GuestMemoryMmap,
        device: Box<dyn Device>,
        by_bus_address: bool,
    ) -> Self {
        let windows = Windows::default();
        let translate: Arc<dyn Translate> = Arc::new(Shifted);
        windows.connect(Arc::downgrade(&translate));
        let memory = if by_bus_address {
            DmaMemory::by_bus_address(ram.clone(), 2, windows)
        } else {
            DmaMemory::by_guest_address(ram.clone())
        };
        let options = VirtioOptions {
            name: "rng0".to_owned(),
            by_bus_address,
            memory,
            prepare_thread: || Ok(()),
        };
        let function = VirtioFunction::new(device, options).unwrap();
        let events = [0; 2].map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        function
            .set_interrupts(InterruptKind::MsiX, &events.clone().map(Signal::from))
            .unwrap();
        Self {
            ram,
            function,
            events,
            base: if by_bus_address { BUS } else { 0 },
            _windows: translate,
        }
    }

    pub(super) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.function.read_bar(0, offset, &mut data).unwrap();
        data
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        self.function.write_bar(0, offset, data).unwrap();
    }

    pub(super) fn status(&self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    pub(super) fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.write(0, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read(4)))
        };
        half(0) | half(1) << 32
    }

    pub(super) fn accept(&self, features: u64) -> bool {
        self.write(0x14, &[ACKNOWLEDGE_AND_DRIVER]);
        for select in [0, 1_u32] {
            self.write(8, &select.to_le_bytes());
            let [a, b, c, d, ..] = (features >> (32 * select)).to_le_bytes();
            self.write(0x0c, &[a, b, c, d]);
        }
        self.write(0x14, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK]);
        self.status() & FEATURES_OK != 0
    }

    pub(super) fn place_queue(&self) {
        self.place_queue_number(0);
    }

    /// Places that queue, at where they all would be.
    pub(super) fn place_queue_number(&self, number: u16) {
        self.function.write_config(4, &[6, 0]).unwrap();
        self.write(0x16, &number.to_le_bytes());
        self.write(0x18, &8_u16.to_le_bytes());
        self.write(0x1a, &1_u16.to_le_bytes());
        for (offset, address) in [
            (0x20, DESCRIPTORS),
            (0x28, DRIVER_RING),
            (0x30, DEVICE_RING),
        ] {
            let bytes = (address + self.base).to_le_bytes();
            self.write(offset, &bytes[..4]);
            self.write(offset + 4, &bytes[4..]);
        }
        self.write(0x1c, &1_u16.to_le_bytes());
        // Vector 1 is unmasked.
        self.write(0x8000 + 16 + 12, &[0; 4]);
    }

    pub(super) fn start(&self) {
        let wanted = self.offered() & !EVENT_IDX;
        assert!(self.accept(wanted));
        self.place_queue();
        self.write(0x14, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK]);
    }

    pub(super) fn descriptor(&self, index: u64, address: u64, bytes: u32, flags: u16, next: u16) {
        let at = DESCRIPTORS + 16 * index;
        self.ram
            .write_obj(address.to_le(), GuestAddress(at))
            .unwrap();
        self.ram
            .write_obj(bytes.to_le(), GuestAddress(at + 8))
            .unwrap();
        self.ram
            .write_obj(flags.to_le(), GuestAddress(at + 12))
            .unwrap();
        self.ram
            .write_obj(next.to_le(), GuestAddress(at + 14))
            .unwrap();
    }

    /// Puts descriptor 0 into the ring as request number `count`, and rings.
    pub(super) fn request(&self, count: u16) {
        let entry = DRIVER_RING + 4 + 2 * u64::from((count - 1) % 8);
        self.ram.write_obj(0_u16, GuestAddress(entry)).unwrap();
        self.ram
            .write_obj(count.to_le(), GuestAddress(DRIVER_RING + 2))
            .unwrap();
        self.write(0x3000, &[0, 0]);
    }

    pub(super) fn used(&self) -> (u16, u32) {
        let count = u16::from_le(self.ram.read_obj(GuestAddress(DEVICE_RING + 2)).unwrap());
        let entry = DEVICE_RING + 4 + 8 * u64::from(count.wrapping_sub(1) % 8) + 4;
        (
            count,
            u32::from_le(self.ram.read_obj(GuestAddress(entry)).unwrap()),
        )
    }

    #[track_caller]
    pub(super) fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(super) const WRITE_ONLY: u16 = 2;
pub(super) const NEXT: u16 = 1;
