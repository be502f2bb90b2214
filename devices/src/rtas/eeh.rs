//! Enhanced error handling (EEH): ibm,set-eeh-option, ibm,get-config-addr-info2, ibm,read-slot-reset-state2,
//! ibm,set-slot-reset, ibm,configure-pe, ibm,configure-bridge and ibm,slot-error-detail (PAPR 7.3.11, "EEH Functions").
//!
//! All but one name an endpoint, by its own address and the BUID of its bridge. Guests before Linux 5.10 give that
//! of a function in it to some. A bridge whose group has no EEH on the host is a parameter error to all.

use std::io;

use log::Level;

use super::call::Call;
use super::{Outcome, Platform, Status, pci};
use crate::guest_message;
use crate::pci::{ConfigAddress, HostBridge, PeRequest, PeState};

/// Tokens of the services, which the device tree has where there is EEH.
pub(super) const TOKENS: [u32; 7] = [0x2020, 0x2021, 0x2022, 0x2023, 0x2024, 0x2025, 0x2030];

/// Of ibm,get-config-addr-info2: the endpoint's address, and its mode.
const INFO_ADDRESS: u32 = 0;
const INFO_MODE: u32 = 1;

/// Modes of an endpoint: a function in none, alone in one, or with others.
const MODE_NONE: u32 = 0;
const MODE_ALONE: u32 = 1;
const MODE_SHARED: u32 = 2;

/// Second return word of ibm,read-slot-reset-state2: there is EEH.
const SUPPORTED: u32 = 1;
/// Third: when to ask again about an endpoint whose state nobody can tell, in milliseconds.
const AGAIN_MILLISECONDS: u32 = 1000;
/// How many returns a call of it has that wants a fifth: how the platform has recovered, 0 for not.
const STATE_RETURNS_WITH_RECOVERY: u32 = 5;

/// Arguments: configuration address, BUID (two words), option.
pub(super) fn set_option(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, option] = call.arguments();
    let request = match option {
        0 => Some(PeRequest::Disable),
        1 => Some(PeRequest::Enable),
        2 => Some(PeRequest::ThawIo),
        3 => Some(PeRequest::ThawDma),
        _ => None,
    };
    ask(
        call,
        bridge(platform, (buid_high, buid_low), address),
        request,
    )
}

/// Arguments: configuration address of a function, BUID (two words), what of its endpoint to return. Return: that.
pub(super) fn address_info(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, what] = call.arguments();
    let address = ConfigAddress(address);
    let bridge = pci::host_bridge(platform, (buid_high, buid_low))
        .filter(|bridge| address.register() == Some(0) && bridge.function(address).is_some());
    let endpoint = bridge.map(|bridge| bridge.endpoint_of(address));
    match (what, endpoint) {
        (INFO_ADDRESS, Some(Some((address, _)))) => call.returns(Status::Success, &[address]),
        (INFO_MODE, Some(endpoint)) => {
            let mode = match endpoint {
                None => MODE_NONE,
                Some((_, 1)) => MODE_ALONE,
                Some(_) => MODE_SHARED,
            };
            call.returns(Status::Success, &[mode]);
        }
        _ => call.status(Status::Parameter),
    }
    Outcome::Done
}

/// Arguments: configuration address, BUID (two words). Returns: state, whether there is EEH, when to ask again, and
/// if there is room how the platform has recovered.
pub(super) fn read_state(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low] = call.arguments();
    let Some(bridge) = bridge(platform, (buid_high, buid_low), address) else {
        call.status(Status::Parameter);
        return Outcome::Done;
    };
    match bridge.endpoint_state() {
        Ok(state) => {
            let (state, again) = match state {
                PeState::Normal => (0, 0),
                PeState::Reset => (1, 0),
                PeState::Stopped => (2, 0),
                PeState::DmaStopped => (4, 0),
                PeState::Unavailable => (5, AGAIN_MILLISECONDS),
            };
            let returns = [state, SUPPORTED, again, 0];
            let with_recovery = call.return_count() >= STATE_RETURNS_WITH_RECOVERY;
            let wanted = if with_recovery { 4 } else { 3 };
            call.returns(Status::Success, &returns[..wanted]);
        }
        Err(error) => refused(call, bridge, "its state", &error),
    }
    Outcome::Done
}

/// Arguments: configuration address, BUID (two words), which reset.
pub(super) fn set_slot_reset(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, which] = call.arguments();
    let request = match which {
        0 => Some(PeRequest::EndReset),
        1 => Some(PeRequest::HotReset),
        3 => Some(PeRequest::FundamentalReset),
        _ => None,
    };
    ask(
        call,
        bridge(platform, (buid_high, buid_low), address),
        request,
    )
}

/// Arguments: configuration address, BUID (two words). For ibm,configure-bridge, too, which came before.
pub(super) fn configure(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low] = call.arguments();
    let bridge = bridge(platform, (buid_high, buid_low), address);
    ask(call, bridge, Some(PeRequest::Configure))
}

/// Arguments: configuration address, BUID (two words), the driver's buffer and its length, a buffer for the log and its
/// length, whether the error is permanent. The host tells what it knows to its own log, so there is none here and no
/// buffer is touched.
pub(super) fn error_detail(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    const TEMPORARY: u32 = 1;
    const PERMANENT: u32 = 2;
    let [address, buid_high, buid_low, _, _, _, _, kind] = call.arguments();
    let bridge = bridge(platform, (buid_high, buid_low), address);
    let is_known = matches!(kind, TEMPORARY | PERMANENT) && bridge.is_some();
    if let Some(bridge) = bridge.filter(|_| kind == PERMANENT) {
        guest_message!(
            Level::Error,
            "the guest has given up PCI device {}: it was frozen too often, or could not be reset (EEH)",
            bridge.endpoint_names()
        );
    }
    call.status(if is_known {
        Status::NoEvent
    } else {
        Status::Parameter
    });
    Outcome::Done
}

/// The bridge whose endpoint a call names.
fn bridge(platform: &dyn Platform, buid: (u32, u32), address: u32) -> Option<&HostBridge> {
    pci::host_bridge(platform, buid).filter(|bridge| bridge.is_endpoint(address))
}

fn ask(call: &mut Call<'_>, bridge: Option<&HostBridge>, request: Option<PeRequest>) -> Outcome {
    let (Some(bridge), Some(request)) = (bridge, request) else {
        call.status(Status::Parameter);
        return Outcome::Done;
    };
    match bridge.request_of_endpoint(request) {
        Ok(()) => {
            guest_message!(
                Level::Debug,
                "EEH of PCI device {}: {request:?}",
                bridge.endpoint_names()
            );
            call.status(Status::Success);
        }
        Err(error) => {
            refused(call, bridge, &format!("{request:?}"), &error);
            // Linux then tries a hot one (`pseries_eeh_phb_reset`).
            if request == PeRequest::FundamentalReset {
                call.status(Status::NoFundamentalReset);
            }
        }
    }
    Outcome::Done
}

fn refused(call: &mut Call<'_>, bridge: &HostBridge, what: &str, error: &io::Error) {
    guest_message!(
        Level::Warn,
        "EEH of PCI device {}: the host refuses {what} (VFIO_EEH_PE_OP): {error}",
        bridge.endpoint_names()
    );
    call.status(Status::Hardware);
}

#[cfg(test)]
#[path = "eeh_tests.rs"]
mod tests;
