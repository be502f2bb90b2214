//! One passed-through function: its configuration space, and its BARs in the guest.

use std::io;
use std::sync::Arc;

use log::Level;
use parking_lot::{Mutex, MutexGuard};
use spapr_hypercalls::address::GuestPhysicalAddress;

use super::address::DeviceFunction;
use super::backend::{Bar, BarSpace, FunctionBackend, InterruptKind, ROM};
use super::bars::{Addresses, Bars};
use super::capabilities::{self, Capabilities};
use super::command::{self, BUS_MASTER, IO, MEMORY};
use super::config_space::{ConfigSpace, read_u8, read_u16, register};
use super::header::{Header, ROM_ENABLE, bar_register};
use super::host_bridge::PciError;
use super::line::Line;
use super::msi::Vectors;
use super::power::{self, touches};
use super::reach::Mapped;
use super::windows::Windows;
use crate::board::Board;
use crate::guest_message;

const HEADER_TYPE_LAYOUT: u8 = 0x7f;

/// Why an access to configuration space failed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The guest's mistake.
    #[error("configuration space has no {size} bytes at {offset:#x}")]
    BadAccess {
        /// Offset in bytes.
        offset: u16,
        /// Size in bytes.
        size: u32,
    },
    /// The device's or the host's refusal.
    #[error("{function}: the host refused an access to configuration space at {offset:#x}")]
    Host {
        /// The function's address on the host.
        function: String,
        /// Offset in bytes.
        offset: u16,
        /// The host's reason.
        source: io::Error,
    },
}

/// What changes when the guest writes configuration space.
pub(super) struct State {
    config: ConfigSpace,
    /// The command register, as last seen on the device; memory decoding as the guest has it.
    pub(super) command: u16,
    /// Whether the guest has it decode memory.
    pub(super) wants_memory: bool,
    /// The vectors for which the host goes to its memory now and then, so that it decodes that for as long as it has any.
    pub(super) host_vectors: Option<InterruptKind>,
    /// The power management control and status register, likewise; 0 if there is none.
    pub(super) power: u16,
    /// Whether it is being reset with its endpoint, and answers nothing.
    in_reset: bool,
    pub(super) mapped: Vec<Mapped>,
}

/// One passed-through function behind a host bridge.
///
/// Locks: `vectors` is never taken while `state` is held; that, for a moment, and the lock of `line` may be
/// taken while `vectors` is held, and none while the lock of `line` is. `state` is held
/// across configuration accesses of the device and changes of memory slots, so that no other
/// thread sees a BAR mapped whose decoding is off (vfio-pci answers an access to it with SIGBUS).
pub struct Function {
    pub(super) address: DeviceFunction,
    pub(super) backend: Arc<dyn FunctionBackend>,
    pub(super) board: Board,
    pub(super) bars: Bars,
    pub(super) addresses: Addresses,
    pub(super) vectors: Mutex<Option<Vectors>>,
    pub(super) line: Option<Arc<Line>>,
    pub(super) windows: Windows,
    multi_function: bool,
    capabilities: Capabilities,
    state: Mutex<State>,
}

impl Function {
    /// The function at `address`, with decoding, bus mastering and interrupts off and its BARs at
    /// `addresses`.
    pub(super) fn new(
        address: DeviceFunction,
        backend: Arc<dyn FunctionBackend>,
        board: Board,
        windows: Windows,
        (bars, addresses): (Bars, Addresses),
        multi_function: bool,
    ) -> Result<Self, PciError> {
        let refused = |source| PciError::Host {
            function: backend.name().into(),
            source,
        };
        let layout =
            read_u8(&*backend, register::HEADER_TYPE).map_err(refused)? & HEADER_TYPE_LAYOUT;
        if layout != 0 {
            return Err(PciError::NotAnEndpoint {
                function: backend.name().into(),
                layout,
            });
        }
        let line = Line::new(windows.bridge, address, &backend, &board).map_err(refused)?;
        let header = Header {
            bars: &bars,
            addresses: &addresses,
            multi_function,
            pin: line.as_ref().map(|line| line.route.pin),
        };
        let (state, capabilities) = initial_state(&*backend, &header).map_err(refused)?;
        Ok(Self {
            address,
            backend,
            board,
            bars,
            addresses,
            vectors: Mutex::new(None),
            line,
            windows,
            multi_function,
            capabilities,
            state: Mutex::new(state),
        })
    }

