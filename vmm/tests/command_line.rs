//! What the program says and how it exits where no guest can run: on any machine, without KVM.

mod program;

use std::process::Output;

fn spapr_vmm(arguments: &[&str]) -> Output {
    program::command(env!("CARGO_BIN_EXE_spapr-vmm"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn standard_error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_command_lines_exit_with_2_and_name_what_is_wrong() {
    let run = ["run", "--kernel", "vmlinux"];
    for (wrong, named) in [
        (&["--vfio", "1:1.9"][..], "1:1.9"),
        (&["--vfio", "0001:01:20.0"], "0001:01:20.0"),
        (&["--memory", "1X"], "1X"),
        (
            &["--memory", "1024"],
            "1024 without a unit is a number of bytes",
        ),
        (&["--cpus", "0"], "0"),
        (&["--tce", "fast"], "fast"),
        (&["--console", "socket"], "socket"),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        let output = spapr_vmm(&[&run[..], wrong].concat());
        let text = standard_error(&output);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {text}");
        assert!(text.contains(named), "{wrong:?}: {text}");
    }
}

#[test]
fn a_file_of_options_is_written_and_read_and_what_is_wrong_in_it_has_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guest.toml");
    let given = ["--kernel", "/none/vmlinux", "--memory", "2G"];
    let printed = spapr_vmm(&[&["run"], &given[..], &["--print-config"]].concat());
    assert_eq!(printed.status.code(), Some(0));
    std::fs::write(&path, &printed.stdout).expect("a file");
    let name = path.to_str().expect("a path of ours");
    // Where a guest cannot run, it is tried with what the file says.
    let tried = spapr_vmm(&["run", "--config", name]);
    assert_ne!(tried.status.code(), Some(0));
    let text = standard_error(&tried);
    assert!(!text.contains("Usage"), "{text}");
    std::fs::write(&path, "kernel = \"k\"\nmemory = \"2X\"\n").expect("a file");
    let refused = spapr_vmm(&["run", "--config", name]);
    let text = standard_error(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("guest.toml:2: memory = \"2X\""), "{text}");
}

#[test]
fn the_front_end_refuses_in_qemus_words_and_says_what_to_do_instead() {
    let machine = ["-machine", "pseries,accel=kvm", "-kernel", "vmlinux"];
    for (wrong, parts) in [
        (
            &["-drive", "file=disk.img"][..],
            ["error: -drive is not supported", "-blockdev driver=file"],
        ),
        (
            &["-device", "virtio-blk-pci,drive=d"],
            ["-device virtio-blk-pci", "no block node d"],
        ),
        (&["-serial", "vc"], ["-serial: vc", "stdio, mon:stdio, pty"]),
        (&["-vga", "std"], ["-vga std", "-serial stdio"]),
        (&["-m", "lots"], ["-m: size=lots", "512M, 1.5G or 2GiB"]),
        (
            &["-spapr-vmm", "lock-region=1"],
            ["lock-region=1", "1M for as many MiB"],
        ),
    ] {
        let mut command = program::command(env!("CARGO_BIN_EXE_spapr-vmm-qemu"));
        let output = command.args(machine).args(wrong).output();
        let output = output.expect("the program starts");
        let text = standard_error(&output);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{wrong:?}: {text}");
        }
        assert!(!text.contains(" --"), "{wrong:?}: {text}");
    }
}

#[test]
fn the_front_end_answers_what_there_is() {
    for (question, part) in [
        (&["-machine", "help"][..], "pseries-10.0"),
        (&["-device", "help"], "vfio-pci"),
        (&["-help"], "-nographic"),
    ] {
        let mut command = program::command(env!("CARGO_BIN_EXE_spapr-vmm-qemu"));
        let output = command.args(question).output();
        let output = output.expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{question:?}");
        assert!(text.contains(part), "{question:?}: {text}");
        assert!(output.stderr.is_empty(), "{question:?}");
    }
}

#[test]
fn a_kernel_has_to_be_given() {
    let output = spapr_vmm(&["run"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(standard_error(&output).contains("--kernel"));
}

/// What is said of a file that is given as the kernel. It is looked at before KVM is, so that this is
/// said on any machine that guests could run on.
#[cfg(target_arch = "powerpc64")]
fn said_of_kernel(content: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, content).expect("write");
    let path = file.path().to_str().expect("a path of ours").to_owned();
    let output = spapr_vmm(&["run", "--kernel", &path]);
    let text = standard_error(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    assert!(text.contains(&format!("the kernel {path}")), "{text}");
    text
}

/// The first bytes of an ELF file.
#[cfg(target_arch = "powerpc64")]
fn elf(class: u8, data: u8, kind: u16, machine: u16) -> Vec<u8> {
    let mut head = vec![0x7f, b'E', b'L', b'F', class, data, 1, 0];
    head.extend([0; 8]);
    for half in [kind, machine] {
        head.extend(match data {
            1 => half.to_le_bytes(),
            _ => half.to_be_bytes(),
        });
    }
    head
}

/// A file with these bytes at a place, and zeros elsewhere.
#[cfg(target_arch = "powerpc64")]
fn at(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut head = vec![0; 2048];
    head[offset..offset + bytes.len()].copy_from_slice(bytes);
    head
}

#[cfg(target_arch = "powerpc64")]
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut writer, bytes).expect("memory");
    writer.finish().expect("memory")
}

#[cfg(target_arch = "powerpc64")]
#[test]
fn what_is_no_kernel_for_these_guests_is_named_with_what_to_give_instead() {
    let a_kernel = "give the vmlinux of a ppc64le kernel";
    for (content, is, instead) in [
        (elf(1, 2, 2, 20), "boot wrapper of a zImage", a_kernel),
        (elf(1, 1, 2, 20), "boot wrapper of a zImage", a_kernel),
        (
            elf(2, 2, 2, 21),
            "a big-endian ELF file for ppc64",
            a_kernel,
        ),
        (elf(2, 1, 2, 62), "for another machine (x86-64,", a_kernel),
        (elf(2, 1, 2, 183), "for another machine (arm64,", a_kernel),
        (
            elf(2, 1, 1, 21),
            "a module for ppc64le, no kernel",
            a_kernel,
        ),
        (elf(2, 1, 4, 21), "a core file of ppc64le", a_kernel),
        (at(0x202, b"HdrS"), "a kernel for x86 (bzImage)", a_kernel),
        (at(0x38, b"ARMd"), "a kernel for arm64 (Image)", a_kernel),
        (at(0, b"\x27\x05\x19\x56"), "U-Boot (uImage)", a_kernel),
        (
            at(0, b"070701"),
            "a cpio archive",
            "give it as the initial RAM disk",
        ),
        (
            packed(b"070701"),
            "a cpio archive, as initial RAM disks are (compressed by gzip)",
            "give it as",
        ),
        (
            packed(&at(0x202, b"HdrS")),
            "(bzImage) (compressed by gzip)",
            a_kernel,
        ),
        (
            packed(&packed(b"x")),
            "compressed twice, by gzip and then by gzip",
            "unpack it once",
        ),
        (at(0, b"BZh9"), "compressed by bzip2", "unpack it"),
        (
            at(0, b"!<arch>\n"),
            "a Debian package",
            "give the vmlinux that is in it",
        ),
        (at(0, b"#!/bin/sh\n"), "a script", a_kernel),
        (
            at(0, b"text"),
            "(it begins with the bytes text",
            "gzip, xz or zstd",
        ),
        (Vec::new(), "is empty", a_kernel),
    ] {
        let text = said_of_kernel(&content);
        assert!(text.contains(is) && text.contains(instead), "{is}: {text}");
    }
}

#[cfg(target_arch = "powerpc64")]
#[test]
fn a_program_and_a_damaged_file_are_no_kernels_either() {
    // This program itself.
    let program = std::fs::read(env!("CARGO_BIN_EXE_spapr-vmm")).expect("the program");
    let text = said_of_kernel(&program);
    assert!(
        text.contains("a program or a library for Linux, no kernel; give"),
        "{text}"
    );
    let cut = packed(&program);
    let text = said_of_kernel(&cut[..1000]);
    assert!(
        text.contains("compressed by gzip: ") && text.contains("not copied whole"),
        "{text}"
    );
}

#[test]
fn help_teaches_by_example() {
    let output = spapr_vmm(&["run", "--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    for part in [
        "--vfio 0001:01:00.0",
        "Exit status: 0 when the guest powers off",
        "--stats",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[test]
fn what_is_neither_a_group_nor_a_device_is_named() {
    for (arguments, named) in [
        (&["iommu", "nvme0"][..], "nvme0"),
        (&["iommu", "0001:01:20"], "0001:01:20"),
        (&["iommu", "1", "--memory", "1X"], "1X"),
    ] {
        let output = spapr_vmm(arguments);
        let text = standard_error(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn the_help_of_iommu_teaches_by_example() {
    let output = spapr_vmm(&["iommu", "--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    for part in [
        "[GROUP|DEVICE]",
        "--json",
        "spapr-vmm iommu 0001:01:00.0 --memory 32G",
        "Exit status: 0",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[cfg(not(target_arch = "powerpc64"))]
#[test]
fn elsewhere_than_on_power_the_way_to_try_it_is_named() {
    for arguments in [
        &["run", "--kernel", "vmlinux"][..],
        &["iommu"],
        &["iommu", "1", "--json"],
    ] {
        let output = spapr_vmm(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(standard_error(&output).contains("cargo lab demo"));
        assert!(output.stdout.is_empty());
    }
}
