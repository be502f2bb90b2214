//! The images that hosts and guests boot from, made of unpacked packages and cached.

mod modules;
pub(crate) mod nvme;
pub(crate) mod system;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use spapr_lab::cpio::{Archive, CpioError};
use thiserror::Error;

use crate::command::CommandError;
use crate::kernels::Kernel;
use crate::packages::{PackageError, PackageSet, Packages};
use crate::progress::Step;
use crate::tools::ToolError;
use crate::workspace::{Workspace, WorkspaceError, at};

use modules::{KernelModules, ModuleError};

/// Changes when images are put together differently from the same parts.
const RECIPE_VERSION: &[u8] = b"3";

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
/// Modules a host loads afterwards: the drivers that would take those devices, and what networks of guests
/// are made of.
const HOST_THEN: &[&str] = &[
    "nvme",
    "e1000e",
    "tun",
    "bridge",
    "vhost_net",
    "vhost_vsock",
];
/// Modules a host loads if it has a virtual function.
const HOST_VIRTUAL: &[&str] = &["igb"];
/// Modules a guest loads: the drivers of the devices it may be given, by PCI class as sysfs has it, or by vendor and
/// device.
const GUEST_DRIVERS: &[(&str, &[&str])] = &[
    ("0x010802", &["nvme"]),
    ("0x8086-0x10d3", &["e1000e"]),
    ("0x8086-0x100e", &["e1000"]),
    ("0x10ec-0x8139", &["8139cp"]),
    ("0x010601", &["ahci", "sd_mod"]),
    ("0x0c0320", &["ehci_pci", "usb_storage", "sd_mod"]),
    ("0x0c0330", &["xhci_pci", "usb_storage", "sd_mod"]),
    ("0x010400", &["megaraid_sas", "sd_mod"]),
    ("0x8086-0x10c9", &["igb"]),
    ("0x8086-0x10ca", &["igbvf"]),
    ("0x1af4-0x1041", &["virtio_net"]),
    ("0x00ff00", &["virtio_rng"]),
    ("0x010000", &["virtio_blk"]),
    ("0x1af4-0x1048", &["virtio_scsi", "sd_mod", "sr_mod"]),
    ("0x078000", &["virtio_console"]),
    ("0x1af4-0x1045", &["virtio_balloon"]),
    ("0x1af4-0x1053", &["vmw_vsock_virtio_transport"]),
    ("0x1af4-0x105a", &["virtiofs"]),
];

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
    #[error(transparent)]
    Tools(#[from] Box<ToolError>),
    #[error("cannot make a system's disk")]
    Disk(#[from] Box<CommandError>),
    #[error("{} is no ELF file, which is what QEMU boots; Debian's package has changed", path.display())]
    NotElf { path: PathBuf },
}

/// What a host or a guest boots from.
#[derive(Debug)]
pub(crate) struct BootFiles {
    /// The kernel, an ELF file.
    pub(crate) kernel: PathBuf,
    /// Its version, as `uname -r` has it.
    pub(crate) version: String,
    /// The initial RAM disk.
    pub(crate) initrd: PathBuf,
}

/// What a host with this kernel boots from.
pub(crate) fn of_host(workspace: &Workspace, kernel: Kernel) -> Result<BootFiles, ImageError> {
    let names = [HOST_FIRST, HOST_THEN, HOST_VIRTUAL].map(|names| names.join(" "));
    let jq = Packages::provide(workspace, PackageSet::Jq)?;
    let virtiofsd = Packages::provide(workspace, PackageSet::Virtiofsd)?;
    let stamps = [jq.stamp()?, virtiofsd.stamp()?];
    let names = names.join(";");
    let recipe = [
        HOST_INIT.as_bytes(),
        names.as_bytes(),
        &stamps[0],
        &stamps[1],
    ];
    boot_files(workspace, kernel, "host", &recipe, |modules, busybox| {
        host_initrd(modules, busybox, &jq, &virtiofsd)
    })
}

/// What a guest with this kernel boots from.
pub(crate) fn of_guest(workspace: &Workspace, kernel: Kernel) -> Result<BootFiles, ImageError> {
    let mut recipe = vec![GUEST_INIT.as_bytes()];
    for (name, text) in GUEST_JOBS {
        recipe.extend([name.as_bytes(), text.as_bytes()]);
    }
    for (device, drivers) in GUEST_DRIVERS {
        recipe.push(device.as_bytes());
        recipe.extend(drivers.iter().map(|driver| driver.as_bytes()));
    }
    boot_files(workspace, kernel, "guest", &recipe, guest_initrd)
}

/// An archive with kexec, to append to a guest's initial RAM disk.
pub(crate) fn kexec(workspace: &Workspace) -> Result<PathBuf, ImageError> {
    let kexec = Packages::provide(workspace, PackageSet::KexecTools)?;
    let c_library = Packages::provide(workspace, PackageSet::CLibrary)?;
    let recipe = [RECIPE_VERSION, &kexec.stamp()?, &c_library.stamp()?];
    let folder = workspace.provide("images", "kexec", &recipe, |into| {
        write(&into.join("kexec"), &kexec_archive(&kexec, &c_library)?)
    })?;
    Ok(folder.join("kexec"))
}

fn boot_files(
    workspace: &Workspace,
    kernel: Kernel,
    of: &str,
    recipe: &[&[u8]],
    make: impl Fn(&KernelModules, &[u8]) -> Result<Vec<u8>, ImageError>,
) -> Result<BootFiles, ImageError> {
    let package = Packages::provide(workspace, PackageSet::Kernel(kernel))?;
    let busybox = Packages::provide(workspace, PackageSet::Busybox)?;
    let stamps = [package.stamp()?, busybox.stamp()?];
    let mut parts = vec![RECIPE_VERSION];
    parts.extend(recipe);
    parts.extend(stamps.iter().map(Vec::as_slice));
    let name = format!("{of}-{}", kernel.name());
    let folder = workspace.provide("images", &name, &parts, |into| {
        let step = Step::start(format!("making the initial RAM disk {name}"));
        let modules = KernelModules::open(&modules_folder(&package))?;
        let path = busybox.root().join("usr/bin/busybox");
        let busybox = fs::read(&path).map_err(at("read", &path))?;
        write(&into.join("initrd"), &make(&modules, &busybox)?)?;
        step.done();
        Ok::<(), ImageError>(())
    })?;
    Ok(BootFiles {
        kernel: kernel_file(&package)?,
        version: version(&package)?,
        initrd: folder.join("initrd"),
    })
}

/// The kernel's version: its modules are in a folder of that name, the only one.
fn version(package: &Packages) -> Result<String, ImageError> {
    let folder = modules_folder(package);
    let folder = folder.strip_prefix(package.root()).unwrap_or(&folder);
    let modules = package.find(&folder.to_string_lossy(), "")?;
    let name = modules.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// Where the package has its modules: Debian 12's still have them outside of `/usr`.
fn modules_folder(package: &Packages) -> PathBuf {
    let folders = ["usr/lib/modules", "lib/modules"];
    let [newer, older] = folders.map(|folder| package.root().join(folder));
    if newer.is_dir() { newer } else { older }
}

/// The kernel itself: up to 6.x `boot/vmlinux-VERSION`, since 7.x `vmlinuz` beside the modules, which in
/// spite of its name is a plain ELF file.
fn kernel_file(package: &Packages) -> Result<PathBuf, ImageError> {
    let path = if package.root().join("boot").is_dir() {
        package.find("boot", "vmlinux-")?
    } else {
        package.find("usr/lib/modules", "")?.join("vmlinuz")
    };
    let mut magic = [0; 4];
    File::open(&path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .map_err(at("read", &path))?;
    match &magic {
        b"\x7fELF" => Ok(path),
        _ => Err(ImageError::NotElf { path }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    Ok(fs::write(path, bytes).map_err(at("write", path))?)
}

fn host_initrd(
    modules: &KernelModules,
    busybox: &[u8],
    jq: &Packages,
    virtiofsd: &Packages,
) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    for folder in ["lab", "opt", "run", "mnt", "var", "home"] {
        archive.directory(folder, 0o755)?;
    }
    archive.directory("home/user", 0o755)?;
    base(&mut archive, busybox, HOST_INIT)?;
    add_jq(&mut archive, jq)?;
    add_virtiofsd(&mut archive, virtiofsd)?;
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
    let present = [first, then].concat();
    let of_virtual = modules.add_to(&mut archive, HOST_VIRTUAL, &present)?;
    let list = of_virtual.join("\n");
    archive.file("lib/modules/virtual", 0o644, list.as_bytes())?;
    Ok(archive.finish()?)
}

fn guest_initrd(modules: &KernelModules, busybox: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    base(&mut archive, busybox, GUEST_INIT)?;
    archive.directory("jobs", 0o755)?;
    for (name, job) in GUEST_JOBS {
        archive.file(&format!("jobs/{name}"), 0o755, job.as_bytes())?;
    }
    let mut packed: Vec<String> = Vec::new();
    for (device, drivers) in GUEST_DRIVERS {
        let order = modules.in_order(drivers)?;
        modules.pack(&mut archive, &order, &packed)?;
        let list = format!("lib/modules/{device}");
        archive.file(&list, 0o644, order.join("\n").as_bytes())?;
        packed.extend(order);
    }
    Ok(archive.finish()?)
}

/// Debian's folder of libraries.
const LIBRARIES: &str = "usr/lib/powerpc64le-linux-gnu";

/// kexec with its loader and library, where they expect each other.
fn kexec_archive(kexec: &Packages, c_library: &Packages) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    add_file(&mut archive, kexec, "usr/sbin/kexec", "usr/bin/kexec")?;
    add_c_library(&mut archive, c_library)?;
    Ok(archive.finish()?)
}

/// jq with its loader and libraries.
fn add_jq(archive: &mut Archive, jq: &Packages) -> Result<(), ImageError> {
    add_file(archive, jq, "usr/bin/jq", "usr/bin/jq")?;
    add_c_library(archive, jq)?;
    for library in ["libm.so.6", "libjq.so.1", "libonig.so.5"] {
        let path = format!("{LIBRARIES}/{library}");
        add_file(archive, jq, &path, &path)?;
    }
    Ok(())
}

/// virtiofsd with what it needs beside the C library.
fn add_virtiofsd(archive: &mut Archive, virtiofsd: &Packages) -> Result<(), ImageError> {
    let program = "usr/libexec/virtiofsd";
    add_file(archive, virtiofsd, program, "usr/bin/virtiofsd")?;
    for library in ["libgcc_s.so.1", "libcap-ng.so.0", "libseccomp.so.2"] {
        let path = format!("{LIBRARIES}/{library}");
        add_file(archive, virtiofsd, &path, &path)?;
    }
    Ok(())
}

/// The loader and the C library, with their folders.
fn add_c_library(archive: &mut Archive, packages: &Packages) -> Result<(), ImageError> {
    for folder in ["lib64", "usr/lib", LIBRARIES] {
        archive.directory(folder, 0o755)?;
    }
    add_file(archive, packages, "usr/lib64/ld64.so.2", "lib64/ld64.so.2")?;
    let library = format!("{LIBRARIES}/libc.so.6");
    add_file(archive, packages, &library, &library)
}

fn add_file(
    archive: &mut Archive,
    packages: &Packages,
    from: &str,
    to: &str,
) -> Result<(), ImageError> {
    let path = packages.root().join(from);
    let bytes = fs::read(&path).map_err(at("read", &path))?;
    Ok(archive.file(to, 0o755, &bytes)?)
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
