//! Measuring: one file for each kind of measurement, and what they share.

mod busy_reader;
mod command_line;
mod engine_rows;
mod exchange;
mod floor;
mod growth;
mod guest_runs;
mod hide;
mod host_disk;
mod host_network;
mod hypercall_count;
mod jobs;
mod linux_runs;
mod logins;
mod longest_absence;
mod memory;
mod merge;
mod peers;
mod plan;
mod read;
mod series;
mod virtio;
mod watch;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use command_line::{Command, CommandLine};

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Run(arguments) => plan::run(&arguments),
        Command::Floor(arguments) => floor::run(&arguments),
        Command::Read(arguments) => read::run(&arguments),
        Command::Exchange(arguments) => exchange::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {error}"));
            let mut source = error.source();
            while let Some(cause) = source {
                tell(&format!("  because: {cause}"));
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Any error; it ends the program.
type AnyError = Box<dyn Error>;

/// Says something on standard error.
fn tell(line: &str) {
    let mut stderr = std::io::stderr().lock();
    // Nobody may be listening, which is no reason to stop.
    let _ = writeln!(stderr, "{line}");
}

/// Tells whoever started this what is being done.
fn step(title: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody may be listening, which is no reason to stop.
    let _ = writeln!(stdout, "LAB-STEP {title}");
    let _ = stdout.flush();
}
