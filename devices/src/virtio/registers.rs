//! The common configuration (virtio 4.1.4.3): how a driver and a device come to terms, and where the queues are.

use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};

/// Bytes of the registers.
pub(super) const BYTES: usize = 0x38;

/// The vector of what signals nothing (VIRTIO_MSI_NO_VECTOR).
const NO_VECTOR: u16 = 0xffff;

/// Offsets (`struct virtio_pci_common_cfg`).
mod offset {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const QUEUES: usize = 0x12;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_DOORBELL: usize = 0x1e;
    pub(super) const QUEUE_DESCRIPTORS: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
}

/// Bits of the device's status (virtio 2.1). virtio-bindings has them too, wider than the register.
mod status {
    pub(super) const DRIVER_OK: u8 = 1 << 2;
    pub(super) const FEATURES_OK: u8 = 1 << 3;
    pub(super) const NEEDS_RESET: u8 = 1 << 6;
}

/// A queue, and the vector that it signals.
#[derive(Debug)]
pub(super) struct QueueRegisters {
    pub(super) queue: Queue,
    pub(super) vector: u16,
    /// Its doorbell rang while the device could do no DMA.
    pub(super) unheard: bool,
    /// It is not served before one of its requests is done.
    pub(super) full: bool,
    /// Addresses as the driver has written them: descriptors, driver's ring, device's ring.
    addresses: [u64; 3],
}

/// What a driver's write asks for beyond keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing.
    None,
    /// The device is reset.
    Reset,
    /// The driver is ready: queues are served from now on.
    DriverOk,
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    offered: u64,
    accepted: u64,
    offered_select: u32,
    accepted_select: u32,
    status: u8,
    /// Its driver has reset it while the host worked for it: it is reset when that is over, and reads as it was until
    /// then (virtio 2.4.2).
    is_resetting: bool,
    /// Changes with the device's own configuration.
    pub(super) config_generation: u8,
    pub(super) config_vector: u16,
    queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
    vectors: u16,
}

impl Registers {
    /// Registers of a device with these features of its kind and queues, and `vectors` MSI-X vectors. With
    /// `by_bus_address` its driver gives it bus addresses.
    pub(super) fn new(
        features: u64,
        queue_sizes: &[u16],
        vectors: u16,
        by_bus_address: bool,
    ) -> Self {
        let common = [
            (VIRTIO_F_VERSION_1, true),
            (VIRTIO_RING_F_INDIRECT_DESC, true),
            (VIRTIO_RING_F_EVENT_IDX, true),
            (VIRTIO_F_ACCESS_PLATFORM, by_bus_address),
        ];
        let common = common.iter().filter(|(_, offered)| *offered);
        let offered = common.fold(features, |all, (bit, _)| all | 1 << bit);
        let queues = queue_sizes.iter().filter_map(|&size| {
            Some(QueueRegisters {
                queue: Queue::new(size).ok()?,
                vector: NO_VECTOR,
                unheard: false,
                full: false,
                addresses: [0; 3],
            })
        });
        Self {
            offered,
            accepted: 0,
            offered_select: 0,
            accepted_select: 0,
            status: 0,
            is_resetting: false,
            config_generation: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: queues.collect(),
            vectors,
        }
    }

    /// Whether queues are to be served.
    pub(super) const fn is_running(&self) -> bool {
        let running = self.status & (status::DRIVER_OK | status::NEEDS_RESET);
        running == status::DRIVER_OK && !self.is_resetting
    }

    /// Features that the driver has accepted.
    pub(super) const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Has the device do nothing more before it is [reset](Self::reset).
    pub(super) const fn begin_reset(&mut self) {
        self.is_resetting = true;
    }

    /// Whether it waits for its reset.
    pub(super) const fn is_resetting(&self) -> bool {
        self.is_resetting
    }

    /// Whether the driver is ready, so that it is to hear of changes.
    pub(super) const fn driver_is_ready(&self) -> bool {
        self.status & status::DRIVER_OK != 0 && !self.is_resetting
    }

    /// Stops the device until its driver resets it, unless it does not run. True if the driver is to be told.
    pub(super) const fn stop(&mut self) -> bool {
        let was_running = self.is_running();
        if was_running {
            self.status |= status::NEEDS_RESET;
        }
        was_running
    }

    /// Everything as it was at first.
    pub(super) fn reset(&mut self) {
        self.accepted = 0;
        self.offered_select = 0;
        self.accepted_select = 0;
        self.status = 0;
        self.is_resetting = false;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        for registers in &mut self.queues {
            registers.queue.reset();
            registers.vector = NO_VECTOR;
            registers.unheard = false;
            registers.full = false;
            registers.addresses = [0; 3];
        }
    }

