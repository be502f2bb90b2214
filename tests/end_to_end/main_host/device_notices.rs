//! What the host says of a device while a guest has it.

use std::fs;
use std::thread;

use rustix::process::Signal;

use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, driver_of, nvme, rebind};
use crate::harness::jobs::{READ_FOR_EVER, WAIT_FOR_NVME};

/// Printed after each time that the guest has read all.
const LAP: &str = "LAB-GUEST-LAP";

#[test]
fn a_device_that_the_host_wants_back_is_told_of_and_given_back_at_the_end() {
    let device = nvme();
    // Whatever happens, the tests that follow find it so.
    let bound_again = rebind(&device, Some("vfio-pci"));
    let mut running = Vmm::job(&[WAIT_FOR_NVME, READ_FOR_EVER].concat())
        .nvme()
        .start();
    running.wait_for_console(LAP, 1);
    let unbind = {
        let device = device.clone();
        // The kernel lets it wait until the guest has ended.
        thread::spawn(move || fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", device))
    };
    let message = running.wait_for_message("wants PCI device");
    assert!(message.contains(&device), "{message}");
    let laps = running.console().matches(LAP).count();
    running.wait_for_console(LAP, laps + 2);
    assert!(!unbind.is_finished(), "the device was taken from its guest");
    running.signal(Signal::TERM);
    let finished = running.finish();
    finished.assert_status(1);
    let errors = finished.errors();
    assert!(!errors.contains("given back whole"), "{finished}");
    assert!(!errors.contains("VFIO_DEVICE_RESET"), "{finished}");
    assert!(errors.contains("the host holds it"), "{finished}");
    unbind.join().expect("no panic").expect("unbound");
    assert_eq!(driver_of(&device), None);
    drop(bound_again);
    assert_nothing_is_left();
}
