//! The results of a host's tests, as they come: also of a host that stood still in their midst.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use super::durations::Durations;
use super::tally::Tally;
use crate::exec::Passed;
use crate::host::Output;

/// Where the tests are in a host.
pub(super) const IN_HOST: &str = "/usr/lib/spapr-lab/end_to_end";

/// How often a host may stand still before that is taken for a failure.
const MOST_RESTARTS: u32 = 1;

/// What is known of a host's tests.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Whether each test that has ended has passed.
    ended: BTreeMap<String, bool>,
    /// The test whose lines come now, when its result was not on the line with its name.
    running: Option<String>,
    /// How often the host stood still.
    restarts: u32,
}

impl Results {
    /// Takes a line of libtest's: `test NAME ... ok`, or FAILED.
    fn note(&mut self, line: &str) {
        let test = line.strip_prefix("test ");
        let (name, result) = match test.and_then(|test| test.split_once(" ... ")) {
            Some((name, result)) => (name.to_owned(), result),
            // A test that prints whole lines itself has its result on one of its own.
            None => match (line, self.running.take()) {
                ("ok" | "FAILED", Some(name)) => (name, line),
                (_, name) => {
                    self.running = name;
                    return;
                }
            },
        };
        // What a test prints itself stands before its result.
        let passed = match result.split_whitespace().next_back() {
            Some("ok") => true,
            Some("FAILED") => false,
            _ => {
                self.running = Some(name);
                return;
            }
        };
        self.running = None;
        self.ended.insert(name, passed);
    }

    /// How many passed.
    pub(super) fn passed(&self) -> u64 {
        self.tally().passed
    }

    /// How many passed and failed.
    pub(super) fn tally(&self) -> Tally {
        let passed = self.ended.values().filter(|passed| **passed).count() as u64;
        Tally {
            passed,
            failed: self.ended.len() as u64 - passed,
        }
    }

    /// Whether a host that stood still may start again; counts that it did.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.restarts += 1;
        self.restarts <= MOST_RESTARTS
    }

    /// What runs, in a host, the tests that `arguments` choose and that have not ended.
    pub(super) fn script(&self, arguments: &str) -> String {
        if self.ended.is_empty() {
            return format!("{IN_HOST} --test-threads=1 {arguments}");
        }
        let ended: Vec<&str> = self.ended.keys().map(String::as_str).collect();
        let ended = ended.join("\n");
        format!(
            "cat > /tmp/ended <<'END'\n{ended}\nEND\n\
             set -- $({IN_HOST} --list --format terse {arguments} | sed -n 's/: test$//p' | \
             grep -vxFf /tmp/ended)\n\
             [ $# -eq 0 ] || {IN_HOST} --test-threads=1 --exact \"$@\""
        )
    }
}

/// When a lane's output is shown.
#[derive(Clone, Copy)]
pub(super) enum Shown {
    /// As it comes.
    Now,
    /// When a host's tests are done, so that lines of two hosts do not mix.
    WhenDone,
}

/// Passes the tests' output on and counts.
pub(super) struct Counting<'a> {
    shown: Shown,
    results: &'a mut Results,
    durations: &'a mut Durations,
    line: Vec<u8>,
    kept: Vec<u8>,
}

impl<'a> Counting<'a> {
    pub(super) fn new(
        shown: Shown,
        results: &'a mut Results,
        durations: &'a mut Durations,
    ) -> Self {
        Self {
            shown,
            results,
            durations,
            line: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Shows what waited for the host's end.
    pub(super) fn show_kept(&mut self) {
        let mut stdout = std::io::stdout().lock();
        // The exit status says the result even where nobody reads the output.
        let _ = stdout.write_all(&self.kept);
        let _ = stdout.flush();
        self.kept.clear();
    }
}

impl Output for Counting<'_> {
    fn stdout(&mut self, bytes: &[u8]) {
        match self.shown {
            Shown::Now => Passed.stdout(bytes),
            Shown::WhenDone => self.kept.extend_from_slice(bytes),
        }
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line);
                self.results.note(&line);
                self.durations.note(&line, Instant::now());
                self.line.clear();
            } else if self.line.len() < 4096 {
                self.line.push(*byte);
            }
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        match self.shown {
            Shown::Now => Passed.stderr(bytes),
            Shown::WhenDone => self.kept.extend_from_slice(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn results(lines: &[&str]) -> Results {
        let mut results = Results::default();
        for line in lines {
            results.note(line);
        }
        results
    }

    #[test]
    fn tests_count_by_their_own_lines() {
        let results = results(&[
            "running 4 tests",
            "test one ... ok",
            "test two ... FAILED",
            "test three ... said before its result ok",
            "test four ... ",
            "test result: ok. 9 passed; 9 failed",
        ]);
        let expected = Tally {
            passed: 2,
            failed: 1,
        };
        assert_eq!(results.tally(), expected);
    }

    #[test]
    fn a_test_that_prints_lines_counts_by_its_result_on_a_line_of_its_own() {
        let results = results(&[
            "test one ... seed 278438058",
            "seed 358775109",
            "ok",
            "ok",
            "test two ... seed 1",
            "FAILED",
            "test three ... seed 2",
            "test four ... ok",
            "ok",
        ]);
        let expected = Tally {
            passed: 2,
            failed: 1,
        };
        assert_eq!(results.tally(), expected);
    }

    #[test]
    fn a_host_that_stands_still_starts_again_once() {
        let mut results = Results::default();
        assert!(results.may_go_on());
        assert!(!results.may_go_on());
    }

    /// The script's tests are a program that lists five and prints what it is to run.
    #[test]
    fn what_has_ended_does_not_run_again_and_what_only_begins_alike_does() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("end_to_end");
        fs::write(
            &program,
            "#!/bin/sh\ncase $* in\n*--list*) printf 'a::one: test\\na::one_more: test\\na::two: test\\n\
             b::x: benchmark\\n' ;;\n*) echo \"$@\" ;;\nesac\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let run = |results: &Results| {
            let script = results.script("--skip long::");
            let script = script.replace(IN_HOST, &program.display().to_string());
            let script =
                script.replace("/tmp/ended", &format!("{}/ended", folder.path().display()));
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            assert!(output.status.success(), "{script}");
            String::from_utf8(output.stdout).unwrap()
        };
        let none = run(&Results::default());
        assert_eq!(none, "--test-threads=1 --skip long::\n");
        let one = run(&results(&["test a::one ... ok"]));
        assert_eq!(one, "--test-threads=1 --exact a::one_more a::two\n");
        let all = ["a::one", "a::one_more", "a::two"].map(|name| format!("test {name} ... ok"));
        assert_eq!(run(&results(&all.each_ref().map(String::as_str))), "");
    }
}
