//! Tests in the emulated hosts, in two lanes: beside the main host with its many tests, the others run
//! theirs, one after the other; when the main host is done, its lane takes of the others. A host keeps one
//! processor of this machine busy most of the time.

use std::iter;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::counting::{Counting, IN_HOST, Results, Shown};
use super::durations::Durations;
use super::left_out::LEFT_OUT;
use super::tally::Tally;
use super::{LONGEST, Part, SuiteError, devices, part};
use crate::cli::{Copy, Extra, HostArgs, TestArgs};
use crate::command::quoted;
use crate::cross_build;
use crate::host::{HostError, HostKind};
use crate::kernels::{HostKernel, KernelArgs};
use crate::prepare;
use crate::progress::{report, say};
use crate::session::{Session, SessionError};
use crate::workspace::Workspace;

/// Where the bare-metal guests for the tests are in a host.
const GUESTS_IN_HOST: &str = "/usr/lib/spapr-lab/guests";
/// The module of tests that are the same on every kind of host, so that one runs them.
const MAIN_HOST_TESTS: &str = "main_host::";
/// The module of tests that need libvirt in the host.
pub(super) const LIBVIRT_TESTS: &str = "libvirt::";
/// The modules of tests that take too long for every change; other modules may have one of this name in them.
const LONG_TESTS: &str = "long::";
/// Those of libvirt's.
const LONG_LIBVIRT_TESTS: [&str; 2] = ["libvirt::long::", "libvirt::terminals::long::"];
/// The module of tests of guests with other kernels than the host's.
const KERNEL_TESTS: &str = "every_host::guest_kernels::";
/// Tests that in a run of everything are a second host's of the main kind, so that both lanes take as
/// long.
const SECOND_LANE_TESTS: [&str; 6] = [
    "main_host::compressed_kernels::",
    "main_host::dump::",
    "main_host::first_mappings_at_once::",
    "main_host::limit",
    "main_host::memory_limit::",
    "main_host::tce_sequences::",
];
/// Tests that in a run of everything are a third's, as it comes: the emulated NVMe counts queues whose interrupt is
/// pending (`cq_pending` in QEMU's hw/nvme/ctrl.c), does not forget them with a guest that ends while it reads, and
/// from then on keeps its line raised, for whoever uses its line.
const LINE_TESTS: &str = "main_host::interrupt_lines::";
/// A host whose guests get no interrupts of devices, so that few tests can pass in it (docs/lpar.md).
const WITHOUT_INTERRUPTS: HostKind = HostKind::Lpar10Pages64k;
/// The host that runs them, unless hosts are named.
pub(super) const MAIN_HOST: HostKind = HostKind::P9Pages64k;
/// The most time a host's tests may take in all, so that a change that slows them down fails.
const HOST_LIMIT: Duration = Duration::from_secs(2400);
/// The same for those that take long.
const LONG_LIMIT: Duration = Duration::from_secs(5400);

/// Runs the tests in all hosts asked for.
pub(super) fn run(workspace: &Workspace, args: &TestArgs) -> Result<Vec<Part>, SuiteError> {
    let (main, others) = wanted(args);
    let others = without_defects(others, args);
    for wanted in main.iter().chain(&others) {
        let kernel = wanted.kernels.of_guests(wanted.kind.page_size());
        kernel.map_err(|error| Box::new(SessionError::GuestKernel(error)))?;
    }
    let suite = InHosts {
        workspace,
        args,
        tests: cross_build::end_to_end_tests(workspace)?,
        guests: cross_build::test_guests(workspace)?,
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 || main.is_empty() || others.is_empty() {
        let all = main.into_iter().chain(others);
        return suite.lane(all, Shown::Now);
    }
    // What they share is built and made before they start, and the cache is theirs together.
    prepare::everything(workspace).map_err(Box::new)?;
    let _locked = workspace.lock()?;
    let others = Mutex::new(others.into_iter());
    let next = || others.lock().unwrap_or_else(PoisonError::into_inner).next();
    let rest = || suite.lane(iter::from_fn(next), Shown::WhenDone);
    let (main, others) = thread::scope(|scope| {
        let others = scope.spawn(rest);
        let main = suite
            .lane(main, Shown::Now)
            .and_then(|main| Ok([main, rest()?].concat()));
        (main, others.join())
    });
    let others = others.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok([main?, others?].concat())
}

/// A host and what it is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    kind: HostKind,
    kernels: KernelArgs,
    tests: Tests,
}

