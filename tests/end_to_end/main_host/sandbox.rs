//! `--sandbox`: every thread has a filter, which kills, and a guest misses nothing.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_ALL, READ_SMALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::running::{Running, type_line};
use crate::harness::swapped_call::swap_next_call;

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

/// A thread of a run, by its name.
fn thread_called(running: &Running, name: &str) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.id())).expect("tasks");
    let mut tasks = tasks.map(|task| task.expect("a task").path());
    let found = tasks.find(|task| {
        let comm = fs::read_to_string(task.join("comm")).expect("comm");
        comm.trim() == name
    });
    let task = found.unwrap_or_else(|| panic!("no thread {name}"));
    let number = task.file_name().and_then(|name| name.to_str());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[test]
fn a_call_that_a_thread_does_not_have_kills_the_process() {
    for name in ["spapr-vmm", "CPU 0/KVM", "console", "log"] {
        for (call, is_forbidden) in [(libc::SYS_sched_yield, false), (libc::SYS_socket, true)] {
            let vmm = Vmm::bare_metal("flood-guest", "lines=1000000000");
            let mut running = vmm.argument("--sandbox").start();
            running.wait_for_console("FLOOD-LINE", 1);
            swap_next_call(thread_called(&running, name), call);
            if !is_forbidden {
                // It may have missed the call that it wanted to make, but is there.
                thread::sleep(Duration::from_millis(300));
                running.signal(Signal::KILL);
            }
            let finished = running.finish();
            let signal = if is_forbidden {
                libc::SIGSYS
            } else {
                libc::SIGKILL
            };
            assert_eq!(
                finished.signal(),
                Some(signal),
                "{name}, {call}: {finished}"
            );
        }
    }
    assert_nothing_is_left();
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
