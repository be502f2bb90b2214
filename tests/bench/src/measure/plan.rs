//! What is measured, in which order.

use std::fs;
use std::path::Path;
use std::process::Command;

use spapr_devices::error_chain::chain;
use spapr_lab::benchmark::results::{Facts, Measured, Omission, Peer, Results};
use spapr_lab::benchmark::row::{Row, Unit};

use super::command_line::RunArguments;
use super::growth;
use super::guest_runs::{self, Run};
use super::jobs;
use super::linux_runs::{Found, Interrupts, Linux, LinuxRun, Mitigations};
use super::longest_absence::LongestAbsence;
use super::memory::Memory;
use super::merge::{merged, of_medians};
use super::peers::{Controller, GUEST_BYTES, Guest, Windows};
use super::{AnyError, logins, step, tell, virtio};

/// The floors below the hypercalls of a guest with a device.
const FLOORS: [Peer; 4] = [
    Peer::FloorExit,
    Peer::FloorMap,
    Peer::FloorMapV1,
    Peer::FloorKernel,
];
/// How long `--tce auto` is given to settle before each row, in milliseconds: it weighs what is best
/// after 1, 3, 7, 15, 31, 63, … of them, and a moment later that is no longer felt.
const SETTLE: &str = "settle=50";
/// The Linux guests, each with and without its kernel's defences. All have XIVE where the host can, but
/// those that say XICS.
const LINUX_RUNS: [LinuxRun; 19] = [
    linux_run(Peer::Auto),
    linux_run(Peer::Kernel),
    linux_run(Peer::User),
    linux_run(Peer::UserV1),
    linux_run(Peer::QemuKernel),
    linux_run(Peer::QemuSafe),
    linux_run(Peer::QemuUser),
    linux_run(Peer::QemuNext),
    LinuxRun {
        controller: Controller::Xics,
        prefix: "xics-",
        ..linux_run(Peer::Auto)
    },
    LinuxRun {
        controller: Controller::Xics,
        prefix: "xics-",
        ..linux_run(Peer::QemuKernel)
    },
    LinuxRun {
        controller: Controller::Xics,
        prefix: "xics-",
        ..linux_run(Peer::QemuSafe)
    },
    LinuxRun {
        windows: Windows::On,
        prefix: "windows-on-",
        ..linux_run(Peer::Auto)
    },
    LinuxRun {
        windows: Windows::On,
        prefix: "windows-on-",
        ..linux_run(Peer::QemuKernel)
    },
    LinuxRun {
        windows: Windows::On,
        prefix: "windows-on-",
        ..linux_run(Peer::QemuNext)
    },
    LinuxRun {
        windows: Windows::AtMost(512 << 20),
        prefix: "windows-512m-",
        ..linux_run(Peer::Auto)
    },
    by_line(Peer::Auto, Controller::Default),
    by_line(Peer::QemuKernel, Controller::Default),
    by_line(Peer::Auto, Controller::Xics),
    by_line(Peer::QemuKernel, Controller::Xics),
];

/// A guest whose device interrupts by its line, and whose reads make no hypercalls about DMA.
const fn by_line(peer: Peer, controller: Controller) -> LinuxRun {
    LinuxRun {
        windows: Windows::On,
        controller,
        interrupts: Interrupts::Lines,
        prefix: match controller {
            Controller::Default => "line-windows-on-",
            Controller::Xics => "line-xics-windows-on-",
        },
        ..linux_run(peer)
    }
}

pub(super) const fn linux_run(peer: Peer) -> LinuxRun {
    LinuxRun {
        peer,
        windows: Windows::Off,
        controller: Controller::Default,
        interrupts: Interrupts::Messages,
        mitigations: Mitigations::Default,
        has_vhost: false,
        prefix: "",
    }
}

