//! Interrupts of devices: controllers, kinds, and what a guest says of them.

use super::Vmm;
use super::faults::{Answer, Fault};
use super::finished::Finished;
use super::refusal::request;

/// The interrupt controllers that a machine may have, with what [`NAME_CONTROLLER`] says of each.
pub(crate) const CONTROLLERS: [(&str, &str); 2] = [("xive", "XIVE-IRQ"), ("xics", "XICS")];

/// Says which interrupt controller there is: the terminal's interrupt names it.
pub(crate) const NAME_CONTROLLER: &str = "
echo LAB-GUEST-CONTROLLER $(awk '/hvc_console/ { print $(NF - 3) }' /proc/interrupts)
";

/// Says which interrupt lines served devices: number, trigger and name of each.
pub(crate) const LIST_LINES: &str = "
awk '{ for (i = 2; i < NF; i++) if ($i == \"Level\") print \"LAB-GUEST-LINE\", $(i - 1), $i, $(i + 1) }' /proc/interrupts
";

/// Linux' drivers then use no MSI.
pub(crate) const NO_MSI: (&str, &str) = ("--append", "console=hvc0 pci=nomsi");

/// Where the argument of VFIO_DEVICE_GET_IRQ_INFO has the kind of interrupt.
const KIND: u64 = 8;

/// VFIO's numbers of MSI and MSI-X.
pub(crate) const MSI: u32 = 1;
pub(crate) const MSI_X: u32 = 2;

/// A guest whose device seems to have no interrupts of these kinds.
pub(crate) fn without(vmm: Vmm, kinds: &[u32]) -> Vmm {
    kinds.iter().fold(vmm, |vmm, kind| {
        let none = Fault::always(request::VFIO_DEVICE_GET_IRQ_INFO, Answer::Value(0));
        vmm.with_fault(&none.with_field((KIND, *kind)))
    })
}

/// The level-triggered interrupts of a guest, with their names.
pub(crate) fn lines_of(finished: &Finished) -> Vec<&str> {
    let mut lines = finished.all("LINE");
    lines.sort_unstable();
    lines
}
