//! Limits of the process that are too low: what it says, and that it says something.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};

/// Whether the programs run without an emulator, whose own needs are in the way of these tests.
fn runs_natively() -> bool {
    !cfg!(target_arch = "powerpc64")
        || std::env::var_os("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER").is_none()
}

/// Runs a program under a limit that the shell sets.
fn under(limit: &str, program: &str, arguments: &[&str]) -> Output {
    let script = format!("ulimit {limit} && exec \"$@\"");
    Command::new("bash")
        .args(["-c", &script, "bash", program])
        .args(arguments)
        .output()
        .expect("there is a shell")
}

fn standard_error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Command lines that are refused by both programs, on any machine: there is no such kernel.
const REFUSED: [(&str, &[&str]); 2] = [
    (
        env!("CARGO_BIN_EXE_spapr-vmm"),
        &["run", "--kernel", "/no/such/kernel"],
    ),
    (
        env!("CARGO_BIN_EXE_spapr-vmm-qemu"),
        &["-machine", "no-such-machine"],
    ),
];

#[test]
fn a_user_who_may_have_no_more_threads_is_told_the_error_all_the_same() {
    if !runs_natively() {
        return;
    }
    for (program, arguments) in REFUSED {
        let mut command = Command::new(program);
        command.args(arguments);
        let mut kept_open = None;
        // SAFETY: geteuid touches no memory.
        if unsafe { libc::geteuid() } == 0 {
            // Root is not bound by the limit. The program is opened by root: nobody may search the
            // folders that it is in.
            let file = File::open(program).expect("it was built");
            // SAFETY: the descriptor is open; without the flag it stays open in the new process.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
            command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
            kept_open = Some(file);
            command.args(arguments).uid(65534).gid(65534);
        }
        let limit = libc::rlimit {
            rlim_cur: 1,
            rlim_max: 1,
        };
        let lower = move || {
            // SAFETY: setrlimit reads the struct it is given.
            match unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure makes one system call with a value made before; it neither allocates
        // nor takes locks.
        unsafe { command.pre_exec(lower) };
        let output = command.output().expect("the program starts");
        drop(kept_open);
        let text = standard_error(&output);
        assert!(text.contains("error: "), "{program}: {output:?}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn however_little_address_space_there_is_something_is_said() {
    if !runs_natively() {
        return;
    }
    for (program, arguments) in REFUSED {
        // From where the program can be loaded at all to where it has all it wants.
        let mut said = 0;
        for kibibytes in (4_000..40_000).step_by(500) {
            let output = under(&format!("-v {kibibytes}"), program, arguments);
            let text = standard_error(&output);
            if output.status.signal() == Some(libc::SIGSEGV) && said == 0 {
                // The kernel or the C library's loader, before there is a program.
                continue;
            }
            assert!(!text.is_empty(), "{kibibytes} KiB: {output:?}");
            assert!(!output.status.success(), "{kibibytes} KiB: {output:?}");
            // The loader names the program, too.
            let is_loaded = !text.contains("while loading");
            said += usize::from(is_loaded && text.contains("spapr-vmm"));
        }
        assert!(said > 20, "{program} was hardly ever loaded");
    }
}

#[test]
fn a_stack_that_is_too_small_is_an_error_with_sizes() {
    if !runs_natively() {
        return;
    }
    for (program, arguments) in REFUSED {
        let output = under("-s 64", program, arguments);
        let text = standard_error(&output);
        for part in ["error: ", "64 KiB (ulimit -s)", "needs 512 KiB"] {
            assert!(text.contains(part), "{part:?} in {output:?}");
        }
        // What is said to be needed is enough, and a limit that can be raised is.
        let enough = under("-s 512", program, arguments);
        for raised in [under("-Ss 64", program, arguments), enough] {
            let text = standard_error(&raised);
            assert!(text.contains("error: "), "{raised:?}");
            assert!(!text.contains("stack"), "{raised:?}");
        }
    }
}

#[test]
fn a_file_that_must_not_grow_does_not_kill_the_process() {
    if !runs_natively() {
        return;
    }
    for (program, arguments) in REFUSED {
        let script = "ulimit -f 0 && exec \"$@\" 2>/dev/shm/spapr-vmm-limits-test";
        let output = Command::new("bash")
            .args(["-c", script, "bash", program])
            .args(arguments)
            .output()
            .expect("there is a shell");
        assert!(output.status.code().is_some(), "{output:?}");
        assert!(!output.status.success(), "{output:?}");
    }
    let _gone = std::fs::remove_file("/dev/shm/spapr-vmm-limits-test");
}
