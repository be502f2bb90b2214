//! Why a session failed.

#[cfg(target_arch = "powerpc64")]
use std::io;

#[cfg(target_arch = "powerpc64")]
use super::LifeError;
#[cfg(target_arch = "powerpc64")]
use crate::console::ConsoleError;
#[cfg(target_arch = "powerpc64")]
use crate::machine::MachineError;
use crate::setting::Setting;
#[cfg(target_arch = "powerpc64")]
use crate::stats::StatsError;

/// Why a machine was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not on this architecture.
    #[cfg(not(target_arch = "powerpc64"))]
    #[error(
        "guests run on ppc64le hosts with KVM, and this is {}; to try it here, run `cargo lab \
         demo` in the source tree: it emulates a POWER host",
        std::env::consts::ARCH
    )]
    WrongArchitecture,
    /// The machine cannot be made.
    #[cfg(target_arch = "powerpc64")]
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The machine cannot be made again, or was not given back.
    #[cfg(target_arch = "powerpc64")]
    #[error("{when}")]
    Later {
        /// What became of it.
        when: &'static str,
        /// Why.
        source: MachineError,
    },
    /// There are no random bytes.
    #[cfg(target_arch = "powerpc64")]
    #[error("cannot get random bytes")]
    Random(#[source] io::Error),
    /// There are no threads for the processors.
    #[cfg(target_arch = "powerpc64")]
    #[error("cannot start the processors' threads")]
    Threads(#[source] io::Error),
    /// There is no console.
    #[cfg(target_arch = "powerpc64")]
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The file for the counters cannot be made.
    #[cfg(target_arch = "powerpc64")]
    #[error(transparent)]
    StatsFile(StatsError),
    /// The counters cannot be written.
    #[cfg(target_arch = "powerpc64")]
    #[error(transparent)]
    Stats(#[from] StatsError),
}

impl SessionError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        match self {
            #[cfg(target_arch = "powerpc64")]
            Self::Machine(error) => error.setting(),
            #[cfg(target_arch = "powerpc64")]
            Self::Console(error) => error.setting(),
            #[cfg(target_arch = "powerpc64")]
            Self::StatsFile(_) | Self::Stats(_) => Some(Setting::Stats),
            _ => None,
        }
    }

    /// The process' exit status: 2 when what was asked for cannot be run on this host, 1 when
    /// something failed on the way.
    pub fn exit_status(&self) -> u8 {
        match self {
            #[cfg(not(target_arch = "powerpc64"))]
            Self::WrongArchitecture => 2,
            #[cfg(target_arch = "powerpc64")]
            Self::Machine(error) => error.exit_status(),
            #[cfg(target_arch = "powerpc64")]
            Self::Console(ConsoleError::File { .. }) | Self::StatsFile(_) => 2,
            #[cfg(target_arch = "powerpc64")]
            _ => 1,
        }
    }
}

#[cfg(target_arch = "powerpc64")]
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
