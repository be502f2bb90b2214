//! More of DMA: other ways to serve TCE calls, and writes.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, expect_on_nvme};
use crate::harness::jobs::{READ_ALL, READ_SMALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::scratch::{Part, WRITTEN_IN_AUTO_MODE, WRITTEN_IN_USER_MODE};
use crate::harness::tce_handlers::Handler;

fn read_with(options: &[&str]) -> Finished {
    let vmm = Vmm::job(&[WAIT_FOR_NVME, READ_ALL, READ_SMALL].concat()).nvme();
    let vmm = options.iter().fold(vmm, |vmm, option| vmm.argument(option));
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
    finished
}

#[test]
fn in_kernel_mode_the_kernel_serves_lists_too() {
    let handler = Handler::watch("put_tce_indirect");
    let finished = read_with(&["--tce", "kernel"]);
    let kernel = handler.returns();
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    assert!(kernel.answered > 50, "{kernel:?}\n{finished}");
    let left = finished.tce_calls("H_PUT_TCE_INDIRECT");
    assert!(
        left * 5 <= kernel.answered,
        "{left} reached the VMM, {kernel:?}\n{finished}"
    );
}

#[test]
fn a_version_2_container_can_be_asked_for() {
    let finished = read_with(&["--iommu", "v2", "--lock", "attach"]);
    assert_eq!(finished.number("/windows/0/container"), 2, "{finished}");
    assert_eq!(
        finished.number("/memory/peak_locked_bytes"),
        1 << 30,
        "{finished}"
    );
}

#[test]
fn what_is_written_in_auto_mode_is_on_the_disk() {
    write_with("auto", WRITTEN_IN_AUTO_MODE);
}

#[test]
fn what_is_written_in_user_mode_is_on_the_disk() {
    write_with("user", WRITTEN_IN_USER_MODE);
}

/// Has the guest fill a part of the disk, and has the lab look at the disk when the host is off.
fn write_with(mode: &str, part: Part) {
    let seed = u64::from(mode.as_bytes()[0]);
    let mut state = seed;
    let pattern: Vec<u8> = std::iter::repeat_with(|| {
        // Knuth's constants for a linear congruential generator, whose upper bits are good enough.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(part.bytes())
    .collect();
    let write = format!(
        "dd if=/pattern of=/dev/nvme0n1 bs=64k seek={} oflag=direct || exit 1\nsync\n",
        part.start_64k()
    );
    let vmm = Vmm::job_with_files(&[WAIT_FOR_NVME, &write].concat(), &[("pattern", &pattern)]);
    vmm.nvme().option("--tce", mode).run().assert_job_done();
    let digest = sha256(&pattern);
    expect_on_nvme(part, &digest);
}

fn sha256(bytes: &[u8]) -> String {
    let mut program = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot run sha256sum");
    program
        .stdin
        .take()
        .expect("a pipe")
        .write_all(bytes)
        .expect("cannot write");
    let output = program.wait_with_output().expect("cannot wait");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().next().expect("a digest").to_owned()
}