/// The main host's lane, and the others'.
type Lanes = (Vec<Wanted>, Vec<Wanted>);

/// Which tests a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tests {
    /// All, or what a filter names, but those for libvirt and those that take long.
    All,
    /// Those that are the same on every kind of host. Guests with other kernels than the host's are not
    /// among them unless a filter names them: one host runs those, the others with those that take long.
    OfEveryHost,
    /// All of those.
    WholeOfEveryHost,
    /// All but the second lane's and those of interrupt lines.
    FirstLane,
    /// The second lane's.
    SecondLane,
    /// Those of interrupt lines.
    Lines,
    /// Those for libvirt, which the host has.
    Libvirt,
    /// Those that take long.
    Long,
    /// Those of them that are the same on every kind of host.
    LongOfEveryHost,
    /// Those of this module, which take as long as all others.
    LongDevices(&'static str),
    /// Those for libvirt that take long.
    LongLibvirt,
}

/// Whether a filter names tests of a module.
fn names(filter: &[String], module: &str) -> bool {
    filter.iter().any(|filter| filter.contains(module))
}

/// Whether all tests that take long are asked for, on all hosts.
pub(super) fn are_all_long(args: &TestArgs) -> bool {
    args.host.is_empty() && whole(&args.filter)
}

/// Whether a filter names all tests that take long.
fn whole(filter: &[String]) -> bool {
    filter.iter().any(|filter| filter == LONG_TESTS)
}

/// The most time that a host's tests may take.
fn limit(filter: &[String]) -> Duration {
    if names(filter, LONG_TESTS) {
        LONG_LIMIT
    } else {
        HOST_LIMIT
    }
}

impl Tests {
    /// What the program of tests is told: which to skip, and which to run if not all others.
    fn arguments(self, filter: &[String]) -> String {
        let mut skipped = match self {
            Self::All => vec![LIBVIRT_TESTS, LONG_TESTS],
            Self::OfEveryHost | Self::WholeOfEveryHost => {
                vec![LIBVIRT_TESTS, LONG_TESTS, MAIN_HOST_TESTS]
            }
            Self::FirstLane => {
                let others = [LIBVIRT_TESTS, LONG_TESTS, LINE_TESTS];
                [&others[..], &SECOND_LANE_TESTS].concat()
            }
            Self::Libvirt if names(filter, LONG_TESTS) => Vec::new(),
            Self::SecondLane | Self::Lines | Self::Libvirt => vec![LONG_TESTS],
            Self::Long => vec![LIBVIRT_TESTS],
            Self::LongOfEveryHost => vec![LIBVIRT_TESTS, MAIN_HOST_TESTS],
            Self::LongDevices(_) | Self::LongLibvirt => Vec::new(),
        };
        if matches!(self, Self::Long | Self::LongOfEveryHost) && whole(filter) {
            skipped.extend(devices::LONGEST);
        }
        if self == Self::OfEveryHost && filter.is_empty() {
            skipped.push(KERNEL_TESTS);
        }
        let run: Vec<&str> = match self {
            Self::SecondLane => SECOND_LANE_TESTS.to_vec(),
            Self::Lines => vec![LINE_TESTS],
            Self::LongDevices(module) => vec![module],
            Self::LongLibvirt => LONG_LIBVIRT_TESTS.to_vec(),
            Self::Libvirt if filter.is_empty() => vec![LIBVIRT_TESTS],
            _ => filter.iter().map(String::as_str).collect(),
        };
        let skipped = skipped.iter().map(|skipped| format!("--skip {skipped}"));
        let run = run.into_iter().map(quoted);
        skipped.chain(run).collect::<Vec<_>>().join(" ")
    }
}

impl Wanted {
    fn new(kind: HostKind, kernels: KernelArgs, tests: Tests) -> Self {
        Self {
            kind,
            kernels,
            tests,
        }
    }

    /// [`Tests::arguments`] on this host.
    fn arguments(&self, filter: &[String]) -> String {
        let mut arguments = Vec::new();
        if self.tests == Tests::OfEveryHost && filter.is_empty() {
            let here = (self.kind, self.kernels.kernel);
            let left_out = LEFT_OUT
                .iter()
                .filter(|(kind, kernel, _)| (*kind, *kernel) == here);
            let skipped = left_out.flat_map(|(_, _, tests)| *tests);
            arguments.extend(skipped.map(|skipped| format!("--skip {skipped}")));
        }
        let absent = devices::absent(self.kind, self.takes_long());
        arguments.extend(absent.map(|module| format!("--skip {module}")));
        arguments.push(self.tests.arguments(filter));
        arguments.join(" ")
    }

