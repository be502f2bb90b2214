//! A DMA window: the calls that map and unmap its pages; and the services that make and remove windows
//! (PAPR 7.3.10.4).

use crate::dma_memory::DmaMemory;
use crate::hypercall::{Answer, call, code, number};
use crate::machine::{DmaWindow, HostBridge, Machine};
use crate::rtas;

/// Bytes of a page of the window.
pub const PAGE_BYTES: u64 = 4096;

/// What a device may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read it.
    Read = 1,
    /// Write it.
    Write = 2,
    /// Both.
    ReadWrite = 3,
}

/// A window with pages of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its logical I/O bus number.
    pub liobn: u32,
    /// Its first bus address.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Window {
    /// One that the device tree describes.
    pub fn of(window: &DmaWindow) -> Self {
        Self {
            liobn: window.liobn,
            start: window.start,
            bytes: window.bytes,
        }
    }

    /// The bus address behind its last.
    pub const fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// Maps the page of a bus address to that of `memory`: H_PUT_TCE.
    pub fn map(&self, ioba: u64, memory: DmaMemory, permission: Permission) {
        let entry = memory.address() | permission as u64;
        make(number::H_PUT_TCE, [self.liobn.into(), ioba, entry, 0]);
    }

    /// Unmaps the page of a bus address: H_PUT_TCE.
    pub fn unmap(&self, ioba: u64) {
        make(number::H_PUT_TCE, [self.liobn.into(), ioba, 0, 0]);
    }

    /// The entry of a bus address: H_GET_TCE.
    pub fn entry(&self, ioba: u64) -> u64 {
        let arguments = [self.liobn.into(), ioba, 0, 0];
        let [entry, ..] = make(number::H_GET_TCE, arguments).registers;
        entry
    }

    /// Maps `count` pages from a bus address on to those of `memory`, in one call that reads them
    /// from `list`: H_PUT_TCE_INDIRECT.
    pub fn map_list(&self, ioba: u64, memory: DmaMemory, count: u64, list: DmaMemory) {
        for index in 0..count {
            let entry = (memory.address() + index * PAGE_BYTES) | Permission::ReadWrite as u64;
            list.write(index, entry.to_be());
        }
        make(
            number::H_PUT_TCE_INDIRECT,
            [self.liobn.into(), ioba, list.address(), count],
        );
    }

    /// Unmaps `count` pages in one call: H_STUFF_TCE.
    pub fn unmap_all(&self, ioba: u64, count: u64) {
        make(number::H_STUFF_TCE, [self.liobn.into(), ioba, 0, count]);
    }
}

/// Makes a call that has to succeed.
fn make(number: u64, arguments: [u64; 4]) -> Answer {
    // SAFETY: TCE calls change no memory, and what devices can reach by them is for DMA alone.
    let answer = unsafe { call(number, arguments) };
    if answer.code != code::H_SUCCESS {
        rtas::stop_with(format_args!(
            "hypercall {number:#x} returned {}",
            answer.code
        ));
    }
    answer
}

/// The services for the windows of a host bridge. Each fails with its status.
#[derive(Clone, Copy, Debug)]
pub struct DynamicWindows {
    create: u32,
    remove: u32,
    reset: u32,
    /// A function behind the bridge, and the bridge: what the services want to know.
    address: [u32; 3],
}

impl DynamicWindows {
    /// Those of `bridge`; `None` when the machine offers it none.
    pub fn of(machine: &Machine<'_>, bridge: &HostBridge<'_>) -> Option<Self> {
        if !bridge.offers_dynamic_windows() {
            return None;
        }
        let function = bridge.functions().next()?;
        let [high, low] = [bridge.buid >> 32, bridge.buid & 0xffff_ffff]
            .map(|half| u32::try_from(half).unwrap_or(0));
        Some(Self {
            create: machine.rtas_token("ibm,create-pe-dma-window")?,
            remove: machine.rtas_token("ibm,remove-pe-dma-window")?,
            reset: machine.rtas_token("ibm,reset-pe-dma-window")?,
            address: [function.config_address, high, low],
        })
    }

    /// Makes a window of `1 << window_shift` bytes in pages of `1 << page_shift`.
    ///
    /// # Errors
    /// The status.
    pub fn create(&self, page_shift: u32, window_shift: u32) -> Result<Window, i32> {
        let (token, arguments) = self.create_call(page_shift, window_shift);
        let [liobn, high, low] = serve(token, &arguments)?;
        Ok(Window {
            liobn,
            start: u64::from(high) << 32 | u64::from(low),
            bytes: 1 << window_shift,
        })
    }

    /// Removes a window with all that it maps.
    ///
    /// # Errors
    /// The status.
    pub fn remove(&self, window: &Window) -> Result<(), i32> {
        serve(self.remove, &[window.liobn]).map(|[]| ())
    }

    /// Token and arguments of the service that [`create`](Self::create) calls, for who makes the call otherwise.
    pub const fn create_call(&self, page_shift: u32, window_shift: u32) -> (u32, [u32; 5]) {
        let [address, buid_high, buid_low] = self.address;
        let arguments = [address, buid_high, buid_low, page_shift, window_shift];
        (self.create, arguments)
    }

    /// The same of [`reset`](Self::reset).
    pub const fn reset_call(&self) -> (u32, [u32; 3]) {
        (self.reset, self.address)
    }

    /// Puts the default window back, empty, in place of all that there are.
    ///
    /// # Errors
    /// The status.
    pub fn reset(&self) -> Result<(), i32> {
        serve(self.reset, &self.address).map(|[]| ())
    }

    /// The same, and has windows made from then on where devices of fewer than 64 bits reach them.
    ///
    /// # Errors
    /// The status.
    pub fn reset_limited(&self) -> Result<(), i32> {
        let [address, buid_high, buid_low] = self.address;
        serve(self.reset, &[address, buid_high, buid_low, 1]).map(|[]| ())
    }
}

/// Has a service done; gives what it returns beside its status.
fn serve<const N: usize>(token: u32, arguments: &[u32]) -> Result<[u32; N], i32> {
    let mut returns = [u32::MAX; 4];
    // SAFETY: what devices can reach by windows is for DMA alone; the service changes no other
    // memory than the returns.
    unsafe { rtas::call(token, arguments, &mut returns[..=N]) };
    match returns[0].cast_signed() {
        0 => {
            let mut values = [0; N];
            values.copy_from_slice(&returns[1..=N]);
            Ok(values)
        }
        status => Err(status),
    }
}
