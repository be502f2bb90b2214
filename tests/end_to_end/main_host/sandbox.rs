//! `--sandbox`: every thread has a filter, and a guest misses nothing.

use std::fs;
use std::process::Stdio;

use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_ALL, READ_SMALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::running::{Running, type_line};

/// Printed by the guest's init.
const GUEST_IS_UP: &str = "LAB-GUEST-INIT";

/// Fails unless every thread of a run has a filter.
fn assert_filtered(running: &Running) {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.id())).expect("tasks");
    let mut names = Vec::new();
    for task in tasks {
        let task = task.expect("a task").path();
        let name = fs::read_to_string(task.join("comm")).expect("comm");
        let status = fs::read_to_string(task.join("status")).expect("status");
        assert!(status.contains("Seccomp:\t2"), "{name}: {status}");
        names.push(name);
    }
    // The main one, two processors, console and log.
    assert!(names.len() >= 5, "{names:?}");
}

#[test]
fn a_guest_with_a_device_works_in_its_sandbox() {
    let job = [WAIT_FOR_NVME, READ_SMALL, READ_ALL].concat();
    let vmm = Vmm::job(&job).nvme_with_windows().argument("--sandbox");
    let mut running = vmm.option("--cpus", "2").start();
    running.wait_for_console(GUEST_IS_UP, 1);
    assert_filtered(&running);
    let finished = running.finish().assert_job_done();
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_guest_reboots_in_its_sandbox() {
    let vmm = Vmm::linux().nvme_with_windows().argument("--sandbox");
    let mut running = vmm.option("--cpus", "2").stdin(Stdio::piped()).start();
    let mut keyboard = running.stdin();
    running.wait_for_console(GUEST_IS_UP, 1);
    type_line(&mut keyboard, "reboot -f");
    running.wait_for_console(GUEST_IS_UP, 2);
    assert_filtered(&running);
    type_line(&mut keyboard, "exit");
    let finished = running.finish().assert_powered_off();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    assert_nothing_is_left();
}
