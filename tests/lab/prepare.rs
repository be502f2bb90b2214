//! `cargo lab prepare`: everything that the other commands would fetch or make when first needed.

use crate::command;
use crate::cross_build;
use crate::host::HostKind;
use crate::images::{self, nvme};
use crate::packages::{PackageSet, Packages, python};
use crate::progress::{Step, say};
use crate::session::SessionError;
use crate::suite::SuiteError;
use crate::tools::{self, TARGET};
use crate::workspace::Workspace;

/// Makes the machine and the cache ready.
pub(crate) fn run(workspace: &Workspace) -> Result<u8, SuiteError> {
    tools::for_packages()?;
    tools::for_cross_builds()?;
    tools::for_user_emulation()?;
    let step = Step::start("fetching the crates of the workspace");
    let mut fetch = cross_build::cargo(workspace);
    // Not the crates that only other systems need.
    fetch.args(["fetch", "--locked", "--target", TARGET]);
    fetch.args(["--target", "x86_64-unknown-linux-gnu"]);
    command::output(&mut fetch)?;
    step.done();
    images(workspace).map_err(Box::new)?;
    say("everything is there");
    Ok(0)
}

fn images(workspace: &Workspace) -> Result<(), SessionError> {
    let _locked = workspace.lock()?;
    Packages::provide(workspace, PackageSet::PeerEmulator)?;
    Packages::provide(workspace, PackageSet::OldLibvirt)?;
    all_hosts(workspace)
}

/// Makes what any of the hosts needs to boot.
pub(crate) fn all_hosts(workspace: &Workspace) -> Result<(), SessionError> {
    let _locked = workspace.lock()?;
    Packages::provide(workspace, PackageSet::HostEmulator)?;
    for kind in HostKind::ALL {
        images::boot_files(workspace, kind)?;
    }
    nvme::stock(workspace)?;
    Packages::provide(workspace, PackageSet::Libvirt)?;
    python::qmp_client(workspace)?;
    Ok(())
}
