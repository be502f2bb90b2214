//! Debian packages the images are made of, unpacked into the cache.
//!
//! | file | what |
//! |---|---|
//! | `sources` | which suites, in which order, and from which mirrors |
//! | `lock` | the versions that the project was last tested with |
//! | `index` | what suites offer |
//! | `resolve` | which versions go together |
//! | `search` | the best set among what is on offer, and how it differs from the one wished |
//! | `fetch` | fetching a set, and giving way where something cannot be had |
//! | `apt` | a private apt that transports and verifies |
//! | `archive` | packages' files, kept until they are unpacked |
//! | `unpack` | unpacking them |
//! | `python` | the one package that is not Debian's |
//! | `loopback_tests` | all of it against mirrors on loopback, broken in many ways |

mod apt;
mod archive;
mod fetch;
mod index;
mod lock;
#[cfg(test)]
#[cfg(feature = "lab-program")]
mod loopback_tests;
pub(crate) mod python;
mod resolve;
mod search;
mod sources;
mod unpack;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::command::CommandError;
use crate::kernels::{Kernel, PageSize};
use crate::progress::{Step, say};
use crate::tools::{self, ToolError};
use crate::workspace::{Workspace, WorkspaceError, at};

use archive::{Archive, Store};
use fetch::{Depot, FetchError, Fetched, Learnt, Wanted};
use lock::{Lock, LockError};
use sources::{Mirrors, Release, SourcesError};
use unpack::UnpackError;

/// Changes when the way packages are unpacked changes.
const RECIPE_VERSION: &str = "2";

/// The file in an unpacked set that lists its packages, as lines of the lock file.
const LIST: &str = "packages.list";

/// The file in an unpacked set that says what is not as it was last tested, a line each.
const DIFFERENCES: &str = "packages.differences";

/// Why packages are not there.
#[derive(Debug, Error)]
pub(crate) enum PackageError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot fetch {packages} ({architecture}) of Debian {release}")]
    Fetch {
        packages: String,
        release: &'static str,
        architecture: &'static str,
        #[source]
        source: Box<FetchError>,
    },
    #[error("cannot unpack {package}")]
    Unpack {
        package: String,
        #[source]
        source: Box<UnpackError>,
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
    /// The next Debian's, for hosts that the other does not emulate well.
    NextHostEmulator,
    /// A kernel for hosts and guests, with its modules.
    Kernel(Kernel),
    /// The tools of hosts and guests.
    Busybox,
    /// kexec, for guests that start another kernel.
    KexecTools,
    /// The C library that kexec needs.
    CLibrary,
    /// QEMU to run inside a host, with every library it needs.
    PeerEmulator,
    /// The next Debian's QEMU, for the same.
    NextPeerEmulator,
    /// jq, for scripts in hosts, with every library it needs.
    Jq,
    /// virtiofsd, which serves folders of hosts to guests, with every library it needs.
    Virtiofsd,
    /// libvirt to run inside a host, with QEMU, which it depends on, and Python.
    Libvirt,
    /// A system for a guest's disk: what Debian 13 comes up with, and a guest agent.
    GuestSystem,
    /// Debian 12's libvirt, for this machine, with every library it needs.
    OldLibvirt,
}

/// A system that comes up to a login, has a network and a guest agent, and no firmware, boot loader or kernel of its
/// own.
const GUEST_SYSTEM: Wanted = Wanted::WithDependencies(&[
    "base-files",
    "base-passwd",
    "libc-bin",
    "bash",
    "dash",
    "coreutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "sed",
    "mawk",
    "util-linux",
    "mount",
    "procps",
    "kmod",
    "login",
    "passwd",
    "libpam-modules",
    "libpam-runtime",
    "libpam-systemd",
    "init-system-helpers",
    "ncurses-base",
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
    "qemu-guest-agent",
]);

const VIRTIOFSD: Wanted = Wanted::WithDependencies(&["virtiofsd"]);

struct Recipe {
    name: String,
    release: Release,
    architecture: &'static str,
    wanted: Wanted,
}

