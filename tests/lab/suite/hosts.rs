//! Tests in the emulated hosts, in two lanes: beside the main host with its many tests, the others run
//! theirs, one after the other. A host keeps one processor of this machine busy most of the time.

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::tally::Tally;
use super::{Part, SuiteError, part};
use crate::cli::{Copy, Extra, HostArgs, TestArgs};
use crate::cross_build;
use crate::exec::Passed;
use crate::host::{HostError, HostKind, Output};
use crate::prepare;
use crate::progress::report;
use crate::session::{Session, SessionError};
use crate::workspace::Workspace;

/// Where the tests are in a host.
const IN_HOST: &str = "/usr/lib/spapr-lab/end_to_end";
/// Where the bare-metal guests for the tests are in a host.
const GUESTS_IN_HOST: &str = "/usr/lib/spapr-lab/guests";
/// The module of tests that are the same on every kind of host, so that one runs them.
const MAIN_HOST_TESTS: &str = "main_host::";
/// The module of tests that need libvirt in the host.
const LIBVIRT_TESTS: &str = "libvirt::";
/// The host that runs them, unless hosts are named.
const MAIN_HOST: HostKind = HostKind::P9Pages64k;
/// The most time a host's tests may take in all, so that a change that slows them down fails.
const HOST_LIMIT: Duration = Duration::from_secs(1200);

/// Runs the tests in all hosts asked for.
pub(super) fn run(workspace: &Workspace, args: &TestArgs) -> Result<Vec<Part>, SuiteError> {
    let suite = InHosts {
        workspace,
        args,
        tests: cross_build::end_to_end_tests(workspace)?,
        guests: cross_build::test_guests(workspace)?,
    };
    let asked_for = if args.host.is_empty() {
        HostKind::ALL.to_vec()
    } else {
        args.host.clone()
    };
    let (main, others) = wanted(asked_for, args.filter.as_deref());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 || main.is_empty() || others.is_empty() {
        let all = main.into_iter().chain(others);
        return suite.lane(all.collect(), Shown::Now);
    }
    // What they share is built and made before they start, and the cache is theirs together.
    prepare::all_hosts(workspace).map_err(Box::new)?;
    let _locked = workspace.lock()?;
    let (main, others) = thread::scope(|scope| {
        let others = scope.spawn(|| suite.lane(others, Shown::WhenDone));
        let main = suite.lane(main, Shown::Now);
        (main, others.join())
    });
    let others = others.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok([main?, others?].concat())
}

/// A host and what it is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    kind: HostKind,
    /// Whether it has libvirt and runs the tests for it, and no others.
    libvirt: bool,
}

/// The hosts of the two lanes. Tests for libvirt run when a filter names them, on a host of their own
/// that has it.
fn wanted(asked_for: Vec<HostKind>, filter: Option<&str>) -> (Vec<Wanted>, Vec<Wanted>) {
    let has_main = asked_for.contains(&MAIN_HOST);
    let is_for_libvirt = filter.is_some_and(|filter| filter.contains(LIBVIRT_TESTS));
    let plain = |kind| Wanted {
        kind,
        libvirt: false,
    };
    let (main, mut others): (Vec<_>, Vec<_>) = asked_for
        .into_iter()
        .filter(|_| !is_for_libvirt)
        .map(plain)
        .partition(|wanted| wanted.kind == MAIN_HOST);
    if has_main && is_for_libvirt {
        others.push(Wanted {
            kind: MAIN_HOST,
            libvirt: true,
        });
    }
    (main, others)
}

/// When a lane's output is shown.
#[derive(Clone, Copy)]
enum Shown {
    /// As it comes.
    Now,
    /// When a host's tests are done, so that lines of two hosts do not mix.
    WhenDone,
}

struct InHosts<'a> {
    workspace: &'a Workspace,
    args: &'a TestArgs,
    tests: PathBuf,
    guests: Vec<PathBuf>,
}

