//! `spapr-vmm`: a VMM for ppc64le KVM (pseries) guests with passed-through PCI devices.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::time::Instant;

use clap::CommandFactory;
use spapr_devices::error_chain::chain;
use spapr_vmm::cli::config::{self, Asked, ConfigError};
use spapr_vmm::cli::{Command, CommandLine};
use spapr_vmm::{iommu_report, logging, process_limits, run, sandbox};

fn main() -> ExitCode {
    let started = Instant::now();
    match process_limits::prepare() {
        Ok(()) => run_program(started),
        Err(error) => {
            logging::tell(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// With stack enough; it must not become part of `main`'s own frame.
#[inline(never)]
fn run_program(started: Instant) -> ExitCode {
    // It stays until this program ends: to take its hundreds of pieces apart would be part of each guest's start.
    let mut description = ManuallyDrop::new(CommandLine::command());
    let command_line = match config::read(std::env::args_os(), &mut description) {
        Ok(Asked::Command(command_line)) => command_line,
        Ok(Asked::Text(text)) => {
            return match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Err(ConfigError::Typed(error)) => error.exit(),
        Err(error) => {
            logging::tell(&format!("error: {}", chain(&error)));
            return ExitCode::from(2);
        }
    };
    if matches!(&command_line.command, Command::Run(arguments) if arguments.sandbox) {
        // Before there is a second thread.
        sandbox::turn_on();
    }
    let logging = logging::start(command_line.log);
    let result = match &command_line.command {
        Command::Run(arguments) => {
            let ran = run::run(arguments, started).map(|()| 0);
            ran.map_err(|error| (error.message(), error.exit_status()))
        }
        Command::Iommu(arguments) => {
            iommu_report::run(&arguments.0).map_err(|error| (error.message(), error.exit_status()))
        }
    };
    // What was logged stands before the last words.
    drop(logging);
    match result {
        Ok(status) => ExitCode::from(status),
        Err((message, status)) => {
            logging::tell(&format!("error: {message}"));
            ExitCode::from(status)
        }
    }
}
