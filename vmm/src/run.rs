//! `spapr-vmm run`: from the command line to the guest's end.

use std::sync::Arc;
use std::time::Instant;

use crate::cli::{self, RunArguments};
use crate::setting::{self, Setting};
use crate::{
    console::{Console, ConsoleError, Escape, OsTermReport, Terminal},
    control::{Control, ControlError},
    lifecycle::End,
    machine::{Machine, MachineError},
    partition::lasting::Lasting,
    partition::processor_threads::ProcessorThreads,
    sandbox::{self, Role},
    spec::ConsoleKind,
    spec::MachineDescription,
    stats::{Statistics, StatisticsFile, StatsError},
};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not on this architecture.
    #[error(
        "guests run on ppc64le hosts with KVM, and this is {}; to try it here, run `cargo lab \
         demo` in the source tree: it emulates a POWER host",
        std::env::consts::ARCH
    )]
    WrongArchitecture,
    /// The machine cannot be made, or not be given back.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The machine cannot be made again after a reboot, or not be given back.
    #[error("{when}")]
    Later {
        /// At which point of the machine's life.
        when: &'static str,
        /// Why.
        source: MachineError,
    },
    /// There are no random bytes.
    #[error("cannot get random bytes")]
    Random(#[source] std::io::Error),
    /// There are no threads for the processors.
    #[error("cannot start the processors' threads")]
    Threads(#[source] std::io::Error),
    /// There is no sandbox.
    #[error("cannot set up the sandbox")]
    Sandbox(#[source] std::io::Error),
    /// There is no console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The control plane does not work.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The counters could not be written.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// The file for the counters cannot be made.
    #[error(transparent)]
    StatsFile(StatsError),
    /// The guest's kernel gave up.
    #[error("{0}")]
    OsTerm(OsTermReport),
    /// The process was asked to end.
    #[error("ended by {0} before the guest powered off")]
    Asked(&'static str),
    /// A processor failed.
    #[error("{0}")]
    Processor(String),
}

impl RunError {
    /// What is said of it: the option that it is about, if any, and what went wrong with its causes.
    pub fn message(&self) -> String {
        setting::message(self, self.setting().and_then(cli::option_of))
    }

    fn setting(&self) -> Option<Setting> {
        match self {
            Self::Machine(error) => error.setting(),
            Self::Console(error) => error.setting(),
            Self::StatsFile(_) | Self::Stats(_) => Some(Setting::Stats),
            _ => None,
        }
    }

    /// The process' exit status: 2 when what was asked for cannot be run on this host, 1 when
    /// something failed on the way.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::WrongArchitecture => 2,
            Self::Machine(error) => error.exit_status(),
            Self::Console(ConsoleError::File { .. }) | Self::StatsFile(_) => 2,
            _ => 1,
        }
    }
}

/// Runs a guest until it powers off; `started` is when this process began.
///
/// # Errors
/// When the guest cannot be run, or ends otherwise than by powering off.
pub fn run(arguments: &RunArguments, started: Instant) -> Result<(), RunError> {
    if !spapr_kvm::RUNS_GUESTS {
        return Err(RunError::WrongArchitecture);
    }
    let description = MachineDescription::from(arguments);
    let file = arguments.stats.clone().map(StatisticsFile::create);
    let file = file.transpose().map_err(RunError::StatsFile)?;
    let mut statistics = Statistics::default();
    let result = run_machine(&description, &arguments.console, started, &mut statistics);
    statistics.outcome = match &result {
        Ok(Gone::PowerOff) => "power-off",
        Ok(Gone::Left) => "quit",
        Err(RunError::OsTerm(_)) => "os-term",
        Err(RunError::Asked(_)) => "signal",
        Err(_) => "error",
    }
    .to_owned();
    let written = file.map_or(Ok(()), |file| file.write(&statistics));
    let written = written.map_err(RunError::from);
    // The guest's end is the news; a file that could not be written beside it is not lost though.
    match (result, written) {
        (Err(error), Err(stats)) => {
            log::error!("{}", spapr_devices::error_chain::chain(&stats));
            Err(error)
        }
        (result, written) => result.map(drop).and(written),
    }
}

/// How a run ended well.
enum Gone {
    /// The guest powered off.
    PowerOff,
    /// The user left it.
    Left,
}

fn run_machine(
    description: &MachineDescription,
    console: &ConsoleKind,
    started: Instant,
    statistics: &mut Statistics,
) -> Result<Gone, RunError> {
    // Before the console, so that what is wrong is said on a terminal that still wraps lines.
    if let Err(error) = crate::descriptor_limit::raise() {
        log::warn!("cannot raise the limit on open files: {error}");
    }
    let lasting = Lasting::new(description).map_err(RunError::Random)?;
    let mut machine = Some(Machine::new(description, &lasting)?);
    let control = Control::new()?;
    let mut console = Console::open(console)?;
    if let Some(name) = &console.pty_name {
        let message = format!("the console is {}", name.display());
        crate::logging::tell(&message);
    }
    if console.escape == Escape::CtrlAX {
        crate::logging::tell("Ctrl-A x ends the guest, Ctrl-A Ctrl-A types Ctrl-A");
    }
    // Threads have the paths that the one which starts them has.
    let paths = sandbox::machine_paths(description);
    sandbox::restrict_paths(&paths).map_err(RunError::Sandbox)?;
    let terminal = Terminal::start(&mut console, description.vty)?;
    let threads = ProcessorThreads::spawn(description.cpus, Some(sandbox::enter_processor))
        .map_err(RunError::Threads)?;
    let threads = Arc::new(threads);
    sandbox::enter(Role::Main).map_err(RunError::Sandbox)?;
    loop {
        let next = match machine.take() {
            Some(machine) => machine,
            None => Machine::new(description, &lasting).map_err(|source| RunError::Later {
                when: "the machine cannot start again after the guest's reboot",
                source,
            })?,
        };
        let mut running = next.start(&terminal, &lasting, &threads, false)?;
        let alarms = running.alarms();
        let waited = control.wait_for_end(running.lifecycle(), alarms);
        let (end, released) = running.stop(started, statistics);
        waited?;
        let released = released.map_err(|source| RunError::Later {
            when: "the machine was not given back whole",
            source,
        });
        // How the guest ended is the news; what was not given back is not lost beside it.
        if let Err(error) = &released
            && !matches!(end, End::PowerOff | End::Left | End::Reboot | End::Reset)
        {
            log::error!("{}", spapr_devices::error_chain::chain(error));
        }
        match end {
            End::PowerOff => return released.map(|()| Gone::PowerOff),
            End::Left => return released.map(|()| Gone::Left),
            End::Reboot | End::Reset => {
                released?;
                statistics.reboots += 1;
            }
            End::OsTerm(reason) => return Err(RunError::OsTerm(terminal.os_term_report(reason))),
            End::Quit => return Err(RunError::Asked("a monitor")),
            End::Asked(by) => return Err(RunError::Asked(by)),
            End::Failed(message) => return Err(RunError::Processor(message)),
        }
    }
}
