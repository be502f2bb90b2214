//! `cargo lab test`: every test there is, and a count of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::cli::{Copy, HostArgs, TestArgs};
use crate::command::{self, CommandError};
use crate::cross_build::{self, BuildError};
use crate::exec::Passed;
use crate::host::{HostError, HostKind, Output};
use crate::progress::{report, say};
use crate::session::{Session, SessionError};
use crate::tools::{self, TARGET, ToolError};
use crate::workspace::Workspace;

/// Where the tests are in a host.
const IN_HOST: &str = "/usr/lib/spapr-lab/end_to_end";
/// Where the bare-metal guests for the tests are in a host.
const GUESTS_IN_HOST: &str = "/usr/lib/spapr-lab/guests";
/// The module of tests that are the same on every kind of host, so that one runs them.
const MAIN_HOST_TESTS: &str = "main_host::";
/// The host that runs them, unless hosts are named.
const MAIN_HOST: HostKind = HostKind::P9Pages64k;
/// The most time a host's tests may take in all, so that a change that slows them down fails.
const HOST_LIMIT: Duration = Duration::from_secs(900);

/// Why the tests could not be run.
#[derive(Debug, Error)]
pub(crate) enum SuiteError {
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot run cargo")]
    Cargo(#[from] CommandError),
    #[error(transparent)]
    Session(#[from] Box<SessionError>),
}

/// The counts of one part.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// One part of the suite, done.
struct Part {
    title: String,
    tally: Tally,
    took: Duration,
}

/// Runs the tests and returns 0 when there were some and none failed.
pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> Result<u8, SuiteError> {
    let only_in_hosts = !args.host.is_empty() || args.filter.is_some();
    let hosts = if args.host.is_empty() {
        HostKind::ALL.to_vec()
    } else {
        args.host.clone()
    };
    let mut parts = Vec::new();
    if !only_in_hosts {
        parts.push(part("this machine", || native(workspace))?);
        parts.push(part("the TCE engine and its model", || model(workspace))?);
        parts.push(part(&format!("{TARGET}, under qemu-user"), || {
            user_emulation(workspace)
        })?);
    }
    if !only_in_hosts {
        parts.push(part("the lab itself", || lab_program(workspace))?);
    }
    let tests = cross_build::end_to_end_tests(workspace)?;
    let guests = cross_build::test_guests(workspace)?;
    for kind in hosts {
        let mut host = HostArgs::plain(kind);
        host.hugepages = true;
        host.copy.push(Copy {
            source: tests.clone(),
            destination: IN_HOST.to_owned(),
        });
        for guest in &guests {
            let name = guest.file_name().unwrap_or_default().to_string_lossy();
            host.copy.push(Copy {
                source: guest.clone(),
                destination: format!("{GUESTS_IN_HOST}/{name}"),
            });
        }
        let all = !args.host.is_empty() || kind == MAIN_HOST;
        let skipped = if all { None } else { Some(MAIN_HOST_TESTS) };
        let title = format!("emulated host {}", kind.name());
        parts.push(part(&title, || {
            in_host(workspace, &host, args.filter.as_deref(), skipped)
        })?);
    }
    Ok(summary(&parts))
}

fn part(title: &str, run: impl FnOnce() -> Result<Tally, SuiteError>) -> Result<Part, SuiteError> {
    say(&format!("tests on {title}"));
    let started = Instant::now();
    let tally = run()?;
    Ok(Part {
        title: title.to_owned(),
        tally,
        took: started.elapsed(),
    })
}

fn native(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    counted(cargo)
}

/// Makes the engine and its model go through some two million random calls: sequences of 30 on
/// average, in each of two modes.
fn model(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--package", "spapr-hypercalls"]);
    cargo.args(["--lib", "any_sequence_of_calls"]);
    cargo.env("PROPTEST_CASES", "35000");
    counted(cargo)
}

fn user_emulation(workspace: &Workspace) -> Result<Tally, SuiteError> {
    tools::for_cross_builds()?;
    let emulator = tools::for_user_emulation()?;
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    cargo.args(["--target", TARGET]);
    // The lab itself runs on this machine only.
    cargo.args(["--exclude", "spapr-lab"]);
    // What is special here is the architecture, which a few cases show as well as many.
    cargo.env("PROPTEST_CASES", "64");
    cargo.env(
        "CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER",
        emulator,
    );
    counted(cargo)
}

/// Runs the tests that run the lab's commands, each of which boots a host.
fn lab_program(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut cargo = cross_build::cargo(workspace);
    cargo.args(["test", "--locked", "--package", "spapr-lab"]);
    cargo.args(["--features", "lab-program", "--test", "lab_program"]);
    cargo.args(["--", "--test-threads=1"]);
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
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            tally.count(&String::from_utf8_lossy(&line));
            Passed.stdout(&[&line[..], b"\n"].concat());
        }
    }
    let status = child.wait().map_err(|source| start(&cargo, source))?;
    Ok(tally.checked(status.success()))
}