    /// Reads `data.len()` bytes at `offset`.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        let mut all = [0; BYTES];
        let mut put = |at: usize, bytes: &[u8]| all[at..at + bytes.len()].copy_from_slice(bytes);
        put(
            offset::DEVICE_FEATURE_SELECT,
            &self.offered_select.to_le_bytes(),
        );
        put(
            offset::DEVICE_FEATURE,
            &half(self.offered, self.offered_select),
        );
        put(
            offset::DRIVER_FEATURE_SELECT,
            &self.accepted_select.to_le_bytes(),
        );
        put(
            offset::DRIVER_FEATURE,
            &half(self.accepted, self.accepted_select),
        );
        put(offset::CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        put(offset::QUEUES, &queues.to_le_bytes());
        put(offset::STATUS, &[self.status]);
        put(offset::CONFIG_GENERATION, &[self.config_generation]);
        put(offset::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // Of a queue that is not there, the size is 0 (virtio 4.1.4.3.1).
        if let Some(selected) = self.queues.get(usize::from(self.queue_select)) {
            put(offset::QUEUE_SIZE, &selected.queue.size().to_le_bytes());
            put(offset::QUEUE_VECTOR, &selected.vector.to_le_bytes());
            put(
                offset::QUEUE_ENABLE,
                &u16::from(selected.queue.ready()).to_le_bytes(),
            );
            put(offset::QUEUE_DOORBELL, &self.queue_select.to_le_bytes());
            let places = [
                offset::QUEUE_DESCRIPTORS,
                offset::QUEUE_DRIVER,
                offset::QUEUE_DEVICE,
            ];
            for (at, address) in places.into_iter().zip(selected.addresses) {
                put(at, &address.to_le_bytes());
            }
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = all.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes `data` at `offset`. What is no register of that size is ignored, and so is what a driver may not
    /// write at that time.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> Event {
        if self.is_resetting {
            return Event::None;
        }
        match *data {
            [value] => self.write_u8(offset, value),
            [a, b] => self.write_u16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            // A register of 64 bits may be written as one (virtio 4.1.3.1 would have it as two).
            [a, b, c, d, e, f, g, h] if offset >= offset::QUEUE_DESCRIPTORS => {
                self.write_u32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_u32(offset + 4, u32::from_le_bytes([e, f, g, h]))
            }
            _ => Event::None,
        }
    }

    fn write_u8(&mut self, offset: usize, value: u8) -> Event {
        if offset == offset::STATUS {
            self.write_status(value)
        } else {
            Event::None
        }
    }

    fn write_status(&mut self, value: u8) -> Event {
        if value == 0 {
            return Event::Reset;
        }
        let set = value & !self.status & !status::NEEDS_RESET;
        if set & status::FEATURES_OK != 0 {
            // The bit stays off where they do not agree: the driver reads it back (virtio 3.1.1).
            let missing = self.offered & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM);
            let agreed = self.accepted & !self.offered == 0 && self.accepted & missing == missing;
            if agreed {
                self.status |= status::FEATURES_OK;
            }
        }
        let needs_features = set & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK == 0;
        let taken =
            set & !status::FEATURES_OK & !if needs_features { status::DRIVER_OK } else { 0 };
        let was_running = self.is_running();
        self.status |= taken;
        if was_running || !self.is_running() {
            return Event::None;
        }
        let uses_events = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        for registers in &mut self.queues {
            registers.queue.set_event_idx(uses_events);
        }
        Event::DriverOk
    }

    fn write_u16(&mut self, offset: usize, value: u16) -> Event {
        // A vector that is not there reads back as none (virtio 4.1.5.1.2.1).
        let vector = if value < self.vectors {
            value
        } else {
            NO_VECTOR
        };
        match offset {
            offset::CONFIG_VECTOR => self.config_vector = vector,
            offset::QUEUE_SELECT => self.queue_select = value,
            offset::QUEUE_VECTOR => {
                if let Some(selected) = self.selected() {
                    selected.vector = vector;
                }
            }
            offset::QUEUE_SIZE => {
                if let Some(selected) = self.changeable() {
                    // What is no size leaves the one that there is.
                    let _ = selected.queue.try_set_size(value);
                }
            }
            offset::QUEUE_ENABLE if value == 1 => {
                if let Some(selected) = self.changeable() {
                    let [descriptors, driver, device] =
                        selected.addresses.map(vm_memory::GuestAddress);
                    let queue = &mut selected.queue;
                    let placed = queue
                        .try_set_desc_table_address(descriptors)
                        .and_then(|()| queue.try_set_avail_ring_address(driver))
                        .and_then(|()| queue.try_set_used_ring_address(device));
                    queue.set_ready(placed.is_ok());
                }
            }
            _ => {}
        }
        Event::None
    }

    fn write_u32(&mut self, offset: usize, value: u32) -> Event {
        match offset {
            offset::DEVICE_FEATURE_SELECT => self.offered_select = value,
            offset::DRIVER_FEATURE_SELECT => self.accepted_select = value,
            offset::DRIVER_FEATURE if self.status & status::FEATURES_OK == 0 => {
                if let Some(shift) = shift_of_half(self.accepted_select) {
                    self.accepted = with_half(self.accepted, shift, value);
                }
            }
            offset::QUEUE_DESCRIPTORS..BYTES if offset.is_multiple_of(4) => {
                let at = offset - offset::QUEUE_DESCRIPTORS;
                if let Some(selected) = self.changeable()
                    && let Some(address) = selected.addresses.get_mut(at / 8)
                {
                    let shift = if at.is_multiple_of(8) { 0 } else { 32 };
                    *address = with_half(*address, shift, value);
                }
            }
            _ => {}
        }
        Event::None
    }

    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// The selected queue, if its place and size may still be chosen.
    fn changeable(&mut self) -> Option<&mut QueueRegisters> {
        self.selected().filter(|selected| !selected.queue.ready())
    }
}

/// How far up in the features a half is: 0 or 32. There are no others.
const fn shift_of_half(select: u32) -> Option<u32> {
    match select {
        0 => Some(0),
        1 => Some(32),
        _ => None,
    }
}

/// `whole` with another half, `shift` bits up: 0 or 32.
fn with_half(whole: u64, shift: u32, half: u32) -> u64 {
    whole & !(u64::from(u32::MAX) << shift) | u64::from(half) << shift
}

fn half(features: u64, select: u32) -> [u8; 4] {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match shift_of_half(select) {
        Some(0) => [a, b, c, d],
        Some(_) => [e, f, g, h],
        None => [0; 4],
    }
}