impl InHosts<'_> {
    fn lane(&self, hosts: Vec<Wanted>, shown: Shown) -> Result<Vec<Part>, SuiteError> {
        hosts
            .into_iter()
            .map(|wanted| {
                let libvirt = if wanted.libvirt { ", libvirt" } else { "" };
                let title = format!("emulated host {}{libvirt}", wanted.kind.name());
                part(&title, || self.in_host(wanted, shown))
            })
            .collect()
    }

    fn host(&self, wanted: Wanted, shown: Shown) -> HostArgs {
        let mut host = HostArgs::plain(wanted.kind);
        // The main host's lane is the longer one, and has the guests with many processors.
        host.gives_way = matches!(shown, Shown::WhenDone);
        host.hugepages = true;
        if wanted.libvirt {
            host.with.push(Extra::Libvirt);
        }
        host.copy.push(Copy {
            source: self.tests.clone(),
            destination: IN_HOST.to_owned(),
        });
        for guest in &self.guests {
            let name = guest.file_name().unwrap_or_default().to_string_lossy();
            host.copy.push(Copy {
                source: guest.clone(),
                destination: format!("{GUESTS_IN_HOST}/{name}"),
            });
        }
        host
    }

    /// Runs the tests in a host. One that fails, or runs no test though nothing was filtered out,
    /// counts as a failed test; an interruption ends the whole suite.
    fn in_host(&self, wanted: Wanted, shown: Shown) -> Result<Tally, SuiteError> {
        let all = wanted.libvirt.then_some(LIBVIRT_TESTS);
        let filter = self.args.filter.as_deref().or(all);
        let words = filter.map(quoted).unwrap_or_default();
        let skip = if wanted.libvirt {
            String::new()
        } else if self.args.host.is_empty() && wanted.kind != MAIN_HOST {
            format!("--skip {LIBVIRT_TESTS} --skip {MAIN_HOST_TESTS}")
        } else {
            format!("--skip {LIBVIRT_TESTS}")
        };
        let session = Session {
            host: &self.host(wanted, shown),
            script: Some(format!("{IN_HOST} --test-threads=1 {skip} {words}")),
            environment: String::new(),
            timeout: Some(HOST_LIMIT),
        };
        let mut counting = Counting {
            shown,
            tally: Tally::default(),
            line: Vec::new(),
            kept: Vec::new(),
        };
        let outcome = session.run(self.workspace, &mut counting, None);
        counting.show_kept();
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
}

/// The word as the shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Passes the tests' output on and counts.
struct Counting {
    shown: Shown,
    tally: Tally,
    line: Vec<u8>,
    kept: Vec<u8>,
}

impl Counting {
    fn show_kept(&mut self) {
        let mut stdout = std::io::stdout().lock();
        // The exit status says the result even where nobody reads the output.
        let _ = stdout.write_all(&self.kept);
        let _ = stdout.flush();
        self.kept.clear();
    }
}

impl Output for Counting {
    fn stdout(&mut self, bytes: &[u8]) {
        match self.shown {
            Shown::Now => Passed.stdout(bytes),
            Shown::WhenDone => self.kept.extend_from_slice(bytes),
        }
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
        match self.shown {
            Shown::Now => Passed.stderr(bytes),
            Shown::WhenDone => self.kept.extend_from_slice(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_for_libvirt_run_on_a_host_of_their_own_when_they_are_named() {
        let names = |hosts: Vec<Wanted>| -> Vec<(&str, bool)> {
            let name = |wanted: Wanted| (wanted.kind.name(), wanted.libvirt);
            hosts.into_iter().map(name).collect()
        };
        let (main, others) = wanted(HostKind::ALL.to_vec(), None);
        assert_eq!(names(main), [("p9-64k", false)]);
        assert_eq!(names(others), [("p9-4k", false), ("p10-64k", false)]);
        let (main, others) = wanted(vec![MAIN_HOST], Some("dma"));
        assert_eq!((main.len(), others.len()), (1, 0));
        let (main, others) = wanted(vec![MAIN_HOST], Some("libvirt::domain"));
        assert_eq!((main.len(), names(others)), (0, vec![("p9-64k", true)]));
    }

    #[test]
    fn a_filter_is_one_word_to_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
