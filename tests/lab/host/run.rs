//! Booting a host, watching it, and seeing it off.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use thiserror::Error;

use super::channels::{Channel, Event, Lines, Listeners};
use super::console::Console;
use super::device_tree;
use super::qemu::{self, Settings};
use super::{HostKind, LparOption};
use crate::progress::{REPORT_EVERY, Step, say};

/// How often a host that hangs while booting is started again.
const BOOT_ATTEMPTS: u32 = 6;
/// How often an emulator may end by itself while the host boots, before that is taken for no accident.
const MOST_BOOTS_ENDED: u32 = 2;
/// The emulator connects its channels within this.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Firmware prints something at least this often; skiboot's hang is silent.
const FIRMWARE_SILENCE: Duration = Duration::from_secs(12);
/// A booting kernel and init are never silent for so long, on a busy machine either: the longest is
/// while init copies the run's files, some seconds.
const KERNEL_SILENCE: Duration = Duration::from_secs(30);
/// The time from the start to a ready host, on the slowest machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A running host reports every 4 s of its own time, which on a busy machine runs slower.
const ALIVE_SILENCE: Duration = Duration::from_secs(90);
/// The same where its clock counts instructions: 4 s are 4,000 million of them, on one processor.
const ALIVE_SILENCE_COUNTING: Duration = Duration::from_secs(300);
/// The time a host takes to power off after its script.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);
/// How often the lab looks at limits.
const TICK: Duration = Duration::from_millis(100);

