//! Running a Linux guest that reads the passed-through NVMe, under a peer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spapr_devices::vfio::{HostPaths, PciAddress, Platform};
use spapr_lab::benchmark::results::{Defences, Peer};
use spapr_lab::benchmark::row::{Row, RowError, Unit};
use spapr_lab::cpio::Archive;
use spapr_lab::initrd::write_with_overlay;

use super::command_line::RunArguments;
use super::guest_runs::LIMIT;
use super::hide::Kept;
use super::host_disk::HostDisk;
use super::host_network::HostNetwork;
use super::hypercall_count::{Caller, HypercallCount};
use super::jobs::DEFENCES;
use super::peers::{self, Controller, Disk, GUEST_BYTES, Guest, Network, Windows};
use super::series::{LATENCY, SERIES, Series};
use super::watch::{self, Running};
use super::{AnyError, tell};

const COMMAND_LINE: &str = "console=hvc0";
/// Where instructions are counted, an idle guest gives the processor up at once (by default it looks for
/// work for a while first), and reads are made by a processor that is not idle. The kernel hands
/// assignments that it does not know to its init, as variables.
const COUNTED_COMMAND_LINE: &str = "console=hvc0 cpuidle.off=1 reads=--busy";

/// One boot of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinuxRun {
    /// Under whom.
    pub(crate) peer: Peer,
    /// The dynamic DMA windows that it is offered.
    pub(crate) windows: Windows,
    /// Its interrupt controller.
    pub(crate) controller: Controller,
    /// How its device interrupts it.
    pub(crate) interrupts: Interrupts,
    /// Whether its kernel defends itself against attacks by speculation.
    pub(crate) mitigations: Mitigations,
    /// The host's kernel passes frames of its network, if it has one.
    pub(crate) has_vhost: bool,
    /// What the names of its rows begin with, behind what [`Mitigations`] put there.
    pub(crate) prefix: &'static str,
}

/// What its device interrupts a guest by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupts {
    /// Messages, as its driver has it.
    Messages,
    /// Its line (INTx): the guest's kernel is told to use no messages.
    Lines,
}

impl Interrupts {
    /// What is added to the kernel's command line.
    const fn command_line(self) -> &'static str {
        match self {
            Self::Messages => "",
            Self::Lines => " pci=nomsi",
        }
    }

    /// The device that is passed through.
    fn device(self, arguments: &RunArguments) -> Option<PciAddress> {
        match self {
            Self::Messages => arguments.vfio,
            Self::Lines => arguments.by_line.or(arguments.vfio),
        }
    }
}

/// Defences against attacks by speculation; they make a guest's way into its kernel longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mitigations {
    /// What the kernel takes to be needed.
    Default,
    /// None.
    Off,
}

impl Mitigations {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Default, Self::Off];

    /// What the names of rows begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Off => "mitigations-off-",
        }
    }

    /// What is added to the kernel's command line.
    const fn command_line(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Off => " mitigations=off",
        }
    }
}

impl LinuxRun {
    /// What the names of its rows begin with.
    pub(crate) fn prefix(&self) -> String {
        format!("{}{}", self.mitigations.prefix(), self.prefix)
    }
}

/// What the boots of a run gave.
#[derive(Debug)]
pub(crate) struct Found {
    /// Their rows, one after the other.
    pub(crate) rows: Vec<Row>,
    /// What the guest said of its defences.
    pub(crate) defences: Defences,
}

/// What a guest has.
#[derive(Debug)]
pub(crate) enum Equipment {
    /// The device that is passed through.
    Passed,
    /// A virtio disk.
    Disk(HostDisk),
    /// A virtio network card.
    Network(HostNetwork),
    /// Both, and all other virtio devices that QEMU has too, without another program.
    All(HostDisk, HostNetwork),
}

/// A Linux guest with its job.
#[derive(Debug)]
pub(crate) struct Linux {
    kernel: PathBuf,
    initrd: PathBuf,
    equipment: Equipment,
    /// Where the RAM disk is, and what else has a path.
    folder: tempfile::TempDir,
}

