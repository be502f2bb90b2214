//! `--sandbox`: every thread has a filter, which kills, and a guest misses nothing.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_ALL, READ_SMALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::running::{Running, type_line};
use crate::harness::swapped_call::{insert_call, insert_open, swap_next_call};
use crate::harness::vmm::{Folder, INITRD, KERNEL};

/// Printed by the guest's init.
const GUEST_IS_UP: &str = "LAB-GUEST-INIT";

/// A guest that is quick to start and prints for ever.
const ENDLESS: [&str; 2] = ["flood-guest", "lines=1000000000"];

/// The longest that a thread which has nothing to do waits, and some more.
const LOOK_UP: Duration = Duration::from_millis(1500);

/// The threads that `spapr-vmm run` has with one processor.
const THREADS: [&str; 5] = ["CPU 0/KVM", "console", "console-input", "log", "spapr-vmm"];

/// Those of `spapr-vmm-qemu` whose terminal has a log.
const FRONT_END_THREADS: [&str; 9] = [
    "CPU 0/KVM",
    "console",
    "console log",
    "console-input",
    "dump",
    "log",
    "monitor",
    "spapr-vmm-qemu",
    "terminal",
];

/// `spapr-vmm run` in its sandbox, with all threads that it ever has.
fn endless() -> Running {
    let vmm = Vmm::bare_metal(ENDLESS[0], ENDLESS[1]).argument("--sandbox");
    let mut running = vmm.stdin(Stdio::piped()).start();
    running.wait_for_console("FLOOD-LINE", 1);
    running
}

/// `spapr-vmm-qemu` in its sandbox, with all threads that it ever has.
fn endless_front_end() -> Running {
    let front_end = FrontEnd::bare_metal(ENDLESS[0], ENDLESS[1]).logged();
    let (mut running, _monitor) = front_end.option("-sandbox", "on").start_alone();
    running.wait_for_console("FLOOD-LINE", 1);
    running
}

/// Fails unless every thread of a run has a filter.
fn assert_filtered(running: &Running) {
    let threads = running.threads();
    for (id, name) in &threads {
        let status = format!("/proc/{}/task/{id}/status", running.id());
        let status = fs::read_to_string(status).expect("status");
        assert!(status.contains("Seccomp:\t2"), "{name}: {status}");
    }
    // The main one, two processors, console and log.
    assert!(threads.len() >= 5, "{threads:?}");
}

/// Fails unless these are the names of a run's threads, which all go on after a call that they may
/// make, and so does the guest.
#[track_caller]
fn assert_all_go_on(running: &mut Running, names: &[&str]) {
    assert_filtered(running);
    let threads = running.threads();
    let mut found: Vec<&str> = threads.iter().map(|(_, name)| name.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    for (id, name) in threads {
        let returned = insert_call(id, libc::SYS_sched_yield, &[]);
        assert_eq!(returned, 0, "{name}");
    }
    assert_goes_on(running);
}

/// Fails unless a guest still prints when each thread has had time to go on with its own call.
#[track_caller]
fn assert_goes_on(running: &mut Running) {
    thread::sleep(LOOK_UP);
    let printed = running.console().matches("FLOOD-LINE").count();
    running.wait_for_console("FLOOD-LINE", printed + 10);
}

/// Fails unless a call that no thread has kills the process when this thread makes it.
#[track_caller]
fn assert_killed(running: Running, name: &str) {
    swap_next_call(running.thread(name), libc::SYS_socket);
    let finished = running.finish();
    assert_eq!(finished.signal(), Some(libc::SIGSYS), "{name}: {finished}");
}

#[test]
fn a_call_that_a_thread_does_not_have_kills_the_process() {
    assert_all_go_on(&mut endless(), &THREADS);
    for name in THREADS {
        assert_killed(endless(), name);
    }
    assert_nothing_is_left();
}

#[test]
fn a_call_that_a_thread_of_the_front_end_does_not_have_kills_the_process() {
    assert_all_go_on(&mut endless_front_end(), &FRONT_END_THREADS);
    // The others begin as those of `spapr-vmm run` do.
    for name in FRONT_END_THREADS {
        if !THREADS.contains(&name) {
            assert_killed(endless_front_end(), name);
        }
    }
    assert_nothing_is_left();
}

#[test]
fn threads_that_open_files_find_those_of_the_machine_alone() {
    let error = |errno: libc::c_int| -i64::from(errno);
    let (of_the_kernel, foreign) = (Path::new("/proc/version"), Path::new("/etc/passwd"));
    assert!(foreign.exists() && of_the_kernel.exists());
    for mut running in [endless(), endless_front_end()] {
        for (id, name) in running.threads() {
            let opened = insert_open(id, of_the_kernel);
            let refused = insert_open(id, foreign);
            assert_eq!(refused, error(libc::EACCES), "{name}");
            // The others open nothing.
            if name.starts_with("CPU ") || name.starts_with("spapr-vmm") {
                assert!(opened > 2, "{name}: {opened}");
            } else {
                assert_eq!(opened, error(libc::EACCES), "{name}");
            }
        }
        assert_goes_on(&mut running);
    }
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

/// And starts with the kernel that it had, whatever an upgrade has put in its place meanwhile.
#[test]
fn a_guest_reboots_in_its_sandbox_though_its_kernel_was_replaced() {
    let folder = Folder::new();
    let [kernel, upgrade] = ["kernel", "upgrade"].map(|name| folder.file(name));
    fs::copy(KERNEL, &kernel).expect("copy");
    fs::write(&upgrade, "not for this guest").expect("write");
    let vmm = Vmm::new()
        .option("--kernel", kernel.to_str().expect("a path of ours"))
        .option("--initrd", INITRD)
        .nvme_with_windows()
        .argument("--sandbox");
    let mut running = vmm.option("--cpus", "2").stdin(Stdio::piped()).start();
    let mut keyboard = running.stdin();
    running.wait_for_console(GUEST_IS_UP, 1);
    fs::rename(&upgrade, &kernel).expect("rename");
    type_line(&mut keyboard, "reboot -f");
    running.wait_for_console(GUEST_IS_UP, 2);
    assert_filtered(&running);
    type_line(&mut keyboard, "exit");
    let finished = running.finish().assert_powered_off();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    assert_nothing_is_left();
}
