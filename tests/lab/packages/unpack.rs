//! Unpacking packages' files into a folder that stands for `/`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{self, CommandError};

/// Unpacks the package's file into the folder.
pub(super) fn unpack(archive: &Path, into: &Path) -> Result<(), CommandError> {
    let mut reader = Command::new("dpkg-deb");
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
    let mut writer = Command::new("tar");
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
    command::checked(&writer, &written)?;
    if read.success() {
        Ok(())
    } else {
        Err(CommandError::Failed {
            program: command::shown(&reader),
            status: read.to_string(),
            said: String::new(),
        })
    }
}
