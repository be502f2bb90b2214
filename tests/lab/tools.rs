//! What the lab needs on this machine beside itself, and how it gets there.

use std::path::Path;
use std::process::Command;

use thiserror::Error;

use crate::command::{self, CommandError};
use crate::progress::{Step, say};

/// The Rust target of the hosts.
pub(crate) const TARGET: &str = "powerpc64le-unknown-linux-gnu";

/// Why this machine cannot be made ready.
#[derive(Debug, Error)]
pub(crate) enum ToolError {
    #[error(
        "{missing} not found, and this user can neither install packages nor use sudo; \
         have someone run: {command}"
    )]
    NoPermission { missing: String, command: String },
    #[error("{missing} not found, and this machine has no apt-get; the lab needs Debian 12 or 13")]
    NoApt { missing: String },
    #[error("cannot install {missing}; try it by hand: {command}")]
    Install {
        missing: String,
        command: String,
        #[source]
        source: CommandError,
    },
    #[error("{package} is installed, but {wanted} is still not found")]
    StillMissing {
        package: &'static str,
        wanted: &'static str,
    },
    #[error(
        "this user can make no user and mount namespaces, in which Debian 12's libvirt is tried and file systems are made; have \
         someone run: sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1"
    )]
    Namespaces(#[source] CommandError),
    #[error("cannot add the Rust target; try it by hand: rustup target add {TARGET}")]
    RustTarget(#[source] CommandError),
}

/// Something that must be on the machine.
struct Requirement {
    /// A program on PATH, or an absolute path of a file.
    wanted: &'static [&'static str],
    package: &'static str,
}

/// To fetch and unpack packages.
const UNPACKING: &[Requirement] = &[
    Requirement {
        wanted: &["dpkg-deb"],
        package: "dpkg",
    },
    Requirement {
        wanted: &["tar"],
        package: "tar",
    },
    Requirement {
        wanted: &[
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp",
        ],
        package: "debian-archive-keyring",
    },
];

/// To link programs for the hosts.
const LINKING: &[Requirement] = &[
    Requirement {
        wanted: &["powerpc64le-linux-gnu-gcc"],
        package: "gcc-powerpc64le-linux-gnu",
    },
    Requirement {
        wanted: &["/usr/powerpc64le-linux-gnu/lib/libc.a"],
        package: "libc6-dev-ppc64el-cross",
    },
];

/// To fetch Python packages.
const PYTHON_PACKAGES: &[Requirement] = &[Requirement {
    wanted: &["pip3", "pip"],
    package: "python3-pip",
}];

/// To run ppc64le programs on this machine.
const USER_EMULATION: &[Requirement] = &[Requirement {
    wanted: &["qemu-ppc64le-static", "qemu-ppc64le"],
    package: "qemu-user-static",
}];

/// To make disks of guests.
const FILE_SYSTEMS: &[Requirement] = &[
    Requirement {
        wanted: &["mke2fs"],
        package: "e2fsprogs",
    },
    Requirement {
        wanted: &["qemu-img"],
        package: "qemu-utils",
    },
];

/// To build libFuzzer.
const FUZZING: &[Requirement] = &[Requirement {
    wanted: &["c++", "g++", "clang++"],
    package: "g++",
}];

/// Makes sure that fuzz targets can be built.
pub(crate) fn for_fuzzing() -> Result<(), ToolError> {
    install_missing(FUZZING)
}

/// Makes sure that packages can be fetched and unpacked.
pub(crate) fn for_packages() -> Result<(), ToolError> {
    install_missing(UNPACKING)
}

/// Makes sure that programs for the hosts can be built.
pub(crate) fn for_cross_builds() -> Result<(), ToolError> {
    install_missing(LINKING)?;
    let mut list = Command::new("rustup");
    list.args(["target", "list", "--installed"]);
    match command::output(&mut list) {
        Ok(installed) if installed.lines().any(|line| line.trim() == TARGET) => Ok(()),
        // Without rustup the toolchain may still have the target: cargo's own message tells.
        Err(CommandError::Start { .. }) => Ok(()),
        Ok(_) | Err(CommandError::Failed { .. }) => {
            let step = Step::start(format!("adding the Rust target {TARGET}"));
            command::output(Command::new("rustup").args(["target", "add", TARGET]))
                .map_err(ToolError::RustTarget)?;
            step.done();
            Ok(())
        }
    }
}

/// Makes sure that ppc64le programs run on this machine, and returns the program that runs them.
pub(crate) fn for_user_emulation() -> Result<&'static str, ToolError> {
    one_of(USER_EMULATION)
}

/// Makes sure that file systems of root's files can be made.
pub(crate) fn for_file_systems() -> Result<(), ToolError> {
    install_missing(FILE_SYSTEMS)?;
    for_namespaces()
}

/// Makes sure that this user may make namespaces, in which an old libvirt finds its own files in place of
/// this machine's.
pub(crate) fn for_namespaces() -> Result<(), ToolError> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "true"]);
    command::output(&mut unshare).map_err(ToolError::Namespaces)?;
    Ok(())
}

/// The program that fetches Python packages, installed if it is missing.
pub(crate) fn for_python_packages() -> Result<&'static str, ToolError> {
    one_of(PYTHON_PACKAGES)
}

/// The one of a requirement's programs that is there.
fn one_of(requirements: &'static [Requirement]) -> Result<&'static str, ToolError> {
    install_missing(requirements)?;
    let [requirement] = requirements else {
        unreachable!("one requirement")
    };
    requirement
        .wanted
        .iter()
        .copied()
        .find(|wanted| is_there(wanted))
        .ok_or(ToolError::StillMissing {
            package: requirement.package,
            wanted: requirement.wanted[0],
        })
}

fn is_there(wanted: &str) -> bool {
    if wanted.starts_with('/') {
        return Path::new(wanted).exists();
    }
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    // Administration tools live where an ordinary user's PATH does not look.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(wanted).is_file())
}

fn install_missing(requirements: &[Requirement]) -> Result<(), ToolError> {
    let missing: Vec<&Requirement> = requirements
        .iter()
        .filter(|requirement| !requirement.wanted.iter().any(|wanted| is_there(wanted)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .map(|requirement| requirement.package)
        .collect();
    install(&packages)?;
    for requirement in missing {
        if !requirement.wanted.iter().any(|wanted| is_there(wanted)) {
            let wanted = requirement.wanted[0];
            return Err(ToolError::StillMissing {
                package: requirement.package,
                wanted,
            });
        }
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<(), ToolError> {
    let missing = packages.join(" ");
    if !is_there("apt-get") {
        return Err(ToolError::NoApt { missing });
    }
    let is_root = rustix::process::geteuid().is_root();
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {missing}");
    if !is_root && !is_there("sudo") {
        return Err(ToolError::NoPermission {
            missing,
            command: format!("(as root) {by_hand}"),
        });
    }
    let privileged = || {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    say(&format!(
        "this machine lacks {missing}: installing with apt-get"
    ));
    let step = Step::start(format!("installing {missing}"));
    let by_hand = if is_root {
        by_hand
    } else {
        format!("sudo sh -c '{by_hand}'")
    };
    let failed = |source| ToolError::Install {
        missing: missing.clone(),
        command: by_hand.clone(),
        source,
    };
    command::output(privileged().arg("update")).map_err(failed)?;
    let mut install = privileged();
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages);
    command::output(&mut install).map_err(failed)?;
    step.done();
    Ok(())
}
