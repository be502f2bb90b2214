//! The images that hosts and guests boot from, made of unpacked packages and cached.

mod modules;
pub(crate) mod nvme;

use std::fs;
use std::path::{Path, PathBuf};

use spapr_lab::cpio::{Archive, CpioError};
use thiserror::Error;

use crate::host::{HostKind, PageSize};
use crate::packages::{PackageError, PackageSet, Packages};
use crate::progress::Step;
use crate::workspace::{Workspace, WorkspaceError, at};

use modules::{KernelModules, ModuleError};

/// Changes when images are put together differently from the same parts.
const RECIPE_VERSION: &[u8] = b"2";

const HOST_INIT: &str = include_str!("host-init.sh");
const GUEST_INIT: &str = include_str!("guest-init.sh");

/// Jobs in the stock guest initrd: a guest whose command line has `job=NAME` runs NAME.
const GUEST_JOBS: &[(&str, &str)] = &[("nvme-digest", include_str!("job-nvme-digest.sh"))];

/// Modules a host loads before the passed-through devices are marked for vfio-pci.
const HOST_FIRST: &[&str] = &[
    "kvm_hv",
    "vfio_pci",
    "vfio_iommu_spapr_tce",
    "9p",
    "9pnet_virtio",
    "overlay",
];
/// Modules a host loads afterwards: the drivers that would take those devices.
const HOST_THEN: &[&str] = &["nvme", "e1000e"];
/// Modules a guest loads: the drivers of the devices it may be given, by PCI class as sysfs has it.
const GUEST_DRIVERS: &[(&str, &str)] = &[("0x010802", "nvme"), ("0x020000", "e1000e")];

/// Why an image could not be made.
#[derive(Debug, Error)]
pub(crate) enum ImageError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Packages(#[from] PackageError),
    #[error("cannot collect the kernel's modules")]
    Modules(#[from] ModuleError),
    #[error("cannot pack the initial RAM disk")]
    Pack(#[from] CpioError),
}

/// What a host boots from and what its guests boot from.
#[derive(Debug)]
pub(crate) struct BootFiles {
    /// The kernel, an ELF file, for host and guest.
    pub(crate) kernel: PathBuf,
    /// The host's initial RAM disk.
    pub(crate) host_initrd: PathBuf,
    /// The guest's initial RAM disk.
    pub(crate) guest_initrd: PathBuf,
    /// An archive with kexec, to append to the guest's initial RAM disk.
    pub(crate) kexec: PathBuf,
}

/// The boot files for a kind of host.
pub(crate) fn boot_files(workspace: &Workspace, kind: HostKind) -> Result<BootFiles, ImageError> {
    let (set, name) = match kind.page_size() {
        PageSize::Pages4k => (PackageSet::KernelPages4k, "boot-4k"),
        PageSize::Pages64k => (PackageSet::KernelPages64k, "boot-64k"),
    };
    let kernel_package = Packages::provide(workspace, set)?;
    let busybox = Packages::provide(workspace, PackageSet::Busybox)?;
    let kexec = Packages::provide(workspace, PackageSet::KexecTools)?;
    let c_library = Packages::provide(workspace, PackageSet::CLibrary)?;
    let jobs: Vec<u8> = GUEST_JOBS
        .iter()
        .flat_map(|(name, job)| [*name, *job].concat().into_bytes())
        .collect();
    let guest_drivers: Vec<&str> = GUEST_DRIVERS.iter().map(|(_, driver)| *driver).collect();
    let module_names = [HOST_FIRST, HOST_THEN, &guest_drivers]
        .map(|names| names.join(" "))
        .join(";");
    let recipe = [
        RECIPE_VERSION,
        HOST_INIT.as_bytes(),
        GUEST_INIT.as_bytes(),
        &jobs,
        module_names.as_bytes(),
        &kernel_package.stamp()?,
        &busybox.stamp()?,
        &kexec.stamp()?,
        &c_library.stamp()?,
    ];
    let images = workspace.provide("images", name, &recipe, |into| {
        let step = Step::start(format!("making the initial RAM disks ({name})"));
        let modules = KernelModules::open(&kernel_package.root().join("usr/lib/modules"))?;
        let path = busybox.root().join("usr/bin/busybox");
        let busybox = fs::read(&path).map_err(at("read", &path))?;
        write(&into.join("host"), &host_initrd(&modules, &busybox)?)?;
        write(&into.join("guest"), &guest_initrd(&modules, &busybox)?)?;
        write(&into.join("kexec"), &kexec_archive(&kexec, &c_library)?)?;
        step.done();
        Ok::<(), ImageError>(())
    })?;
    Ok(BootFiles {
        kernel: kernel_package.find("boot", "vmlinux-")?,
        host_initrd: images.join("host"),
        guest_initrd: images.join("guest"),
        kexec: images.join("kexec"),
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    Ok(fs::write(path, bytes).map_err(at("write", path))?)
}

fn host_initrd(modules: &KernelModules, busybox: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    for folder in ["lab", "opt", "run", "mnt", "var", "home"] {
        archive.directory(folder, 0o755)?;
    }
    archive.directory("home/user", 0o755)?;
    base(&mut archive, busybox, HOST_INIT)?;
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
    )?;
    archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n")?;
    let first = modules.add_to(&mut archive, HOST_FIRST, &[])?;
    archive.file("lib/modules/first", 0o644, first.join("\n").as_bytes())?;
    let then = modules.add_to(&mut archive, HOST_THEN, &first)?;
    archive.file("lib/modules/then", 0o644, then.join("\n").as_bytes())?;
    Ok(archive.finish()?)
}

fn guest_initrd(modules: &KernelModules, busybox: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    base(&mut archive, busybox, GUEST_INIT)?;
    archive.directory("jobs", 0o755)?;
    for (name, job) in GUEST_JOBS {
        archive.file(&format!("jobs/{name}"), 0o755, job.as_bytes())?;
    }
    for (class, driver) in GUEST_DRIVERS {
        let order = modules.add_to(&mut archive, &[driver], &[])?;
        let list = format!("lib/modules/{class}");
        archive.file(&list, 0o644, order.join("\n").as_bytes())?;
    }
    Ok(archive.finish()?)
}

/// kexec with its loader and library, where they expect each other.
fn kexec_archive(kexec: &Packages, c_library: &Packages) -> Result<Vec<u8>, ImageError> {
    const LOADER: &str = "usr/lib64/ld64.so.2";
    const LIBRARY: &str = "usr/lib/powerpc64le-linux-gnu/libc.so.6";
    let mut archive = Archive::new();
    for folder in ["lib64", "usr/lib", "usr/lib/powerpc64le-linux-gnu"] {
        archive.directory(folder, 0o755)?;
    }
    for (package, from, to) in [
        (kexec, "usr/sbin/kexec", "usr/bin/kexec"),
        (c_library, LOADER, "lib64/ld64.so.2"),
        (c_library, LIBRARY, LIBRARY),
    ] {
        let path = package.root().join(from);
        let bytes = fs::read(&path).map_err(at("read", &path))?;
        archive.file(to, 0o755, &bytes)?;
    }
    Ok(archive.finish()?)
}

/// What every root file system has.
fn base(archive: &mut Archive, busybox: &[u8], init: &str) -> Result<(), ImageError> {
    let folders = [
        "bin",
        "dev",
        "etc",
        "lib",
        "lib/modules",
        "proc",
        "root",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
    ];
    for folder in folders {
        archive.directory(folder, 0o755)?;
    }
    // The kernel opens it for init before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.symlink("bin/sh", "busybox")?;
    archive.file("init", 0o755, init.as_bytes())?;
    Ok(())
}
