//! Which emulator a host runs in.

use clap::ValueEnum;

/// The release of Debian that the emulator of a host is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmulatorRelease {
    /// Debian 13's, QEMU 10.0
    Trixie,
    /// The next Debian's, QEMU 11.1 or later
    Forky,
}
