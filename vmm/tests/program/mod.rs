//! The programs under test, run as cargo runs tests: through an emulator when they are not this
//! machine's own.

use std::process::Command;

/// What cargo runs programs of this architecture with, when they are not this machine's own.
const RUNNER: &str = "CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER";

/// A command that runs the program at `path`.
pub(crate) fn command(path: &str) -> Command {
    match std::env::var(RUNNER) {
        Ok(runner) if cfg!(target_arch = "powerpc64") => {
            let mut command = Command::new(runner);
            command.arg(path);
            command
        }
        _ => Command::new(path),
    }
}
