//! Booting a host, watching it, and seeing it off.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

use super::channels::{Lines, Listeners};
use super::code_log::CodeLog;
use super::console::Console;
use super::device_tree;
use super::live::{Boot, Emulator, Host, Interruption, State};
use super::outcome::{HostError, Input, Output, Run};
use super::qemu::{self, Settings};
use super::{DeviceKind, Files, HostKind, LparOption};
use crate::progress::{Step, say};

/// How often a host that hangs while booting is started again.
const BOOT_ATTEMPTS: u32 = 6;
/// How often an emulator may end by itself while the host boots, before that is taken for no accident.
const MOST_BOOTS_ENDED: u32 = 2;
/// The emulator connects its channels within this.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// A running host reports every 4 s of its own time, which on a busy machine runs slower.
const ALIVE_SILENCE: Duration = Duration::from_secs(90);
/// The same where its clock counts instructions: 4 s are 4,000 million of them, on one processor.
const ALIVE_SILENCE_COUNTING: Duration = Duration::from_secs(300);

/// A host to be run once.
#[derive(Debug)]
pub(crate) struct HostRun<'a> {
    pub(crate) kind: HostKind,
    pub(crate) icount: bool,
    /// Whether it gives way to other programs of this machine.
    pub(crate) gives_way: bool,
    /// Code of which the emulator logs what runs.
    pub(crate) code_log: Option<&'a CodeLog>,
    /// Whether its kernel has huge pages.
    pub(crate) hugepages: bool,
    /// What it has as an LPAR.
    pub(crate) lpar: &'a [LparOption],
    /// Root folder of the unpacked emulator.
    pub(crate) emulator: &'a Path,
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    /// The run's folder, as the host's init expects it.
    pub(crate) share: &'a Path,
    /// Root folder of extra programs.
    pub(crate) extra: Option<&'a Path>,
    /// Root folder of the next Debian's QEMU.
    pub(crate) next: Option<&'a Path>,
    pub(crate) nvme: &'a Path,
    /// Further devices.
    pub(crate) devices: &'a [DeviceKind],
    /// What they have of this machine.
    pub(crate) files: &'a Files,
    /// Where the logs go.
    pub(crate) logs: &'a Path,
    /// The script's time limit.
    pub(crate) timeout: Option<Duration>,
}

impl HostRun<'_> {
    /// Boots the host, again if it hangs, and stays with it until it has powered off.
    pub(crate) fn run(
        &self,
        output: &mut dyn Output,
        mut input: Option<Input<'_>>,
    ) -> Result<Run, HostError> {
        if let Some(path) = qemu::missing_part(self.emulator) {
            return Err(HostError::EmulatorIncomplete { path });
        }
        let interrupted = Interruption::watch().map_err(HostError::Start)?;
        let mut boots_ended = 0;
        for attempt in 1..=BOOT_ATTEMPTS {
            let log = self.logs.join(format!("host-{attempt}.log"));
            let mut host = self.start(&log, &interrupted.flag)?;
            let step = Step::start(format!(
                "booting {} (log: {})",
                self.kind.name(),
                log.display()
            ));
            let name = self.kind.name();
            match host.boot()? {
                Boot::Ready => {
                    step.done();
                    if let (Some(input), Some(terminal)) = (input.take(), host.terminal.take()) {
                        input(terminal);
                    }
                    return host.finish(output, self.timeout);
                }
                Boot::Hangs => {
                    drop(step);
                    say(&format!(
                        "{name} hung while booting, as it now and then does: again"
                    ));
                }
                Boot::Ended { status } => {
                    drop(step);
                    boots_ended += 1;
                    if boots_ended > MOST_BOOTS_ENDED {
                        return Err(HostError::Ended { status, log });
                    }
                    say(&format!(
                        "the emulator ended ({status}) while {name} booted: again"
                    ));
                }
            }
        }
        let log = self.logs.join(format!("host-{BOOT_ATTEMPTS}.log"));
        Err(HostError::BootHang {
            attempts: BOOT_ATTEMPTS,
            log,
        })
    }

    fn start(&self, log: &Path, interrupted: &Arc<AtomicBool>) -> Result<Host, HostError> {
        // A socket's path must be short, so not in the run's folder.
        let sockets = tempfile::Builder::new()
            .prefix("lab-")
            .tempdir()
            .map_err(write_error(&std::env::temp_dir()))?;
        let listeners = Listeners::bind(sockets.path()).map_err(write_error(sockets.path()))?;
        let console = Console::new(File::create(log).map_err(write_error(log))?);
        let mut settings = Settings {
            kind: self.kind,
            icount: self.icount,
            gives_way: self.gives_way,
            code_log: self.code_log,
            lpar: self.lpar,
            emulator: self.emulator,
            kernel: self.kernel,
            initrd: self.initrd,
            share: self.share,
            extra: self.extra,
            next: self.next,
            nvme: self.nvme,
            devices: self.devices,
            files: self.files,
            sockets: sockets.path(),
            device_tree: None,
        };
        // QEMU reads it again at each reset.
        let tree = self.logs.join("device-tree");
        // An LPAR's platform says which page sizes there are.
        if self.hugepages && !self.kind.is_lpar() {
            device_tree::write(&settings, &tree).map_err(HostError::DeviceTree)?;
            settings.device_tree = Some(&tree);
        }
        let qemu_log = self.logs.join("qemu.log");
        let mut emulator = launch(&settings, &qemu_log)?;
        let (sender, events) = mpsc::sync_channel(256);
        let terminal = listeners
            .accept(&sender, CONNECT_LIMIT, || {
                matches!(emulator.0.try_wait(), Ok(None))
            })
            .map_err(|source| HostError::Connect {
                log: qemu_log,
                source,
            })?;
        Ok(Host {
            emulator,
            events,
            console,
            control: Lines::default(),
            state: State::default(),
            terminal,
            log: log.to_owned(),
            sockets: Some(sockets),
            silence: match self.icount {
                true => ALIVE_SILENCE_COUNTING,
                false => ALIVE_SILENCE,
            },
            interrupted: Arc::clone(interrupted),
        })
    }
}

/// Starts the emulator. What it says goes to the end of `log`: what it said in an attempt before stays.
fn launch(settings: &Settings<'_>, log: &Path) -> Result<Emulator, HostError> {
    let errors = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(write_error(log))?;
    let mut command = qemu::command(settings);
    let _ = writeln!(&errors, "{}", crate::command::shown(&command));
    command
        .stdout(errors.try_clone().map_err(HostError::Start)?)
        .stderr(errors);
    Ok(Emulator(command.spawn().map_err(HostError::Start)?))
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> HostError {
    let path = path.to_owned();
    |source| HostError::Write { path, source }
}

/// Copies a file without sharing its blocks' fate: the copy may be written to.
pub(crate) fn fresh_copy(from: &Path, to: &Path) -> Result<(), HostError> {
    fs::copy(from, to).map(drop).map_err(write_error(to))
}
