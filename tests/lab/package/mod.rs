//! `cargo lab package`: a deb and an rpm for ppc64le, with both programs, their manual pages, completions, and what
//! systemd, udev, AppArmor and whoever asks what is in them need.
//!
//! What goes where stands in vmm/Cargo.toml (`package.metadata`); what is made for it first goes into
//! `target/package`, and so do the packages.

mod quick;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::cli::PackageArgs;
use crate::command::{self, CommandError};
use crate::cross_build::{self, BuildError};
use crate::progress::{Step, say};
use crate::tools::TARGET;
use crate::workspace::{Workspace, WorkspaceError, at};

/// Why there are no packages.
#[derive(Debug, Error)]
pub(crate) enum PackagingError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot run cargo")]
    Cargo(#[from] CommandError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(
        "cannot install {name} {version}; try it by hand: cargo install --locked {name}@{version}"
    )]
    Tool {
        name: &'static str,
        version: &'static str,
        #[source]
        source: CommandError,
    },
    #[error("{} made no list of what is in the programs", tool)]
    NoBill { tool: &'static str },
    #[error(transparent)]
    Quick(#[from] quick::QuickError),
}

/// A command of cargo's that makes something of a package.
#[derive(Clone, Copy)]
pub(crate) struct CargoTool {
    /// Its crate and its program.
    pub(crate) name: &'static str,
    /// The version that is known to work.
    pub(crate) version: &'static str,
}

const DEB: CargoTool = CargoTool {
    name: "cargo-deb",
    version: "3.8.0",
};
const RPM: CargoTool = CargoTool {
    name: "cargo-generate-rpm",
    version: "0.21.1",
};
/// CycloneDX: a bill of materials.
const BILL: CargoTool = CargoTool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
};

/// Builds as cargo does, and puts into each program which crates it is made of, for `cargo audit bin` and its like.
const AUDITABLE: CargoTool = CargoTool {
    name: "cargo-auditable",
    version: "0.7.7",
};

/// The package of both programs.
const PACKAGE: &str = "spapr-vmm";

/// Makes the packages.
pub(crate) fn run(workspace: &Workspace, args: &PackageArgs) -> Result<u8, PackagingError> {
    let folder = workspace.root().join("target/package");
    manual(workspace, &folder)?;
    if args.quick {
        let programs = cross_build::vmm_and_front_end(workspace)?;
        let deb = quick::pack(workspace, &programs)?;
        say(&format!("made {}", deb.display()));
        return Ok(0);
    }
    bill_of_materials(workspace, &folder)?;
    let mut cargo = command_of(workspace, AUDITABLE)?;
    // Tables of lines are three quarters of a program. Names stay, for what a panic shows; cargo strips what the standard
    // library brings when a profile asks for no such tables.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "none");
    cross_build::vmm_and_front_end_by(cargo)?;
    for (tool, args) in [
        (DEB, &["--package", PACKAGE, "--no-build", "--no-strip"][..]),
        (RPM, &["--package", "vmm"]),
    ] {
        let step = Step::start(format!("packing with {}", tool.name));
        let mut pack = command_of(workspace, tool)?;
        pack.args(args).args(["--target", TARGET, "--output"]);
        pack.arg(&folder);
        command::output(&mut pack)?;
        step.done();
    }
    for package in packages(&folder)? {
        say(&format!("made {}", package.display()));
    }
    Ok(0)
}

/// Writes the manual pages and completions into `folder`.
pub(crate) fn manual(workspace: &Workspace, folder: &Path) -> Result<(), PackagingError> {
    let step = Step::start("writing manual pages and completions");
    let mut cargo = cross_build::cargo(workspace);
    cargo
        .args(["run", "--locked", "--quiet", "--package", PACKAGE])
        .args(["--example", "manual", "--"])
        .arg(folder);
    command::output(&mut cargo)?;
    step.done();
    Ok(())
}

/// Lists what both programs are made of, in CycloneDX.
fn bill_of_materials(workspace: &Workspace, folder: &Path) -> Result<(), PackagingError> {
    let mut tool = command_of(workspace, BILL)?;
    let step = Step::start("listing what the programs are made of");
    let name = "spapr-vmm.cdx";
    tool.args(["--format", "json", "--target", TARGET])
        .args(["--override-filename", name, "--manifest-path"])
        .arg(workspace.root().join("vmm/Cargo.toml"));
    command::output(&mut tool)?;
    // One comes beside each manifest of the workspace.
    let made = workspace.root().join(format!("vmm/{name}.json"));
    if !made.is_file() {
        return Err(PackagingError::NoBill { tool: BILL.name });
    }
    let bill = folder.join(format!("{name}.json"));
    fs::copy(&made, &bill).map_err(at("write", &bill))?;
    for manifest in [
        "hypercalls",
        "devices",
        "vmm",
        "vmm/kvm",
        "tests",
        "tests/bench",
        "tests/fuzz",
        "tests/guests",
        "vmm/rust-vmm-ppc64/kvm-bindings",
        "vmm/rust-vmm-ppc64/vmm-sys-util",
    ] {
        // Most of them are there; none is to stay.
        let _ = fs::remove_file(workspace.root().join(manifest).join(format!("{name}.json")));
    }
    step.done();
    Ok(())
}

/// A command of cargo's, installed below `target/tools` if it is not there.
pub(crate) fn command_of(
    workspace: &Workspace,
    tool: CargoTool,
) -> Result<Command, PackagingError> {
    let CargoTool { name, version } = tool;
    let root = workspace.root().join("target/tools");
    let program = root.join("bin").join(name);
    if !program.is_file() {
        say(&format!(
            "this machine lacks {name}: installing it below target/tools"
        ));
        let step = Step::start(format!("building {name} {version}"));
        let mut install = cross_build::cargo(workspace);
        install
            .args(["install", "--locked", "--quiet", "--root"])
            .arg(&root)
            .arg(format!("{name}@{version}"));
        // What it does takes no time: to build it shall take none, either.
        install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        install.env("CARGO_PROFILE_RELEASE_LTO", "false");
        command::output(&mut install).map_err(|source| PackagingError::Tool {
            name,
            version,
            source,
        })?;
        step.done();
    }
    let mut command = Command::new(program);
    command.current_dir(workspace.root());
    // As cargo itself names a command's own program.
    command.arg(name.strip_prefix("cargo-").unwrap_or(name));
    Ok(command)
}

/// The packages in `folder`.
fn packages(folder: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let entries = fs::read_dir(folder).map_err(at("read the folder", folder))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_package = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("deb" | "rpm"))
    };
    Ok(paths.filter(is_package).collect())
}