impl Linux {
    /// Puts this program and a job, which may run it, into the guest's initial RAM disk.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(crate) fn prepare(kernel: &Path, initrd: &Path, job: &str) -> Result<Self, AnyError> {
        let folder = tempfile::tempdir()?;
        let program = fs::read(std::env::current_exe()?)?;
        let mut overlay = Archive::new();
        overlay.file("job", 0o755, job.as_bytes())?;
        overlay.file("defences", 0o755, DEFENCES.as_bytes())?;
        overlay.file("spapr-bench", 0o755, &program)?;
        let target = folder.path().join("initrd");
        write_with_overlay(initrd, &overlay.finish()?, &target)?;
        Ok(Self {
            kernel: kernel.to_owned(),
            initrd: target,
            equipment: Equipment::Passed,
            folder,
        })
    }

    /// The same with something in place of a passed-through device.
    pub(crate) fn with(self, equipment: Equipment) -> Self {
        Self { equipment, ..self }
    }

    /// Boots it `times` times and finds the rows of each. None when the peer cannot.
    ///
    /// # Errors
    /// When the VMM fails, the guest does not come to its end, or its boots tell different defences.
    pub(crate) fn reads(
        &self,
        arguments: &RunArguments,
        run: &LinuxRun,
        times: usize,
    ) -> Result<Option<Found>, AnyError> {
        let Some(boots) = self.boots(arguments, run, times)? else {
            return Ok(None);
        };
        let prefix = run.prefix();
        let mut rows = Vec::new();
        for watcher in boots.watchers {
            let of_boot = watcher.finish()?.into_iter().map(|row| Row {
                name: format!("{prefix}{}", row.name),
                ..row
            });
            rows.extend(of_boot);
        }
        let defences = boots.defences;
        Ok(Some(Found { rows, defences }))
    }

    /// Boots it `times` times with nothing to do, and finds one row: the times to its init. None when the
    /// peer cannot.
    ///
    /// # Errors
    /// As for [`Linux::reads`].
    pub(crate) fn starts(
        &self,
        arguments: &RunArguments,
        run: &LinuxRun,
        times: usize,
    ) -> Result<Option<Found>, AnyError> {
        let Some(boots) = self.boots(arguments, run, times)? else {
            return Ok(None);
        };
        let starts: Vec<u64> = boots.watchers.iter().filter_map(|it| it.start).collect();
        let name = format!("{}start-init", run.prefix());
        let row = Row::of_samples(&name, 1, Unit::Nanoseconds, &starts);
        let rows = row.into_iter().collect();
        let defences = boots.defences;
        Ok(Some(Found { rows, defences }))
    }

    fn boots(
        &self,
        arguments: &RunArguments,
        run: &LinuxRun,
        times: usize,
    ) -> Result<Option<Boots>, AnyError> {
        let mut watchers = Vec::new();
        for _ in 0..times {
            let Some(watcher) = self.boot(arguments, run)? else {
                return Ok(None);
            };
            watchers.push(watcher);
        }
        let defences = agreed(watchers.iter().map(|it| &it.defences))?;
        Ok(Some(Boots { watchers, defences }))
    }

    fn boot(&self, arguments: &RunArguments, run: &LinuxRun) -> Result<Option<Watcher>, AnyError> {
        let append = match arguments.counts_instructions {
            true => COUNTED_COMMAND_LINE,
            false => COMMAND_LINE,
        };
        let (defences, interrupts) = (
            run.mitigations.command_line(),
            run.interrupts.command_line(),
        );
        let append = format!("{append}{defences}{interrupts}");
        let port = self.folder.path().join("port");
        let guest = Guest {
            kernel: &self.kernel,
            initrd: Some(&self.initrd),
            append: &append,
            memory: GUEST_BYTES,
            cpus: 1,
            // One thing at a time.
            devices: match self.equipment {
                Equipment::Passed => run.interrupts.device(arguments).into_iter().collect(),
                _ => Vec::new(),
            },
            windows: run.windows,
            controller: run.controller,
            floor_options: &[],
            disk: match &self.equipment {
                Equipment::Disk(disk) | Equipment::All(disk, _) => Some(Disk::Device(disk.path())),
                _ => None,
            },
            network: match self.equipment {
                Equipment::Network(_) | Equipment::All(..) => Some(Network {
                    has_vhost: run.has_vhost,
                }),
                _ => None,
            },
            others: match self.equipment {
                Equipment::All(..) => Some(&port),
                _ => None,
            },
        };
        let peer = run.peer;
        let Some(mut command) = peers::command(peer, arguments, &guest) else {
            return Ok(None);
        };
        let kept = Kept::from(peer);
        if kept.is_some() {
            Kept::prepare(&mut command);
        }
        let mut watcher = Watcher {
            counts_instructions: arguments.counts_instructions,
            ..Watcher::default()
        };
        watch::run(
            command,
            guest.memory,
            LIMIT,
            &mut |child| kept.map_or(Ok(()), |kept| kept.keep(child)),
            &mut |running, at, line| watcher.see(running, at, line),
        )?;
        Ok(Some(watcher))
    }
}

/// The defences that all boots of a guest report.
///
/// # Errors
/// When they report different ones.
pub(super) fn agreed<'a>(told: impl Iterator<Item = &'a Defences>) -> Result<Defences, AnyError> {
    let mut told: Vec<&Defences> = told.collect();
    told.dedup();
    if told.len() > 1 {
        return Err("the same guest told different defences from one boot to the next".into());
    }
    Ok(told.pop().cloned().unwrap_or_default())
}

/// Adds what a guest says of a file of its kernel's, and what that says.
pub(super) fn add_defence(defences: &mut Defences, said: &str) {
    let (file, text) = said.split_once(' ').unwrap_or((said, ""));
    defences.0.insert(file.to_owned(), text.to_owned());
}

