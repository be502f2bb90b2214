//! A Python package that no Debian release has: a client library of QMP, to test against.

use std::path::PathBuf;
use std::process::Command;

use crate::command;
use crate::progress::Step;
use crate::tools;
use crate::workspace::Workspace;

use super::PackageError;

/// The client library's name and version.
const QMP_CLIENT: &str = "qemu.qmp==0.0.6";

/// The file name that it has in the host.
pub(crate) const IN_HOST: &str = "qemu.qmp.whl";

/// The library's archive, fetched by pip if it is not in the cache. Python reads it as it is.
pub(crate) fn qmp_client(workspace: &Workspace) -> Result<PathBuf, PackageError> {
    let inputs = [QMP_CLIENT.as_bytes()];
    let folder = workspace.provide("packages", "qmp-client", &inputs, |into| {
        let step = Step::start(format!("downloading {QMP_CLIENT}"));
        let mut pip = Command::new(tools::for_python_packages()?);
        pip.args(["download", "--quiet", "--no-deps", "--only-binary=:all:"])
            .arg("--dest")
            .arg(into)
            .arg(QMP_CLIENT);
        command::output(&mut pip).map_err(|source| PackageError::Python {
            package: QMP_CLIENT,
            source: Box::new(source),
        })?;
        step.done();
        Ok::<(), PackageError>(())
    })?;
    super::find_in(&folder, "qemu_qmp-")
}
