//! Running a Linux guest that reads the passed-through NVMe, under a peer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spapr_lab::benchmark::results::{Measured, Peer};
use spapr_lab::benchmark::row::{Row, RowError, Unit};
use spapr_lab::cpio::Archive;
use spapr_lab::initrd::write_with_overlay;

use super::command_line::RunArguments;
use super::guest_runs::LIMIT;
use super::hide;
use super::hypercall_count::HypercallCount;
use super::peers::{self, Controller, GUEST_BYTES, Guest, Windows};
use super::read::{LATENCY, SERIES, Series};
use super::watch::{self, Running};
use super::{AnyError, tell};

/// Reads the NVMe.
pub(crate) const READ_JOB: &str = "\
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/nvme0n1 ] && break
    sleep 0.5
done
exec /spapr-bench read $reads /dev/nvme0n1
";

/// Nothing: the guest powers off.
pub(crate) const NO_JOB: &str = "exit 0\n";

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
    /// What the names of its rows begin with.
    pub(crate) prefix: &'static str,
}

/// A Linux guest with its job.
#[derive(Debug)]
pub(crate) struct Linux {
    kernel: PathBuf,
    initrd: PathBuf,
    _folder: tempfile::TempDir,
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
        overlay.file("spapr-bench", 0o755, &program)?;
        let target = folder.path().join("initrd");
        write_with_overlay(initrd, &overlay.finish()?, &target)?;
        Ok(Self {
            kernel: kernel.to_owned(),
            initrd: target,
            _folder: folder,
        })
    }

    /// Boots it. None when the peer cannot.
    ///
    /// # Errors
    /// When the VMM fails, or the guest does not come to its end.
    pub(crate) fn run(
        &self,
        arguments: &RunArguments,
        run: &LinuxRun,
    ) -> Result<Option<Vec<Measured>>, AnyError> {
        let watcher = self.boot(arguments, run)?;
        let peer = run.peer;
        let Some(watcher) = watcher else {
            return Ok(None);
        };
        let rows = watcher.finish()?.into_iter().map(|mut row| {
            row.name = format!("{}{}", run.prefix, row.name);
            Measured { peer, row }
        });
        Ok(Some(rows.collect()))
    }

    /// Boots it `times` times with nothing to do. Returns the times to its init, in nanoseconds; none
    /// when the peer cannot.
    ///
    /// # Errors
    /// As for [`Linux::run`].
    pub(crate) fn starts(
        &self,
        arguments: &RunArguments,
        run: &LinuxRun,
        times: usize,
    ) -> Result<Vec<u64>, AnyError> {
        let mut starts = Vec::new();
        for _ in 0..times {
            let watcher = self.boot(arguments, run)?;
            starts.extend(watcher.and_then(|watcher| watcher.start));
        }
        Ok(starts)
    }

    fn boot(&self, arguments: &RunArguments, run: &LinuxRun) -> Result<Option<Watcher>, AnyError> {
        let guest = Guest {
            kernel: &self.kernel,
            initrd: Some(&self.initrd),
            append: if arguments.counts_instructions {
                COUNTED_COMMAND_LINE
            } else {
                COMMAND_LINE
            },
            memory: GUEST_BYTES,
            cpus: 1,
            devices: arguments.vfio.into_iter().collect(),
            windows: run.windows,
            controller: run.controller,
            floor_options: &[],
        };
        let peer = run.peer;
        let Some(mut command) = peers::command(peer, arguments, &guest) else {
            return Ok(None);
        };
        let is_hidden = peer == Peer::QemuUser;
        if is_hidden {
            hide::prepare(&mut command);
        }
        let mut watcher = Watcher {
            counts_instructions: arguments.counts_instructions,
            ..Watcher::default()
        };
        watch::run(
            command,
            guest.memory,
            LIMIT,
            &mut |child| {
                if is_hidden {
                    hide::answer(child)
                } else {
                    Ok(())
                }
            },
            &mut |running, at, line| watcher.see(running, at, line),
        )?;
        Ok(Some(watcher))
    }
}

/// Follows what the guest prints.
#[derive(Debug, Default)]
struct Watcher {
    counts_instructions: bool,
    /// From the start of the VMM to the guest's init, in nanoseconds.
    start: Option<u64>,
    rows: Vec<Row>,
    hertz: u64,
    run_time: u64,
    /// The processor time of a read, in each round of the series under way.
    processor_times: Vec<u64>,
    calls: u64,
    locked: u64,
    count: Option<HypercallCount>,
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
            ("BENCH-START", _) => self.hertz = 1_000_000_000,
            ("BENCH-BEGIN", Some(_)) => self.run_time = running.run_time()?,
            ("BENCH-END", Some(series)) => self.round_ended(running, series)?,
            ("BENCH-COUNT", _) => match HypercallCount::start() {
                Ok(count) => self.count = Some(count),
                Err(error) => tell(&format!("TCE calls are not counted: {error}")),
            },
            ("BENCH-COUNT-BEGIN", Some(_)) => self.calls = self.tce_calls()?,
            ("BENCH-COUNT-END", Some(series)) => self.calls_ended(series)?,
            ("BENCH-DONE", _) => {
                self.add("locked", Unit::Bytes, self.locked);
                self.count = None;
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

    fn calls_ended(&mut self, series: Series) -> std::io::Result<()> {
        if self.count.is_some() {
            let calls = self.tce_calls()?.saturating_sub(self.calls);
            let name = format!("{}-tce-calls", series.name);
            self.add(&name, Unit::Count, calls);
        }
        Ok(())
    }

    fn tce_calls(&self) -> std::io::Result<u64> {
        self.count.as_ref().map_or(Ok(0), HypercallCount::tce_calls)
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
