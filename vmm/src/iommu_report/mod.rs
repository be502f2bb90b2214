//! `spapr-vmm iommu`: what a host's IOMMU groups can do, and how much memory gets locked for a
//! guest that has their devices.
//!
//! | module | what it is for |
//! |---|---|
//! | [`gather`] | asking the host, through VFIO, leaving everything as it was |
//! | `in_guest` | what a device will have in a guest, for people |
//! | [`libvirt`] | the limit that libvirt would set, to compare with |
//! | [`names`] | what devices are called |
//! | [`report`] | the answer as data, which is what `--json` prints |
//! | [`short`] | the answer in a line |
//! | [`table`] | the answer for people |
//! | `terminal` | how wide that may be |

pub mod gather;
mod in_guest;
pub mod libvirt;
pub mod names;
pub mod report;
pub mod short;
pub mod table;
mod terminal;

use std::io::{self, Write};
use std::path::Path;

use names::Names;
use spapr_devices::vfio::{ContainerError, HostPaths, MemoryLimitError, PreflightError};

use crate::cli::{self, IommuArguments};
use crate::memory::{self, MemoryError};
use crate::setting;

/// The exit status when a short answer is no.
const SHORT_NO: u8 = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum IommuReportError {
    /// Not on this architecture.
    #[error(
        "only ppc64le hosts have IOMMU groups with TCE tables, and this is {}; to try it \
         here, run `cargo lab demo` in the source tree, which emulates a POWER host, or in one \
         `cargo lab exec -- spapr-vmm iommu`",
        std::env::consts::ARCH
    )]
    WrongArchitecture,
    /// The host has no IOMMU groups at all.
    #[error(
        "this host has no IOMMU groups: its kernel drives no IOMMU, so no device can be passed \
         through"
    )]
    NoGroups,
    /// No guest can have so much memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The device or group does not exist, or the host does not tell.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The host's VFIO has no support for SPAPR.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The limit on locked memory cannot be read.
    #[error(transparent)]
    MemoryLimit(#[from] MemoryLimitError),
    /// The answer cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl IommuReportError {
    /// What is said of it: the option that it is about, if any, and what went wrong with its causes.
    pub fn message(&self) -> String {
        let setting = match self {
            Self::Memory(error) => error.setting(),
            _ => None,
        };
        setting::message(self, setting.and_then(cli::option_of))
    }

    /// The process' exit status: 2 when the question makes no sense on this host, 1 when something
    /// failed.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::WrongArchitecture | Self::NoGroups | Self::Memory(_) | Self::Container(_) => 2,
            Self::Preflight(PreflightError::Unreadable { .. })
            | Self::MemoryLimit(_)
            | Self::Output(_) => 1,
            Self::Preflight(_) => 2,
        }
    }
}

/// Prints the answer on standard output, and returns the exit status: 0, and for a short answer that is no, 3.
///
/// # Errors
/// When there is none, or it cannot be written. A reader that stops reading is no error.
pub fn run(arguments: &IommuArguments) -> Result<u8, IommuReportError> {
    if !spapr_kvm::RUNS_GUESTS {
        return Err(IommuReportError::WrongArchitecture);
    }
    memory::check_size(arguments.memory, u64::MAX)?;
    let mut report = gather::gather(&HostPaths::default(), arguments)?;
    let names = Names::of_host();
    for member in report.groups.iter_mut().flat_map(|it| &mut it.members) {
        member.model = names.of(Path::new("/sys"), &member.name);
    }
    let mut status = 0;
    let text = if arguments.json {
        let mut text = serde_json::to_string_pretty(&report)
            .map_err(|error| IommuReportError::Output(error.into()))?;
        text.push('\n');
        text
    } else if arguments.short {
        let answers = short::answers(&report);
        if answers.iter().any(|answer| !answer.is_yes) {
            status = SHORT_NO;
        }
        answers
            .into_iter()
            .map(|answer| answer.line + "\n")
            .collect()
    } else {
        table::render(&report, terminal::columns())
    };
    print(&text, &mut io::stdout().lock())?;
    Ok(status)
}

fn print(text: &str, output: &mut impl Write) -> Result<(), IommuReportError> {
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(IommuReportError::Output(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is_one() {
        assert!(print("x", &mut Failing(io::ErrorKind::BrokenPipe)).is_ok());
        let error = print("x", &mut Failing(io::ErrorKind::StorageFull)).unwrap_err();
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn questions_that_make_no_sense_here_end_with_2_and_failures_with_1() {
        let absent = PreflightError::NoSuchGroup(spapr_devices::vfio::GroupNumber(7));
        assert_eq!(IommuReportError::from(absent).exit_status(), 2);
        let no_support = IommuReportError::from(ContainerError::NoSpapr);
        assert_eq!(no_support.exit_status(), 2);
        let unreadable = PreflightError::Unreadable {
            path: "/sys".into(),
            source: io::ErrorKind::Other.into(),
        };
        assert_eq!(IommuReportError::from(unreadable).exit_status(), 1);
    }
}
