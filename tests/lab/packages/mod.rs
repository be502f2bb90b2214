//! Debian packages the images are made of, unpacked into the cache.
//!
//! All but one old libvirt come from one Debian release's `main`, fetched by a private apt that shares
//! nothing with this machine's package state but the mirror it is configured to use.

mod apt;
pub(crate) mod python;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::command::{self, CommandError};
use crate::progress::Step;
use crate::tools::{self, ToolError};
use crate::workspace::{Workspace, WorkspaceError, at};

use apt::{Apt, AptError};

/// The Debian release: its QEMU emulates POWER hosts well, its ppc64el kernel has VFIO.
const RELEASE: &str = "trixie";

/// The release before, Debian 12.
const OLD_RELEASE: &str = "bookworm";

/// Changes when the way packages are unpacked changes.
const RECIPE_VERSION: &str = "1";

/// The file in an unpacked set that lists the packages with their versions.
const LIST: &str = "packages.list";

/// Why packages are not there.
#[derive(Debug, Error)]
pub(crate) enum PackageError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error("cannot fetch {packages} ({architecture}) from Debian {release}")]
    Fetch {
        packages: String,
        release: &'static str,
        architecture: &'static str,
        #[source]
        source: Box<AptError>,
    },
    #[error("cannot unpack {package}")]
    Unpack {
        package: String,
        #[source]
        source: Box<CommandError>,
    },
    #[error("cannot fetch the Python package {package}")]
    Python {
        package: &'static str,
        #[source]
        source: Box<CommandError>,
    },
    #[error("{} holds no file {wanted}; Debian's package has changed", folder.display())]
    FileMissing {
        folder: PathBuf,
        wanted: &'static str,
    },
}

/// A set of packages that is fetched and unpacked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackageSet {
    /// The emulator of the hosts, with every library it needs, for this machine.
    HostEmulator,
    /// The kernel with 4 KiB pages, for hosts and guests.
    KernelPages4k,
    /// The kernel with 64 KiB pages, for hosts and guests.
    KernelPages64k,
    /// The tools of hosts and guests.
    Busybox,
    /// kexec, for guests that start another kernel.
    KexecTools,
    /// The C library that kexec needs.
    CLibrary,
    /// QEMU to run inside a host, with every library it needs.
    PeerEmulator,
    /// libvirt to run inside a host, with QEMU, which it depends on, and Python.
    Libvirt,
    /// Debian 12's libvirt, for this machine, with every library it needs.
    OldLibvirt,
}

struct Recipe {
    name: &'static str,
    release: &'static str,
    architecture: &'static str,
    /// Its name; several with spaces between.
    package: &'static str,
    depth: Depth,
}

/// How much beside the named package is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// The package alone.
    Alone,
    /// The packages it names as its direct dependencies: it is an empty one that points to the
    /// newest version of something.
    PointedTo,
    /// All it needs to run, the C library included.
    WithDependencies,
}

impl PackageSet {
    fn recipe(self) -> Recipe {
        let (name, architecture, package, depth) = match self {
            Self::HostEmulator => (
                "host-emulator",
                "amd64",
                "qemu-system-ppc",
                Depth::WithDependencies,
            ),
            Self::KernelPages4k => (
                "kernel-4k",
                "ppc64el",
                "linux-image-powerpc64le",
                Depth::PointedTo,
            ),
            Self::KernelPages64k => (
                "kernel-64k",
                "ppc64el",
                "linux-image-powerpc64le-64k",
                Depth::PointedTo,
            ),
            Self::Busybox => ("busybox", "ppc64el", "busybox-static", Depth::Alone),
            Self::KexecTools => ("kexec-tools", "ppc64el", "kexec-tools", Depth::Alone),
            Self::CLibrary => ("c-library", "ppc64el", "libc6", Depth::Alone),
            Self::PeerEmulator => (
                "peer-emulator",
                "ppc64el",
                "qemu-system-ppc",
                Depth::WithDependencies,
            ),
            Self::Libvirt => (
                "libvirt",
                "ppc64el",
                "libvirt-daemon-driver-qemu libvirt-daemon libvirt-daemon-log libvirt-clients \
                 qemu-system-ppc python3 base-files coreutils bash bsdutils",
                Depth::WithDependencies,
            ),
            Self::OldLibvirt => (
                "old-libvirt",
                "amd64",
                "libvirt-daemon-driver-qemu libvirt-clients",
                Depth::WithDependencies,
            ),
        };
        let release = match self {
            Self::OldLibvirt => OLD_RELEASE,
            _ => RELEASE,
        };
        Recipe {
            name,
            release,
            architecture,
            package,
            depth,
        }
    }
}

