//! A Debian system on a disk of its own, of packages that no installer has configured: what their scripts would have
//! done, as far as a system needs it to come up to a login, is done here.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use spapr_lab::cpio::Archive;

use super::modules::KernelModules;
use super::{ImageError, base, modules_folder, version, write};
use crate::command;
use crate::kernels::Kernel;
use crate::packages::{PackageSet, Packages};
use crate::progress::Step;
use crate::tools;
use crate::workspace::{Workspace, at};

/// Changes when the system is put together differently from the same parts.
const RECIPE_VERSION: &[u8] = b"2";

const INIT: &str = include_str!("system-init.sh");

/// Size of the disk and its file system; the image has what is used of it.
const DISK_SIZE: &str = "1G";
/// The UUID of the file system.
const DISK_UUID: &str = "5a9b7c1e-0d13-4e0f-8c3a-000000000013";

/// Modules that find the root file system. Which of the checksum's are there is the kernel's affair; a file system of
/// the lab's has the generic one.
const ROOT_MODULES: &[&str] = &["virtio_blk", "crc32c_generic", "ext4"];
/// Modules that the system's udev loads when it finds their devices.
const MODULES: &[&str] = &[
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",
    // What hosts of the lab pass through.
    "nvme",
    "e1000e",
    "autofs4",
];

/// Files that scripts of packages, or an installer, would have made.
const FILES: &[(&str, u32, &str)] = &[
    (
        "etc/machine-id",
        0o444,
        "0123456789abcdef0123456789abcdef\n",
    ),
    ("etc/hostname", 0o644, "debian\n"),
    (
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost\n127.0.1.1 debian\n",
    ),
    (
        "etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    ),
    // As pam-auth-update makes them; root has no password.
    (
        "etc/pam.d/common-auth",
        0o644,
        "auth required pam_unix.so nullok\n",
    ),
    (
        "etc/pam.d/common-account",
        0o644,
        "account required pam_unix.so\n",
    ),
    (
        "etc/pam.d/common-password",
        0o644,
        "password required pam_unix.so\n",
    ),
    (
        "etc/pam.d/common-session",
        0o644,
        "session required pam_unix.so\nsession optional pam_systemd.so\n",
    ),
    (
        "etc/pam.d/common-session-noninteractive",
        0o644,
        "session required pam_unix.so\n",
    ),
    (
        "etc/systemd/network/lan.network",
        0o644,
        "[Match]\nName=en*\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n",
    ),
];

/// Copies that the scripts of base-files make.
const COPIES: &[(&str, &str)] = &[
    ("usr/share/base-files/profile", "etc/profile"),
    ("usr/share/base-files/dot.bashrc", "root/.bashrc"),
    ("usr/share/base-files/dot.profile", "root/.profile"),
];

/// Names that Debian's alternatives give to programs.
const LINKS: &[(&str, &str)] = &[
    ("usr/bin/sh", "dash"),
    ("usr/bin/awk", "mawk"),
    ("usr/bin/nc", "nc.openbsd"),
];

/// Folders that an installer makes.
const FOLDERS: &[&str] = &[
    "dev", "proc", "sys", "run", "tmp", "root", "mnt", "var/log", "var/tmp",
];

/// What the system has no use for here.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
];

/// A guest's system: its disk, and the initial RAM disk that finds it.
#[derive(Debug)]
pub(crate) struct System {
    /// The disk, a qcow2 image.
    pub(crate) disk: PathBuf,
    /// The initial RAM disk, for a command line with `root=`.
    pub(crate) initrd: PathBuf,
}

/// The system with the modules of this kernel, made if it is not in the cache.
pub(crate) fn of_guest(workspace: &Workspace, kernel: Kernel) -> Result<System, ImageError> {
    let system = Packages::provide(workspace, PackageSet::GuestSystem)?;
    let package = Packages::provide(workspace, PackageSet::Kernel(kernel))?;
    let busybox = Packages::provide(workspace, PackageSet::Busybox)?;
    let stamps = [system.stamp()?, package.stamp()?, busybox.stamp()?];
    let texts = format!(
        "{FILES:?} {COPIES:?} {LINKS:?} {FOLDERS:?} {LEFT_OUT:?} {ROOT_MODULES:?} {MODULES:?} {DISK_SIZE} {DISK_UUID}"
    );
    let mut recipe = vec![
        RECIPE_VERSION,
        super::RECIPE_VERSION,
        INIT.as_bytes(),
        texts.as_bytes(),
    ];
    recipe.extend(stamps.iter().map(Vec::as_slice));
    let name = format!("system-{}", kernel.name());
    let folder = workspace.provide("images", &name, &recipe, |into| {
        let step = Step::start(format!("making the disk {name}"));
        let modules = KernelModules::open(&modules_folder(&package))?;
        let path = busybox.root().join("usr/bin/busybox");
        let busybox = fs::read(&path).map_err(at("read", &path))?;
        write(&into.join("initrd"), &initrd(&modules, &busybox)?)?;
        let root = into.join("root");
        run(Command::new("cp").arg("-a").arg(system.root()).arg(&root))?;
        furnish(&root)?;
        add_modules(&root, &modules, &package)?;
        configure(&root)?;
        pack(&root, into)?;
        fs::remove_dir_all(&root).map_err(at("remove", &root))?;
        step.done();
        Ok::<(), ImageError>(())
    })?;
    Ok(System {
        disk: folder.join("disk.qcow2"),
        initrd: folder.join("initrd"),
    })
}

