//! Giving the lab's guest initrd a job.
//!
//! The guest's `/init` runs the shell script `/job` if there is one, prints
//! `LAB-GUEST-STATUS <status>` and powers off. The kernel accepts concatenated archives, so a job
//! is added by appending a second one to the stock initrd.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::cpio::{Archive, CpioError};

/// Why an initrd with a job could not be made.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// The stock initrd could not be read.
    #[error("cannot read the initrd {}", path.display())]
    Read {
        /// The stock initrd.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The new initrd could not be written.
    #[error("cannot write the initrd {}", path.display())]
    Write {
        /// The new initrd.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The job does not fit into an archive.
    #[error("cannot pack the job")]
    Pack(#[from] CpioError),
}

/// An archive that makes the guest run `script` with `sh`; append it to the stock initrd.
///
/// # Errors
/// When the script is 4 GiB or larger.
pub fn job_overlay(script: &str) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::new();
    archive.file("job", 0o755, script.as_bytes())?;
    archive.finish()
}

/// Writes to `target` the stock initrd at `stock` followed by a job that runs `script`.
///
/// # Errors
/// When one of the files cannot be read or written.
pub fn write_with_job(stock: &Path, script: &str, target: &Path) -> Result<(), InitrdError> {
    write_with_overlay(stock, &job_overlay(script)?, target)
}

/// Writes to `target` the stock initrd at `stock` followed by the archive `overlay`.
///
/// # Errors
/// When one of the files cannot be read or written.
pub fn write_with_overlay(stock: &Path, overlay: &[u8], target: &Path) -> Result<(), InitrdError> {
    let mut bytes = std::fs::read(stock).map_err(|source| InitrdError::Read {
        path: stock.to_owned(),
        source,
    })?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(overlay);
    std::fs::write(target, bytes).map_err(|source| InitrdError::Write {
        path: target.to_owned(),
        source,
    })
}
