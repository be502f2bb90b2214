//! Telling at the start how a device interrupts that has no message-signalled interrupts: a driver
//! without interrupts fails in the guest, where nothing says why.

use log::Level;
use spapr_devices::interrupts::ControllerKind;
use spapr_devices::pci::{HostBridge, InterruptKind};

/// How a device can interrupt.
#[derive(Clone, Copy, Debug)]
struct Interrupts {
    /// By MSI or MSI-X.
    messages: bool,
    /// By its line, as far as the guest gets it.
    line: bool,
}

/// Says it of each function of a bridge that has neither MSI nor MSI-X.
pub(super) fn tell(bridge: &HostBridge, controller: ControllerKind) {
    for function in bridge.functions() {
        let kinds = [InterruptKind::Msi, InterruptKind::MsiX];
        let interrupts = Interrupts {
            messages: kinds.iter().any(|&kind| function.max_vectors(kind) > 0),
            line: function.has_line(),
        };
        if let Some((level, message)) = message(function.name(), interrupts, controller) {
            log::log!(level, "{message}");
        }
    }
}

fn message(
    name: &str,
    interrupts: Interrupts,
    controller: ControllerKind,
) -> Option<(Level, String)> {
    if interrupts.messages {
        return None;
    }
    let (level, rest) = match (interrupts.line, controller) {
        (true, _) => (
            Level::Info,
            ": it interrupts by its line (INTx), at the price of an exit from the guest each time",
        ),
        (false, ControllerKind::Xics) => (
            Level::Warn,
            ", and a guest with the XICS interrupt controller gets no INTx: the guest's driver will \
             have no interrupt. With XIVE it may, on a host with XIVE and pages of 64 KiB",
        ),
        (false, ControllerKind::Xive) => (
            Level::Warn,
            ", and the host gives no INTx for it: the guest's driver will have no interrupt",
        ),
    };
    let message = format!("PCI device {name} has neither MSI nor MSI-X{rest}");
    Some((level, message))
}

#[cfg(test)]
mod tests {
    use ControllerKind::{Xics, Xive};

    use super::*;

    fn said(messages: bool, line: bool, controller: ControllerKind) -> Option<(Level, String)> {
        message("0001:01:00.0", Interrupts { messages, line }, controller)
    }

    #[test]
    fn a_device_without_any_interrupt_is_warned_of_and_one_with_its_line_alone_is_told() {
        for controller in [Xics, Xive] {
            for line in [false, true] {
                assert_eq!(said(true, line, controller), None);
            }
        }
        for (line, controller, level, part) in [
            (true, Xive, Level::Info, "by its line (INTx)"),
            (false, Xive, Level::Warn, "host gives no INTx"),
            (false, Xics, Level::Warn, "With XIVE it may"),
        ] {
            let (found, text) = said(false, line, controller).unwrap();
            assert_eq!(found, level, "{text}");
            for part in ["PCI device 0001:01:00.0 has neither MSI nor MSI-X", part] {
                assert!(text.contains(part), "{part:?} in {text}");
            }
        }
    }
}
