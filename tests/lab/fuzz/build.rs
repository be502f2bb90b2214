//! Building the fuzz targets with counters in their code.

use std::path::PathBuf;

use thiserror::Error;

use crate::command::CommandError;
use crate::cross_build::{cargo, made_by};
use crate::progress::Step;
use crate::tools::{self, ToolError};
use crate::workspace::Workspace;

/// The machines for which there are fuzz targets: libFuzzer is built with this machine's own C++ compiler.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A counter for each edge, a table of where they are, and what is compared with what: LLVM's SanitizerCoverage,
/// which libFuzzer reads. All are options of a stable compiler.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Why there is no program with the targets.
#[derive(Debug, Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error("cannot run cargo")]
    Cargo(#[from] CommandError),
    #[error("building the fuzz targets failed; cargo's messages are above")]
    Failed,
    #[error("cargo built no program with the fuzz targets")]
    NoExecutable,
}

/// Builds the program with all targets.
pub(super) fn program(workspace: &Workspace) -> Result<PathBuf, BuildError> {
    tools::for_fuzzing()?;
    let step = Step::start("building the fuzz targets");
    let mut cargo = cargo(workspace);
    cargo
        .args(["build", "--locked", "--quiet", "--profile", "fuzz"])
        .args(["--package", "spapr-fuzz", "--features", "libfuzzer"])
        .args(["--bin", "spapr-fuzz", "--target", TARGET])
        .env("RUSTFLAGS", FLAGS.join(" "));
    let made = made_by(cargo)?.ok_or(BuildError::Failed)?;
    let executable = made.into_iter().next().ok_or(BuildError::NoExecutable)?;
    step.done();
    Ok(executable)
}
