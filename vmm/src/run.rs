//! `spapr-vmm run`: from the command line to the guest's end.

use std::time::Instant;

use crate::attachments::{self, AttachmentError};
use crate::cli::{self, RunArguments};
use crate::failing_disks::FailingDisks;
use crate::session::SessionError;
use crate::setting;
use crate::{
    console::{Console, Escape, OsTermReport},
    control::{Control, ControlError},
    lifecycle::End,
    machine::RunningMachine,
    sandbox::{self, Role},
    session::{FrontEnd, LifeError, Lives, Next, Session},
    spec::ConsoleKind,
    spec::MachineDescription,
};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine cannot be run, or not be given back.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Something that a device is to have cannot be had.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    /// There is no sandbox.
    #[error("cannot set up the sandbox")]
    Sandbox(#[source] std::io::Error),
    /// The control plane does not work.
    #[error(transparent)]
    Control(#[from] ControlError),
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
        let setting = match self {
            Self::Session(error) => error.setting(),
            Self::Attachment(error) => error.setting(),
            _ => None,
        };
        setting::message(self, setting.and_then(cli::option_of))
    }

    /// The process' exit status: 2 when what was asked for cannot be run on this host, 1 when
    /// something failed on the way.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Session(error) => error.exit_status(),
            Self::Attachment(error) => error.exit_status(),
            _ => 1,
        }
    }
}

/// Runs a guest until it powers off; `started` is when this process began.
///
/// # Errors
/// When the guest cannot be run, or ends otherwise than by powering off.
pub fn run(arguments: &RunArguments, started: Instant) -> Result<(), RunError> {
    let description = MachineDescription::from(arguments);
    let mut session = Session::new(&description, arguments.stats.clone(), started)?;
    let result = run_machine(&mut session, &description, &arguments.console);
    session.finish(result)
}

fn run_machine(
    session: &mut Session<'_>,
    description: &MachineDescription,
    console: &ConsoleKind,
) -> Result<(), RunError> {
    // Before the console, so that what is wrong is said on a terminal that still wraps lines.
    let attachments = attachments::open(description)?;
    let failures = attachments.disk_failures.clone();
    let machine = session.make_machine(attachments)?;
    let mut foreground = Foreground {
        control: Control::new()?,
        disks: failures
            .map(|failures| FailingDisks::new(failures, machine.disks()))
            .transpose()?,
    };
    let mut console = Console::open(console).map_err(SessionError::from)?;
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
    let fixtures = session.make_fixtures(&mut console)?;
    sandbox::enter(Role::Main).map_err(RunError::Sandbox)?;
    let result = session.live(machine, &fixtures, &mut foreground);
    let (end, given_back) = match result {
        Ok(end) => (end, Ok(())),
        Err(LifeError::LeftBehind { end, source }) => {
            let error: RunError = LifeError::NotGivenBack(source).into_front_end();
            (end, Err(error))
        }
        Err(error) => return Err(error.into_front_end()),
    };
    let failure = match end {
        End::PowerOff | End::Left | End::Reboot | End::Reset => return given_back,
        End::OsTerm(reason) => RunError::OsTerm(fixtures.terminal.os_term_report(reason)),
        End::Quit => RunError::Asked("a monitor"),
        End::Asked(by) => RunError::Asked(by),
        End::Failed(message) => RunError::Processor(message),
    };
    // How the guest ended is the news; what was not given back is not lost beside it.
    if let Err(error) = given_back {
        log::error!("{}", spapr_devices::error_chain::chain(&error));
    }
    Err(failure)
}

/// A process that its guest, its user or a signal ends.
struct Foreground {
    control: Control,
    disks: Option<FailingDisks>,
}

impl FrontEnd<Lives<'_, '_>> for Foreground {
    type Error = RunError;

    fn wait(&mut self, running: &mut RunningMachine) -> Result<End, RunError> {
        let mut alarms = running.alarms();
        if let Some(disks) = &self.disks {
            alarms.extend(disks.alarms(&running.controls())?);
        }
        Ok(self.control.wait_for_end(running.lifecycle(), alarms)?)
    }

    fn ended(&mut self, end: &End) -> Next {
        match end {
            End::Reboot | End::Reset => Next::Restart,
            _ => Next::Exit,
        }
    }

    fn wait_while_none_runs(&mut self) -> Result<End, RunError> {
        Ok(self.control.wait_while_none_runs(|_| {})?)
    }
}
