//! The machine of a session, and what all its lives share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use spapr_devices::error_chain::chain;

use super::SessionError;
use super::lives::{self, FrontEnd, LifeError, Machines};
use crate::console::{Console, Terminal};
use crate::lifecycle::End;
use crate::machine::{Attachments, Kept, Machine, MachineError, RunningMachine};
use crate::partition::lasting::Lasting;
use crate::partition::processor_threads::ProcessorThreads;
use crate::sandbox;
use crate::spec::MachineDescription;
use crate::stats::{Statistics, StatisticsFile};

/// One machine over all its lives, and what is counted of it.
pub struct Session<'a> {
    description: &'a MachineDescription,
    lasting: Lasting,
    /// When this process began.
    started: Instant,
    statistics: Statistics,
    file: Option<StatisticsFile>,
}

/// What stays as it is while machines come and go.
pub struct Fixtures {
    /// The guest's terminal.
    pub terminal: Terminal,
    /// The threads of its processors.
    pub threads: Arc<ProcessorThreads>,
}

/// The lives of a session's machine.
pub struct Lives<'a, 'b> {
    session: &'a mut Session<'b>,
    fixtures: &'a Fixtures,
}

impl<'a> Session<'a> {
    /// A machine as described, of which nothing is there yet. What is counted of it is written to `stats` at
    /// the end; `started` is when this process began.
    ///
    /// # Errors
    /// When no guests are run on this architecture, the file for the counters cannot be made, or the kernel
    /// gives no random bytes.
    pub fn new(
        description: &'a MachineDescription,
        stats: Option<PathBuf>,
        started: Instant,
    ) -> Result<Self, SessionError> {
        if !spapr_kvm::RUNS_GUESTS {
            return Err(SessionError::WrongArchitecture);
        }
        if let Err(error) = crate::descriptor_limit::raise() {
            log::warn!("cannot raise the limit on open files: {error}");
        }
        let file = stats.map(StatisticsFile::create);
        Ok(Self {
            description,
            file: file.transpose().map_err(SessionError::StatsFile)?,
            lasting: Lasting::new(description).map_err(SessionError::Random)?,
            started,
            statistics: Statistics::default(),
        })
    }

    /// What the machine calls itself.
    pub fn uuid(&self) -> String {
        self.lasting.uuid.to_string()
    }

    /// Makes the machine of the first life, with what its front end has opened for its devices.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_machine(&self, attachments: Attachments) -> Result<Machine, SessionError> {
        Ok(Machine::new(
            self.description,
            &self.lasting,
            Kept::of(attachments),
        )?)
    }

    /// Makes what all lives share. The processors' threads are in the sandbox from their beginning.
    ///
    /// # Errors
    /// When there are no threads or descriptors left.
    pub fn make_fixtures(&self, console: &mut Console) -> Result<Fixtures, SessionError> {
        let terminal = Terminal::start(console, self.description.vty)?;
        let prepare = Some(sandbox::enter_processor as fn() -> _);
        let threads = ProcessorThreads::spawn(self.description.cpus, prepare);
        Ok(Fixtures {
            terminal,
            threads: Arc::new(threads.map_err(SessionError::Threads)?),
        })
    }

    /// Runs the machine until its front end says that it is over. Returns how its last run ended.
    ///
    /// # Errors
    /// When it cannot start, is not given back whole, or the front end cannot go on.
    pub fn live<'b, F>(
        &'b mut self,
        first: Machine,
        fixtures: &'b Fixtures,
        front_end: &mut F,
    ) -> Result<End, LifeError<MachineError, F::Error>>
    where
        F: FrontEnd<Lives<'b, 'a>>,
    {
        let mut lives = Lives {
            session: self,
            fixtures,
        };
        let result = lives::live(&mut lives, front_end, first);
        let outcome = lives::outcome(&result);
        outcome.clone_into(&mut lives.session.statistics.outcome);
        result
    }

    /// Writes what was counted. `result` is how it all went, and stays the news: that the counters cannot be
    /// written is only logged beside a failure.
    ///
    /// # Errors
    /// That of `result`, or that the file cannot be written.
    pub fn finish<E: From<SessionError>>(mut self, result: Result<(), E>) -> Result<(), E> {
        if self.statistics.outcome.is_empty() {
            // It has not come to a first life.
            "error".clone_into(&mut self.statistics.outcome);
        }
        let written = match self.file.take() {
            Some(file) => file.write(&self.statistics),
            None => Ok(()),
        };
        if let (Err(_), Err(error)) = (&result, &written) {
            log::error!("{}", chain(error));
        }
        result.and(written.map_err(|error| SessionError::Stats(error).into()))
    }
}

impl Machines for Lives<'_, '_> {
    type Machine = Machine;
    type Running = RunningMachine;
    type Kept = Kept;
    type Error = MachineError;

    fn make_again(&mut self, kept: Kept) -> Result<Machine, MachineError> {
        Machine::new(self.session.description, &self.session.lasting, kept)
    }

    fn start(&mut self, machine: Machine, paused: bool) -> Result<RunningMachine, MachineError> {
        let Fixtures { terminal, threads } = self.fixtures;
        machine.start(terminal, &self.session.lasting, threads, paused)
    }

    fn stop(&mut self, running: RunningMachine) -> (End, Result<Kept, MachineError>) {
        running.stop(self.session.started, &mut self.session.statistics)
    }

    fn count_reboot(&mut self) {
        self.session.statistics.reboots += 1;
    }
}
