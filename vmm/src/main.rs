//! `spapr-vmm`: a VMM for ppc64le KVM (pseries) guests with passed-through PCI devices.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use spapr_vmm::cli::{Command, CommandLine};
use spapr_vmm::error_chain::chain;
use spapr_vmm::{logging, run};

/// How long the last message waits for a reader of standard error.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let started = Instant::now();
    let command_line = CommandLine::parse();
    let logging = logging::start(command_line.log.into());
    let result = match &command_line.command {
        Command::Run(arguments) => run::run(arguments, started),
    };
    // What was logged stands before the last words.
    drop(logging);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::tell(&format!("error: {}", chain(&error)), PATIENCE);
            ExitCode::from(error.exit_status())
        }
    }
}
