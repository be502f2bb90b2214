//! A driver of the entropy device as a fuzzer's bytes have it: its registers, and its queue. What rings is served
//! at once, in the same thread, so that a run can be repeated.

use std::io;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba};
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::GuestRange;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Rng, VirtioFunction, VirtioOptions};
use crate::dma::{DmaMemory, Translate, Windows};
use crate::pci::{FunctionBackend, InterruptKind};

const RAM_BYTES: u64 = 0x2_0000;
/// Bus addresses are that much above guest addresses.
const BUS: u64 = 0x10_0000;
/// Where a queue's parts and its buffers are: a page each.
const DESCRIPTORS: u64 = 0x1000;
const DRIVER_RING: u64 = 0x2000;
const DEVICE_RING: u64 = 0x3000;
const BUFFER: u64 = 0x4000;
const QUEUE_SIZE: u16 = 8;
const WRITE_ONLY: u16 = 2;

/// Registers of the common configuration (`struct virtio_pci_common_cfg`), and the doorbell.
const STATUS: u64 = 0x14;
const DOORBELL: u64 = 0x3000;

/// Steps of one run at the most.
const MOST_STEPS: usize = 64;
/// How often a queue that says that it holds more is served before that is let be.
const MOST_TIMES: usize = 32;

struct Shifted;

impl Translate for Shifted {
    fn translate(&self, _: u8, ioba: Ioba, _: Permission) -> Option<GuestRange> {
        let address = ioba.0.checked_sub(BUS)?;
        (address < RAM_BYTES).then_some(GuestRange {
            start: GuestPhysicalAddress(address),
            bytes: 0x1000 - address % 0x1000,
        })
    }
}

struct Driver {
    ram: GuestMemoryMmap,
    function: VirtioFunction,
    /// What is added to addresses that the device gets.
    base: u64,
    _windows: Arc<dyn Translate>,
}

impl Driver {
    fn new(by_bus_address: bool) -> Self {
        let bytes = usize::try_from(RAM_BYTES).expect("little");
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory");
        let windows = Windows::default();
        let translate: Arc<dyn Translate> = Arc::new(Shifted);
        windows.connect(Arc::downgrade(&translate));
        let memory = if by_bus_address {
            DmaMemory::by_bus_address(ram.clone(), 0, windows)
        } else {
            DmaMemory::by_guest_address(ram.clone())
        };
        let options = VirtioOptions {
            name: "rng0".to_owned(),
            by_bus_address,
            memory,
            prepare_thread: || Ok(()),
        };
        let ones = |bytes: &mut [u8]| -> io::Result<()> {
            bytes.fill(0xff);
            Ok(())
        };
        let function = VirtioFunction::without_thread(Box::new(Rng::new(ones)), options);
        let function = function.expect("descriptors");
        let event = || Arc::new(EventFd::new(EFD_NONBLOCK).expect("descriptors"));
        function
            .set_interrupts(InterruptKind::MsiX, &[event().into(), event().into()])
            .expect("it has two vectors");
        Self {
            ram,
            function,
            base: if by_bus_address { BUS } else { 0 },
            _windows: translate,
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let written = self.function.write_bar(0, offset, data);
        written.expect("a guest's write is no error of the host's");
        self.serve();
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let written = self.function.write_config(offset, data);
        written.expect("a guest's write is no error of the host's");
        self.serve();
    }

    fn read(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        let read = self.function.read_bar(0, offset, &mut data);
        read.expect("a guest's read is no error of the host's");
        u64::from_le_bytes(data)
    }

    /// Does what the device's thread does where a doorbell rang.
    fn serve(&self) {
        let shared = self.function.shared();
        for (queue, bell) in shared.doorbells.iter().enumerate() {
            if bell.read().is_ok() {
                let _is_more = (0..MOST_TIMES).any(|_| !shared.serve(queue));
            }
        }
    }

    /// Resets it, and comes to terms with it about all that it offers.
    fn start(&self) {
        self.write(STATUS, &[0]);
        self.write_config(4, &[6, 0]);
        self.write(STATUS, &[3]);
        for select in [0u32, 1] {
            self.write(0, &select.to_le_bytes());
            self.write(8, &select.to_le_bytes());
            let [_, _, _, _, offered @ ..] = self.read(0).to_le_bytes();
            self.write(0xc, &offered);
        }
        self.write(STATUS, &[0xb]);
        self.write(0x16, &[0, 0]);
        self.write(0x18, &QUEUE_SIZE.to_le_bytes());
        self.write(0x1a, &1u16.to_le_bytes());
        for (offset, address) in [
            (0x20, DESCRIPTORS),
            (0x28, DRIVER_RING),
            (0x30, DEVICE_RING),
        ] {
            self.write(offset, &(address + self.base).to_le_bytes());
        }
        self.write(0x1c, &1u16.to_le_bytes());
        self.write(STATUS, &[0xf]);
    }

    fn put(&self, address: u64, data: &[u8]) {
        let written = self.ram.write_slice(data, GuestAddress(address));
        written.expect("the target writes into RAM alone");
    }

    fn descriptor(&self, index: u64, address: u64, bytes: u32, flags: u16, next: u16) {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&address.to_le_bytes());
        entry[8..12].copy_from_slice(&bytes.to_le_bytes());
        entry[12..14].copy_from_slice(&flags.to_le_bytes());
        entry[14..].copy_from_slice(&next.to_le_bytes());
        self.put(DESCRIPTORS + 16 * index, &entry);
    }

