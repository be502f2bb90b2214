//! Accesses to PCI configuration space (PAPR 7.3.4.1 and 7.3.4.2).

use log::Level;

use super::call::Call;
use super::{Outcome, Platform, Status};
use crate::error_chain::chain;
use crate::pci::{ConfigAddress, ConfigError, Function, HostBridge};
use crate::{guest_activity, guest_message};

/// The host bridge with a bus unit identifier of two words.
pub(super) fn host_bridge(platform: &dyn Platform, (high, low): (u32, u32)) -> Option<&HostBridge> {
    let buid = u64::from(high) << 32 | u64::from(low);
    platform
        .host_bridges()
        .iter()
        .find(|bridge| bridge.buid() == buid)
}

/// The function that a BUID and a configuration address name.
pub(super) fn function(
    platform: &dyn Platform,
    buid: (u32, u32),
    address: u32,
) -> Option<&Function> {
    host_bridge(platform, buid)?.function(ConfigAddress(address))
}

/// Arguments: configuration address, size. Returns: the value. For the first host bridge: the
/// call comes from times when there was one.
pub(super) fn read_pci_config(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, size] = call.arguments();
    read(call, platform.host_bridges().first(), address, size)
}

/// Arguments: configuration address, size, value. For the first host bridge.
pub(super) fn write_pci_config(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, size, value] = call.arguments();
    write(
        call,
        platform.host_bridges().first(),
        address,
        (size, value),
    )
}

/// Arguments: configuration address, BUID (two words), size. Returns: the value.
pub(super) fn ibm_read_pci_config(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, size] = call.arguments();
    read(
        call,
        host_bridge(platform, (buid_high, buid_low)),
        address,
        size,
    )
}

/// Arguments: configuration address, BUID (two words), size, value.
pub(super) fn ibm_write_pci_config(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, size, value] = call.arguments();
    write(
        call,
        host_bridge(platform, (buid_high, buid_low)),
        address,
        (size, value),
    )
}

/// A missing function and a bad register are both a hardware error: neither service has a status
/// for parameters.
fn read(call: &mut Call<'_>, bridge: Option<&HostBridge>, address: u32, size: u32) -> Outcome {
    match bridge.and_then(|bridge| bridge.read_config(ConfigAddress(address), size)) {
        Some(Ok(value)) => {
            guest_activity!(
                Level::Trace,
                "configuration space of {}: {size} bytes at {:#x} are {value:#x}",
                name(bridge, address),
                address & 0xff
            );
            call.returns(Status::Success, &[value]);
        }
        Some(Err(error)) => {
            report(&error);
            call.status(Status::Hardware);
        }
        None => call.status(Status::Hardware),
    }
    Outcome::Done
}

fn write(
    call: &mut Call<'_>,
    bridge: Option<&HostBridge>,
    address: u32,
    (size, value): (u32, u32),
) -> Outcome {
    match bridge.and_then(|bridge| bridge.write_config(ConfigAddress(address), size, value)) {
        Some(Ok(())) => {
            guest_activity!(
                Level::Debug,
                "configuration space of {}: {size} bytes at {:#x} become {value:#x}",
                name(bridge, address),
                address & 0xff
            );
            call.status(Status::Success);
        }
        Some(Err(error)) => {
            report(&error);
            call.status(Status::Hardware);
        }
        None => call.status(Status::Hardware),
    }
    Outcome::Done
}

/// The host's address of the function that a configuration address names.
fn name(bridge: Option<&HostBridge>, address: u32) -> &str {
    let function = bridge.and_then(|bridge| bridge.function(ConfigAddress(address)));
    function.map_or("no function", Function::name)
}

fn report(error: &ConfigError) {
    guest_message!(Level::Warn, "{}", chain(error));
}
