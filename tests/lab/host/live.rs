//! A host that runs: what it says, whether it lives, how it ends.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use super::channels::{Channel, Event, Lines};
use super::console::Console;
use super::outcome::{HostError, Output, Run};
use super::qemu::MONITOR;
use super::stall;
use crate::progress::{REPORT_EVERY, say};

/// Firmware prints something at least this often; skiboot's hang is silent.
const FIRMWARE_SILENCE: Duration = Duration::from_secs(12);
/// A booting kernel and init are never silent for so long, on a busy machine either: the longest is
/// while init copies the run's files, some seconds.
const KERNEL_SILENCE: Duration = Duration::from_secs(30);
/// The time from the start to a ready host, on the slowest machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// The time a host takes to power off after its script.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);
/// How often the lab looks at limits.
const TICK: Duration = Duration::from_millis(100);

/// The emulator's process; killed when dropped.
#[derive(Debug)]
pub(super) struct Emulator(pub(super) Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Notices signals that ask the lab to stop; gives the signals back when dropped.
#[derive(Debug)]
pub(super) struct Interruption {
    pub(super) flag: Arc<AtomicBool>,
    handlers: Vec<signal_hook::SigId>,
}

impl Interruption {
    pub(super) fn watch() -> io::Result<Self> {
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
pub(super) struct Host {
    pub(super) emulator: Emulator,
    pub(super) events: Receiver<Event>,
    pub(super) console: Console,
    pub(super) control: Lines,
    pub(super) state: State,
    pub(super) terminal: Option<UnixStream>,
    pub(super) log: PathBuf,
    /// The folder of the emulator's sockets, one of which is its monitor's.
    pub(super) sockets: Option<TempDir>,
    /// How long it may be silent before it is taken for dead.
    pub(super) silence: Duration,
    pub(super) interrupted: Arc<AtomicBool>,
}

/// What the host's init has told.
#[derive(Debug, Default)]
pub(super) struct State {
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
pub(super) enum Boot {
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
    pub(super) fn boot(&mut self) -> Result<Boot, HostError> {
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
    pub(super) fn finish(
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
                    return Err(self.stalled(since));
                }
            } else if alive.elapsed() > self.silence {
                return Err(self.stalled(alive.elapsed()));
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

    /// The error for a host that has been silent for so long, with what the emulator says of its processors.
    fn stalled(&self, silence: Duration) -> HostError {
        let registers = self.log.with_file_name("registers.log");
        let monitor = self.sockets.as_ref().map(|it| it.path().join(MONITOR));
        let processors = match stall::ask(&monitor.unwrap_or_default(), &registers) {
            Ok(places) => format!(
                "its processors stand at {} ({})",
                places.join(" and "),
                registers.display()
            ),
            Err(error) => format!("the emulator does not say where its processors are: {error}"),
        };
        HostError::Stalled {
            silence,
            processors,
            log: self.log.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc::{self, SyncSender};

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
            sockets: None,
            silence: Duration::from_secs(90),
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
