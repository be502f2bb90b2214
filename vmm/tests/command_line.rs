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
fn the_front_end_refuses_in_qemus_words_and_says_what_to_do_instead() {
    let machine = ["-machine", "pseries,accel=kvm", "-kernel", "vmlinux"];
    for (wrong, parts) in [
        (
            &["-drive", "file=disk.img"][..],
            ["error: -drive is not supported", "-device vfio-pci,host="],
        ),
        (
            &["-device", "virtio-blk-pci,drive=d"],
            ["-device virtio-blk-pci", "-kernel and -initrd"],
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
