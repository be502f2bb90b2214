//! What a function needs of the device behind it, a real one or one that this process makes.

use std::io;
use std::sync::Arc;

use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use crate::interrupts::Signal;

/// Base address registers of an endpoint.
pub const NUM_BARS: usize = 6;

/// The number that the expansion ROM has behind the BARs: it is one more, whose register is elsewhere in the header.
pub const ROM: usize = NUM_BARS;

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

/// A register that the guest writes to say that there is work.
#[derive(Clone, Debug)]
pub struct Doorbell {
    /// Where in the BAR it is, in bytes.
    pub offset: u64,
    /// What is signalled then, without an exit to user space. Where that cannot be, writes reach
    /// [`FunctionBackend::write_bar`].
    pub event: Arc<EventFd>,
}

impl PartialEq for Doorbell {
    fn eq(&self, other: &Self) -> bool {
        self.offset == other.offset && Arc::ptr_eq(&self.event, &other.event)
    }
}

impl Eq for Doorbell {}

/// One base address register of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its size in bytes, a power of two.
    pub bytes: u64,
    /// Its address space.
    pub space: BarSpace,
    /// Whether reads have no side effects and writes may be merged.
    pub prefetchable: bool,
    /// Its address on the host's bus, which the device takes for its own, if it is known.
    pub host_address: Option<u64>,
    /// Which pieces can be mapped into the guest; all others are reached by
    /// [`FunctionBackend::read_bar`] and [`FunctionBackend::write_bar`].
    pub mappings: Vec<BarMapping>,
    /// Its doorbells, outside those pieces.
    pub doorbells: Vec<Doorbell>,
}

/// The two kinds of message-signalled interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptKind {
    /// MSI: up to 32 vectors, consecutive.
    Msi,
    /// MSI-X: up to 2048 vectors in a table.
    MsiX,
}

/// What came of a request to enable vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorsEnabled {
    /// All are.
    All,
    /// None is: the host has this many at present, at least one.
    AtMost(u32),
}

/// What is behind a PCI function: a VFIO device, or one that this process makes.
///
/// Configuration space is little-endian, as VFIO shows it: BARs and capabilities already filtered
/// by the kernel (drivers/vfio/pci/vfio_pci_config.c). What a guest may change of it that the host does not
/// see is kept in front of it ([`Function`](super::Function)): BARs, the message-signalled interrupts' control.
pub trait FunctionBackend: Send + Sync {
    /// How messages name it: its address on the host, such as `0001:03:00.0`, or what it is.
    fn name(&self) -> &str;

    /// What `ibm,loc-code` says: which device it is to an administrator.
    fn location_code(&self) -> String;

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
    /// upper half of a 64-bit one. Number [`ROM`] is the expansion ROM, in [`BarSpace::Memory32`].
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

    /// Lets vector *n* interrupt by `signals[n]`, and enables as many vectors as there are signals
    /// (VFIO_DEVICE_SET_IRQS). Vectors that are enabled before, because they could not be disabled, are replaced.
    ///
    /// # Errors
    /// The host's refusal; no vector is enabled then.
    fn set_interrupts(&self, kind: InterruptKind, signals: &[Signal])
    -> io::Result<VectorsEnabled>;

    /// Disables all vectors of that kind.
    ///
    /// # Errors
    /// The host's refusal.
    fn disable_interrupts(&self, kind: InterruptKind) -> io::Result<()>;

    /// Has it leave guest memory alone from when this returns, while the machine is paused, or go on. What a real
    /// device does meanwhile is nobody's to say.
    fn hold(&self, _held: bool) {}

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

    /// Undoes [`FunctionBackend::connect_line`].
    ///
    /// # Errors
    /// The host's refusal.
    fn disconnect_line(&self) -> io::Result<()>;

    /// Whether it is part of its bridge's partitionable endpoint, which the host freezes and resets as one.
    fn is_in_endpoint(&self) -> bool {
        false
    }

    /// Resets the function, if it can be (VFIO_DEVICE_RESET). [`io::ErrorKind::ResourceBusy`] says that the
    /// host holds it.
    ///
    /// # Errors
    /// The host's refusal.
    fn reset(&self) -> io::Result<()>;
}
