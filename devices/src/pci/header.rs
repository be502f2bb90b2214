//! What a guest first finds in the header of configuration space, where it is not the device's.

use super::backend::{BarSpace, NUM_BARS, ROM};
use super::bars::{Addresses, Bars};
use super::config_space::{ConfigSpace, register};

const HEADER_TYPE_MULTI_FUNCTION: u8 = 0x80;
/// The bit of the expansion ROM's register that has it decoded, where memory is.
pub(super) const ROM_ENABLE: u32 = 1;

/// The header of a function.
pub(super) struct Header<'a> {
    pub(super) bars: &'a Bars,
    /// Where they are when the guest starts.
    pub(super) addresses: &'a Addresses,
    /// Whether its device has other functions.
    pub(super) multi_function: bool,
    /// Its interrupt line's pin, 1 to 4, if the guest gets the line.
    pub(super) pin: Option<u8>,
}

impl Header<'_> {
    pub(super) fn emulate(&self, config: &mut ConfigSpace) {
        let kind = if self.multi_function {
            HEADER_TYPE_MULTI_FUNCTION
        } else {
            0
        };
        config.emulate(register::HEADER_TYPE, &[kind], &[0]);
        config.emulate(register::ROM, &[0; 4], &[0; 4]);
        // The line register is the guest's to scribble on.
        let pin = self.pin.unwrap_or(0);
        config.emulate(register::INTERRUPT_LINE, &[0xff, pin], &[0xff, 0]);
        config.emulate(register::BAR0, &[0; 4 * NUM_BARS], &[0; 4 * NUM_BARS]);
        for (index, bar) in self.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let mut writable = !(bar.bytes - 1);
            if index == ROM {
                writable |= u64::from(ROM_ENABLE);
            }
            let prefetchable = if bar.prefetchable { 8 } else { 0 };
            let (length, flags) = match bar.space {
                BarSpace::Io => (4, 1),
                BarSpace::Memory32 => (4, prefetchable),
                BarSpace::Memory64 => (8, 4 | prefetchable),
            };
            let value = (self.addresses[index] | flags).to_le_bytes();
            config.emulate(
                bar_register(index),
                &value[..length],
                &writable.to_le_bytes()[..length],
            );
        }
    }
}

/// Offset of the register of BAR `index`.
pub(super) fn bar_register(index: usize) -> u16 {
    match index {
        ROM => register::ROM,
        _ => register::BAR0 + 4 * u16::try_from(index).unwrap_or(0),
    }
}
