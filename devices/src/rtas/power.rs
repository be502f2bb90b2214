//! power-off, system-reboot and ibm,os-term (PAPR 7.3.5 and 7.3.9.1).

use vm_memory::{Bytes, GuestAddress};

use super::call::Call;
use super::{Outcome, Platform, Status};

/// A message of an operating system that fails is cut after so many bytes.
const MAX_MESSAGE_BYTES: usize = 256;

/// Arguments: the events on which to power on again (two words), which this machine does not do.
pub(super) fn power_off(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::Success);
    Outcome::PowerOff
}

/// No arguments.
pub(super) fn system_reboot(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::Success);
    Outcome::Reboot
}

/// Arguments: address of a string that ends with a zero byte, or 0 for none, as Linux has it.
pub(super) fn os_term(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    let [address] = call.arguments();
    let message = Some(address).filter(|&address| address != 0);
    let message = message.map(|address| message_at(call, address));
    call.status(Status::Success);
    Outcome::OsTerm(message.filter(|message| !message.trim().is_empty()))
}

/// The string at `address`, as far as it is in memory, with a full stop for each byte that does
/// not print.
fn message_at(call: &Call<'_>, address: u32) -> Box<str> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    // Up to the end of memory is good enough.
    let read = call
        .memory()
        .read(&mut bytes, GuestAddress(address.into()))
        .unwrap_or(0);
    let text = bytes[..read].iter().copied().take_while(|&byte| byte != 0);
    let printable = text.map(|byte| {
        if (b' '..=b'~').contains(&byte) {
            char::from(byte)
        } else {
            '.'
        }
    });
    printable.collect::<String>().into_boxed_str()
}