/// An unpacked set of packages.
#[derive(Debug, Clone)]
pub(crate) struct Packages {
    root: PathBuf,
}

impl Packages {
    /// The set's files, fetched and unpacked if they are not in the cache.
    pub(crate) fn provide(workspace: &Workspace, set: PackageSet) -> Result<Self, PackageError> {
        let recipe = set.recipe();
        let depth = format!("{:?}", recipe.depth);
        let inputs = [
            recipe.release,
            RECIPE_VERSION,
            recipe.architecture,
            recipe.package,
            &depth,
        ];
        let root = workspace.provide(
            "packages",
            recipe.name,
            &inputs.map(str::as_bytes),
            |into| {
                tools::for_packages()?;
                fetch(workspace, &recipe, into)
            },
        )?;
        Ok(Self { root })
    }

    /// The folder that stands for `/`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What the set consists of, packages with versions: a stamp for what is made of it.
    pub(crate) fn stamp(&self) -> Result<Vec<u8>, PackageError> {
        let list = self.root.join(LIST);
        Ok(fs::read(&list).map_err(at("read", &list))?)
    }

    /// The one file in `folder` whose name starts with `prefix`.
    pub(crate) fn find(&self, folder: &str, prefix: &'static str) -> Result<PathBuf, PackageError> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).map_err(at("read the folder", &folder))?;
        entries
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .ok_or(PackageError::FileMissing {
                folder,
                wanted: prefix,
            })
    }
}

fn fetch(workspace: &Workspace, recipe: &Recipe, into: &Path) -> Result<(), PackageError> {
    let fetch_error = |source| PackageError::Fetch {
        packages: recipe.package.to_owned(),
        release: recipe.release,
        architecture: recipe.architecture,
        source: Box::new(source),
    };
    let folder = workspace.cached("apt");
    let apt = Apt::prepare(&folder, recipe.release, recipe.architecture).map_err(fetch_error)?;
    let archives = tempfile::Builder::new()
        .prefix("archives")
        .tempdir_in(workspace.cached("partial"))
        .map_err(at("write in", &workspace.cached("partial")))?;
    match recipe.depth {
        Depth::Alone => apt.download(&[recipe.package.to_owned()], archives.path()),
        Depth::PointedTo => apt
            .dependencies(recipe.package)
            .and_then(|packages| apt.download(&packages, archives.path())),
        Depth::WithDependencies => apt.download_with_dependencies(recipe.package, archives.path()),
    }
    .map_err(fetch_error)?;
    unpack_all(recipe, archives.path(), into)
}

fn unpack_all(recipe: &Recipe, archives: &Path, into: &Path) -> Result<(), PackageError> {
    let step = Step::start(format!(
        "unpacking {} ({})",
        recipe.package, recipe.architecture
    ));
    let mut list = Vec::new();
    for entry in fs::read_dir(archives).map_err(at("read the folder", archives))? {
        let archive = entry.map_err(at("read the folder", archives))?.path();
        if archive
            .extension()
            .is_none_or(|extension| extension != "deb")
        {
            continue;
        }
        let name = archive
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        unpack(&archive, into).map_err(|source| PackageError::Unpack {
            package: name.clone(),
            source: Box::new(source),
        })?;
        list.push(name);
    }
    list.sort();
    let path = into.join(LIST);
    fs::write(&path, list.join("\n") + "\n").map_err(at("write", &path))?;
    step.done();
    Ok(())
}

fn unpack(archive: &Path, into: &Path) -> Result<(), CommandError> {
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
