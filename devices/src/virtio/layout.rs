//! Configuration space of a virtio function, and what lies where in its BAR (virtio 4.1.4).

use super::device::Identity;
use super::{msi_x, registers};

/// Size of the BAR, which is number 0.
pub(super) const BAR_BYTES: u64 = 0x1_0000;
/// What lies where in it.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const DOORBELLS: u64 = 0x3000;
const MSI_X_TABLE: u64 = 0x8000;
const MSI_X_PENDING: u64 = 0xc000;
/// Bytes from one queue's doorbell to the next: each is an eventfd.
const DOORBELL_STEP: u64 = 4;

/// Bytes of configuration space.
pub(super) const CONFIG_BYTES: u16 = 256;
const COMMAND: usize = 0x04;
/// Memory, bus mastering, and interrupts by line off.
const COMMAND_WRITABLE: [u8; 2] = [0x06, 0x04];
const COMMAND_MASTER: u8 = 1 << 2;

const VENDOR: u16 = 0x1af4;
/// Modern devices' IDs begin here (virtio 4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;

const ID_VENDOR_SPECIFIC: u8 = 0x09;
const ID_MSI_X: u8 = 0x11;

/// Kinds of virtio's capabilities (virtio 4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// A place in the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The common configuration, at that offset.
    Common(usize),
    /// The interrupt status, which only INTx has a use for.
    Isr,
    /// The device's own configuration.
    Device(usize),
    /// A queue's doorbell.
    Doorbell(usize),
    /// The table of MSI-X vectors.
    MsiXTable(usize),
    /// Their pending bits.
    MsiXPending(usize),
    /// Nothing.
    Nowhere,
}

impl Place {
    /// What lies at `offset` of the BAR.
    pub(super) fn at(offset: u64) -> Self {
        let below = |start: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
        match offset {
            COMMON..ISR => Self::Common(below(COMMON)),
            ISR => Self::Isr,
            DEVICE..DOORBELLS => Self::Device(below(DEVICE)),
            DOORBELLS..MSI_X_TABLE => Self::Doorbell(
                usize::try_from((offset - DOORBELLS) / DOORBELL_STEP).unwrap_or(usize::MAX),
            ),
            MSI_X_TABLE..MSI_X_PENDING => Self::MsiXTable(below(MSI_X_TABLE)),
            MSI_X_PENDING..BAR_BYTES => Self::MsiXPending(below(MSI_X_PENDING)),
            _ => Self::Nowhere,
        }
    }
}

/// Where in the BAR the doorbell of queue `index` is.
pub(super) const fn doorbell(index: u64) -> u64 {
    DOORBELLS + index * DOORBELL_STEP
}

/// Configuration space.
pub(super) struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES as usize],
    /// Where the window to the BAR is (VIRTIO_PCI_CAP_PCI_CFG).
    window: usize,
}

/// A part of the BAR that a driver reaches through configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowAccess {
    /// Where in the BAR.
    pub(super) offset: u64,
    /// How many bytes: 1, 2 or 4.
    pub(super) bytes: usize,
}