/// Some boots of one guest, of which all told the same defences.
struct Boots {
    watchers: Vec<Watcher>,
    defences: Defences,
}

/// Follows what the guest prints.
#[derive(Debug, Default)]
struct Watcher {
    counts_instructions: bool,
    /// From the start of the VMM to the guest's init, in nanoseconds.
    start: Option<u64>,
    rows: Vec<Row>,
    defences: Defences,
    hertz: u64,
    run_time: u64,
    /// The processor time of a read, in each round of the series under way.
    processor_times: Vec<u64>,
    locked: u64,
    /// Who is counted, with the calls until the series under way.
    counts: Vec<(Caller, HypercallCount, u64)>,
    wrong: Option<RowError>,
    is_done: bool,
    is_complete: bool,
}

impl Watcher {
    fn see(&mut self, running: &Running, at: Duration, line: &str) -> std::io::Result<()> {
        let line = line.trim_end();
        if line.contains("LAB-GUEST-INIT ") {
            let spent = running.time_since_start(self.counts_instructions, at)?;
            let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            self.start = Some(spent);
        }
        if line.contains("LAB-GUEST-STATUS 0") {
            self.is_complete = true;
        }
        let Some(start) = line.find("BENCH") else {
            return Ok(());
        };
        let line = &line[start..];
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let series = SERIES.into_iter().find(|series| series.name == rest);
        match (word, series) {
            ("BENCH-DEFENCE", _) => add_defence(&mut self.defences, rest),
            ("BENCH-START", _) => self.hertz = 1_000_000_000,
            ("BENCH-BEGIN", Some(_)) => self.run_time = running.run_time()?,
            ("BENCH-END", Some(series)) => self.round_ended(running, series)?,
            ("BENCH-COUNT", _) => self.start_counting(),
            ("BENCH-COUNT-BEGIN", Some(_)) => {
                for (_, count, before) in &mut self.counts {
                    *before = count.calls()?;
                }
            }
            ("BENCH-COUNT-END", Some(series)) => self.calls_ended(series)?,
            ("BENCH-EQUIPPED", _) => {
                let resident = running.memory()?.resident;
                self.add("resident-with-virtio", Unit::Bytes, resident);
                self.is_done = true;
            }
            ("BENCH-DONE", _) => {
                self.add("locked", Unit::Bytes, self.locked);
                self.counts.clear();
                self.is_done = true;
            }
            ("BENCH", _) => match Row::parse(line, self.hertz) {
                Some(Ok(row)) => self.guests_row(row),
                Some(Err(error)) => self.wrong = Some(error),
                None => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// The guest's row of a series, and what the VMM took for it.
    fn guests_row(&mut self, row: Row) {
        let processor_times = std::mem::take(&mut self.processor_times);
        // What a busy processor takes says nothing of its reads.
        if let Some(series) = row.name.strip_suffix(LATENCY) {
            let name = format!("{series}-processor-time");
            let processor_time = Row::of_samples(&name, 1, Unit::Nanoseconds, &processor_times);
            self.rows.extend(processor_time.map(|its| Row {
                digest: row.digest,
                ..its
            }));
        }
        self.rows.push(row);
    }

    fn round_ended(&mut self, running: &Running, series: Series) -> std::io::Result<()> {
        let spent = running.run_time()?.saturating_sub(self.run_time);
        self.processor_times.push(spent / series.reads);
        if series.is_sequential {
            self.locked = running.memory()?.locked;
        }
        Ok(())
    }

    /// Counts the guest's calls, and in an LPAR those of this host's kernel.
    fn start_counting(&mut self) {
        let mut callers = vec![Caller::Guests, Caller::Exits];
        if HostPaths::default().platform() == Platform::Lpar {
            callers.push(Caller::Host);
        }
        for caller in callers {
            match HypercallCount::start(caller) {
                Ok(count) => self.counts.push((caller, count, 0)),
                Err(error) => tell(&format!("calls are not counted ({caller:?}): {error}")),
            }
        }
    }

    fn calls_ended(&mut self, series: Series) -> std::io::Result<()> {
        let mut found = Vec::new();
        for (caller, count, before) in &self.counts {
            let calls = count.calls()?.saturating_sub(*before);
            let of = match caller {
                Caller::Guests => "tce-calls",
                Caller::Host => "platform-calls",
                Caller::Exits => "exits",
            };
            found.push((format!("{}-{of}", series.name), calls));
        }
        for (name, calls) in found {
            self.add(&name, Unit::Count, calls);
        }
        Ok(())
    }

    fn add(&mut self, name: &str, unit: Unit, value: u64) {
        self.rows.extend(Row::of_samples(name, 1, unit, &[value]));
    }

    fn finish(self) -> Result<Vec<Row>, AnyError> {
        if let Some(error) = self.wrong {
            return Err(error.into());
        }
        if self.is_done && self.is_complete {
            Ok(self.rows)
        } else {
            Err("the Linux guest ended before it had read all".into())
        }
    }
}
