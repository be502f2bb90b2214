//! `cargo lab test`: all tests but those with libvirt, or what a filter names, and a count of them.

mod counting;
mod devices;
mod durations;
mod hosts;
mod left_out;
mod silence;
mod tally;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::cli::TestArgs;
use crate::command::{self, CommandError};
use crate::cross_build::{self, BuildError};
use crate::exec::Passed;
use crate::host::Output;
use crate::kernels::KernelArgs;
use crate::packages::{PackageError, PackageSet, Packages};
use crate::prepare;
use crate::progress::{report, say};
use crate::session::SessionError;
use crate::tools::{self, TARGET, ToolError};
use crate::workspace::{Workspace, WorkspaceError};
use tally::Tally;

/// Why the tests could not be run.
#[derive(Debug, Error)]
pub(crate) enum SuiteError {
    #[error(
        "tests with libvirt run on a host of their own: name them (libvirt::…) and others in two runs"
    )]
    MixedFilters,
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot run cargo")]
    Cargo(#[from] CommandError),
    #[error(transparent)]
    Session(#[from] Box<SessionError>),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Packages(#[from] Box<PackageError>),
}

/// One part of the suite, done.
#[derive(Clone)]
struct Part {
    title: String,
    tally: Tally,
    took: Duration,
    /// Its tests that took longest, where they ran one at a time.
    longest: Vec<(String, Duration)>,
}

/// Tests that are named for how long they took.
const LONGEST: usize = 10;

/// Runs the tests and returns 0 when there were some and none failed.
pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> Result<u8, SuiteError> {
    let only_in_hosts =
        !args.host.is_empty() || !args.filter.is_empty() || args.kernels != KernelArgs::default();
    let with_libvirt = args
        .filter
        .iter()
        .filter(|it| it.contains(hosts::LIBVIRT_TESTS))
        .count();
    if with_libvirt != 0 && with_libvirt != args.filter.len() {
        return Err(SuiteError::MixedFilters);
    }
    let mut parts = Vec::new();
    // What stands in the way of all is told before the first test.
    let locked = workspace.lock()?;
    prepare::everything(workspace).map_err(Box::new)?;
    prepare::tell_differences(workspace).map_err(Box::new)?;
    drop(locked);
    if !only_in_hosts {
        parts.push(part("this machine", || native(workspace))?);
        parts.push(part("Debian 12's libvirt, on this machine", || {
            old_libvirt(workspace)
        })?);
        parts.extend(engine(workspace)?);
        parts.push(part(&format!("{TARGET}, under qemu-user"), || {
            user_emulation(workspace)
        })?);
        parts.extend(while_building(workspace)?);
    }
    if hosts::are_all_long(args) {
        parts.push(part("LPARs with other DMA windows", || lpars(workspace))?);
        parts.push(part("the deb, installed in a host", || package(workspace))?);
    }
    parts.extend(hosts::run(workspace, args)?);
    Ok(summary(&parts))
}

/// Runs the two long tests of the engine at once: each keeps one processor busy.
fn engine(workspace: &Workspace) -> Result<Vec<Part>, SuiteError> {
    thread::scope(|scope| {
        let orders = scope.spawn(|| {
            part("the TCE engine beside the kernel, in many orders", || {
                interleavings(workspace)
            })
        });
        let model = part("the TCE engine and its model", || model(workspace))?;
        let orders = orders.join();
        let orders = orders.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(vec![model, orders])
    })
}

/// Runs the parts that wait more than they work, while the programs for the hosts are built.
fn while_building(workspace: &Workspace) -> Result<Vec<Part>, SuiteError> {
    thread::scope(|scope| {
        let build = scope.spawn(|| cross_build::vmm_and_front_end(workspace));
        let fetching = part("fetching packages, from a mirror on loopback", || {
            package_fetching(workspace)
        })?;
        let lab = part("the lab itself", || lab_program(workspace))?;
        // What cannot be built is told by the host that needs it, too.
        if let Ok(Err(error)) = build.join() {
            report(&error);
        }
        Ok(vec![fetching, lab])
    })
}

fn part(title: &str, run: impl FnOnce() -> Result<Tally, SuiteError>) -> Result<Part, SuiteError> {
    say(&format!("tests on {title}"));
    let started = Instant::now();
    let tally = run()?;
    Ok(Part {
        title: title.to_owned(),
        tally,
        took: started.elapsed(),
        longest: Vec::new(),
    })
}

fn native(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = native_tests(workspace);
    cargo.arg("--no-fail-fast");
    counted(cargo)
}

/// cargo, to run tests on this machine. All parts have it build the whole workspace's: with the same
/// features, what one built the next need not.
fn native_tests(workspace: &Workspace) -> Command {
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--workspace"]);
    cargo
}

/// The same, with the tests that run the lab's commands and those that have apt fetch.
fn lab_tests(workspace: &Workspace) -> Command {
    let mut cargo = native_tests(workspace);
    cargo.args(["--features", "spapr-lab/lab-program"]);
    cargo
}

/// Has Debian 12's libvirt probe this machine's build of the emulator.
fn old_libvirt(workspace: &Workspace) -> Result<Tally, SuiteError> {
    tools::for_namespaces()?;
    let locked = workspace.lock()?;
    let libvirt = Packages::provide(workspace, PackageSet::OldLibvirt).map_err(Box::new)?;
    drop(locked);
    let mut cargo = native_tests(workspace);
    cargo.args(["--test", "old_libvirt", "--", "--ignored"]);
    cargo.env("OLD_LIBVIRT", libvirt.root());
    counted(cargo)
}

/// Makes the engine and its model go through nearly a million random calls: sequences of 30 on
/// average, in each of three modes.
fn model(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = native_tests(workspace);
    cargo.args(["--lib", "any_sequence_of_calls"]);
    cargo.env("PROPTEST_CASES", "10000");
    counted(cargo)
}

/// Has the engine and a model of the kernel take turns in thousands of orders. Locks and atomics are
/// shuttle's then, so it is a build of its own.
fn interleavings(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--package", "spapr-hypercalls"]);
    cargo.args(["--target-dir", "target/shuttle"]);
    cargo.args(["--lib", "interleavings"]);
    cargo.env("RUSTFLAGS", "--cfg shuttle");
    counted(cargo)
}

fn user_emulation(workspace: &Workspace) -> Result<Tally, SuiteError> {
    tools::for_cross_builds()?;
    let emulator = tools::for_user_emulation()?;
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    cargo.args(["--target", TARGET]);
    // What measures in a host is for this target alone.
    cargo.args(["--features", "spapr-bench/measure"]);
    // The lab itself runs on this machine only; fuzz targets are tried natively.
    cargo.args(["--exclude", "spapr-lab", "--exclude", "spapr-fuzz"]);
    // The emulator's GLib may hold a lock of its slices in one thread while another one forks, and then
    // the child stands still before it has begun (QEMU issue 285). Without slices there is no such lock;
    // and no test forks while another one runs, whatever else the emulator locks.
    cargo.env("G_SLICE", "always-malloc");
    cargo.env("RUST_TEST_THREADS", "1");
    // What is special here is the architecture, which a few cases show as well as many.
    cargo.env("PROPTEST_CASES", "24");
    cargo.env(
        "CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER",
        emulator,
    );
    counted(cargo)
}

/// Runs the tests that fetch packages from mirrors of their own.
fn package_fetching(workspace: &Workspace) -> Result<Tally, SuiteError> {
    tools::for_packages()?;
    let mut cargo = lab_tests(workspace);
    cargo.args(["--bin", "lab", "packages::loopback_tests"]);
    counted(cargo)
}

/// Runs the tests that run the lab's commands, each of which boots a host.
fn lab_program(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = lab_tests(workspace);
    cargo.args(["--test", "lab_program", "--", "--test-threads=1"]);
    counted(cargo)
}

/// Runs guests in LPARs of other DMA windows than the suite's host has: each boots one.
fn lpars(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = lab_tests(workspace);
    cargo.args(["--test", "lab_program", "--", "--test-threads=1"]);
    cargo.args(["--ignored", "lpar::"]);
    counted(cargo)
}

/// Makes packages, and has a host install one.
fn package(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = lab_tests(workspace);
    cargo.args(["--test", "lab_program", "--", "--ignored", "package::"]);
    counted(cargo)
}

/// Runs cargo, passes its output on and counts what the test programs report.
fn counted(mut cargo: Command) -> Result<Tally, SuiteError> {
    let start = |cargo: &Command, source| CommandError::Start {
        program: command::shown(cargo),
        source,
    };
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| start(&cargo, source))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        let (says, heard) = mpsc::channel();
        let cargo = child.id();
        thread::scope(|scope| {
            scope.spawn(move || silence::ends_what_stands_still(cargo, &heard, silence::PATIENCE));
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let _ = says.send(());
                tally.count(&String::from_utf8_lossy(&line));
                Passed.stdout(&[&line[..], b"\n"].concat());
            }
            // Ends the watch.
            drop(says);
        });
    }
    let status = child.wait().map_err(|source| start(&cargo, source))?;
    Ok(tally.checked(status.success()))
}