impl PackageSet {
    /// Every set there is.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![
            Self::HostEmulator,
            Self::NextHostEmulator,
            Self::Busybox,
            Self::KexecTools,
            Self::CLibrary,
            Self::PeerEmulator,
            Self::NextPeerEmulator,
            Self::Jq,
            Self::Virtiofsd,
            Self::Libvirt,
            Self::GuestSystem,
            Self::OldLibvirt,
        ];
        all.extend(Kernel::all().map(Self::Kernel));
        all
    }

    fn recipe(self) -> Recipe {
        let trixie = |name: &str, architecture, wanted| Recipe {
            name: name.to_owned(),
            release: Release::Trixie,
            architecture,
            wanted,
        };
        let qemu = Wanted::WithDependencies(&["qemu-system-ppc"]);
        match self {
            // Debian 13's QEMU emulates POWER hosts well.
            Self::HostEmulator => trixie("host-emulator", "amd64", qemu),
            Self::NextHostEmulator => Recipe {
                name: "next-host-emulator".to_owned(),
                release: Release::Forky,
                architecture: "amd64",
                wanted: qemu,
            },
            Self::Kernel(kernel) => kernel_recipe(kernel),
            Self::Busybox => trixie("busybox", "ppc64el", Wanted::Alone("busybox-static")),
            Self::KexecTools => trixie("kexec-tools", "ppc64el", Wanted::Alone("kexec-tools")),
            Self::CLibrary => trixie("c-library", "ppc64el", Wanted::Alone("libc6")),
            Self::PeerEmulator => trixie("peer-emulator", "ppc64el", qemu),
            Self::NextPeerEmulator => Recipe {
                name: "next-peer-emulator".to_owned(),
                release: Release::Forky,
                architecture: "ppc64el",
                wanted: qemu,
            },
            Self::Jq => trixie("jq", "ppc64el", Wanted::WithDependencies(&["jq"])),
            Self::Virtiofsd => trixie("virtiofsd", "ppc64el", VIRTIOFSD),
            Self::Libvirt => trixie(
                "libvirt",
                "ppc64el",
                Wanted::WithDependencies(&[
                    "libvirt-daemon-driver-qemu",
                    "libvirt-daemon-driver-network",
                    "libvirt-daemon",
                    "libvirt-daemon-log",
                    "passt",
                    "virtiofsd",
                    "libvirt-clients",
                    "qemu-system-ppc",
                    "python3",
                    "base-files",
                    "coreutils",
                    "bash",
                    "bsdutils",
                ]),
            ),
            Self::GuestSystem => trixie("guest-system", "ppc64el", GUEST_SYSTEM),
            Self::OldLibvirt => Recipe {
                name: "old-libvirt".to_owned(),
                release: Release::Bookworm,
                architecture: "amd64",
                wanted: Wanted::WithDependencies(&[
                    "libvirt-daemon-driver-qemu",
                    "libvirt-clients",
                ]),
            },
        }
    }
}

