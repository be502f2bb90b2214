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
/// Those of them that take longest: in a run of everything they are a second host's of that kind, so
/// that both lanes take as long.
const LONG_TESTS: [&str; 2] = ["main_host::kexec::", "main_host::tce_sequences::"];
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
    let (main, others) = wanted(&args.host, args.filter.as_deref());
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
    tests: Tests,
}

/// Which tests a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tests {
    /// All, or what a filter names, but those for libvirt.
    All,
    /// Those that are the same on every kind of host.
    OfEveryHost,
    /// All but the long ones and those for libvirt.
    AllButLong,
    /// The long ones.
    Long,
    /// Those for libvirt, which the host has.
    Libvirt,
}

impl Tests {
    /// What the program of tests is told: which to skip, and which to run if not all others.
    fn arguments(self, filter: Option<&str>) -> String {
        let skipped: &[&str] = match self {
            Self::All => &[LIBVIRT_TESTS],
            Self::OfEveryHost => &[LIBVIRT_TESTS, MAIN_HOST_TESTS],
            Self::AllButLong => &[LIBVIRT_TESTS, LONG_TESTS[0], LONG_TESTS[1]],
            Self::Long | Self::Libvirt => &[],
        };
        let run: Vec<&str> = match self {
            Self::Long => LONG_TESTS.to_vec(),
            Self::Libvirt => vec![filter.unwrap_or(LIBVIRT_TESTS)],
            _ => filter.into_iter().collect(),
        };
        let skipped = skipped.iter().map(|skipped| format!("--skip {skipped}"));
        let run = run.into_iter().map(quoted);
        skipped.chain(run).collect::<Vec<_>>().join(" ")
    }

    /// What is said of them beside the host's name.
    fn title(self) -> &'static str {
        match self {
            Self::All | Self::OfEveryHost | Self::AllButLong => "",
            Self::Long => ", long ones",
            Self::Libvirt => ", libvirt",
        }
    }
}

/// The hosts of the two lanes: those asked for, or all. Tests for libvirt run when a filter names them,
/// on a host of their own that has it.
fn wanted(asked_for: &[HostKind], filter: Option<&str>) -> (Vec<Wanted>, Vec<Wanted>) {
    let main = |tests| Wanted {
        kind: MAIN_HOST,
        tests,
    };
    let has_main = asked_for.is_empty() || asked_for.contains(&MAIN_HOST);
    if filter.is_some_and(|filter| filter.contains(LIBVIRT_TESTS)) {
        let libvirt = has_main.then(|| main(Tests::Libvirt));
        return (Vec::new(), libvirt.into_iter().collect());
    }
    let (kinds, tests) = match asked_for {
        [] => (HostKind::ALL.to_vec(), Tests::OfEveryHost),
        asked_for => (asked_for.to_vec(), Tests::All),
    };
    let others = kinds.into_iter().filter(|kind| *kind != MAIN_HOST);
    let others = others.map(|kind| Wanted { kind, tests });
    match (asked_for, filter) {
        ([], None) => {
            let long = main(Tests::Long);
            (
                vec![main(Tests::AllButLong)],
                others.chain([long]).collect(),
            )
        }
        _ => {
            let main = has_main.then(|| main(Tests::All));
            (main.into_iter().collect(), others.collect())
        }
    }
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
                let (host, tests) = (wanted.kind.name(), wanted.tests.title());
                let title = format!("emulated host {host}{tests}");
                part(&title, || self.in_host(wanted, shown))
            })
            .collect()
    }

    fn host(&self, wanted: Wanted, shown: Shown) -> HostArgs {
        let mut host = HostArgs::plain(wanted.kind);
        // The main host's lane is the longer one, and has the guests with many processors.
        host.gives_way = matches!(shown, Shown::WhenDone);
        host.hugepages = true;
        if wanted.tests == Tests::Libvirt {
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
        let filter = self.args.filter.as_deref();
        let arguments = wanted.tests.arguments(filter);
        let session = Session {
            host: &self.host(wanted, shown),
            script: Some(format!("{IN_HOST} --test-threads=1 {arguments}")),
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
    fn long_tests_are_a_second_hosts_and_those_with_libvirt_run_when_they_are_named() {
        let names = |hosts: Vec<Wanted>| -> Vec<(&str, Tests)> {
            let name = |wanted: Wanted| (wanted.kind.name(), wanted.tests);
            hosts.into_iter().map(name).collect()
        };
        let (main, others) = wanted(&[], None);
        assert_eq!(names(main), [("p9-64k", Tests::AllButLong)]);
        let every = Tests::OfEveryHost;
        let expected = [
            ("p9-4k", every),
            ("p10-64k", every),
            ("p9-64k", Tests::Long),
        ];
        assert_eq!(names(others), expected);
        let (main, others) = wanted(&[MAIN_HOST], Some("dma"));
        assert_eq!(
            (names(main), others),
            (vec![("p9-64k", Tests::All)], vec![])
        );
        let (main, others) = wanted(&[], Some("kexec"));
        assert_eq!(names(main), [("p9-64k", Tests::All)]);
        assert_eq!(others.len(), 2);
        let (main, others) = wanted(&[], Some("libvirt::domain"));
        assert_eq!(
            (main, names(others)),
            (vec![], vec![("p9-64k", Tests::Libvirt)])
        );
    }

    #[test]
    fn the_program_of_tests_is_told_what_to_skip_and_what_to_run() {
        let skip_long =
            "--skip libvirt:: --skip main_host::kexec:: --skip main_host::tce_sequences::";
        assert_eq!(Tests::AllButLong.arguments(None), skip_long);
        let long = "'main_host::kexec::' 'main_host::tce_sequences::'";
        assert_eq!(Tests::Long.arguments(None), long);
        let every = "--skip libvirt:: --skip main_host:: 'dma'";
        assert_eq!(Tests::OfEveryHost.arguments(Some("dma")), every);
        assert_eq!(
            Tests::Libvirt.arguments(Some("libvirt::probe")),
            "'libvirt::probe'"
        );
    }

    #[test]
    fn a_filter_is_one_word_to_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