fn summary(parts: &[Part]) -> u8 {
    let mut stdout = std::io::stdout().lock();
    let mut total = Tally::default();
    // The exit status says the result even where nobody reads the summary.
    let _ = writeln!(
        stdout,
        "\n{:<48} {:>8} {:>8} {:>9}",
        "tests on", "passed", "failed", "time"
    );
    let mut longest = Vec::new();
    for part in parts {
        let Part {
            title, tally, took, ..
        } = part;
        longest.extend(part.longest.iter().map(|(test, took)| (took, test, title)));
        let seconds = took.as_secs_f64();
        let (passed, failed) = (tally.passed, tally.failed);
        let _ = writeln!(
            stdout,
            "{title:<48} {passed:>8} {failed:>8} {seconds:>7.1} s"
        );
        total.passed += passed;
        total.failed += failed;
    }
    longest.sort_by(|one, other| other.cmp(one));
    for (took, test, title) in longest.into_iter().take(LONGEST) {
        let _ = writeln!(stdout, "{:>5.1} s  {test}, {title}", took.as_secs_f64());
    }
    if total.passed == 0 {
        say("no test passed: none was run, or none has such a name");
    }
    let _ = writeln!(stdout, "{} passed, {} failed", total.passed, total.failed);
    u8::from(total.failed > 0 || total.passed == 0)
}
