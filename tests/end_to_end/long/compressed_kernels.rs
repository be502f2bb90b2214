//! A Linux kernel compressed by xz: minutes of work for an emulated processor.

use std::process::Stdio;

use crate::harness::Vmm;
use crate::harness::packing::{Packed, Packing};
use crate::harness::running::type_line;
use crate::harness::vmm::{INITRD, KERNEL};

#[test]
fn a_linux_kernel_compressed_by_xz_starts() {
    let kernel = Packed::new(Packing::Xz, KERNEL);
    let mut running = Vmm::new()
        .option("--kernel", &kernel.path())
        .option("--initrd", INITRD)
        .stdin(Stdio::piped())
        .start();
    let mut keyboard = running.stdin();
    running.wait_for_console("LAB-GUEST-INIT", 1);
    type_line(&mut keyboard, "exit");
    running.finish().assert_powered_off();
}