    /// Whether it runs tests that take long, other than libvirt's.
    fn takes_long(&self) -> bool {
        matches!(
            self.tests,
            Tests::Long | Tests::LongOfEveryHost | Tests::LongDevices(_)
        )
    }

    /// The host's name, its kernel if it is not the usual one, and which tests.
    fn title(&self) -> String {
        let mut title = format!("emulated host {}", self.kind.name());
        if self.kernels != KernelArgs::default() {
            title.push_str(&format!(", {}", self.kernels.title()));
        }
        title.push_str(match self.tests {
            Tests::All | Tests::OfEveryHost | Tests::WholeOfEveryHost | Tests::FirstLane => "",
            Tests::SecondLane => ", second lane",
            Tests::Lines => ", interrupt lines",
            Tests::Libvirt => ", libvirt",
            Tests::Long | Tests::LongOfEveryHost => ", long ones",
            Tests::LongDevices(module) => return format!("{title}, {module}"),
            Tests::LongLibvirt => ", libvirt, long ones",
        });
        title
    }
}

/// The hosts of the two lanes: those asked for, or all. Tests for libvirt run when a filter names them,
/// on a host of their own that has it; so do those that take long, on hosts with each kernel.
fn wanted(args: &TestArgs) -> Lanes {
    let kernels = args.kernels;
    let with = Wanted::new;
    let everything = args.host.is_empty() && args.filter.is_empty();
    let kinds = match &args.host[..] {
        [] => HostKind::ALL
            .into_iter()
            .filter(|kind| *kind != WITHOUT_INTERRUPTS)
            .collect(),
        asked_for => asked_for.to_vec(),
    };
    let (main_kind, other_kinds): (Vec<_>, Vec<_>) =
        kinds.into_iter().partition(|kind| *kind == MAIN_HOST);
    if names(&args.filter, LIBVIRT_TESTS) {
        // What needs libvirt is the main host's unless others are named.
        let named = other_kinds.into_iter().filter(|_| !args.host.is_empty());
        let libvirt = main_kind.into_iter().chain(named);
        let libvirt = libvirt.map(|kind| with(kind, kernels, Tests::Libvirt));
        return (Vec::new(), libvirt.collect());
    }
    let newer = KernelArgs {
        kernel: HostKernel::Forky,
        ..kernels
    };
    if names(&args.filter, LONG_TESTS) {
        return long_ones(args, newer, [main_kind, other_kinds]);
    }
    // What is the same on every host was written on one of bare metal.
    let tests = |kind: HostKind| match (args.host.is_empty(), kind.is_lpar()) {
        (true, _) => Tests::OfEveryHost,
        (false, true) => Tests::WholeOfEveryHost,
        (false, false) => Tests::All,
    };
    let others = other_kinds.into_iter();
    let mut others: Vec<Wanted> = others
        .map(|kind| with(kind, kernels, tests(kind)))
        .collect();
    let mut main_tests = Tests::All;
    if everything {
        main_tests = Tests::FirstLane;
        // What takes longest comes first, so that both lanes end at about the same time.
        let mut longest = Vec::new();
        if args.with_libvirt {
            longest.push(with(MAIN_HOST, kernels, Tests::Libvirt));
        }
        longest.push(with(MAIN_HOST, kernels, Tests::SecondLane));
        longest.push(with(MAIN_HOST, kernels, Tests::Lines));
        // Among the longest others is the first kind.
        let first = others.len().min(1);
        if kernels == KernelArgs::default() {
            others.insert(first, with(MAIN_HOST, newer, Tests::OfEveryHost));
        }
        others.splice(..0, longest);
    }
    let main = main_kind.into_iter();
    let main = main.map(|kind| with(kind, kernels, main_tests));
    (main.collect(), others)
}

