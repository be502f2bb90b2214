//! ibm,change-msi and ibm,query-interrupt-source-number (PAPR 7.3.10.5, "MSI Support").

use log::Level;

use super::call::Call;
use super::{Outcome, Platform, Status, pci};
use crate::error_chain::chain;
use crate::guest_message;
use crate::pci::{Function, InterruptKind, MsiError, MsiGrant};

/// Set the number of MSIs, or with a number of 0 of all vectors.
const FUNCTION_ANY: u32 = 1;
const FUNCTION_MSI: u32 = 3;
const FUNCTION_MSI_X: u32 = 4;
/// The same with addresses of 32 bits.
const FUNCTION_SHORT_MSI: u32 = 5;
const FUNCTION_SHORT_MSI_X: u32 = 6;

/// The fourth return word: the kind of the vectors.
const TYPE_MSI: u32 = 1;
const TYPE_MSI_X: u32 = 2;

/// Arguments: configuration address, BUID (two words), function, number of vectors, sequence
/// number. Returns: number of vectors, next sequence number, kind. A request for more vectors than
/// there are, of the function's, the host's or this machine's, succeeds with the number there could be and
/// gives none, as in QEMU; Linux then asks for so many.
///
/// Addresses of 32 bits are the host's to give: it does so where the device can have no others.
pub(super) fn change_msi(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, kind, count, sequence] = call.arguments();
    let (kind, code, is_short) = match kind {
        FUNCTION_ANY | FUNCTION_MSI => (InterruptKind::Msi, TYPE_MSI, false),
        FUNCTION_MSI_X => (InterruptKind::MsiX, TYPE_MSI_X, false),
        FUNCTION_SHORT_MSI => (InterruptKind::Msi, TYPE_MSI, true),
        FUNCTION_SHORT_MSI_X => (InterruptKind::MsiX, TYPE_MSI_X, true),
        _ => {
            call.status(Status::Parameter);
            return Outcome::Done;
        }
    };
    let function = pci::function(platform, (buid_high, buid_low), address)
        .filter(|function| !is_short || function.has_short_messages());
    let Some(function) = function else {
        call.status(Status::Parameter);
        return Outcome::Done;
    };
    match set_vectors(function, kind, count) {
        Ok(granted) => {
            call.returns(Status::Success, &[granted, sequence.wrapping_add(1), code]);
        }
        Err(error) => {
            guest_message!(Level::Warn, "{}", chain(&error));
            call.status(match error {
                MsiError::NoSuchKind { .. } => Status::Parameter,
                _ => Status::Hardware,
            });
        }
    }
    Outcome::Done
}

fn set_vectors(function: &Function, kind: InterruptKind, count: u32) -> Result<u32, MsiError> {
    if count == 0 {
        return function.free_msi().map(|()| 0);
    }
    Ok(match function.change_msi(kind, count)? {
        MsiGrant::Granted(count) | MsiGrant::AtMost(count) => count,
    })
}

/// Arguments: configuration address, BUID (two words), index of the vector. Returns: interrupt
/// source number, and 1 for edge-triggered.
pub(super) fn query_interrupt_source(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [address, buid_high, buid_low, index] = call.arguments();
    match pci::function(platform, (buid_high, buid_low), address) {
        None => call.status(Status::Parameter),
        Some(function) => match function.interrupt_source(index) {
            Some(lisn) => call.returns(Status::Success, &[lisn.0, 1]),
            None => call.status(Status::Hardware),
        },
    }
    Outcome::Done
}
