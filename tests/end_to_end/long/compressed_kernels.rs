//! A Linux kernel compressed by xz and by zstd: to compress one takes an emulated processor minutes.

use std::process::Stdio;
use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::packing::{Packed, Packing};
use crate::harness::running::type_line;
use crate::harness::vmm::{INITRD, KERNEL};

fn start(packing: Packing) {
    let kernel = Packed::new(packing, KERNEL);
    let mut running = Vmm::new()
        .option("--kernel", &kernel.path())
        .option("--initrd", INITRD)
        .stdin(Stdio::piped())
        .time_limit(Duration::from_secs(400))
        .start();
    let mut keyboard = running.stdin();
    running.wait_for_console("LAB-GUEST-INIT", 1);
    type_line(&mut keyboard, "exit");
    running.finish().assert_powered_off();
}

#[test]
fn a_linux_kernel_compressed_by_xz_starts() {
    start(Packing::Xz);
}

#[test]
fn a_linux_kernel_compressed_by_zstd_starts() {
    start(Packing::Zstd);
}
