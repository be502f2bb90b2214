//! Unpacking packages' files into a folder that stands for `/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::command::{self, CommandError};

/// Why a package's file is not unpacked.
#[derive(Debug, Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("no room on the disk for {}", path.display())]
    DiskFull {
        path: PathBuf,
        #[source]
        source: CommandError,
    },
}

/// Unpacks the package's file into the folder.
pub(super) fn unpack(archive: &Path, into: &Path) -> Result<(), UnpackError> {
    let mut reader = program("dpkg-deb");
    reader
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let start_error = |command: &Command, source| CommandError::Start {
        program: command::shown(command),
        source,
    };
    let mut reading = reader
        .spawn()
        .map_err(|source| start_error(&reader, source))?;
    let mut writer = program("tar");
    // Whoever runs the lab owns the files; no package needs devices or special owners here.
    writer
        .args([
            "--extract",
            "--no-same-owner",
            "--no-same-permissions",
            "--directory",
        ])
        .arg(into);
    if let Some(archive) = reading.stdout.take() {
        writer.stdin(archive);
    }
    let written = writer
        .output()
        .map_err(|source| start_error(&writer, source))?;
    let read = reading
        .wait()
        .map_err(|source| start_error(&reader, source))?;
    command::checked(&writer, &written).map_err(|source| explained(source, into))?;
    if read.success() {
        Ok(())
    } else {
        Err(UnpackError::Command(CommandError::Failed {
            program: command::shown(&reader),
            status: read.to_string(),
            said: String::new(),
        }))
    }
}

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C");
    // One that goes on would write into a folder that the next lab removes.
    command::ends_with_its_starter(&mut command);
    command
}

/// Says it when the disk is full: tar says how much it could write of how much.
fn explained(error: CommandError, into: &Path) -> UnpackError {
    let said = match &error {
        CommandError::Failed { said, .. } => said.as_str(),
        CommandError::Start { .. } => "",
    };
    match said.contains("Wrote only") || said.contains("No space left on device") {
        true => UnpackError::DiskFull {
            path: into.to_owned(),
            source: error,
        },
        false => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tar_says_of_a_full_disk_is_explained() {
        for (said, full) in [
            ("tar: ./usr/a: Wrote only 512 of 10240 bytes", true),
            ("tar: ./usr/a: Cannot write: No space left on device", true),
            ("tar: This does not look like a tar archive", false),
        ] {
            let error = CommandError::Failed {
                program: "tar".to_owned(),
                status: "exit status: 2".to_owned(),
                said: said.to_owned(),
            };
            let explained = explained(error, Path::new("/srv"));
            let is_full = explained.to_string() == "no room on the disk for /srv";
            assert_eq!(is_full, full, "{explained}");
        }
    }
}