fn run(command: &mut Command) -> Result<(), ImageError> {
    command::output(command).map_err(Box::new)?;
    Ok(())
}

fn initrd(modules: &KernelModules, busybox: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    base(&mut archive, busybox, INIT)?;
    let order = modules.add_to(&mut archive, ROOT_MODULES, &[])?;
    archive.file("lib/modules/root", 0o644, order.join("\n").as_bytes())?;
    Ok(archive.finish()?)
}

/// Makes files, links and folders, and the accounts that every system has.
fn furnish(root: &Path) -> Result<(), ImageError> {
    for name in LEFT_OUT {
        let path = root.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(at("remove", &path))?;
        }
    }
    for name in FOLDERS {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(at("make the folder", &path))?;
    }
    for (name, mode, text) in FILES {
        let path = root.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(at("make the folder", folder))?;
        }
        write(&path, text.as_bytes())?;
        let mode = fs::Permissions::from_mode(*mode);
        fs::set_permissions(&path, mode).map_err(at("set the mode of", &path))?;
    }
    let fstab = format!("UUID={DISK_UUID} / ext4 defaults 0 0\n");
    write(&root.join("etc/fstab"), fstab.as_bytes())?;
    for (from, to) in COPIES {
        let from = root.join(from);
        fs::copy(&from, root.join(to)).map_err(at("copy", &from))?;
    }
    for (name, to) in LINKS {
        let path = root.join(name);
        let _ = fs::remove_file(&path);
        symlink(to, &path).map_err(at("make the link", &path))?;
    }
    for name in ["passwd", "group"] {
        let from = root.join(format!("usr/share/base-passwd/{name}.master"));
        let text = fs::read_to_string(&from).map_err(at("read", &from))?;
        // Without a password.
        let text = text.replacen("root:*:0:0", "root::0:0", 1);
        write(&root.join("etc").join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Adds the kernel's modules with the indexes by which udev finds them.
fn add_modules(root: &Path, modules: &KernelModules, package: &Packages) -> Result<(), ImageError> {
    let version = version(package)?;
    let folder = root.join("usr/lib/modules").join(&version);
    fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
    let names = [ROOT_MODULES, MODULES].concat();
    for name in modules.in_order(&names)? {
        write(&folder.join(format!("{name}.ko")), &modules.read(&name)?)?;
    }
    let from = modules_folder(package).join(&version);
    for list in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        let path = from.join(list);
        fs::copy(&path, folder.join(list)).map_err(at("copy", &path))?;
    }
    run(own_program(root, "usr/bin/kmod")?
        .env("QEMU_ARGV0", "depmod")
        .arg("-b")
        .arg(root)
        .arg(version))
}

/// Makes the accounts that packages ask for, and turns on what Debian has turned on.
fn configure(root: &Path) -> Result<(), ImageError> {
    let mut option = std::ffi::OsString::from("--root=");
    option.push(root);
    run(own_program(root, "usr/bin/systemd-sysusers")?.arg(&option))?;
    run(own_program(root, "usr/bin/systemctl")?
        .arg(&option)
        .arg("preset-all"))
}

/// A program of the system's, to be run on this machine.
fn own_program(root: &Path, program: &str) -> Result<Command, ImageError> {
    let mut command = Command::new(tools::for_user_emulation().map_err(Box::new)?);
    command.arg("-L").arg(root).arg(root.join(program));
    Ok(command)
}

/// Makes a file system of the folder, and an image of it.
fn pack(root: &Path, into: &Path) -> Result<(), ImageError> {
    tools::for_file_systems().map_err(Box::new)?;
    let raw = into.join("disk");
    // In a name space in which whoever runs the lab is root: the files are root's.
    run(Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .args([
            "mke2fs", "-q", "-t", "ext4", "-L", "debian", "-U", DISK_UUID, "-d",
        ])
        .arg(root)
        .arg(&raw)
        .arg(DISK_SIZE)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))?;
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .arg(&raw)
        .arg(into.join("disk.qcow2")))?;
    fs::remove_file(&raw).map_err(at("remove", &raw))?;
    Ok(())
}
