//! `spapr-vmm-qemu`: spapr-vmm behind libvirt's QEMU driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    spapr_vmm::qemu::main()
}
