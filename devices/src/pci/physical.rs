//! What a function needs of the real device behind it, and what its BARs need of the machine.

use std::io;

use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

/// Base address registers of an endpoint.
pub const NUM_BARS: usize = 6;

/// In which of the bus' address spaces a BAR lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarSpace {
    /// I/O ports.
    Io,
    /// Memory, below 4 GiB.
    Memory32,
    /// Memory, anywhere; the register takes the place of two.
    Memory64,
}

/// A piece of a BAR that this process has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarMapping {
    /// Where in the BAR it starts, in bytes; a multiple of the host's page size.
    pub offset: u64,
    /// Where this process sees it. Start and length are multiples of the host's page size, so that
    /// the mapping of a BAR below that size reaches past the BAR's end, in a page that the device
    /// has for itself (vfio-pci offers mmap for no other: `vfio_pci_probe_mmaps`).
    pub host: HostRange,
}

/// One base address register of a real function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its size in bytes, a power of two.
    pub bytes: u64,
    /// Its address space.
    pub space: BarSpace,
    /// Whether reads have no side effects and writes may be merged.
    pub prefetchable: bool,
    /// Which pieces can be mapped into the guest; all others are reached by
    /// [`PhysicalFunction::read_bar`] and [`PhysicalFunction::write_bar`].
    pub mappings: Vec<BarMapping>,
}

/// The two kinds of message-signalled interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptKind {
    /// MSI: up to 32 vectors, consecutive.
    Msi,
    /// MSI-X: up to 2048 vectors in a table.
    MsiX,
}

/// A real PCI function: a VFIO device.
///
/// Configuration space is as VFIO shows it: little-endian, BARs and capabilities already filtered
/// by the kernel (drivers/vfio/pci/vfio_pci_config.c). Each call is one system call or a few.
pub trait PhysicalFunction: Send + Sync {
    /// How messages name it: its address on the host, such as `0001:03:00.0`.
    fn name(&self) -> &str;

    /// Size of its configuration space in bytes: 256 or 4096.
    fn config_bytes(&self) -> u16;

    /// Reads configuration space; `data` has 1, 2 or 4 bytes at an offset that is a multiple of it.
    ///
    /// # Errors
    /// The host's refusal.
    fn read_config(&self, offset: u16, data: &mut [u8]) -> io::Result<()>;

    /// Writes configuration space; `data` has 1, 2 or 4 bytes at an offset that is a multiple of
    /// it.
    ///
    /// # Errors
    /// The host's refusal.
    fn write_config(&self, offset: u16, data: &[u8]) -> io::Result<()>;

    /// The BAR whose register is number `index`, 0 to 5; `None` where there is none, and for the
    /// upper half of a 64-bit one.
    fn bar(&self, index: usize) -> Option<Bar>;

    /// Reads `data.len()` bytes (1, 2, 4 or 8) of a BAR.
    ///
    /// # Errors
    /// The host's refusal.
    fn read_bar(&self, index: usize, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data.len()` bytes (1, 2, 4 or 8) of a BAR.
    ///
    /// # Errors
    /// The host's refusal.
    fn write_bar(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()>;

    /// How many vectors of that kind it has (VFIO_DEVICE_GET_IRQ_INFO); 0 for none.
    fn interrupt_vectors(&self, kind: InterruptKind) -> u32;

    /// Lets vector *n* signal `events[n]`, and enables as many vectors as there are events
    /// (VFIO_DEVICE_SET_IRQS). No vector of either kind is enabled before.
    ///
    /// # Errors
    /// The host's refusal; no vector is enabled then.
    fn set_interrupts(&self, kind: InterruptKind, events: &[EventFd]) -> io::Result<()>;

    /// Disables all vectors of that kind.
    ///
    /// # Errors
    /// The host's refusal.
    fn disable_interrupts(&self, kind: InterruptKind) -> io::Result<()>;

    /// Whether it has an interrupt line (INTx) that VFIO gives.
    fn has_line(&self) -> bool;

    /// Lets the interrupt line signal `event`, which masks it. No vector is enabled before.
    ///
    /// # Errors
    /// The host's refusal; the line does not signal then.
    fn connect_line(&self, event: &EventFd) -> io::Result<()>;

    /// Lets the interrupt line signal again: at once, if it is raised.
    ///
    /// # Errors
    /// The host's refusal.
    fn unmask_line(&self) -> io::Result<()>;

    /// Undoes [`PhysicalFunction::connect_line`].
    ///
    /// # Errors
    /// The host's refusal.
    fn disconnect_line(&self) -> io::Result<()>;

    /// Resets the function, if it can be (VFIO_DEVICE_RESET). [`io::ErrorKind::ResourceBusy`] says that the
    /// host holds it.
    ///
    /// # Errors
    /// The host's refusal.
    fn reset(&self) -> io::Result<()>;
}

/// What puts host mappings into the guest's physical address space: KVM memory slots.
pub trait MmioMapper: Send + Sync {
    /// Lets the guest reach `host` at `guest`. Both are multiples of the host's page size. The
    /// range stays mapped in this process until [`MmioMapper::unmap`].
    ///
    /// # Errors
    /// The kernel's refusal, for example because the guest has put two BARs in one place.
    fn map(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()>;

    /// Undoes [`MmioMapper::map`] of exactly that range.
    ///
    /// # Errors
    /// The kernel's refusal; the guest still reaches the range then.
    fn unmap(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()>;
}
