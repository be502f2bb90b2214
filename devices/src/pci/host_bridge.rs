//! A PCI host bridge (PHB) with the functions of one IOMMU group behind it.

use std::io;
use std::sync::Arc;

use spapr_hypercalls::address::Liobn;

use super::address::{ConfigAddress, DeviceFunction};
use super::backend::{FunctionBackend, InterruptKind};
use super::bars::{self, BarName, Bars};
use super::description::Identity;
use super::endpoint::Endpoint;
use super::function::{ConfigError, Function};
use super::windows::{MAX_HOST_BRIDGES, Windows};
use crate::board::Board;

/// Why a host bridge could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// There is no address space for so many.
    #[error("host bridge {0} is one too many: there is room for {MAX_HOST_BRIDGES}")]
    TooManyHostBridges(u8),
    /// Two functions were to have one address.
    #[error("{function} was given {address} in the guest, where another function is already")]
    AddressTaken {
        /// The function's address on the host.
        function: String,
        /// Its address in the guest.
        address: DeviceFunction,
    },
    /// Only endpoints can be passed through.
    #[error("{function} is not an endpoint (header layout {layout}) and cannot be passed through")]
    NotAnEndpoint {
        /// The function's address on the host.
        function: String,
        /// The layout its header has.
        layout: u8,
    },
    /// A BAR with a size or place that PCI does not allow.
    #[error("{function}: {} has {bytes:#x} bytes, a size that PCI does not allow", BarName(*.index))]
    BadBar {
        /// The function's address on the host.
        function: String,
        /// The BAR's number.
        index: usize,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The BARs of a group are larger than the window.
    #[error(
        "{function}: no room for {} of {bytes:#x} bytes in the host bridge's windows", BarName(*.index)
    )]
    WindowFull {
        /// The function's address on the host.
        function: String,
        /// The BAR's number.
        index: usize,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The device's or the host's refusal.
    #[error("{function}: its configuration space cannot be set up")]
    Host {
        /// The function's address on the host.
        function: String,
        /// The host's reason.
        source: io::Error,
    },
}

/// A PCI host bridge. Its bus has no bridges: all functions are on the root bus.
pub struct HostBridge {
    index: u8,
    windows: Windows,
    /// In the order of their addresses.
    functions: Vec<Function>,
    identities: Vec<Identity>,
    pub(super) endpoint: Option<Endpoint>,
}

impl HostBridge {
    /// Host bridge `index` with `functions` at their addresses in the guest. Each gets addresses
    /// for its BARs and has decoding, bus mastering and interrupts off.
    ///
    /// # Errors
    /// A [`PciError`] that names the function.
    pub fn new(
        index: u8,
        board: &Board,
        mut functions: Vec<(DeviceFunction, Arc<dyn FunctionBackend>)>,
    ) -> Result<Self, PciError> {
        let windows = Windows::of_host_bridge(index).ok_or(PciError::TooManyHostBridges(index))?;
        functions.sort_by_key(|(address, _)| *address);
        let twice = functions.windows(2).find(|pair| pair[0].0 == pair[1].0);
        if let Some([_, (address, backend)]) = twice {
            return Err(PciError::AddressTaken {
                function: backend.name().into(),
                address: *address,
            });
        }
        let bars: Vec<Bars> = functions
            .iter()
            .map(|(_, backend)| std::array::from_fn(|index| backend.bar(index)))
            .collect();
        let named: Vec<(&str, &Bars)> = functions
            .iter()
            .zip(&bars)
            .map(|((_, backend), bars)| (backend.name(), bars))
            .collect();
        for (name, bars) in &named {
            bars::check(name, bars)?;
        }
        let (windows, addresses) = bars::lay_out(&windows, &named)?;
        let devices: Vec<u8> = functions
            .iter()
            .map(|(address, _)| address.device())
            .collect();

        let mut bridge = Self {
            index,
            windows,
            functions: Vec::new(),
            identities: Vec::new(),
            endpoint: None,
        };
        for (((address, backend), bars), addresses) in
            functions.into_iter().zip(bars).zip(addresses)
        {
            let siblings = devices
                .iter()
                .filter(|&&device| device == address.device())
                .count();
            let identity = Identity::read(&*backend).map_err(|source| PciError::Host {
                function: backend.name().into(),
                source,
            })?;
            bridge.identities.push(identity);
            bridge.functions.push(Function::new(
                address,
                backend,
                board.clone(),
                windows,
                (bars, addresses),
                siblings > 1,
            )?);
        }
        Ok(bridge)
    }

