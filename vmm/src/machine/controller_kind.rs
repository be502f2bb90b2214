//! Which interrupt controller a guest gets.

use log::Level;
use spapr_devices::guest_message;
use spapr_devices::interrupts::ControllerKind;
use spapr_devices::vfio::host_page_bytes;
use spapr_kvm::host::{Capabilities, HostError};

use crate::spec::InterruptControllerMode;

/// The interrupt controller of a guest on this host.
///
/// # Errors
/// [`HostError::NoXive`] when only XIVE will do and there is none.
pub(super) fn choose(
    mode: InterruptControllerMode,
    capabilities: &Capabilities,
) -> Result<ControllerKind, HostError> {
    choose_on(mode, capabilities, host_page_bytes())
}

/// [`choose`] on a host whose pages have `host_page_bytes`.
fn choose_on(
    mode: InterruptControllerMode,
    capabilities: &Capabilities,
    host_page_bytes: u64,
) -> Result<ControllerKind, HostError> {
    match (mode, capabilities.check_xive(host_page_bytes)) {
        (InterruptControllerMode::Xics, _) => Ok(ControllerKind::Xics),
        (_, Ok(())) => Ok(ControllerKind::Xive),
        (InterruptControllerMode::Auto, Err(why)) => {
            guest_message!(
                Level::Info,
                "the guest's interrupt controller is XICS, not XIVE: {why}"
            );
            Ok(ControllerKind::Xics)
        }
        (InterruptControllerMode::Xive, Err(why)) => Err(HostError::NoXive(why)),
    }
}

#[cfg(test)]
mod tests {
    use ControllerKind::{Xics, Xive};
    use InterruptControllerMode as Mode;

    use super::*;

    fn host(irq_xive: bool) -> Capabilities {
        Capabilities {
            irq_xive,
            ..Capabilities::default()
        }
    }

    #[test]
    fn a_guest_has_xive_where_the_host_can_and_xics_is_not_asked_for() {
        let choose = |irq_xive, mode, page| choose_on(mode, &host(irq_xive), page).ok();
        assert_eq!(choose(true, Mode::Auto, 0x1_0000), Some(Xive));
        assert_eq!(choose(true, Mode::Xive, 0x1_0000), Some(Xive));
        assert_eq!(choose(true, Mode::Xics, 0x1_0000), Some(Xics));
        assert_eq!(choose(true, Mode::Auto, 0x1000), Some(Xics));
        assert_eq!(choose(false, Mode::Auto, 0x1_0000), Some(Xics));
        let refused = |irq_xive, page| {
            let error = choose_on(Mode::Xive, &host(irq_xive), page).unwrap_err();
            error.to_string()
        };
        assert!(refused(false, 0x1_0000).contains("KVM_CAP_PPC_IRQ_XIVE"));
        assert!(refused(true, 0x1000).contains("pages of 0x1000 bytes"));
    }
}
