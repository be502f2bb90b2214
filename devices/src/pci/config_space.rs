//! Configuration space of a function: each byte is either the real device's or emulated here.

use std::io;

use super::backend::FunctionBackend;

/// Offsets of the header's registers (PCI Local Bus Specification 3.0, 6.1).
pub(super) mod register {
    pub(in super::super) const VENDOR_ID: u16 = 0x00;
    pub(in super::super) const DEVICE_ID: u16 = 0x02;
    pub(in super::super) const COMMAND: u16 = 0x04;
    pub(in super::super) const REVISION_ID: u16 = 0x08;
    pub(in super::super) const STATUS: u16 = 0x06;
    pub(in super::super) const HEADER_TYPE: u16 = 0x0e;
    pub(in super::super) const BAR0: u16 = 0x10;
    pub(in super::super) const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
    pub(in super::super) const SUBSYSTEM_ID: u16 = 0x2e;
    pub(in super::super) const ROM: u16 = 0x30;
    pub(in super::super) const CAPABILITIES: u16 = 0x34;
    pub(in super::super) const INTERRUPT_LINE: u16 = 0x3c;
}

/// How one byte is served.
#[derive(Clone, Copy)]
pub(super) enum Byte {
    /// By the device.
    Backend,
    /// From here: the value, and which of its bits the guest can change.
    Emulated { value: u8, writable: u8 },
}

/// The bytes of a configuration space that are emulated, over those that are not.
pub(super) struct ConfigSpace {
    bytes: Vec<Byte>,
}

impl ConfigSpace {
    /// A space of `size` bytes, all of them the device's.
    pub(super) fn new(size: u16) -> Self {
        Self {
            bytes: vec![Byte::Backend; usize::from(size)],
        }
    }

    /// Emulates the bytes from `offset` on, with these values and changeable bits. What lies
    /// beyond the end is left out.
    pub(super) fn emulate(&mut self, offset: u16, values: &[u8], writable: &[u8]) {
        let range = self.bytes.iter_mut().skip(usize::from(offset));
        for ((byte, &value), &writable) in range.zip(values).zip(writable) {
            *byte = Byte::Emulated { value, writable };
        }
    }

    /// Whether an access of `data.len()` bytes at `offset` is one: size 1, 2 or 4, aligned, inside.
    pub(super) fn accepts(&self, offset: u16, size: usize) -> bool {
        let offset = usize::from(offset);
        matches!(size, 1 | 2 | 4)
            && offset.is_multiple_of(size)
            && offset + size <= self.bytes.len()
    }

    /// Reads an access that [`ConfigSpace::accepts`].
    pub(super) fn read(
        &self,
        backend: &dyn FunctionBackend,
        offset: u16,
        data: &mut [u8],
    ) -> io::Result<()> {
        let start = usize::from(offset);
        let bytes = &self.bytes[start..start + data.len()];
        if bytes.iter().any(|byte| matches!(byte, Byte::Backend)) {
            backend.read_config(offset, data)?;
        }
        for (byte, out) in bytes.iter().zip(data) {
            if let Byte::Emulated { value, .. } = byte {
                *out = *value;
            }
        }
        Ok(())
    }

    /// Writes the emulated bytes of an access that [`ConfigSpace::accepts`].
    pub(super) fn write_emulated(&mut self, offset: u16, data: &[u8]) {
        let range = self.bytes.iter_mut().skip(usize::from(offset));
        for (byte, new) in range.zip(data) {
            if let Byte::Emulated { value, writable } = byte {
                *value = *value & !*writable | new & *writable;
            }
        }
    }

    /// Writes the device's bytes of an access that [`ConfigSpace::accepts`]: in one go where all
    /// are, else byte by byte, so that an emulated neighbour is never written.
    pub(super) fn write_backend(
        &self,
        backend: &dyn FunctionBackend,
        offset: u16,
        data: &[u8],
    ) -> io::Result<()> {
        let start = usize::from(offset);
        let bytes = &self.bytes[start..start + data.len()];
        if bytes.iter().all(|byte| matches!(byte, Byte::Backend)) {
            return backend.write_config(offset, data);
        }
        for ((at, byte), value) in (offset..).zip(bytes).zip(data) {
            if matches!(byte, Byte::Backend) {
                backend.write_config(at, &[*value])?;
            }
        }
        Ok(())
    }

    /// The state of an access' bytes, for [`ConfigSpace::restore`].
    pub(super) fn save(&self, offset: u16, size: usize) -> Vec<Byte> {
        let start = usize::from(offset);
        self.bytes[start..start + size].to_vec()
    }

    /// Takes back what was written since [`ConfigSpace::save`] at `offset`.
    pub(super) fn restore(&mut self, offset: u16, saved: &[Byte]) {
        let start = usize::from(offset);
        self.bytes[start..start + saved.len()].copy_from_slice(saved);
    }

    /// The emulated values of four bytes; 0 for those that are the device's.
    pub(super) fn emulated_u32(&self, offset: u16) -> u32 {
        let start = usize::from(offset);
        let mut value = [0; 4];
        for (out, byte) in value.iter_mut().zip(self.bytes.iter().skip(start)) {
            if let Byte::Emulated { value, .. } = byte {
                *out = *value;
            }
        }
        u32::from_le_bytes(value)
    }
}

/// Reads a register of the device itself.
pub(super) fn read_u8(backend: &dyn FunctionBackend, offset: u16) -> io::Result<u8> {
    let mut data = [0; 1];
    backend.read_config(offset, &mut data)?;
    Ok(data[0])
}

/// Reads a register of the device itself.
pub(super) fn read_u16(backend: &dyn FunctionBackend, offset: u16) -> io::Result<u16> {
    let mut data = [0; 2];
    backend.read_config(offset, &mut data)?;
    Ok(u16::from_le_bytes(data))
}

/// Reads a register of the device itself.
pub(super) fn read_u32(backend: &dyn FunctionBackend, offset: u16) -> io::Result<u32> {
    let mut data = [0; 4];
    backend.read_config(offset, &mut data)?;
    Ok(u32::from_le_bytes(data))
}