/// How often a guest is started to see how long that takes. QEMU's take some twenty seconds each where
/// instructions are counted.
const STARTS: usize = 9;
const QEMU_STARTS: usize = 3;
const LINUX_STARTS: usize = 3;
const QEMU_LINUX_STARTS: usize = 2;
/// How often a Linux guest that reads is booted where instructions are counted.
const LINUX_READERS: usize = 5;
/// How often a guest of spapr-vmm is started to see what its first mappings cost: there is one of each
/// in its life, and they lock memory. QEMU has locked its guest's by then, so its are like any other.
const FIRST_MAPPINGS: usize = 9;
/// The same for the longest call while all memory is mapped for the first time.
const STALLS: usize = 3;

/// All that is found, as it grows.
pub(super) struct Session<'a> {
    pub(super) arguments: &'a RunArguments,
    results: Results,
}

/// Measures all, and writes the results.
///
/// # Errors
/// When they cannot be written; what cannot be measured is in them.
pub(crate) fn run(arguments: &RunArguments) -> Result<(), AnyError> {
    let mut session = Session {
        arguments,
        results: Results {
            facts: facts(arguments),
            ..Results::default()
        },
    };
    if arguments.counts_instructions
        && let Err(error) = stop_halt_polling()
    {
        tell(&format!("KVM's halt polling stays as it is: {error}"));
    }
    session.starts();
    session.hypercalls();
    if arguments.vfio.is_some() {
        session.first_mappings();
        session.fresh_guests();
    }
    growth::measure(&mut session);
    if arguments.vfio.is_some() {
        session.linux();
    }
    virtio::measure(&mut session);
    logins::measure(&mut session);
    step("end");
    let text = serde_json::to_string(&session.results)?;
    fs::write(&arguments.output, text)?;
    Ok(())
}