    /// Its number among the machine's host bridges.
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// Its bus unit identifier, by which RTAS calls name it.
    pub const fn buid(&self) -> u64 {
        self.windows.buid
    }

    /// Its windows in the guest physical address space.
    pub const fn windows(&self) -> &Windows {
        &self.windows
    }

    /// LIOBN of its DMA window number `window`.
    pub const fn liobn(&self, window: u8) -> Liobn {
        Liobn::of_pci_window(self.index, window)
    }

    /// How many vectors its functions ask for at most, all together. Linux asks for as many as the next
    /// power of two (`rtas_prepare_msi_irqs` in arch/powerpc/platforms/pseries/msi.c).
    pub fn wanted_vectors(&self) -> u32 {
        let wanted = |function: &Function| {
            let kinds = [InterruptKind::Msi, InterruptKind::MsiX];
            let most = kinds.map(|kind| function.max_vectors(kind));
            let most = most.into_iter().max().unwrap_or_default();
            most.checked_next_power_of_two().filter(|_| most > 0)
        };
        self.functions
            .iter()
            .filter_map(wanted)
            .fold(0, u32::saturating_add)
    }

    /// All functions, in the order of their addresses.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The function that a configuration address names, whatever the register.
    pub fn function(&self, address: ConfigAddress) -> Option<&Function> {
        if address.bus() != 0 {
            return None;
        }
        let wanted = address.device_function();
        let found = self
            .functions
            .binary_search_by_key(&wanted, Function::address)
            .ok()?;
        self.functions.get(found)
    }

    /// What the device tree says that the devices themselves say, in the functions' order.
    pub(super) fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Reads `size` bytes of configuration space; `None` when no function or register is there.
    ///
    /// # Errors
    /// As [`Function::read_config`].
    pub fn read_config(
        &self,
        address: ConfigAddress,
        size: u32,
    ) -> Option<Result<u32, ConfigError>> {
        Some(
            self.function(address)?
                .read_config(address.register()?, size),
        )
    }

    /// Writes `size` bytes of configuration space; `None` when no function or register is there.
    ///
    /// # Errors
    /// As [`Function::write_config`].
    pub fn write_config(
        &self,
        address: ConfigAddress,
        size: u32,
        value: u32,
    ) -> Option<Result<(), ConfigError>> {
        Some(
            self.function(address)?
                .write_config(address.register()?, size, value),
        )
    }

    /// Holds all functions, or lets them go on ([`FunctionBackend::hold`]).
    pub fn hold(&self, held: bool) {
        for function in &self.functions {
            function.backend.hold(held);
        }
    }

    /// Stops all functions, as [`Function::quiesce`] does, before DMA windows go.
    ///
    /// # Errors
    /// The first refusal of the host; all that could be stopped is.
    pub fn quiesce(&self) -> io::Result<()> {
        self.functions
            .iter()
            .map(Function::quiesce)
            .fold(Ok(()), Result::and)
    }

    /// Resets all functions, as [`Function::reset`] does, for a guest that starts again.
    ///
    /// # Errors
    /// The first refusal of the host; all that could be reset are.
    pub fn reset(&self) -> io::Result<()> {
        self.functions
            .iter()
            .map(Function::reset)
            .fold(Ok(()), Result::and)
    }
}