/// The hosts that run tests that take long, with the kernel that was named, or with the usual one and `newer`.
fn long_ones(args: &TestArgs, newer: KernelArgs, [main, others]: [Vec<HostKind>; 2]) -> Lanes {
    let each = match args.kernels.kernel {
        HostKernel::Trixie => vec![args.kernels, newer],
        _ => vec![args.kernels],
    };
    let long = |kinds: Vec<HostKind>, tests| -> Vec<Wanted> {
        let of_kind = |kind| each.iter().map(move |it| Wanted::new(kind, *it, tests));
        kinds.into_iter().flat_map(of_kind).collect()
    };
    let with_every_device = main.iter().chain(&others);
    let with_every_device = with_every_device
        .filter(|kind| devices::HOSTS_WITH_EVERY_ONE.contains(kind))
        .flat_map(|kind| devices::LONGEST.map(|module| (*kind, Tests::LongDevices(module))));
    // With one kernel, as libvirt is, which has all that a filter could name.
    let once: Vec<_> = with_every_device
        .chain(main.iter().map(|kind| (*kind, Tests::LongLibvirt)))
        .filter(|_| whole(&args.filter))
        .map(|(kind, tests)| Wanted::new(kind, each[0], tests))
        .collect();
    let mut main = long(main, Tests::Long);
    main.extend(once);
    (main, long(others, Tests::LongOfEveryHost))
}

/// The hosts without those that cannot do their work, which is told; who names a host gets it.
fn without_defects(mut hosts: Vec<Wanted>, args: &TestArgs) -> Vec<Wanted> {
    if args.host.is_empty() {
        hosts.retain(|wanted| {
            let defect = wanted.kind.defect_with(wanted.kernels.kernel);
            if let Some(defect) = defect {
                say(&format!("no tests on {}: {defect}", wanted.title()));
            }
            defect.is_none()
        });
    }
    hosts
}

struct InHosts<'a> {
    workspace: &'a Workspace,
    args: &'a TestArgs,
    tests: PathBuf,
    guests: Vec<PathBuf>,
}

impl InHosts<'_> {
    fn lane(
        &self,
        hosts: impl IntoIterator<Item = Wanted>,
        shown: Shown,
    ) -> Result<Vec<Part>, SuiteError> {
        hosts
            .into_iter()
            .map(|wanted| {
                let mut durations = Durations::new(Instant::now());
                let title = wanted.title();
                let mut part = part(&title, || self.in_host(wanted, shown, &mut durations))?;
                part.longest = durations.longest(LONGEST);
                Ok(part)
            })
            .collect()
    }

    fn host(&self, wanted: Wanted, shown: Shown) -> HostArgs {
        let mut host = HostArgs::plain(wanted.kind);
        // The main host's lane is the longer one, and has the guests with many processors.
        host.gives_way = matches!(shown, Shown::WhenDone);
        host.hugepages = true;
        host.kernels = wanted.kernels;
        host.lpar.clone_from(&self.args.lpar);
        host.device
            .extend(devices::of(wanted.kind, wanted.takes_long()));
        if wanted.takes_long() {
            // With which some of them compare.
            host.with.push(Extra::Qemu);
        }
        host.device.extend(&self.args.device);
        host.all_guest_kernels = true;
        if matches!(wanted.tests, Tests::Libvirt | Tests::LongLibvirt) {
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

    /// Runs the tests in a host, and what is left of them again in another boot of it if it stands still once.
    /// One that fails, or runs no test though nothing was filtered out, counts as a failed test; an interruption
    /// ends the whole suite.
    ///
    /// A kernel in trouble says so on its console, which fails the run; an emulated host that says nothing at all
    /// any more is one whose emulator lost an interrupt, as it now and then does while it boots.
    fn in_host(
        &self,
        wanted: Wanted,
        shown: Shown,
        durations: &mut Durations,
    ) -> Result<Tally, SuiteError> {
        let filter = &self.args.filter;
        let host = self.host(wanted, shown);
        let mut results = Results::default();
        loop {
            let session = Session {
                host: &host,
                script: Some(results.script(&wanted.arguments(filter))),
                environment: String::new(),
                timeout: Some(limit(filter)),
            };
            let mut counting = Counting::new(shown, &mut results, durations);
            let outcome = session.run(self.workspace, &mut counting, None);
            counting.show_kept();
            let clean = match outcome {
                Ok(ended) => ended.status == 0 && (!filter.is_empty() || results.passed() > 0),
                Err(error @ SessionError::Host(HostError::Interrupted)) => {
                    return Err(Box::new(error).into());
                }
                Err(error @ SessionError::Host(HostError::Stalled { .. }))
                    if results.may_go_on() =>
                {
                    report(&error);
                    let title = wanted.title();
                    say(&format!(
                        "{title} starts again with the tests that are left"
                    ));
                    continue;
                }
                Err(error) => {
                    report(&error);
                    false
                }
            };
            return Ok(results.tally().checked(clean));
        }
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
