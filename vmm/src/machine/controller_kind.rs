//! Which interrupt controller a guest gets.

use spapr_devices::interrupts::ControllerKind;
use spapr_devices::vfio::host_page_bytes;
use spapr_kvm::host::{Capabilities, HostError, NoXive};

use crate::spec::InterruptControllerMode;

/// The interrupt controller of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) kind: ControllerKind,
    /// Why it is not the better one, which nobody ruled out; [`Kept::tell_of_xics`] says so.
    ///
    /// [`Kept::tell_of_xics`]: super::kept::Kept::tell_of_xics
    pub(super) why_not_xive: Option<NoXive>,
}

/// The interrupt controller of a guest on this host.
///
/// # Errors
/// [`HostError::NoXive`] when only XIVE will do and there is none.
pub(super) fn choose(
    mode: InterruptControllerMode,
    capabilities: &Capabilities,
) -> Result<Choice, HostError> {
    choose_on(mode, capabilities, host_page_bytes())
}

/// [`choose`] on a host whose pages have `host_page_bytes`.
fn choose_on(
    mode: InterruptControllerMode,
    capabilities: &Capabilities,
    host_page_bytes: u64,
) -> Result<Choice, HostError> {
    let choice = |kind, why_not_xive| Choice { kind, why_not_xive };
    match (mode, capabilities.check_xive(host_page_bytes)) {
        (InterruptControllerMode::Xics, _) => Ok(choice(ControllerKind::Xics, None)),
        (_, Ok(())) => Ok(choice(ControllerKind::Xive, None)),
        (InterruptControllerMode::Auto, Err(why)) => Ok(choice(ControllerKind::Xics, Some(why))),
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
        for (irq_xive, mode, page, kind, why_not_xive) in [
            (true, Mode::Auto, 0x1_0000, Xive, None),
            (true, Mode::Xive, 0x1_0000, Xive, None),
            (true, Mode::Xics, 0x1_0000, Xics, None),
            (false, Mode::Xics, 0x1_0000, Xics, None),
            (
                true,
                Mode::Auto,
                0x1000,
                Xics,
                Some(NoXive::PageSize(0x1000)),
            ),
            (false, Mode::Auto, 0x1_0000, Xics, Some(NoXive::NotOffered)),
        ] {
            let choice = Choice { kind, why_not_xive };
            assert_eq!(choose_on(mode, &host(irq_xive), page).unwrap(), choice);
        }
        let refused = |irq_xive, page| {
            let error = choose_on(Mode::Xive, &host(irq_xive), page).unwrap_err();
            error.to_string()
        };
        assert!(refused(false, 0x1_0000).contains("KVM_CAP_PPC_IRQ_XIVE"));
        assert!(refused(true, 0x1000).contains("pages of 0x1000 bytes"));
    }
}
