//! Telling at the start how a device interrupts that has no message-signalled interrupts: a driver
//! without interrupts fails in the guest, where nothing says why.

use log::Level;
use spapr_devices::pci::{HostBridge, InterruptKind};

/// How a device can interrupt.
#[derive(Clone, Copy, Debug)]
struct Interrupts {
    /// By MSI or MSI-X.
    messages: bool,
    /// By its line.
    line: bool,
}

/// Says it of each function of a bridge that has neither MSI nor MSI-X.
pub(super) fn tell(bridge: &HostBridge) {
    for function in bridge.functions() {
        let kinds = [InterruptKind::Msi, InterruptKind::MsiX];
        let interrupts = Interrupts {
            messages: kinds.iter().any(|&kind| function.max_vectors(kind) > 0),
            line: function.has_line(),
        };
        if let Some((level, message)) = message(function.name(), interrupts) {
            log::log!(level, "{message}");
        }
    }
}

fn message(name: &str, interrupts: Interrupts) -> Option<(Level, String)> {
    if interrupts.messages {
        return None;
    }
    let (level, rest) = if interrupts.line {
        let rest =
            ": it interrupts by its line (INTx), at the price of work here for each interrupt";
        (Level::Info, rest)
    } else {
        let rest = ", and the host gives no INTx for it: the guest's driver will have no interrupt";
        (Level::Warn, rest)
    };
    let message = format!("PCI device {name} has neither MSI nor MSI-X{rest}");
    Some((level, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(messages: bool, line: bool) -> Option<(Level, String)> {
        message("0001:01:00.0", Interrupts { messages, line })
    }

    #[test]
    fn a_device_without_any_interrupt_is_warned_of_and_one_with_its_line_alone_is_told() {
        for line in [false, true] {
            assert_eq!(said(true, line), None);
        }
        for (line, level, part) in [
            (true, Level::Info, "by its line (INTx)"),
            (false, Level::Warn, "host gives no INTx"),
        ] {
            let (found, text) = said(false, line).unwrap();
            assert_eq!(found, level, "{text}");
            for part in ["PCI device 0001:01:00.0 has neither MSI nor MSI-X", part] {
                assert!(text.contains(part), "{part:?} in {text}");
            }
        }
    }
}
