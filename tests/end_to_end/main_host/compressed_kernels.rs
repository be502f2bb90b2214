//! Kernels that are compressed: unpacked at each start.

use std::process::Stdio;

use crate::harness::Vmm;
use crate::harness::front_end::FrontEnd;
use crate::harness::packing::{Packed, Packing};
use crate::harness::running::type_line;
use crate::harness::vmm::{GUESTS, INITRD, KERNEL};

/// Printed by the guest's init when the shell is about to start.
const SHELL_STARTS: &str = "LAB-GUEST-INIT";

/// A small kernel: `long::compressed_kernels` has a Linux one.
#[test]
fn a_kernel_compressed_by_each_of_them_starts_under_both_front_ends() {
    let guest = format!("{GUESTS}/flood-guest");
    for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
        let kernel = Packed::new(packing, &guest);
        let finished = Vmm::new()
            .option("--kernel", &kernel.path())
            .option("--append", "lines=3")
            .run()
            .assert_powered_off();
        let console = finished.console();
        assert_eq!(console.matches("FLOOD-LINE").count(), 3, "{finished}");
        let front_end = FrontEnd::new()
            .option("-kernel", &kernel.path())
            .option("-append", "lines=3");
        let (running, _monitor) = front_end.start_alone();
        let finished = running.finish();
        finished.assert_status(0);
        let console = finished.console();
        assert_eq!(console.matches("FLOOD-LINE").count(), 3, "{finished}");
    }
}

#[test]
fn an_initial_ram_disk_given_as_the_kernel_is_named_though_it_is_compressed() {
    let initrd = Packed::new(Packing::Gzip, INITRD);
    let finished = Vmm::new().option("--kernel", &initrd.path()).run();
    finished.assert_refused(&[
        "is a cpio archive, as initial RAM disks are (compressed by gzip)",
        "give it as the initial RAM disk",
    ]);
}

/// Linux.
mod long {
    use super::*;

    /// The sandbox allows what unpacking takes, also after the machine has begun.
    #[test]
    fn a_linux_kernel_compressed_by_gzip_starts_and_reboots_in_its_sandbox() {
        let kernel = Packed::new(Packing::Gzip, KERNEL);
        let mut running = Vmm::new()
            .option("--kernel", &kernel.path())
            .option("--initrd", INITRD)
            .argument("--sandbox")
            .stdin(Stdio::piped())
            .start();
        let mut keyboard = running.stdin();
        running.wait_for_console(SHELL_STARTS, 1);
        type_line(&mut keyboard, "reboot -f");
        running.wait_for_console(SHELL_STARTS, 2);
        type_line(&mut keyboard, "exit");
        let finished = running.finish().assert_powered_off();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
    }
}
