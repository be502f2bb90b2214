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

/// Changes when the way it is unpacked changes.
const RECIPE_VERSION: &[u8] = b"2";

/// The folder in which it is in the host.
pub(crate) const IN_HOST: &str = "python";

/// A folder with the library, fetched by pip if it is not in the cache.
pub(crate) fn qmp_client(workspace: &Workspace) -> Result<PathBuf, PackageError> {
    let inputs = [RECIPE_VERSION, QMP_CLIENT.as_bytes()];
    let folder: PathBuf = workspace.provide("packages", "qmp-client", &inputs, |into| {
        let step = Step::start(format!("downloading {QMP_CLIENT}"));
        let mut pip = Command::new(tools::for_python_packages()?);
        pip.args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
            .args(["--no-compile", "--root-user-action=ignore", "--target"])
            .arg(into)
            .arg(QMP_CLIENT);
        command::ends_with_its_starter(&mut pip);
        command::output(&mut pip).map_err(|source| PackageError::Python {
            package: QMP_CLIENT,
            source: Box::new(source),
        })?;
        step.done();
        Ok::<(), PackageError>(())
    })?;
    Ok(folder)
}
