//! `cargo lab prepare`: everything that the other commands would fetch or make when first needed.

use crate::host::HostKind;
use crate::images::{self, nvme};
use crate::packages::{PackageSet, Packages};
use crate::progress::say;
use crate::session::SessionError;
use crate::suite::SuiteError;
use crate::tools;
use crate::workspace::Workspace;

/// Makes the machine and the cache ready.
pub(crate) fn run(workspace: &Workspace) -> Result<u8, SuiteError> {
    tools::for_packages()?;
    tools::for_cross_builds()?;
    tools::for_user_emulation()?;
    images(workspace).map_err(Box::new)?;
    say("everything is there");
    Ok(0)
}

fn images(workspace: &Workspace) -> Result<(), SessionError> {
    let _locked = workspace.lock()?;
    Packages::provide(workspace, PackageSet::HostEmulator)?;
    for kind in HostKind::ALL {
        images::boot_files(workspace, kind)?;
    }
    nvme::stock(workspace)?;
    Ok(())
}
