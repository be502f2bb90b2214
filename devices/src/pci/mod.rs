//! PCI host bridges of a pseries machine, and the passed-through functions behind them.
//!
//! One host bridge (PHB) stands for one IOMMU group of the host, because it is the unit that has a
//! DMA window of its own. The machine gives each function addresses for its BARs, as firmware
//! would, so that they can be mapped straight into the guest; the guest may move them.
//!
//! | file | what it holds |
//! |---|---|
//! | `address` | bus addresses of functions, and RTAS configuration addresses |
//! | `backend` | what a function needs of the device behind it, and of the machine |
//! | `windows` | where each bridge's I/O and memory windows lie |
//! | `bars` | which address each BAR gets |
//! | `capabilities` | the capability lists: what is emulated, what is hidden |
//! | `command` | which addresses it decodes, by the guest's wish and for the host |
//! | `config_space` | which bytes of configuration space are emulated, and their values |
//! | `endpoint` | errors that the host freezes the functions for (EEH), and their reset |
//! | `function` | one function: configuration accesses, and BARs mapped in the guest |
//! | `header` | what a guest first finds in the header of configuration space |
//! | `line` | the interrupt line (INTx) of a function |
//! | `msi` | MSI and MSI-X vectors of a function |
//! | `power` | power states of a function, and waking it |
//! | `mmio` | accesses to BARs that are not mapped in the guest |
//! | `reach` | what of its BARs the guest reaches without an exit |
//! | `host_bridge` | the bridge: finds functions, shuts them down |
//! | `description` | what the device tree says about all that |

pub(crate) mod address;
mod backend;
mod bars;
mod capabilities;
mod command;
mod config_space;
mod description;
mod endpoint;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "what tests alone use"))]
#[expect(clippy::unwrap_used, reason = "what tests rely on")]
pub(crate) mod fake;
mod function;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod header;
mod host_addresses;
mod host_bridge;
mod line;
mod mmio;
mod msi;
mod power;
mod reach;
mod windows;

pub use address::{ConfigAddress, DeviceFunction};
pub use backend::{
    Bar, BarMapping, BarSpace, Doorbell, FunctionBackend, InterruptKind, NUM_BARS, ROM,
    VectorsEnabled,
};
pub use bars::places as bar_places;
pub use endpoint::{PeBackend, PeError, PeRequest, PeState};
pub use function::{ConfigError, Function};
pub use host_bridge::{HostBridge, PciError};
pub use msi::{MsiError, MsiGrant};
pub use windows::{MAX_HOST_BRIDGES, Window, Windows};