    /// Device and function number in the guest.
    pub const fn address(&self) -> DeviceFunction {
        self.address
    }

    /// Whether the guest gets its interrupt line (INTx).
    pub const fn has_line(&self) -> bool {
        self.line.is_some()
    }

    /// Whether all of its messages have addresses of 32 bits.
    pub const fn has_short_messages(&self) -> bool {
        self.capabilities.short_messages
    }

    /// Its address on the host.
    pub fn name(&self) -> &str {
        self.backend.name()
    }

    /// Reads `size` bytes at `offset` of configuration space, as the value of a little-endian
    /// register.
    ///
    /// # Errors
    /// [`ConfigError::BadAccess`] unless the size is 1, 2 or 4 and the offset a multiple of it
    /// inside the space; else the host's refusal.
    pub fn read_config(&self, offset: u16, size: u32) -> Result<u32, ConfigError> {
        let mut bytes = [0; 4];
        let state = self.state();
        let data = access(&state.config, offset, size, &mut bytes)?;
        state
            .config
            .read(&*self.backend, offset, data)
            .map_err(|source| self.host_error(offset, source))?;
        state.show_command(offset, data);
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the `size` low bytes of `value` at `offset` of configuration space. BARs are mapped
    /// and unmapped in the guest as the command register, the power state and their addresses say.
    ///
    /// # Errors
    /// As [`Function::read_config`]; the register then has its old value.
    pub fn write_config(&self, offset: u16, size: u32, value: u32) -> Result<(), ConfigError> {
        let mut bytes = value.to_le_bytes();
        // Vectors are not taken or given meanwhile, which needs the device awake.
        let vectors = self
            .changes_power(offset, bytes.len())
            .then(|| self.vectors.lock());
        if self.resets_itself(offset, bytes.len()) {
            self.wake()
                .map_err(|source| self.host_error(offset, source))?;
        }
        let mut state = self.state();
        let data = access(&state.config, offset, size, &mut bytes)?;
        if !self.moves_bars(offset, data.len()) {
            state.config.write_emulated(offset, data);
            return state
                .config
                .write_backend(&*self.backend, offset, data)
                .map_err(|source| self.host_error(offset, source));
        }

        if vectors.is_some() {
            self.hold_decoding(&state)
                .map_err(|source| self.host_error(offset, source))?;
        }
        let saved = state.config.save(offset, data.len());
        let before = (state.command, state.wants_memory, state.power);
        state.config.write_emulated(offset, data);
        state.command = overlay(state.command, register::COMMAND, offset, data);
        state.take_command(offset, data);
        if let Some(power_control) = self.capabilities.power_control {
            state.power = overlay(state.power, power_control, offset, data);
        }
        // Unmap before the device stops decoding, map after it has begun to.
        let result = self.unmap_stale(&mut state).and_then(|()| {
            let write = || state.config.write_backend(&*self.backend, offset, data);
            let result = match vectors {
                Some(_) => self.with_command_kept(write),
                None => write(),
            };
            self.refresh(&mut state);
            result
        });
        if result.is_err() {
            state.config.restore(offset, &saved);
            (state.command, state.wants_memory, state.power) = before;
            self.refresh(&mut state);
        }
        // What the device did not take over may have to go after all; a refusal is tried again
        // at the next change.
        if let Err(error) = self.unmap_stale(&mut state) {
            guest_message!(Level::Warn, "{}: cannot unmap a BAR: {error}", self.name());
        }
        self.map_missing(&mut state);
        let is_used = is_decoding(&state);
        drop((state, vectors));
        if let Some(line) = self.line.as_ref().filter(|_| is_used) {
            line.device_is_used();
        }
        result.map_err(|source| self.host_error(offset, source))
    }

    /// Whether the guest has it decode addresses.
    pub(super) fn is_decoded(&self) -> bool {
        is_decoding(&self.state())
    }

    /// Stops the function: bus mastering off first, so that its DMA window can go; then
    /// interrupts; then its BARs leave the guest, and decoding is off.
    ///
    /// # Errors
    /// The first refusal of the host; all that could be stopped is.
    pub fn quiesce(&self) -> io::Result<()> {
        // One that is woken later has the command register that it fell asleep with, for a moment.
        {
            let _vectors = self.vectors.lock();
            // One that cannot be woken and has vectors is told of below.
            let _ = self.wake();
        }
        let mastering = self.clear_command(BUS_MASTER);
        let interrupts = self.stop_interrupts();
        let decoding = {
            let mut state = self.state();
            state.command &= !(IO | MEMORY);
            state.wants_memory = false;
            self.unmap_stale(&mut state)
        };
        let decoding = decoding.and_then(|()| self.clear_command(IO | MEMORY));
        mastering.and(interrupts).and(decoding)
    }

    /// Stops the function, resets the device, and brings configuration space back to what a guest
    /// finds at its start. A device that cannot be stopped is reset all the same.
    ///
    /// # Errors
    /// The host's refusal to stop it or to reset it; [`io::ErrorKind::ResourceBusy`] when it was stopped
    /// and only the reset could not be because the host holds the device.
    pub fn reset(&self) -> io::Result<()> {
        let stopped = self.quiesce();
        if let Err(error) = self.backend.reset() {
            // It may have woken with the command register that it fell asleep with.
            let cleared = self.clear_command(IO | MEMORY | BUS_MASTER);
            return stopped.and(cleared).and(Err(error));
        }
        // A reset wakes a device that nothing else could.
        self.take_remaining_vectors()?;
        let header = Header {
            bars: &self.bars,
            addresses: &self.addresses,
            multi_function: self.multi_function,
            pin: self.line.as_ref().map(|line| line.route.pin),
        };
        let (mut fresh, _) = initial_state(&*self.backend, &header)?;
        if let Some(line) = &self.line {
            line.want();
        }
        let mut state = self.state();
        // What could not be unmapped is still there.
        fresh.mapped = std::mem::take(&mut state.mapped);
        *state = fresh;
        stopped
    }

    /// Its endpoint is about to be reset: the device gets no more interrupts to signal, and leaves the guest.
    pub(super) fn enter_reset(&self) {
        self.suspend_interrupts();
        let mut state = self.state();
        state.in_reset = true;
        if let Err(error) = self.unmap_stale(&mut state) {
            guest_message!(
                Level::Warn,
                "{}: a BAR stays in the guest over a reset: {error}",
                self.name()
            );
        }
    }

    /// Its endpoint has been reset. Decoding and bus mastering are off, and it has the vectors that it had.
    pub(super) fn leave_reset(&self) {
        let cleared = self.clear_command(IO | MEMORY | BUS_MASTER);
        if let Err(error) = cleared {
            guest_message!(
                Level::Warn,
                "{}: decoding cannot be switched off after a reset: {error}",
                self.name()
            );
        }
        {
            let mut state = self.state();
            state.in_reset = false;
            self.refresh(&mut state);
        }
        self.resume_interrupts();
    }

    /// Where its power management control and status register is, if it has one.
    pub(super) const fn power_control(&self) -> Option<u16> {
        self.capabilities.power_control
    }

    /// Whether a write there can have the host reset it (Initiate Function Level Reset).
    pub(super) fn resets_itself(&self, offset: u16, bytes: usize) -> bool {
        let mut controls = self.capabilities.reset_controls.iter();
        controls.any(|&start| touches(offset, bytes, start, 2))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Whether a write there can change which BARs are decoded, or where.
    fn moves_bars(&self, offset: u16, size: usize) -> bool {
        touches(offset, size, register::COMMAND, 2)
            || touches(offset, size, register::BAR0, 24)
            || touches(offset, size, register::ROM, 4)
            || self.changes_power(offset, size)
    }

    /// Takes the registers that rule decoding from the device; a device that does not answer
    /// decodes nothing.
    pub(super) fn refresh(&self, state: &mut State) {
        state.command = read_u16(&*self.backend, register::COMMAND).unwrap_or(0);
        if !state.wants_memory {
            state.command &= !MEMORY;
        }
        if let Some(offset) = self.capabilities.power_control {
            state.power = read_u16(&*self.backend, offset).unwrap_or(power::ASLEEP);
        }
    }

    /// The BARs that answer now: number, description, and guest physical address.
    pub(super) fn decoded<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = (usize, &'a Bar, GuestPhysicalAddress)> {
        let awake = power::is_awake(state.power);
        self.bars
            .iter()
            .enumerate()
            .filter_map(move |(index, bar)| {
                let bar = bar.as_ref()?;
                let enable = if bar.space == BarSpace::Io {
                    IO
                } else {
                    MEMORY
                };
                let is_off =
                    index == ROM && state.config.emulated_u32(register::ROM) & ROM_ENABLE == 0;
                if state.command & enable == 0 || is_off || !awake || state.in_reset {
                    return None;
                }
                let bus = bus_address(&state.config, index, bar);
                let guest = match bar.space {
                    BarSpace::Io => self.windows.io.guest_address(bus, bar.bytes),
                    BarSpace::Memory32 => self.windows.memory32.guest_address(bus, bar.bytes),
                    BarSpace::Memory64 => self
                        .windows
                        .memory32
                        .guest_address(bus, bar.bytes)
                        .or_else(|| self.windows.memory64.guest_address(bus, bar.bytes)),
                }?;
                Some((index, bar, guest))
            })
    }

    fn host_error(&self, offset: u16, source: io::Error) -> ConfigError {
        ConfigError::Host {
            function: self.name().into(),
            offset,
            source,
        }
    }
}

impl Drop for Function {
    /// Nothing of the device's memory stays in the guest once its mappings may go.
    fn drop(&mut self) {
        if let Err(error) = self.quiesce() {
            guest_message!(Level::Warn, "{}: cannot be stopped: {error}", self.name());
        }
    }
}

fn is_decoding(state: &State) -> bool {
    state.command & (IO | MEMORY) != 0
}

/// The part of `bytes` that an access has, if it is one.
fn access<'a>(
    config: &ConfigSpace,
    offset: u16,
    size: u32,
    bytes: &'a mut [u8; 4],
) -> Result<&'a mut [u8], ConfigError> {
    match usize::try_from(size) {
        Ok(length) if config.accepts(offset, length) => Ok(&mut bytes[..length]),
        _ => Err(ConfigError::BadAccess { offset, size }),
    }
}

