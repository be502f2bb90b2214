//! Limits of the process that are reached as a guest is started or while it runs, and how much is
//! logged.

use std::fs;

use crate::harness::Vmm;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME};

#[test]
fn a_cgroup_that_allows_no_more_threads_ends_in_an_error_that_is_told() {
    for most in 1..=3 {
        // In a folder of the run's own namespace.
        let commands = format!(
            "mkdir -p /tmp/pids && mount -t cgroup2 none /tmp/pids && \
             {{ echo +pids >/tmp/pids/cgroup.subtree_control; \
             mkdir -p /tmp/pids/few; echo {most} >/tmp/pids/few/pids.max && \
             echo $$ >/tmp/pids/few/cgroup.procs; }}"
        );
        let finished = Vmm::bare_metal("flood-guest", "lines=1")
            .option("--cpus", "2")
            .in_namespace(&commands)
            .run();
        finished.assert_status(1);
        let errors = finished.errors();
        for part in [
            "error: ",
            "no more threads: each takes 2048 KiB",
            "pids.max",
        ] {
            assert!(errors.contains(part), "{part:?} of {most}\n{finished}");
        }
        assert_eq!(errors.matches("os error 11").count(), 1, "{finished}");
    }
}

#[test]
fn too_little_address_space_is_an_error_with_sizes() {
    let finished = Vmm::linux().in_namespace("ulimit -v 500000").run();
    finished.assert_refused(&[
        "cannot map 1G of guest memory",
        "is 500000 KiB (ulimit -v)",
        "takes 1048576 KiB",
    ]);
    let errors = finished.errors();
    assert_eq!(errors.matches("os error 12").count(), 1, "{finished}");
}

#[test]
fn a_console_file_that_must_not_grow_is_told_once_and_the_guest_goes_on() {
    let path = "/tmp/console-that-must-not-grow";
    // Of 512 bytes each: 32 KiB, more than the statistics take.
    let finished = Vmm::bare_metal("flood-guest", "lines=3000")
        .option("--console", &format!("file={path}"))
        .in_namespace("ulimit -f 64")
        .run()
        .assert_powered_off();
    let size = fs::metadata(path).expect("a file").len();
    fs::remove_file(path).expect("cannot remove it");
    assert_eq!(size, 32 << 10, "{finished}");
    let told = "what the guest prints is lost from here on";
    assert_eq!(finished.errors().matches(told).count(), 1, "{finished}");
    assert!(finished.errors().contains("File too large"), "{finished}");
}

#[test]
fn many_processors_with_little_memory_are_warned_of() {
    // More than the host's KVM runs, or as many as it does: both are told after it.
    let finished = Vmm::bare_metal("flood-guest", "lines=1")
        .option("--cpus", "257")
        .run();
    let warned = "257 processors with 1G of memory";
    assert!(finished.errors().contains(warned), "{finished}");
    assert!(
        finished.errors().contains("give fewer, or 2G"),
        "{finished}"
    );
}

/// What takes long.
mod long {
    use super::*;

    #[test]
    fn debug_and_trace_show_what_the_guest_asks_for_at_two_lines_a_second() {
        for level in ["debug", "trace"] {
            let finished = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat())
                .nvme()
                .option("--log", level)
                .run()
                .assert_job_done();
            let errors = finished.errors();
            for part in [
                "(H_PUT_TERM_CHAR)",
                "(H_SET_MODE)",
                "debug: RTAS ",
                "debug: configuration space of",
            ] {
                assert!(errors.contains(part), "no {part:?}\n{finished}");
            }
            let reads = errors.contains("trace: configuration space of");
            assert_eq!(reads, level == "trace", "{finished}");
            assert!(!errors.contains("(H_PUT_TCE"), "{finished}");
            let seconds = usize::try_from(finished.took().as_secs()).expect("a short run");
            let lines = errors.matches("(H_PUT_TERM_CHAR)").count();
            assert!(lines <= 2 * (seconds + 2), "{lines} lines\n{finished}");
        }
    }
}