/// Why a host's run came to nothing.
#[derive(Debug, Error)]
pub(crate) enum HostError {
    #[error("the emulator's package lacks {}", path.display())]
    EmulatorIncomplete { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the emulator")]
    Start(#[source] io::Error),
    #[error("cannot make the device tree of a host with huge pages")]
    DeviceTree(#[source] io::Error),
    #[error("cannot talk to the emulator; what it said is in {}", log.display())]
    Connect {
        log: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the host hung while booting {attempts} times; the last log is {}", log.display())]
    BootHang { attempts: u32, log: PathBuf },
    #[error("the emulator ended ({status}) before the host was done; see {} and qemu.log beside it", log.display())]
    Ended { status: String, log: PathBuf },
    #[error("the host's kernel is in trouble: {text} ({}, line {line})", log.display())]
    Kernel {
        text: String,
        line: usize,
        log: PathBuf,
    },
    #[error("the host's init failed: {reason}; its log is {}", log.display())]
    Init { reason: String, log: PathBuf },
    #[error("the host has shown no sign of life for {} s; its log is {}", silence.as_secs(), log.display())]
    Stalled { silence: Duration, log: PathBuf },
    #[error("the script has not ended after {} s; the host's log is {}", limit.as_secs(), log.display())]
    Timeout { limit: Duration, log: PathBuf },
    #[error("interrupted by a signal")]
    Interrupted,
}

/// Takes what the script prints.
pub(crate) trait Output {
    /// Bytes of standard output.
    fn stdout(&mut self, bytes: &[u8]);
    /// Bytes of standard error.
    fn stderr(&mut self, bytes: &[u8]);
    /// Bytes of the interactive shell's terminal.
    fn terminal(&mut self, _bytes: &[u8]) {}
    /// Whether it tells the user by itself that work goes on.
    fn reports_progress(&self) -> bool {
        false
    }
}

/// What to do with the interactive shell's terminal once the host is ready.
pub(crate) type Input<'a> = &'a mut dyn FnMut(UnixStream);

/// A host to be run once.
#[derive(Debug)]
pub(crate) struct HostRun<'a> {
    pub(crate) kind: HostKind,
    pub(crate) icount: bool,
    /// Whether it gives way to other programs of this machine.
    pub(crate) gives_way: bool,
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
    /// Where the logs go.
    pub(crate) logs: &'a Path,
    /// The script's time limit.
    pub(crate) timeout: Option<Duration>,
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Run {
    /// The script's exit status.
    pub(crate) status: u8,
    /// What was to be fetched and is not there.
    pub(crate) not_fetched: Vec<String>,
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
        let write_error = |path: &Path| {
            let path = path.to_owned();
            |source| HostError::Write { path, source }
        };
        // A socket's path must be short, so not in the run's folder.
        let sockets = tempfile::Builder::new()
            .prefix("lab-")
            .tempdir()
            .map_err(write_error(&std::env::temp_dir()))?;
        let listeners = Listeners::bind(sockets.path()).map_err(write_error(sockets.path()))?;
        let qemu_log = self.logs.join("qemu.log");
        // What the emulator said in an attempt before stays.
        let errors = File::options()
            .create(true)
            .append(true)
            .open(&qemu_log)
            .map_err(write_error(&qemu_log))?;
        let console = Console::new(File::create(log).map_err(write_error(log))?);
        let mut settings = Settings {
            kind: self.kind,
            icount: self.icount,
            gives_way: self.gives_way,
            lpar: self.lpar,
            emulator: self.emulator,
            kernel: self.kernel,
            initrd: self.initrd,
            share: self.share,
            extra: self.extra,
            next: self.next,
            nvme: self.nvme,
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
        let mut command = qemu::command(&settings);
        let _ = writeln!(&errors, "{}", crate::command::shown(&command));
        command
            .stdout(errors.try_clone().map_err(HostError::Start)?)
            .stderr(errors);
        let mut emulator = Emulator(command.spawn().map_err(HostError::Start)?);
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
            silence: match self.icount {
                true => ALIVE_SILENCE_COUNTING,
                false => ALIVE_SILENCE,
            },
            interrupted: Arc::clone(interrupted),
        })
    }
}

/// The emulator's process; killed when dropped.
#[derive(Debug)]
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Notices signals that ask the lab to stop; gives the signals back when dropped.
#[derive(Debug)]
struct Interruption {
    flag: Arc<AtomicBool>,
    handlers: Vec<signal_hook::SigId>,
}

impl Interruption {
    fn watch() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let mut handlers = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            handlers.push(signal_hook::flag::register(signal, Arc::clone(&flag))?);
        }
        Ok(Self { flag, handlers })
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

/// A host that runs.
struct Host {
    emulator: Emulator,
    events: Receiver<Event>,
    console: Console,
    control: Lines,
    state: State,
    terminal: Option<UnixStream>,
    log: PathBuf,
    /// How long it may be silent before it is taken for dead.
    silence: Duration,
    interrupted: Arc<AtomicBool>,
}

/// What the host's init has told.
#[derive(Debug, Default)]
struct State {
    ready: bool,
    status: Option<u8>,
    failure: Option<String>,
    not_fetched: Vec<String>,
    channels_closed: usize,
}

impl State {
    fn take(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ready" => self.ready = true,
            "status" => self.status = rest.parse().ok(),
            "fail" => self.failure = Some(rest.to_owned()),
            "missing" => self.not_fetched.push(rest.to_owned()),
            // "alive" counts by arriving.
            _ => {}
        }
    }
}

/// How a boot went.
#[derive(Debug)]
enum Boot {
    Ready,
    Hangs,
    /// The emulator ended by itself.
    Ended {
        status: String,
    },
}

/// Whether a booting host that has been silent for so long, of the time since its start, hangs.
fn hangs(kernel_started: bool, silence: Duration, since_start: Duration) -> bool {
    let most = match kernel_started {
        true => KERNEL_SILENCE,
        false => FIRMWARE_SILENCE,
    };
    silence > most || since_start > BOOT_LIMIT
}

impl Host {
    /// Waits until the host is ready or will not be.
    fn boot(&mut self) -> Result<Boot, HostError> {
        struct Nowhere;
        impl Output for Nowhere {
            fn stdout(&mut self, _: &[u8]) {}
            fn stderr(&mut self, _: &[u8]) {}
        }
        let started = Instant::now();
        while !self.state.ready {
            self.turn(&mut Nowhere)?;
            if let Some(status) = self.ended()? {
                return Ok(Boot::Ended { status });
            }
            let silence = self.console.last_output().elapsed();
            if hangs(self.console.kernel_started(), silence, started.elapsed()) {
                return Ok(Boot::Hangs);
            }
        }
        Ok(Boot::Ready)
    }

    /// Stays with a ready host until it has powered off.
    fn finish(
        mut self,
        output: &mut dyn Output,
        timeout: Option<Duration>,
    ) -> Result<Run, HostError> {
        let started = Instant::now();
        let mut alive = Instant::now();
        let mut heard = Instant::now();
        let mut status_at = None;
        loop {
            match self.turn(output)? {
                Some(Channel::Control) => alive = Instant::now(),
                Some(Channel::Stdout | Channel::Stderr | Channel::Terminal) => {
                    (alive, heard) = (Instant::now(), Instant::now());
                }
                Some(Channel::Console) | None => {}
            }
            let log = || self.log.clone();
            if self.state.status.is_some() {
                let since = status_at.get_or_insert_with(Instant::now).elapsed();
                if since > POWER_OFF_LIMIT {
                    return Err(HostError::Stalled {
                        silence: since,
                        log: log(),
                    });
                }
            } else if alive.elapsed() > self.silence {
                return Err(HostError::Stalled {
                    silence: alive.elapsed(),
                    log: log(),
                });
            } else if let Some(limit) = timeout.filter(|limit| started.elapsed() > *limit) {
                return Err(HostError::Timeout { limit, log: log() });
            } else if heard.elapsed() > REPORT_EVERY
                && self.terminal_unused()
                && !output.reports_progress()
            {
                heard = Instant::now();
                say(&format!(
                    "the host is at work, {} s",
                    started.elapsed().as_secs()
                ));
            }
            if self.state.channels_closed == Channel::ALL.len() {
                break;
            }
        }
        let status = self.emulator.0.wait().map_err(HostError::Start)?;
        match self.state.status {
            Some(code) if status.success() => Ok(Run {
                status: code,
                not_fetched: self.state.not_fetched,
            }),
            _ => Err(HostError::Ended {
                status: status.to_string(),
                log: self.log,
            }),
        }
    }