    /// That the device works, whatever was before its reset.
    fn assert_works(&self) {
        self.function.hold(false);
        self.function.reset().expect("nothing fails");
        for at in [DESCRIPTORS, DRIVER_RING, DEVICE_RING] {
            self.put(at, &[0; 0x1000]);
        }
        self.put(BUFFER, &[0; 16]);
        self.start();
        self.descriptor(0, BUFFER + self.base, 8, WRITE_ONLY, 0);
        self.put(DRIVER_RING + 2, &1u16.to_le_bytes());
        self.write(DOORBELL, &[0, 0]);
        let used: u16 = self
            .ram
            .read_obj(GuestAddress(DEVICE_RING + 2))
            .expect("RAM");
        let filled: u128 = self.ram.read_obj(GuestAddress(BUFFER)).expect("RAM");
        assert_eq!((used, filled), (1, u128::from(u64::MAX)));
    }
}

/// Writes and reads registers, configuration space and memory as `bytes` say.
///
/// # Panics
/// When an access is an error of the host's, or the device does not work after a reset.
pub fn registers(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let driver = Driver::new(input.arbitrary().unwrap_or_default());
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &driver).is_err() {
            break;
        }
    }
    driver.assert_works();
}

fn step(input: &mut Unstructured<'_>, driver: &Driver) -> Result<()> {
    let place = match input.int_in_range(0..=3u8)? {
        0 | 1 => input.int_in_range(0..=0x40u64)?,
        2 => *input.choose(&[0x3000, 0x3004, 0x8000, 0x8010, 0x800c, 0x801c])?,
        _ => input.int_in_range(0..=0x1_0000)?,
    };
    let data: [u8; 8] = input.arbitrary()?;
    let data = &data[..*input.choose(&[1, 2, 4, 8])?];
    match input.int_in_range(0..=7u8)? {
        0..=2 => driver.write(place, data),
        3 => driver.write_config(input.int_in_range(0..=255)?, data),
        4 => {
            let page = *input.choose(&[DESCRIPTORS, DRIVER_RING, DEVICE_RING])?;
            driver.put(page + input.int_in_range(0..=127u64)?, data);
        }
        5 => {
            driver.read(place);
        }
        6 => driver.start(),
        _ => match input.arbitrary()? {
            true => driver.function.reset().expect("nothing fails"),
            false => driver.function.hold(input.arbitrary()?),
        },
    }
    Ok(())
}

/// Has the device that its driver has set up serve a queue of which `bytes` are descriptors, ring and tables.
///
/// # Panics
/// When memory changes that no descriptor could name, or the device does not work after a reset.
pub fn queue(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let driver = Driver::new(input.arbitrary().unwrap_or_default());
    driver.start();
    if fill(&mut input, &driver).is_ok() {
        for _ in 0..4 {
            driver.write(DOORBELL, &[0, 0]);
        }
    }
    driver.assert_works();
}

fn fill(input: &mut Unstructured<'_>, driver: &Driver) -> Result<()> {
    for index in 0..u64::from(QUEUE_SIZE) {
        let address = match input.int_in_range(0..=7u8)? {
            0 => input.arbitrary()?,
            1 => driver.base + RAM_BYTES - input.int_in_range(0..=64u64)?,
            2 => driver.base + DESCRIPTORS + 16 * input.int_in_range(0..=16u64)?,
            _ => driver.base + BUFFER + input.int_in_range(0..=0x1000u64)?,
        };
        let length = match input.int_in_range(0..=3u8)? {
            0 => input.arbitrary()?,
            _ => 16 * input.int_in_range(0..=32u32)?,
        };
        let flags = input.int_in_range(0..=7)?;
        let next = input.int_in_range(0..=QUEUE_SIZE)?;
        driver.descriptor(index, address, length, flags, next);
    }
    // Flags, index, heads, and where the driver wants to be told again.
    let mut ring = [0; 4 + 2 * QUEUE_SIZE as usize + 2];
    input.fill_buffer(&mut ring)?;
    if !input.ratio(1, 8)? {
        ring[..2].fill(0);
        ring[2..4].copy_from_slice(&input.int_in_range(0..=QUEUE_SIZE)?.to_le_bytes());
        for head in ring[4..].chunks_mut(2) {
            head[0] %= 16;
            head[1] = 0;
        }
    }
    driver.put(DRIVER_RING, &ring);
    // Tables of indirect descriptors.
    let tables = input.bytes(input.len().min(0x1000))?;
    driver.put(BUFFER, tables);
    Ok(())
}