impl Session<'_> {
    /// The time to the guest's first instruction, and what a VMM has in memory then.
    fn starts(&mut self) {
        for peer in Peer::STARTERS {
            let title = format!("start: {}", peer.name());
            self.measure(&title, |session| {
                let guest = Guest {
                    windows: Windows::On,
                    ..Guest::bare_metal(session.arguments, "parts=exit samples=8")
                };
                let (mut times, mut resident) = (Vec::new(), Vec::new());
                let starts = if peer.is_ours() { STARTS } else { QEMU_STARTS };
                for _ in 0..starts {
                    let Some(run) = guest_runs::run(peer, session.arguments, &guest)? else {
                        return Ok(());
                    };
                    times.extend(run.first_instruction.map(|time| time.as_nanos()));
                    resident.push(run.memory.resident);
                }
                let times: Vec<u64> = times
                    .into_iter()
                    .filter_map(|time| time.try_into().ok())
                    .collect();
                session.outside(peer, "start-first-instruction", Unit::Nanoseconds, &times);
                session.outside(peer, "resident-above-guest-ram", Unit::Bytes, &resident);
                Ok(())
            });
        }
    }

    /// The hypercalls of a guest with one processor and one device.
    fn hypercalls(&mut self) {
        for peer in FLOORS.into_iter().chain(Peer::VMMS) {
            let title = format!("hypercalls: {}", peer.name());
            self.measure(&title, |session| {
                let append = hypercall_parts(peer, session.arguments.vfio.is_some());
                let guest = Guest {
                    devices: session.arguments.vfio.into_iter().collect(),
                    ..Guest::bare_metal(session.arguments, &append)
                };
                let run = guest_runs::run(peer, session.arguments, &guest)?;
                if let Some(run) = &run
                    && !guest.devices.is_empty()
                    && Peer::VMMS.contains(&peer)
                {
                    let Memory { resident, locked } = run.memory;
                    session.outside(peer, "resident-with-device", Unit::Bytes, &[resident]);
                    session.outside(peer, "locked-before-dma", Unit::Bytes, &[locked]);
                }
                session.add(peer, run);
                Ok(())
            });
        }
    }

    /// The first mapping of all, and the first ones in further regions of memory.
    fn first_mappings(&mut self) {
        for peer in Peer::VMMS.into_iter().filter(|peer| peer.is_ours()) {
            let title = format!("first mappings: {}", peer.name());
            self.measure(&title, |session| {
                let guest = Guest {
                    devices: session.arguments.vfio.into_iter().collect(),
                    ..Guest::bare_metal(session.arguments, "parts=first,regions")
                };
                let mut rows = Vec::new();
                for _ in 0..FIRST_MAPPINGS {
                    let run = guest_runs::run(peer, session.arguments, &guest)?;
                    rows.extend(run.into_iter().flat_map(|run| run.rows));
                }
                session.add_rows(peer, merged(&rows));
                Ok(())
            });
        }
    }

    /// What needs a guest of its own for each row: the first calls about many entries, before `--tce auto`
    /// has seen any, the longest call while all memory is mapped for the first time, and one about a
    /// whole window.
    fn fresh_guests(&mut self) {
        for peer in Peer::VMMS.into_iter().filter(|peer| peer.is_ours()) {
            let cold = format!("first calls: {}", peer.name());
            self.measure(&cold, |session| {
                let rows = session.fresh_guest(peer, "parts=cold")?;
                session.add_rows(peer, rows);
                Ok(())
            });
            for (what, append, away) in [
                ("H_PUT_TCE", "parts=stall-put", "longest-away-put"),
                ("list", "parts=stall-list", "longest-away-list"),
                ("H_STUFF_TCE", "parts=stall-stuff", "longest-away-stuff"),
            ] {
                let title = format!("longest stall: {what}: {}", peer.name());
                self.measure(&title, |session| session.stalls(peer, append, away));
            }
        }
    }

    fn fresh_guest(&self, peer: Peer, append: &str) -> Result<Vec<Row>, AnyError> {
        let guest = Guest {
            devices: self.arguments.vfio.into_iter().collect(),
            ..Guest::bare_metal(self.arguments, append)
        };
        let run = guest_runs::run(peer, self.arguments, &guest)?;
        Ok(run.map(|run| run.rows).unwrap_or_default())
    }

    fn stalls(&mut self, peer: Peer, append: &str, away: &str) -> Result<(), AnyError> {
        let (mut rows, mut times) = (Vec::new(), Vec::new());
        for _ in 0..STALLS {
            let watch = LongestAbsence::start()?;
            rows.extend(self.fresh_guest(peer, append)?);
            times.extend(watch.nanoseconds()?);
        }
        self.add_rows(peer, merged(&rows));
        self.outside(peer, away, Unit::Nanoseconds, &times);
        Ok(())
    }

    /// A Linux guest that reads its NVMe, with and without dynamic DMA windows.
    fn linux(&mut self) {
        let (Some(kernel), Some(initrd)) = (&self.arguments.kernel, &self.arguments.initrd) else {
            return;
        };
        let reading = jobs::read("/dev/nvme0n1");
        let prepared = [jobs::NOTHING, &reading].map(|job| Linux::prepare(kernel, initrd, job));
        let [Ok(idle), Ok(reading)] = &prepared else {
            self.measure("Linux: preparing its initial RAM disk", |_| {
                prepared.into_iter().try_for_each(|linux| linux.map(drop))
            });
            return;
        };
        for mitigations in Mitigations::ALL {
            let with = |run| LinuxRun { mitigations, ..run };
            for run in Peer::STARTERS.map(linux_run).map(with) {
                let title = format!("start: Linux: {}{}", run.prefix(), run.peer.name());
                self.measure(&title, |session| {
                    let times = match run.peer.is_ours() {
                        true => LINUX_STARTS,
                        false => QEMU_LINUX_STARTS,
                    };
                    let found = idle.starts(session.arguments, &run, times)?;
                    session.add_linux(run.peer, found);
                    Ok(())
                });
            }
            for run in LINUX_RUNS.map(with) {
                let title = format!("Linux: {}{}", run.prefix(), run.peer.name());
                self.measure(&title, |session| session.add_reads(reading, &run));
            }
        }
    }

    /// Adds what a Linux guest reads, in as many boots as it takes.
    pub(super) fn add_reads(&mut self, reading: &Linux, run: &LinuxRun) -> Result<(), AnyError> {
        let boots = match self.arguments.counts_instructions {
            true => LINUX_READERS,
            false => 1,
        };
        let found = reading.reads(self.arguments, run, boots)?;
        let found = found.map(|found| match boots {
            1 => found,
            _ => of_medians(found),
        });
        self.add_linux(run.peer, found);
        Ok(())
    }

    /// Adds what a Linux guest gave: its rows, with what it said of its defences.
    pub(super) fn add_linux(&mut self, peer: Peer, found: Option<Found>) {
        let Some(Found { mut rows, defences }) = found else {
            return;
        };
        let number = self.results.number_of(&defences);
        for row in &mut rows {
            row.defences = number;
        }
        self.add_rows(peer, rows);
    }

    /// Does one thing, unless it was not asked for; what goes wrong keeps nothing else from being
    /// done.
    pub(super) fn measure(
        &mut self,
        title: &str,
        work: impl FnOnce(&mut Self) -> Result<(), AnyError>,
    ) {
        let only = &self.arguments.only;
        if !only.is_empty() && !only.iter().any(|word| title.contains(word)) {
            return;
        }
        step(title);
        if let Err(error) = work(self) {
            let why = chain(&*error);
            tell(&format!("not measured: {title}: {why}"));
            self.results.omitted.push(Omission {
                what: title.to_owned(),
                why,
            });
        }
    }

    /// Adds what a guest printed.
    pub(super) fn add(&mut self, peer: Peer, run: Option<Run>) {
        self.results
            .measured
            .extend(run.into_iter().flat_map(|run| run.measured(peer)));
    }

    /// Adds rows of a peer.
    pub(super) fn add_rows(&mut self, peer: Peer, rows: Vec<Row>) {
        let measured = rows.into_iter().map(|row| Measured { peer, row });
        self.results.measured.extend(measured);
    }

    /// Adds what was measured from outside of the guest.
    pub(super) fn outside(&mut self, peer: Peer, name: &str, unit: Unit, samples: &[u64]) {
        let row = guest_runs::outside_row(name, unit, samples);
        self.results
            .measured
            .extend(row.map(|row| Measured { peer, row }));
    }
}