    /// Whether nobody sits at the interactive shell.
    fn terminal_unused(&self) -> bool {
        self.terminal.is_some()
    }

    /// Takes one event, if one comes within a tick; tells from which channel it was.
    fn turn(&mut self, output: &mut dyn Output) -> Result<Option<Channel>, HostError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(HostError::Interrupted);
        }
        let channel = match self.events.recv_timeout(TICK) {
            Ok(Event::Bytes(channel, bytes)) => {
                self.take(channel, &bytes, output);
                Some(channel)
            }
            Ok(Event::Closed) => {
                self.state.channels_closed += 1;
                None
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        };
        if let Some(reason) = self.state.failure.take() {
            return Err(HostError::Init {
                reason,
                log: self.log.clone(),
            });
        }
        if let Some(trouble) = self.console.trouble() {
            let trouble = trouble.clone();
            self.drain();
            let (text, line) = (trouble.text, trouble.number);
            return Err(HostError::Kernel {
                text,
                line,
                log: self.log.clone(),
            });
        }
        Ok(channel)
    }

    fn take(&mut self, channel: Channel, bytes: &[u8], output: &mut dyn Output) {
        match channel {
            Channel::Console => self.console.push(bytes),
            Channel::Control => self.control.push(bytes, |line| self.state.take(line)),
            Channel::Stdout => output.stdout(bytes),
            Channel::Stderr => output.stderr(bytes),
            Channel::Terminal => output.terminal(bytes),
        }
    }

    /// Gives the kernel a moment to print the rest of its trouble into the log.
    fn drain(&mut self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            match self.events.recv_timeout(TICK) {
                Ok(Event::Bytes(Channel::Console, bytes)) => self.console.push(&bytes),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// How the emulator ended, if it did.
    fn ended(&mut self) -> Result<Option<String>, HostError> {
        let ended = self.emulator.0.try_wait().map_err(HostError::Start)?;
        Ok(ended.as_ref().map(ExitStatus::to_string))
    }
}

/// Copies a file without sharing its blocks' fate: the copy may be written to.
pub(crate) fn fresh_copy(from: &Path, to: &Path) -> Result<(), HostError> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|source| HostError::Write {
            path: to.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc::SyncSender;

    /// A host whose emulator is another program.
    fn host(program: &mut Command) -> (Host, SyncSender<Event>) {
        let (sender, events) = mpsc::sync_channel(8);
        let host = Host {
            emulator: Emulator(program.spawn().unwrap()),
            events,
            console: Console::new(tempfile::tempfile().unwrap()),
            control: Lines::default(),
            state: State::default(),
            terminal: None,
            log: PathBuf::new(),
            silence: ALIVE_SILENCE,
            interrupted: Arc::default(),
        };
        (host, sender)
    }

    #[test]
    fn silence_is_a_hang_after_seconds_in_firmware_and_in_the_kernel() {
        let seconds = Duration::from_secs;
        assert!(!hangs(false, seconds(12), seconds(12)));
        assert!(hangs(false, seconds(13), seconds(20)));
        assert!(!hangs(true, seconds(30), seconds(40)));
        assert!(hangs(true, seconds(31), seconds(40)));
        assert!(hangs(true, seconds(1), seconds(121)));
    }

    #[test]
    fn a_boot_whose_emulator_ends_is_told_from_one_that_gets_ready() {
        let (mut ended, _sender) = host(&mut Command::new("false"));
        assert!(matches!(ended.boot().unwrap(), Boot::Ended { .. }));
        let (mut ready, sender) = host(Command::new("sleep").arg("60"));
        let line = Event::Bytes(Channel::Control, b"ready 4.2\n".to_vec());
        sender.send(line).unwrap();
        assert!(matches!(ready.boot().unwrap(), Boot::Ready));
    }
}