impl ConfigSpace {
    /// That of a device with as many MSI-X vectors and queues.
    pub(super) fn new(identity: Identity, vectors: u16, queues: u16) -> Self {
        let mut bytes = [0; CONFIG_BYTES as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let [interface, subclass, class, _] = identity.class_code.to_le_bytes();
        put(0x00, &VENDOR.to_le_bytes());
        put(0x02, &(FIRST_DEVICE + identity.device_id).to_le_bytes());
        // There are capabilities.
        put(0x06, &[1 << 4, 0]);
        // A modern device's revision is 1 or more.
        put(0x08, &[1, interface, subclass, class]);
        put(0x2c, &VENDOR.to_le_bytes());
        put(0x2e, &SUBSYSTEM.to_le_bytes());
        put(0x34, &[0x40]);

        let mut next = 0x40;
        let mut capability = |id: u8, body: &[u8]| {
            let at = next;
            next = (at + 2 + body.len()).next_multiple_of(4);
            put(at, &[id]);
            put(at + 1, &[u8::try_from(next).unwrap_or(0)]);
            put(at + 2, body);
            at
        };
        let [table, pending] =
            [MSI_X_TABLE, MSI_X_PENDING].map(|offset| u32::try_from(offset).unwrap_or(0));
        let size = vectors.saturating_sub(1).to_le_bytes();
        let msi_x = [&size[..], &table.to_le_bytes(), &pending.to_le_bytes()].concat();
        capability(ID_MSI_X, &msi_x);
        let doorbells = u64::from(queues) * DOORBELL_STEP;
        let step = u32::try_from(DOORBELL_STEP).unwrap_or(0).to_le_bytes();
        capability(
            ID_VENDOR_SPECIFIC,
            &virtio(COMMON_CFG, COMMON, registers::BYTES as u64, &[]),
        );
        capability(ID_VENDOR_SPECIFIC, &virtio(ISR_CFG, ISR, 1, &[]));
        capability(
            ID_VENDOR_SPECIFIC,
            &virtio(DEVICE_CFG, DEVICE, DOORBELLS - DEVICE, &[]),
        );
        capability(
            ID_VENDOR_SPECIFIC,
            &virtio(NOTIFY_CFG, DOORBELLS, doorbells, &step),
        );
        let window = capability(ID_VENDOR_SPECIFIC, &virtio(PCI_CFG, 0, 0, &[0; 4]));
        put(window + 1, &[0]);
        Self { bytes, window }
    }

    /// Reads; what lies beyond it reads 0.
    pub(super) fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes what a driver may.
    pub(super) fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, &new) in (usize::from(offset)..).zip(data) {
            let writable = match at.checked_sub(self.window) {
                // Which BAR, where and how many bytes.
                Some(4 | 8..16) => 0xff,
                _ if at == COMMAND => COMMAND_WRITABLE[0],
                _ if at == COMMAND + 1 => COMMAND_WRITABLE[1],
                _ => 0,
            };
            if let Some(byte) = self.bytes.get_mut(at) {
                *byte = *byte & !writable | new & writable;
            }
        }
    }

    /// What an access to `offset` reaches of the BAR, if it is to the window's data.
    pub(super) fn window_access(&self, offset: u16) -> Option<WindowAccess> {
        if usize::from(offset) != self.window + 16 {
            return None;
        }
        let at = |start: usize| {
            let bytes = self.bytes.get(self.window + start..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (bar, place, length) = (self.bytes.get(self.window + 4)?, at(8)?, at(12)?);
        let is_access = *bar == 0 && matches!(length, 1 | 2 | 4) && place.is_multiple_of(length);
        is_access.then_some(WindowAccess {
            offset: place.into(),
            bytes: usize::try_from(length).ok()?,
        })
    }

    /// Whether the device may do DMA.
    pub(super) const fn is_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MASTER != 0
    }

    /// As at first.
    pub(super) const fn reset(&mut self) {
        self.bytes[COMMAND] = 0;
        self.bytes[COMMAND + 1] = 0;
    }
}

/// A virtio capability without its first two bytes (`struct virtio_pci_cap`): of BAR 0.
fn virtio(kind: u8, offset: u64, bytes: u64, more: &[u8]) -> Vec<u8> {
    let length = u8::try_from(16 + more.len()).unwrap_or(16);
    let [offset, bytes] = [offset, bytes].map(|value| u32::try_from(value).unwrap_or(0));
    let mut capability = vec![length, kind, 0, 0, 0, 0];
    capability.extend(offset.to_le_bytes());
    capability.extend(bytes.to_le_bytes());
    capability.extend(more);
    capability
}

/// How many vectors fit: the table ends where the pending bits begin.
pub(super) const MOST_VECTORS: u64 = (MSI_X_PENDING - MSI_X_TABLE) / msi_x::ENTRY_BYTES as u64;
