//! Errors that a guest has its PCI devices run into, to see how its drivers recover: ibm,open-errinjct, ibm,errinjct
//! and ibm,close-errinjct (PAPR 7.3.26, "Error Injection"), as `errinjct` of powerpc-utils calls them.
//!
//! Of the kinds that PAPR has, the two about PCI are here. Where on its bus an endpoint runs into an error is the
//! host's firmware's to choose: the guest's address and mask are read over.

use log::Level;
use parking_lot::Mutex;
use vm_memory::{Bytes, GuestAddress};

use super::call::Call;
use super::{Outcome, Platform, Status, pci};
use crate::guest_message;
use crate::pci::PeError;

/// Tokens of the services, which the device tree has where there is EEH.
pub(super) const TOKENS: [u32; 3] = [0x2031, 0x2032, 0x2033];

/// Kinds of errors, by the numbers that PAPR's table has: on buses with addresses of 32 bits, and of 64.
const IOA_BUS_ERROR: u32 = 7;
const IOA_BUS_ERROR_64: u32 = 15;

/// Names and numbers of the kinds of errors, as `ibm,errinjct-tokens` in the device tree's `/rtas` has them: each name
/// with a zero byte behind it, and the number, big-endian.
pub fn kinds() -> Vec<u8> {
    let kinds = [
        ("ioa-bus-error", IOA_BUS_ERROR),
        ("ioa-bus-error-64", IOA_BUS_ERROR_64),
    ];
    let mut bytes = Vec::new();
    for (name, number) in kinds {
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(number.to_be_bytes());
    }
    bytes
}

/// Whether errors can be injected now: by whoever has opened that and not closed it.
#[derive(Debug, Default)]
pub struct ErrorInjection(Mutex<Opened>);

#[derive(Debug, Default)]
struct Opened {
    is_open: bool,
    /// The token of the last that was opened.
    token: u32,
}

impl ErrorInjection {
    fn open(&self) -> Option<u32> {
        let mut opened = self.0.lock();
        if opened.is_open {
            return None;
        }
        opened.is_open = true;
        opened.token = opened.token.wrapping_add(1);
        Some(opened.token)
    }

    fn is_open_by(&self, token: u32) -> bool {
        let opened = self.0.lock();
        opened.is_open && opened.token == token
    }

    fn close(&self, token: u32) -> bool {
        let mut opened = self.0.lock();
        let is_it = opened.is_open && opened.token == token;
        if is_it {
            opened.is_open = false;
        }
        is_it
    }
}

/// No arguments. Returns: a token for the other two, and behind it the status.
pub(super) fn open(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    match platform.error_injection().open() {
        Some(token) => call.value_and_status(token, Status::Success),
        None => call.value_and_status(0, Status::NotOpen),
    }
    Outcome::Done
}

/// Argument: the token of ibm,open-errinjct.
pub(super) fn close(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [token] = call.arguments();
    let is_closed = platform.error_injection().close(token);
    call.status(if is_closed {
        Status::Success
    } else {
        Status::NotOpen
    });
    Outcome::Done
}

/// Arguments: the kind of error, the token of ibm,open-errinjct, and where in guest memory the error is described.
pub(super) fn inject(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [kind, token, description] = call.arguments();
    let status = if platform.error_injection().is_open_by(token) {
        inject_described(call, platform, kind, GuestAddress(description.into()))
    } else {
        Status::NotOpen
    };
    call.status(status);
    Outcome::Done
}

fn inject_described(
    call: &Call<'_>,
    platform: &dyn Platform,
    kind: u32,
    description: GuestAddress,
) -> Status {
    /// Words of the address and of the mask, which come first.
    const SKIPPED: [(u32, u64); 2] = [(IOA_BUS_ERROR, 2), (IOA_BUS_ERROR_64, 4)];
    let Some(&(_, skipped)) = SKIPPED.iter().find(|(known, _)| *known == kind) else {
        return Status::Parameter;
    };
    let mut bytes = [0; 16];
    let at = description.0 + 4 * skipped;
    if call
        .memory()
        .read_slice(&mut bytes, GuestAddress(at))
        .is_err()
    {
        return Status::Parameter;
    }
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    let [address, buid_high, buid_low, function] = words;
    let bridge = pci::host_bridge(platform, (buid_high, buid_low));
    let Some(bridge) = bridge.filter(|bridge| bridge.is_endpoint(address)) else {
        return Status::Parameter;
    };
    if function > PeError::LAST_FUNCTION {
        return Status::Parameter;
    }
    let error = PeError {
        is_64_bit: kind == IOA_BUS_ERROR_64,
        function,
    };
    match bridge.inject_error(error) {
        Ok(()) => {
            guest_message!(
                Level::Info,
                "the guest has PCI device {} run into an error (ibm,errinjct): {error:?}",
                bridge.endpoint_names()
            );
            Status::Success
        }
        Err(source) => {
            guest_message!(
                Level::Warn,
                "EEH of PCI device {}: the host refuses {error:?} (VFIO_EEH_PE_INJECT_ERR): {source}",
                bridge.endpoint_names()
            );
            Status::Hardware
        }
    }
}

#[cfg(test)]
#[path = "error_injection_tests.rs"]
mod tests;
