//! `cargo lab`: emulated POWER hosts, to run, test and measure spapr-vmm on.
//!
//! It fetches what it needs from Debian, without touching this machine's package sources,
//! assembles small host and guest images, cross-builds spapr-vmm, boots a bare-metal POWER host
//! under QEMU and runs scripts in it. docs/lab.md tells the rest.

mod bench;
mod cli;
mod command;
mod cross_build;
mod demo;
mod exec;
mod fuzz;
mod host;
mod images;
mod kernels;
mod order;
mod package;
mod packages;
mod prepare;
mod progress;
mod session;
mod shell;
mod steps;
mod suite;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::progress::report;

/// Exit status when the lab could not do its work; what it ran may end with any other.
const LAB_FAILED: u8 = 125;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report(&*error);
            ExitCode::from(LAB_FAILED)
        }
    }
}
