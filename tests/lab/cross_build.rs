//! Building for the hosts.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;
use thiserror::Error;

use crate::command::{self, CommandError};
use crate::progress::Step;
use crate::tools::{self, TARGET, ToolError};
use crate::workspace::Workspace;

/// Why there is no program for the hosts.
#[derive(Debug, Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error("cannot run cargo")]
    Cargo(#[from] CommandError),
    #[error("building {what} for {TARGET} failed; cargo's messages are above")]
    Failed { what: &'static str },
    #[error("cargo built no executable for {what}")]
    NoExecutable { what: &'static str },
}

/// cargo's message about something it made; others lack these fields.
#[derive(Debug, Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
}

/// Builds the VMM alone.
pub(crate) fn vmm(workspace: &Workspace) -> Result<PathBuf, BuildError> {
    let package = ["build", "--release", "--package", "spapr-vmm"];
    build(
        workspace,
        "spapr-vmm",
        &[&package[..], &["--bin", "spapr-vmm"]].concat(),
    )
}

/// Builds the VMM and its front end for libvirt, both at a time.
pub(crate) fn vmm_and_front_end(workspace: &Workspace) -> Result<Vec<PathBuf>, BuildError> {
    vmm_and_front_end_by(cargo(workspace))
}

/// Has `cargo`, or a command that builds as it does, build both.
pub(crate) fn vmm_and_front_end_by(cargo: Command) -> Result<Vec<PathBuf>, BuildError> {
    let args = ["build", "--release", "--package", "spapr-vmm", "--bins"];
    build_by(cargo, "spapr-vmm", &args)
}

/// Builds the tests that run inside a host.
pub(crate) fn end_to_end_tests(workspace: &Workspace) -> Result<PathBuf, BuildError> {
    build(
        workspace,
        "the end-to-end tests",
        &[
            "test",
            "--no-run",
            "--package",
            "spapr-lab",
            "--no-default-features",
            "--features",
            "end-to-end",
            "--test",
            "end_to_end",
        ],
    )
}

/// Builds the bare-metal guests that those tests boot.
pub(crate) fn test_guests(workspace: &Workspace) -> Result<Vec<PathBuf>, BuildError> {
    build_all(
        workspace,
        "the test guests",
        &[
            "build",
            "--package",
            "spapr-test-guests",
            "--bins",
            "--features",
            "bare-metal",
            "--profile",
            "guest",
        ],
    )
}

/// Builds the program that measures.
pub(crate) fn bench_program(workspace: &Workspace) -> Result<PathBuf, BuildError> {
    build(
        workspace,
        "the program that measures",
        &[
            "build",
            "--release",
            "--package",
            "spapr-bench",
            "--features",
            "measure",
            "--bin",
            "spapr-bench",
        ],
    )
}

/// cargo, run in the workspace.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace.root());
    cargo
}

fn build(workspace: &Workspace, what: &'static str, args: &[&str]) -> Result<PathBuf, BuildError> {
    let executables = build_all(workspace, what, args)?;
    executables
        .into_iter()
        .next_back()
        .ok_or(BuildError::NoExecutable { what })
}

/// Runs a cargo that builds, and returns the executables that it made; `None` when it failed, which it has said.
///
/// # Errors
/// When it does not start.
pub(crate) fn made_by(mut cargo: Command) -> Result<Option<Vec<PathBuf>>, CommandError> {
    cargo.arg("--message-format=json-render-diagnostics");
    // Diagnostics go to the user as they come.
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| CommandError::Start {
            program: command::shown(&cargo),
            source,
        })?;
    if !output.status.success() {
        return Ok(None);
    }
    let made = String::from_utf8_lossy(&output.stdout);
    let executable = |line| serde_json::from_str::<Artifact>(line).ok()?.executable;
    Ok(Some(made.lines().filter_map(executable).collect()))
}

/// Returns all executables that cargo made.
fn build_all(
    workspace: &Workspace,
    what: &'static str,
    args: &[&str],
) -> Result<Vec<PathBuf>, BuildError> {
    build_by(cargo(workspace), what, args)
}

fn build_by(
    mut cargo: Command,
    what: &'static str,
    args: &[&str],
) -> Result<Vec<PathBuf>, BuildError> {
    tools::for_cross_builds()?;
    let step = Step::start(format!("building {what} for {TARGET}"));
    cargo
        .args(args)
        .args(["--locked", "--quiet", "--target", TARGET]);
    let executables = made_by(cargo)?.ok_or(BuildError::Failed { what })?;
    if executables.is_empty() {
        return Err(BuildError::NoExecutable { what });
    }
    step.done();
    Ok(executables)
}