/// The guest's command line, for what a peer does.
fn hypercall_parts(peer: Peer, has_device: bool) -> String {
    let parts = match (peer, has_device) {
        (Peer::FloorExit, true) => "exit,single,rtas,stuff",
        (Peer::FloorMap | Peer::FloorMapV1, true) => "exit,single,indirect,stuff",
        (Peer::FloorKernel, true) => "single,indirect,stuff",
        // What is measured of ours in guests of their own: QEMU's guests have locked their memory before
        // they run, and none of them chooses a way to serve calls.
        (Peer::QemuKernel | Peer::QemuSafe | Peer::QemuUser | Peer::QemuNext, true) => {
            "exit,first,cold,single,rtas,indirect,stuff,regions,stall-put,stall-list"
        }
        (_, true) => "exit,single,rtas,indirect,stuff",
        (_, false) => "exit",
    };
    let settle = if peer == Peer::Auto { SETTLE } else { "" };
    format!("parts={parts} {settle}")
}

/// Has KVM not look for work for a guest that gave its processor up (halt_poll_ns,
/// Documentation/virt/kvm/halt-polling.rst): how many instructions that takes depends on how long the
/// emulator takes to read the disk.
fn stop_halt_polling() -> Result<(), AnyError> {
    Ok(fs::write("/sys/module/kvm/parameters/halt_poll_ns", "0")?)
}

/// What machine this is.
fn facts(arguments: &RunArguments) -> Facts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
    Facts {
        cpu: cpu
            .lines()
            .find(|line| line.starts_with("cpu"))
            .and_then(value)
            .unwrap_or_default(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        guest_kernel: arguments.guest_kernel.clone(),
        packages: arguments.packages.clone(),
        page_bytes: spapr_devices::vfio::host_page_bytes(),
        qemu: version(&arguments.qemu),
        next_qemu: arguments.next_qemu.as_deref().and_then(version),
        counts_instructions: arguments.counts_instructions,
        guest_bytes: GUEST_BYTES,
    }
}

/// The first line of what a program says of its version.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}
