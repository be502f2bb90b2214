//! `spapr-vmm-qemu` with options as people type them for QEMU, and addresses as `lspci` has them.

use crate::harness::Vmm;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::{self, assert_nothing_is_left};
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};

/// An address without its leading zeroes: `1:1:0.0`.
fn short(address: &str) -> String {
    let fields = address.split(':').map(|field| {
        let digits = field.trim_start_matches('0');
        let zero = if digits.is_empty() || digits.starts_with('.') {
            "0"
        } else {
            ""
        };
        format!("{zero}{digits}")
    });
    fields.collect::<Vec<_>>().join(":")
}

#[test]
fn a_command_line_as_typed_for_qemu_boots_a_guest_that_reads_its_device() {
    let tell_window = "echo LAB-GUEST-WINDOW $(od -An -tx1 /proc/device-tree/pci@*/ibm,dma-window | tr -d ' \\n')\n";
    let job = [WAIT_FOR_NVME, READ_HEAD, tell_window].concat();
    let address = short(&host::nvme());
    assert_ne!(address, host::nvme());
    let front_end = FrontEnd::by_hand(&job)
        .option(
            "-device",
            &format!("vfio-pci,host={address},multifunction=true,romfile="),
        )
        .option("-global", "spapr-pci-host-bridge.dma_win_size=0x20000000");
    let (running, path) = front_end.start_alone();
    let finished = running.finish().assert_job_done();
    drop(path);
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    // LIOBN, bus address, size.
    let window = format!("{:08x}{:016x}{:016x}", 0x8000_0000u32, 0, 0x2000_0000);
    assert_eq!(finished.guest("WINDOW"), window, "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_device_may_be_named_in_short_to_spapr_vmm_too() {
    let job = [WAIT_FOR_NVME, READ_HEAD].concat();
    let vmm = Vmm::job(&job)
        .option("--vfio", &short(&host::nvme()))
        .option("--memory", "0.5GiB");
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}
