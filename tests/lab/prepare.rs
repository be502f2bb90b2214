//! `cargo lab prepare`: everything that the other commands would fetch or make when first needed.

use crate::cli::PrepareArgs;
use crate::command;
use crate::cross_build;
use crate::images::{self, nvme};
use crate::kernels::{Kernel, KernelArgs, PageSize};
use crate::packages::{self, PackageError, PackageSet, Packages, python};
use crate::progress::{Step, say};
use crate::session::SessionError;
use crate::suite::SuiteError;
use crate::tools::{self, TARGET};
use crate::workspace::Workspace;

/// Makes the machine and the cache ready.
pub(crate) fn run(workspace: &Workspace, args: &PrepareArgs) -> Result<u8, SuiteError> {
    tools::for_packages()?;
    tools::for_cross_builds()?;
    tools::for_user_emulation()?;
    tools::for_fuzzing()?;
    if args.tools {
        return Ok(0);
    }
    let step = Step::start("fetching the crates of the workspace");
    let mut fetch = cross_build::cargo(workspace);
    // Not the crates that only other systems need.
    fetch.args(["fetch", "--locked", "--target", TARGET]);
    fetch.args(["--target", "x86_64-unknown-linux-gnu"]);
    command::output(&mut fetch)?;
    step.done();
    let _locked = workspace.lock()?;
    if args.update {
        packages::update(workspace).map_err(Box::new)?;
    }
    everything(workspace).map_err(Box::new)?;
    tell_differences(workspace).map_err(Box::new)?;
    say("everything is there");
    Ok(0)
}

/// Makes what any host and any test needs.
pub(crate) fn everything(workspace: &Workspace) -> Result<(), SessionError> {
    let _locked = workspace.lock()?;
    for set in PackageSet::all() {
        Packages::provide(workspace, set)?;
    }
    for kernel in Kernel::all() {
        images::of_guest(workspace, kernel)?;
        if kernel.runs_hosts() {
            images::of_host(workspace, kernel)?;
        }
    }
    packages::remove_leftovers(workspace)?;
    images::kexec(workspace)?;
    let usual = KernelArgs::default().of_host(PageSize::Pages64k);
    images::system::of_guest(workspace, usual)?;
    nvme::stock(workspace)?;
    python::qmp_client(workspace)?;
    Ok(())
}

/// Says how all sets stand to those last tested.
pub(crate) fn tell_differences(workspace: &Workspace) -> Result<(), PackageError> {
    let differences = packages::differences(workspace, &PackageSet::all())?;
    packages::tell(&differences);
    Ok(())
}
