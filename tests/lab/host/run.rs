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

use super::HostKind;
use super::channels::{Channel, Event, Lines, Listeners};
use super::console::Console;
use super::qemu::{self, Settings};
use crate::progress::{REPORT_EVERY, Step, say};

/// How often a host that hangs while booting is started again.
const BOOT_ATTEMPTS: u32 = 6;
/// The emulator connects its channels within this.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// A booting host prints something at least this often; skiboot's hang is silent.
const BOOT_SILENCE: Duration = Duration::from_secs(12);
/// The time from the start to a ready host, on the slowest machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A running host reports every 4 s of its own time, which on a busy machine runs slower.
const ALIVE_SILENCE: Duration = Duration::from_secs(90);
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
    /// Root folder of the unpacked emulator.
    pub(crate) emulator: &'a Path,
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    /// The run's folder, as the host's init expects it.
    pub(crate) share: &'a Path,
    /// Root folder of extra programs.
    pub(crate) extra: Option<&'a Path>,
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
        for attempt in 1..=BOOT_ATTEMPTS {
            let log = self.logs.join(format!("host-{attempt}.log"));
            let mut host = self.start(&log, &interrupted.flag)?;
            let step = Step::start(format!(
                "booting {} (log: {})",
                self.kind.name(),
                log.display()
            ));
            let booted = host.boot()?;
            if booted {
                step.done();
                if let (Some(input), Some(terminal)) = (input.take(), host.terminal.take()) {
                    input(terminal);
                }
                return host.finish(output, self.timeout);
            }
            drop(step);
            say(&format!(
                "{} hung while booting, as it now and then does: again",
                self.kind.name()
            ));
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
        let errors = File::create(&qemu_log).map_err(write_error(&qemu_log))?;
        let console = Console::new(File::create(log).map_err(write_error(log))?);
        let mut command = qemu::command(&Settings {
            kind: self.kind,
            icount: self.icount,
            emulator: self.emulator,
            kernel: self.kernel,
            initrd: self.initrd,
            share: self.share,
            extra: self.extra,
            nvme: self.nvme,
            sockets: sockets.path(),
        });
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

impl Host {
    /// Waits until the host is ready; false when it hangs.
    fn boot(&mut self) -> Result<bool, HostError> {
        struct Nowhere;
        impl Output for Nowhere {
            fn stdout(&mut self, _: &[u8]) {}
            fn stderr(&mut self, _: &[u8]) {}
        }
        let started = Instant::now();
        while !self.state.ready {
            self.turn(&mut Nowhere)?;
            if let Some(status) = self.ended()? {
                return Err(HostError::Ended {
                    status,
                    log: self.log.clone(),
                });
            }
            let silence = self.console.last_output().elapsed();
            let firmware_hangs = !self.console.kernel_started() && silence > BOOT_SILENCE;
            if firmware_hangs || started.elapsed() > BOOT_LIMIT {
                return Ok(false);
            }
        }
        Ok(true)
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
            } else if alive.elapsed() > ALIVE_SILENCE {
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