fn kernel_recipe(kernel: Kernel) -> Recipe {
    use crate::kernels::KernelRelease;
    let (release, series) = match kernel.release {
        KernelRelease::Bookworm => (Release::Bookworm, "6.1."),
        KernelRelease::BookwormBackports => (Release::BookwormBackports, "6.12."),
        KernelRelease::Trixie => (Release::Trixie, "6.12."),
        // It moves on until it is released.
        KernelRelease::Forky => (Release::Forky, ""),
    };
    // Debian 12's only kernel of its own has pages of 64 KiB.
    let flavour = match (kernel.release, kernel.pages) {
        (KernelRelease::Bookworm, _) | (_, PageSize::Pages4k) => "powerpc64le",
        (_, PageSize::Pages64k) => "powerpc64le-64k",
    };
    Recipe {
        name: format!("kernel-{}", kernel.name()),
        release,
        architecture: "ppc64el",
        wanted: Wanted::Kernel { flavour, series },
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
        let lock = Lock::read(&workspace.root().join(lock::FILE))?;
        Self::of_recipe(
            workspace,
            &recipe,
            lock.set(&recipe.name),
            Mirrors::of_this_machine,
        )
    }

    fn of_recipe(
        workspace: &Workspace,
        recipe: &Recipe,
        locked: Option<&[Archive]>,
        mirrors: impl FnOnce() -> Result<Mirrors, SourcesError>,
    ) -> Result<Self, PackageError> {
        let tested: String = locked.unwrap_or_default().iter().map(lock::line).collect();
        let wanted = format!("{:?}", recipe.wanted);
        let inputs = [
            recipe.release.name(),
            RECIPE_VERSION,
            recipe.architecture,
            &wanted,
            &tested,
        ];
        let root = workspace.provide(
            "packages",
            &recipe.name,
            &inputs.map(str::as_bytes),
            |into| {
                tools::for_packages()?;
                let store = store(workspace)?;
                let mut fetched = fetch(workspace, &store, recipe, locked, mirrors)?;
                if locked.is_none() {
                    let name = &recipe.name;
                    let line = format!("{name}: not in {}, so never tested", lock::FILE);
                    fetched.differences.push(line);
                }
                unpack_all(recipe, &store, &fetched, into)?;
                store.forget(&fetched.archives);
                Ok::<(), PackageError>(())
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

    /// What is not as it was last tested, a line each.
    pub(crate) fn differences(&self) -> Result<Vec<String>, PackageError> {
        let path = self.root.join(DIFFERENCES);
        let text = fs::read_to_string(&path).map_err(at("read", &path))?;
        Ok(text.lines().map(str::to_owned).collect())
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

/// How the sets differ from what was last tested, a line each, those that several sets share once.
pub(crate) fn differences(
    workspace: &Workspace,
    sets: &[PackageSet],
) -> Result<Vec<String>, PackageError> {
    let mut lines = Vec::new();
    for set in sets {
        lines.extend(Packages::provide(workspace, *set)?.differences()?);
    }
    lines.sort();
    lines.dedup();
    Ok(lines)
}

/// The same in a word or two.
pub(crate) fn standing(differences: &[String]) -> String {
    match differences.len() {
        0 => "as last tested".to_owned(),
        count => format!("{count} other than last tested"),
    }
}

/// Says how packages stand to those last tested, and in which way others are others.
pub(crate) fn tell(differences: &[String]) {
    say(&format!("Debian packages: {}", standing(differences)));
    for line in differences {
        say(&format!("  {line}"));
    }
}

/// Removes what was fetched and is not needed any more; to be called when all sets are there.
pub(crate) fn remove_leftovers(workspace: &Workspace) -> Result<(), PackageError> {
    let folder = workspace.cached("archives");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(at("remove", &folder))?;
    }
    Ok(())
}

/// Fetches the newest of each set that can be had, and writes to the lock file what that is.
pub(crate) fn update(workspace: &Workspace) -> Result<(), PackageError> {
    tools::for_packages()?;
    let path = workspace.root().join(lock::FILE);
    let before = Lock::read(&path)?;
    let store = store(workspace)?;
    let mut after = Lock::default();
    for set in PackageSet::all() {
        let recipe = set.recipe();
        let fetched = fetch(workspace, &store, &recipe, None, Mirrors::of_this_machine)?;
        let old = before.set(&recipe.name).unwrap_or_default();
        let changed = fetched.archives.iter().filter(|new| !old.contains(new));
        say(&format!(
            "{}: {} packages, {} of them other than before",
            recipe.name,
            fetched.archives.len(),
            changed.count()
        ));
        after.insert(&recipe.name, fetched.archives);
    }
    after.write(&path)?;
    say(&format!("{} is written", lock::FILE));
    Ok(())
}

fn store(workspace: &Workspace) -> Result<Store, PackageError> {
    let folder = workspace.cached("archives");
    Ok(Store::open(folder.clone()).map_err(at("make the folder", &folder))?)
}

fn fetch(
    workspace: &Workspace,
    store: &Store,
    recipe: &Recipe,
    locked: Option<&[Archive]>,
    mirrors: impl FnOnce() -> Result<Mirrors, SourcesError>,
) -> Result<Fetched, PackageError> {
    let fetch_error = |source| PackageError::Fetch {
        packages: recipe.wanted.title(),
        release: recipe.release.name(),
        architecture: recipe.architecture,
        source: Box::new(source),
    };
    // One for all sets of this process.
    static LEARNT: Learnt = Learnt::new();
    let depot = Depot {
        learnt: &LEARNT,
        mirrors: mirrors().map_err(|source| fetch_error(source.into()))?,
        store,
        apt: &workspace.cached("apt"),
        architecture: recipe.architecture,
    };
    depot
        .fetch(recipe.release, recipe.wanted, locked)
        .map_err(fetch_error)
}

fn unpack_all(
    recipe: &Recipe,
    store: &Store,
    fetched: &Fetched,
    into: &Path,
) -> Result<(), PackageError> {
    let step = Step::start(format!(
        "unpacking {} ({})",
        recipe.name, recipe.architecture
    ));
    let mut list = Vec::new();
    for archive in &fetched.archives {
        unpack::unpack(&store.path(archive), into).map_err(|source| PackageError::Unpack {
            package: archive.title(),
            source: Box::new(source),
        })?;
        list.push(lock::line(archive));
    }
    list.sort();
    let write =
        |name: &str, text: String| -> Result<(), io::Error> { fs::write(into.join(name), text) };
    let differences: String = fetched
        .differences
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    write(LIST, list.concat())
        .and_then(|()| write(DIFFERENCES, differences))
        .map_err(at("write in", into))?;
    step.done();
    Ok(())
}