/// `old`, a register of two bytes at `register`, after a write of `data` at `offset`.
fn overlay(old: u16, register: u16, offset: u16, data: &[u8]) -> u16 {
    let mut bytes = old.to_le_bytes();
    for (at, value) in (offset..).zip(data) {
        if let Some(index) = at.checked_sub(register)
            && let Some(byte) = bytes.get_mut(usize::from(index))
        {
            *byte = *value;
        }
    }
    u16::from_le_bytes(bytes)
}

/// Where the guest has put a BAR, as a bus address.
fn bus_address(config: &ConfigSpace, index: usize, bar: &Bar) -> u64 {
    let low = u64::from(config.emulated_u32(bar_register(index)));
    match bar.space {
        BarSpace::Io => low & !3,
        BarSpace::Memory32 => low & !0xf,
        BarSpace::Memory64 => {
            low & !0xf | u64::from(config.emulated_u32(bar_register(index + 1))) << 32
        }
    }
}

/// Configuration space as a guest first finds it.
fn initial_state(
    backend: &dyn FunctionBackend,
    header: &Header<'_>,
) -> io::Result<(State, Capabilities)> {
    command::clear(backend, IO | MEMORY | BUS_MASTER)?;
    let mut config = ConfigSpace::new(backend.config_bytes());
    header.emulate(&mut config);
    let capabilities = capabilities::emulate(backend, &mut config)?;
    let power = match capabilities.power_control {
        Some(offset) => read_u16(backend, offset)?,
        None => 0,
    };
    let command = read_u16(backend, register::COMMAND)?;
    Ok((
        State {
            config,
            command,
            wants_memory: false,
            host_vectors: None,
            power,
            in_reset: false,
            mapped: Vec::new(),
        },
        capabilities,
    ))
}

#[cfg(test)]
#[path = "function_tests.rs"]
mod tests;
