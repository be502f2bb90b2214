//! The lives of a machine under monitors.

pub use with_kvm::MachineError;
pub(super) use with_kvm::run;

mod with_kvm {
    use std::sync::Arc;
    use std::time::Instant;

    use log::Level;
    use spapr_devices::guest_message;

    use super::super::run::{QemuError, Serving, Waiting, resource};
    use super::super::state::Next;
    use crate::console::{Console, ConsoleError, Terminal};
    use crate::lifecycle::End;
    use crate::machine::{Machine, MachineError as BuildError};
    use crate::partition::lasting::Lasting;
    use crate::partition::processor_threads::ProcessorThreads;
    use crate::sandbox;
    use crate::setting::Setting;
    use crate::spec::MachineDescription;
    use crate::stats::{Statistics, StatisticsFile, StatsError};
    use spapr_devices::error_chain::chain;

    /// Why a machine cannot be run.
    #[derive(Debug, thiserror::Error)]
    pub enum MachineError {
        /// Not on this architecture.
        #[error(
            "guests run on ppc64le hosts with KVM, and this is {}",
            std::env::consts::ARCH
        )]
        WrongArchitecture,
        /// It cannot be made.
        #[error(transparent)]
        Build(#[from] BuildError),
        /// It has no terminal.
        #[error(transparent)]
        Console(#[from] ConsoleError),
        /// Its counters cannot be written.
        #[error(transparent)]
        Stats(#[from] StatsError),
    }

    impl MachineError {
        /// What of the user's choice it is about.
        pub fn setting(&self) -> Option<Setting> {
            match self {
                Self::WrongArchitecture => None,
                Self::Build(error) => error.setting(),
                Self::Console(error) => error.setting(),
                Self::Stats(_) => Some(Setting::Stats),
            }
        }
    }

    impl From<BuildError> for QemuError {
        fn from(error: BuildError) -> Self {
            Self::Machine(error.into())
        }
    }

    impl From<ConsoleError> for QemuError {
        fn from(error: ConsoleError) -> Self {
            Self::Machine(error.into())
        }
    }

    impl From<StatsError> for QemuError {
        fn from(error: StatsError) -> Self {
            Self::Machine(error.into())
        }
    }

    /// What all lives of a machine share.
    struct Lives<'a> {
        description: &'a MachineDescription,
        lasting: Lasting,
        terminal: Terminal,
        threads: Arc<ProcessorThreads>,
        serving: Serving,
        statistics: Statistics,
        started: Instant,
    }

    /// Runs a machine until it is told to end. Monitors are let in when the machine is there, so
    /// that whatever is wrong with it is said before.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(in super::super) fn run(
        description: &MachineDescription,
        mut console: Console,
        mut waiting: Waiting,
        started: Instant,
    ) -> Result<(), QemuError> {
        if !spapr_kvm::RUNS_GUESTS {
            return Err(MachineError::WrongArchitecture.into());
        }
        if let Err(error) = crate::descriptor_limit::raise() {
            log::warn!("cannot raise the limit on open files: {error}");
        }
        let stats = waiting.process.stats.clone().map(StatisticsFile::create);
        let stats = stats.transpose()?;
        let lasting = Lasting::new(description).map_err(resource("random bytes"))?;
        let machine = Machine::new(description, &lasting)?;
        let prepare = Some(sandbox::enter_processor as fn() -> _);
        let threads = ProcessorThreads::spawn(description.cpus, prepare);
        let threads = threads.map_err(resource("the processors' threads"))?;
        let terminal = Terminal::start(&mut console, description.vty)?;
        waiting.facts.processors = threads.ids();
        waiting.facts.uuid = lasting.uuid.to_string();
        let mut lives = Lives {
            description,
            lasting,
            terminal,
            threads: Arc::new(threads),
            serving: waiting.serve()?,
            statistics: Statistics::default(),
            started,
        };
        let result = lives.live(machine);
        lives.statistics.outcome = match &result {
            Ok(outcome) => outcome,
            Err(_) => "error",
        }
        .to_owned();
        let written = stats.map_or(Ok(()), |file| file.write(&lives.statistics));
        lives.serving.finish();
        result?;
        Ok(written?)
    }

    impl Lives<'_> {
        fn live(&mut self, first: Machine) -> Result<&'static str, QemuError> {
            let mut machine = first;
            loop {
                let (end, mut next, is_given_back) = self.live_once(machine)?;
                while next == Next::Wait {
                    let end = self.serving.wait_while_none_runs()?;
                    next = self.take(&end);
                }
                // What the host still has of the last machine could reach into the next one.
                if !is_given_back {
                    return Err(match next {
                        Next::Exit => QemuError::LeftBehind,
                        _ => QemuError::NotGivenBack,
                    });
                }
                if next == Next::Exit {
                    return Ok(match end {
                        End::OsTerm(_) => "os-term",
                        End::Asked(_) => "signal",
                        End::Failed(_) => "error",
                        _ => "power-off",
                    });
                }
                self.statistics.reboots += 1;
                machine = Machine::new(self.description, &self.lasting)?;
            }
        }

        /// A machine's life: how it ended, what is next, and whether the host has everything back.
        fn live_once(&mut self, machine: Machine) -> Result<(End, Next, bool), QemuError> {
            let guest = self.serving.guest();
            let paused = guest.starts_paused();
            let mut running =
                machine.start(&self.terminal, &self.lasting, &self.threads, paused)?;
            guest.attach(running.lifecycle(), Box::new(running.controls()));
            let alarms = running.alarms();
            let waited = self.serving.wait_for_end(running.lifecycle(), alarms);
            let after_crash = match &waited {
                Ok(end) => self.keep_crashed(end)?,
                Err(_) => None,
            };
            guest.detach();
            let (end, released) = running.stop(self.started, &mut self.statistics);
            waited?;
            if let Err(error) = &released {
                guest_message!(
                    Level::Error,
                    "the machine was not given back whole: {}",
                    chain(error)
                );
            }
            let next = self.take(after_crash.as_ref().unwrap_or(&end));
            Ok((end, next, released.is_ok()))
        }

        /// Keeps the machine of a guest that has crashed as it is, if it is to be kept, so that a
        /// monitor can dump it; returns what ends that.
        fn keep_crashed(&self, end: &End) -> Result<Option<End>, QemuError> {
            let is_kept = matches!(end, End::OsTerm(_)) && self.serving.guest().keeps_crashed();
            if !is_kept || self.take(end) != Next::Wait {
                return Ok(None);
            }
            self.serving.wait_while_none_runs().map(Some)
        }

        /// Says what the end was, and what is next.
        fn take(&self, end: &End) -> Next {
            match end {
                End::OsTerm(reason) => {
                    let report = self.terminal.os_term_report(reason.clone());
                    guest_message!(Level::Error, "{report}");
                }
                End::Failed(message) => guest_message!(Level::Error, "{message}"),
                End::Asked(by) => log::warn!("ended by {by}"),
                _ => {}
            }
            self.serving.guest().ended(end)
        }
    }
}