/// Runs the in-host tests. A host that fails, or runs no test though nothing was filtered out,
/// counts as a failed test; an interruption ends the whole suite.
fn in_host(
    workspace: &Workspace,
    host: &HostArgs,
    filter: Option<&str>,
    skipped: Option<&str>,
) -> Result<Tally, SuiteError> {
    let words = filter.map(quoted).unwrap_or_default();
    let skip = skipped
        .map(|skipped| format!("--skip {skipped}"))
        .unwrap_or_default();
    let session = Session {
        host,
        script: Some(format!("{IN_HOST} --test-threads=1 {skip} {words}")),
        environment: String::new(),
        timeout: Some(HOST_LIMIT),
    };
    let mut counting = Counting::default();
    let outcome = session.run(workspace, &mut counting, None);
    let clean = match outcome {
        Ok(ended) => ended.status == 0 && (filter.is_some() || counting.tally.passed > 0),
        Err(error @ SessionError::Host(HostError::Interrupted)) => {
            return Err(Box::new(error).into());
        }
        Err(error) => {
            report(&error);
            false
        }
    };
    Ok(counting.tally.checked(clean))
}

/// The word as the shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Tally {
    /// Takes libtest's last line: `test result: ok. 3 passed; 0 failed; …`.
    fn count(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |word: &str| {
            let before = result.split_once(word)?.0;
            before.split_whitespace().next_back()?.parse::<u64>().ok()
        };
        self.passed += number(" passed").unwrap_or(0);
        self.failed += number(" failed").unwrap_or(0);
    }

    /// A run that went wrong without a failed test, say because it did not build, is a failure.
    fn checked(mut self, clean: bool) -> Self {
        if !clean && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

/// Passes the tests' output on and counts.
#[derive(Default)]
struct Counting {
    tally: Tally,
    line: Vec<u8>,
}

impl Output for Counting {
    fn stdout(&mut self, bytes: &[u8]) {
        Passed.stdout(bytes);
        for byte in bytes {
            if *byte == b'\n' {
                self.tally.count(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            } else if self.line.len() < 4096 {
                self.line.push(*byte);
            }
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        Passed.stderr(bytes);
    }
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
    for Part { title, tally, took } in parts {
        let seconds = took.as_secs_f64();
        let (passed, failed) = (tally.passed, tally.failed);
        let _ = writeln!(
            stdout,
            "{title:<48} {passed:>8} {failed:>8} {seconds:>7.1} s"
        );
        total.passed += passed;
        total.failed += failed;
    }
    if total.passed == 0 {
        say("no test passed: none was run, or none has such a name");
    }
    let _ = writeln!(stdout, "{} passed, {} failed", total.passed, total.failed);
    u8::from(total.failed > 0 || total.passed == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_programs_add_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out",
        ] {
            tally.count(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2
            }
        );
    }

    #[test]
    fn a_run_that_does_not_build_is_a_failure() {
        assert_eq!(
            Tally::default().checked(false),
            Tally {
                passed: 0,
                failed: 1
            }
        );
        assert_eq!(
            Tally {
                passed: 2,
                failed: 3
            }
            .checked(false)
            .failed,
            3
        );
    }

    #[test]
    fn a_filter_is_one_word_to_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
