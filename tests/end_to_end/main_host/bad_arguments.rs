//! Command lines that cannot be right.

use std::fs::{self, File};

use crate::harness::Vmm;
use crate::harness::vmm::{INITRD, KERNEL};

/// A run with a kernel that exists and one more option.
fn with(option: &str, value: &str) -> Vmm {
    Vmm::new().option("--kernel", KERNEL).option(option, value)
}

/// A run whose kernel is a file with this content.
fn with_kernel(name: &str, content: &[u8]) -> Vmm {
    let path = format!("/tmp/{name}");
    fs::write(&path, content).expect("cannot write the kernel");
    Vmm::new().option("--kernel", &path)
}

#[test]
fn a_kernel_that_does_not_exist() {
    let finished = Vmm::new().option("--kernel", "/boot/no-such-kernel").run();
    finished.assert_refused(&[
        "cannot read the kernel /boot/no-such-kernel",
        "No such file",
    ]);
}

#[test]
fn a_kernel_that_is_a_folder() {
    Vmm::new()
        .option("--kernel", "/boot")
        .run()
        .assert_refused(&["the kernel /boot is no regular file", "give the vmlinux"]);
}

/// As when the options are mixed up. The lab's is not compressed.
#[test]
fn a_kernel_that_is_an_initial_ram_disk() {
    let finished = Vmm::new().option("--kernel", INITRD).run();
    finished.assert_refused(&[
        "the kernel /boot/initrd is a cpio archive",
        "give it as the initial RAM disk",
    ]);
}

#[test]
fn a_kernel_that_is_not_elf() {
    let finished = with_kernel("not-elf", b"#!/bin/sh\necho I am a script\n").run();
    finished.assert_refused(&["the kernel /tmp/not-elf is a script", "give the vmlinux"]);
    let finished = with_kernel("text", b"a text\n").run();
    finished.assert_refused(&["the kernel /tmp/text is no ELF file", "give the vmlinux"]);
}

#[test]
fn a_kernel_for_another_machine() {
    // The header of an x86-64 executable (EM_X86_64 is 62).
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2u16, 62] {
        header.extend(half.to_le_bytes());
    }
    header.extend(1u32.to_le_bytes());
    for doubleword in [0x40_1000u64, 64, 0] {
        header.extend(doubleword.to_le_bytes());
    }
    header.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 0, 64, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    let finished = with_kernel("x86-64-kernel", &header).run();
    finished.assert_refused(&["/tmp/x86-64-kernel is for another machine", "62", "ppc64"]);
}

#[test]
fn a_kernel_that_ends_in_the_middle() {
    let whole = fs::read(KERNEL).expect("no kernel");
    let finished = with_kernel("half-a-kernel", &whole[..whole.len() / 2]).run();
    finished.assert_refused(&["the kernel /tmp/half-a-kernel", "it was not copied whole"]);
    fs::remove_file("/tmp/half-a-kernel").expect("cannot remove it");
}

#[test]
fn an_initial_ram_disk_that_does_not_exist() {
    let finished = with("--initrd", "/boot/no-such-initrd").run();
    finished.assert_refused(&["initial RAM disk /boot/no-such-initrd", "No such file"]);
}

#[test]
fn an_initial_ram_disk_that_is_too_large() {
    let path = "/tmp/large-initrd";
    File::create(path)
        .and_then(|file| file.set_len(2 << 30))
        .expect("cannot make it");
    let finished = with("--initrd", path).run();
    fs::remove_file(path).expect("cannot remove it");
    let parts = [
        "/tmp/large-initrd of 2147483648 bytes is too large",
        "1073741824",
        "--memory",
    ];
    finished.assert_refused(&parts);
}

#[test]
fn a_command_line_that_is_too_long() {
    let finished = with("--append", &"x".repeat(3000)).run();
    finished.assert_refused(&["command line of 3000 bytes", "2047", "--append"]);
}

#[test]
fn no_memory() {
    with("--memory", "0")
        .run()
        .assert_refused(&["memory of 0", "128M", "--memory"]);
}

#[test]
fn memory_that_is_not_aligned() {
    let finished = with("--memory", "1000000000").run();
    finished.assert_refused(&["1000000000 bytes is not a multiple of 16M", "--memory"]);
}

#[test]
fn more_memory_than_the_host_has() {
    let finished = with("--memory", "1T").run();
    finished.assert_refused(&[
        "memory of 1T is more than this host has",
        "bytes",
        "--memory",
    ]);
}

#[test]
fn memory_that_is_no_size() {
    with("--memory", "lots")
        .run()
        .assert_refused(&["lots", "--memory", "2G"]);
}

#[test]
fn memory_whose_unit_was_forgotten() {
    let finished = with("--memory", "1024").run();
    finished.assert_refused(&["1024 without a unit is a number of bytes", "1024M"]);
}

#[test]
fn no_processors_and_too_many() {
    with("--cpus", "0").run().assert_refused(&["0", "--cpus"]);
    with("--cpus", "100000")
        .run()
        .assert_refused(&["100000", "--cpus"]);
}

#[test]
fn a_console_that_cannot_be_opened() {
    let finished = with("--console", "file=/no/such/folder/console").run();
    finished.assert_refused(&["/no/such/folder/console", "No such file"]);
    with("--console", "socket")
        .run()
        .assert_refused(&["socket", "stdio", "pty", "file=PATH"]);
}

#[test]
fn an_option_that_does_not_exist() {
    with("--turbo", "yes").run().assert_refused(&["--turbo"]);
}
