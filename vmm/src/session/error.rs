//! Why a session failed.

use std::io;

use super::LifeError;
use crate::console::ConsoleError;
use crate::machine::MachineError;
use crate::setting::Setting;
use crate::stats::StatsError;

/// Why a machine was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not on this architecture.
    #[error(
        "guests run on ppc64le hosts with KVM, and this is {}; to try it here, run `cargo lab \
         demo` in the source tree: it emulates a POWER host",
        std::env::consts::ARCH
    )]
    WrongArchitecture,
    /// The machine cannot be made.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The machine cannot be made again, or was not given back.
    #[error("{when}")]
    Later {
        /// What became of it.
        when: &'static str,
        /// Why.
        source: MachineError,
    },
    /// There are no random bytes.
    #[error("cannot get random bytes")]
    Random(#[source] io::Error),
    /// There are no threads for the processors.
    #[error("cannot start the processors' threads")]
    Threads(#[source] io::Error),
    /// There is no console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The file for the counters cannot be made.
    #[error(transparent)]
    StatsFile(StatsError),
    /// The counters cannot be written.
    #[error(transparent)]
    Stats(#[from] StatsError),
}

impl SessionError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
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

impl<F: From<SessionError>> LifeError<MachineError, F> {
    /// The same as an error of the front end.
    pub fn into_front_end(self) -> F {
        let later = |when, source| F::from(SessionError::Later { when, source });
        match self {
            Self::FrontEnd(error) => error,
            Self::Start(source) => SessionError::from(source).into(),
            Self::Again(source) => later(
                "the machine cannot start again after the guest's reboot",
                source,
            ),
            Self::LeftBehind { source, .. } | Self::NotGivenBack(source) => {
                later("the machine was not given back whole", source)
            }
        }
    }
}
