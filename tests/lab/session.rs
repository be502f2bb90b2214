//! One boot of a host with something to do: what goes in is gathered in the run's folder, and
//! what came out of it is checked and handed back.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::cli::{Copy, Extra, Fetch, HostArgs};
use crate::cross_build::{self, BuildError};
use crate::host::{EmulatorRelease, Files, HostError, HostRun, Input, Output, fresh_copy};
use crate::images::nvme::{self, NvmeImage};
use crate::images::{self, BootFiles, ImageError};
use crate::kernels::Kernel;
use crate::packages::{self, PackageError, PackageSet, Packages, python};
use crate::progress::{report, say};
use crate::workspace::{Workspace, WorkspaceError, at};

/// Starts a peer emulator through its own loader: its libraries are not the host's.
fn peer_wrapper(root: &str) -> String {
    format!(
        "#!/bin/sh
exec {root}/usr/lib64/ld64.so.2 --library-path {root}/usr/lib/powerpc64le-linux-gnu \\
    {root}/usr/bin/qemu-system-ppc64 -L {root}/usr/share/qemu \"$@\"
"
    )
}

/// Has tests run each guest in its sandbox; passed on to the host.
const SANDBOX: &str = "LAB_SANDBOX";

/// Sets up the root folder in which libvirt runs, and runs programs there.
const LIBVIRT: &str = include_str!("images/libvirt.sh");

/// What a script prints to have a part of the NVMe's backing file checked afterwards.
const EXPECTATION: &str = "LAB-EXPECT-NVME ";

/// Why a session came to nothing.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Packages(#[from] PackageError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("--copy: {} does not exist on this machine", path.display())]
    NoSuchSource { path: PathBuf },
    #[error(
        "the script's line {line:?} should read {EXPECTATION}offset=BYTES length=BYTES sha256=HEX"
    )]
    Expectation { line: String },
    #[error(
        "the NVMe's backing file differs from what the script expects: {length} bytes at {offset} \
         have SHA-256 {found}, not {expected}"
    )]
    NvmeDiffers {
        offset: u64,
        length: u64,
        expected: String,
        found: String,
    },
    #[error(
        "--lpar is for hosts that are LPARs (--host lpar9-64k, lpar9-4k or lpar10-64k), and {0} is none"
    )]
    NoLpar(&'static str),
    #[error("{0}")]
    GuestKernel(String),
    #[error("not in the host, so not fetched: {}", paths.join(", "))]
    NotFetched { paths: Vec<String> },
}

/// Something to do in a host.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) host: &'a HostArgs,
    /// The script to run; none for an interactive shell.
    pub(crate) script: Option<String>,
    /// More lines for the script's environment, in shell syntax.
    pub(crate) environment: String,
    pub(crate) timeout: Option<Duration>,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The script's exit status.
    pub(crate) status: u8,
    /// The folder of the logs.
    pub(crate) logs: PathBuf,
}

impl Session<'_> {
    /// Prepares everything, boots the host and stays until it is off.
    pub(crate) fn run(
        &self,
        workspace: &Workspace,
        output: &mut dyn Output,
        input: Option<Input<'_>>,
    ) -> Result<Ended, SessionError> {
        let kind = self.host.host;
        // Before what takes minutes.
        self.check()?;
        if let Some(defect) = kind.defect_with(self.host.kernels.kernel) {
            say(&format!("beware: {defect}"));
        }
        // Building needs no lock: another lab may use the cache meanwhile.
        let vmm = match self.host.without_vmm {
            true => Vec::new(),
            false => cross_build::vmm_and_front_end(workspace)?,
        };
        let _locked = workspace.lock()?;
        let emulator = Packages::provide(workspace, host_emulator(self.host))?;
        let pages = kind.page_size();
        let boot = images::of_host(workspace, self.host.kernels.of_host(pages))?;
        let stock = nvme::stock(workspace)?;
        let extra = provide(workspace, extra_packages(self.host))?;
        let next = provide(workspace, next_emulator(self.host))?;
        let folder = workspace.run_folder()?;
        let share = folder.path().join("share");
        self.gather(&share, &vmm, &stock, &boot.version)?;
        self.gather_boot_files_and_tools(workspace, &share)?;
        let nvme = folder.path().join("nvme");
        fresh_copy(&stock.disk, &nvme)?;
        let files = Files::new(&stock.disk, folder.path())?;
        let logs = workspace.log_folder(kind.name())?;
        let mut watched = Expectations {
            inner: output,
            lines: Vec::new(),
            partial: Vec::new(),
        };
        let run = HostRun {
            kind,
            icount: self.host.icount,
            gives_way: self.host.gives_way,
            code_log: self.host.code_log.as_ref(),
            hugepages: self.host.hugepages,
            lpar: &self.host.lpar,
            emulator: emulator.root(),
            kernel: &boot.kernel,
            initrd: &boot.initrd,
            share: &share,
            extra: extra.as_ref().map(Packages::root),
            next: next.as_ref().map(Packages::root),
            nvme: &nvme,
            devices: &self.host.device,
            files: &files,
            logs: &logs,
            timeout: self.timeout,
        }
        .run(&mut watched, input)?;
        // None of these keeps the others from being done.
        let mut problems = differing(&nvme, &watched.lines);
        problems.extend(bring_back(&share, &self.host.fetch).err());
        problems.extend(not_fetched(run.not_fetched));
        conclude(run.status, problems)?;
        Ok(Ended {
            status: run.status,
            logs,
        })
    }

    /// Makes sure that the host can be had, and that what is to be copied into it is there.
    fn check(&self) -> Result<(), SessionError> {
        guest_kernel(self.host)?;
        let kind = self.host.host;
        if !self.host.lpar.is_empty() && !kind.is_lpar() {
            return Err(SessionError::NoLpar(kind.name()));
        }
        let mut sources = self.host.copy.iter().map(|copy| &copy.source);
        match sources.find(|source| !source.exists()) {
            Some(missing) => Err(SessionError::NoSuchSource {
                path: missing.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Fills the folder that the host's init reads.
    fn gather(
        &self,
        share: &Path,
        vmm: &[PathBuf],
        stock: &NvmeImage,
        kernel: &str,
    ) -> Result<(), SessionError> {
        let files = share.join("files");
        let programs = files.join("usr/bin");
        fs::create_dir_all(&programs).map_err(at("make the folder", &programs))?;
        for program in vmm {
            copy(
                program,
                &programs.join(program.file_name().unwrap_or_default()),
            )?;
        }
        if self.host.with.contains(&Extra::Qemu) {
            write_program(&programs.join("qemu-system-ppc64"), &peer_wrapper("/opt"))?;
        }
        if self.host.with.contains(&Extra::NextQemu) {
            let program = programs.join("qemu-system-ppc64-next");
            write_program(&program, &peer_wrapper("/opt-next"))?;
        }
        if self.host.with.contains(&Extra::Libvirt) {
            write_program(&programs.join("lab-libvirt"), LIBVIRT)?;
        }
        for Copy {
            source,
            destination,
        } in &self.host.copy
        {
            copy(source, &files.join(destination.trim_start_matches('/')))?;
        }
        write(
            &share.join("environment"),
            &self.environment_file(stock, kernel),
        )?;
        if let Some(script) = &self.script {
            write(&share.join("script"), script)?;
        }
        let mut list = String::new();
        for (number, fetch) in self.host.fetch.iter().enumerate() {
            let _ = writeln!(list, "{number} {}", fetch.source);
        }
        write(&share.join("fetch"), &list)
    }

    /// Adds what guests boot from, kexec, and for libvirt the client of QEMU's monitor.
    fn gather_boot_files_and_tools(
        &self,
        workspace: &Workspace,
        share: &Path,
    ) -> Result<(), SessionError> {
        let guest = images::of_guest(workspace, guest_kernel(self.host)?)?;
        copy_boot_files(&guest, share)?;
        if self.host.all_guest_kernels {
            copy_all_guest_kernels(workspace, share)?;
        }
        let files = share.join("files");
        copy(&images::kexec(workspace)?, &files.join("boot/kexec"))?;
        if self.host.with.contains(&Extra::Libvirt) {
            let library = files.join("usr/lib/spapr-lab");
            let client = python::qmp_client(workspace)?;
            copy(&client, &library.join(python::IN_HOST))?;
            // Read from the share, by the tests that want it: hosts have their other files in memory.
            let system = images::system::of_guest(workspace, guest_kernel(self.host)?)?;
            copy(&system.disk, &share.join("system/disk.qcow2"))?;
            copy(&system.initrd, &share.join("system/initrd"))?;
        }
        Ok(())
    }

    fn environment_file(&self, stock: &NvmeImage, kernel: &str) -> String {
        let shares = [
            extra_packages(self.host).map(|_| "extra"),
            next_emulator(self.host).map(|_| "next"),
        ];
        let shares: Vec<&str> = shares.into_iter().flatten().collect();
        let extra = shares.join(" ");
        let sandbox = match std::env::var_os(SANDBOX) {
            Some(_) => format!("export {SANDBOX}=1\n"),
            None => String::new(),
        };
        let devices = self.host.device.iter().flat_map(|kind| kind.names());
        let devices: Vec<String> = devices.collect();
        let devices = devices.join(" ");
        format!(
            "{sandbox}LAB_DEVICE_NAMES='{devices}'\nexport LAB_HOST={}\nexport LAB_KERNEL={kernel}\nexport LAB_NVME_SHA256={}\nexport LAB_NVME_DATA_SHA256={}\n\
             export LAB_NVME_HEAD_SHA256={}\nLAB_EXTRA='{extra}'\n{}\n",
            self.host.host.name(),
            stock.sha256,
            stock.data_sha256,
            stock.head_sha256,
            self.environment,
        )
    }
}

fn write(path: &Path, content: &str) -> Result<(), SessionError> {
    Ok(fs::write(path, content).map_err(at("write", path))?)
}

fn write_program(path: &Path, content: &str) -> Result<(), SessionError> {
    write(path, content)?;
    let executable = fs::Permissions::from_mode(0o755);
    Ok(fs::set_permissions(path, executable).map_err(at("make executable", path))?)
}

/// Copies a file, or a folder with all in it; links are followed.
fn copy(from: &Path, to: &Path) -> Result<(), SessionError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(at("make the folder", parent))?;
    }
    if !from.is_dir() {
        fs::copy(from, to).map_err(at("copy", from))?;
        return Ok(());
    }
    fs::create_dir_all(to).map_err(at("make the folder", to))?;
    for entry in fs::read_dir(from).map_err(at("read the folder", from))? {
        let entry = entry.map_err(at("read the folder", from))?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The kernel of the host's guests.
fn guest_kernel(host: &HostArgs) -> Result<Kernel, SessionError> {
    let kernel = host.kernels.of_guests(host.host.page_size());
    kernel.map_err(SessionError::GuestKernel)
}

/// The emulator that the host runs in.
fn host_emulator(host: &HostArgs) -> PackageSet {
    match host.emulator {
        EmulatorRelease::Trixie => PackageSet::HostEmulator,
        EmulatorRelease::Forky => PackageSet::NextHostEmulator,
    }
}

/// The packages that the host has beside its own; libvirt's have QEMU among them.
fn extra_packages(host: &HostArgs) -> Option<PackageSet> {
    if host.with.contains(&Extra::Libvirt) {
        Some(PackageSet::Libvirt)
    } else if host.with.contains(&Extra::Qemu) {
        Some(PackageSet::PeerEmulator)
    } else {
        None
    }
}

fn provide(
    workspace: &Workspace,
    set: Option<PackageSet>,
) -> Result<Option<Packages>, SessionError> {
    let provided = set.map(|set| Packages::provide(workspace, set));
    Ok(provided.transpose()?)
}

/// Those in a root folder of their own: their C library is a newer one.
fn next_emulator(host: &HostArgs) -> Option<PackageSet> {
    let is_wanted = host.with.contains(&Extra::NextQemu);
    is_wanted.then_some(PackageSet::NextPeerEmulator)
}

/// Which of the packages that the host needs are not those last tested, a line each. Fetches what is not cached.
pub(crate) fn differences(
    workspace: &Workspace,
    host: &HostArgs,
) -> Result<Vec<String>, SessionError> {
    let _locked = workspace.lock()?;
    let own = host.kernels.of_host(host.host.page_size());
    let mut sets = vec![
        host_emulator(host),
        PackageSet::Busybox,
        PackageSet::KexecTools,
        PackageSet::CLibrary,
        PackageSet::Jq,
        PackageSet::Virtiofsd,
        PackageSet::Kernel(own),
        PackageSet::Kernel(guest_kernel(host)?),
    ];
    if host.all_guest_kernels {
        sets.extend(Kernel::all().map(PackageSet::Kernel));
    }
    sets.extend(extra_packages(host));
    sets.extend(next_emulator(host));
    Ok(packages::differences(workspace, &sets)?)
}

/// Puts what a guest boots from where the host expects it.
fn copy_boot_files(guest: &BootFiles, folder: &Path) -> Result<(), SessionError> {
    copy(&guest.kernel, &folder.join("vmlinux"))?;
    copy(&guest.initrd, &folder.join("initrd"))?;
    write(&folder.join("version"), &guest.version)
}

fn copy_all_guest_kernels(workspace: &Workspace, share: &Path) -> Result<(), SessionError> {
    for kernel in Kernel::all() {
        let folder = share.join("guests").join(kernel.name());
        copy_boot_files(&images::of_guest(workspace, kernel)?, &folder)?;
    }
    Ok(())
}

/// Copies what the host left for this machine to where it shall be.
fn bring_back(share: &Path, fetches: &[Fetch]) -> Result<(), SessionError> {
    for (number, fetch) in fetches.iter().enumerate() {
        let fetched = share.join("fetched").join(number.to_string());
        if fetched.exists() {
            copy(&fetched, &fetch.destination)?;
        }
    }
    Ok(())
}

/// Tells what went wrong after the script. A script that failed keeps its status; after one that
/// did not, the session has failed.
fn conclude(status: u8, mut problems: Vec<SessionError>) -> Result<(), SessionError> {
    let failure = match status {
        0 => problems.pop(),
        _ => None,
    };
    for problem in &problems {
        report(problem);
    }
    failure.map_or(Ok(()), Err)
}

/// Passes the script's output on, and collects what it expects of the NVMe.
struct Expectations<'a> {
    inner: &'a mut dyn Output,
    lines: Vec<String>,
    partial: Vec<u8>,
}

impl Output for Expectations<'_> {
    fn stdout(&mut self, bytes: &[u8]) {
        self.inner.stdout(bytes);
        for byte in bytes {
            if *byte != b'\n' {
                // No expectation is that long; a line that is keeps only its start.
                if self.partial.len() < 4096 {
                    self.partial.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.partial);
            if let Some(start) = line.find(EXPECTATION) {
                self.lines.push(line[start..].trim_end().to_owned());
            }
            self.partial.clear();
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        self.inner.stderr(bytes);
    }

    fn terminal(&mut self, bytes: &[u8]) {
        self.inner.terminal(bytes);
    }

    fn reports_progress(&self) -> bool {
        self.inner.reports_progress()
    }
}

/// One expectation: a part of the disk and its digest.
fn parse_expectation(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.strip_prefix(EXPECTATION)?.split_whitespace();
    let offset = words.next()?.strip_prefix("offset=")?.parse().ok()?;
    let length = words.next()?.strip_prefix("length=")?.parse().ok()?;
    let sha256 = words.next()?.strip_prefix("sha256=")?;
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_digest && words.next().is_none()).then_some((offset, length, sha256))
}

/// What the script expects of the disk, and is not so.
fn differing(nvme: &Path, lines: &[String]) -> Vec<SessionError> {
    let checked = lines.iter().map(|line| check(nvme, line));
    checked.filter_map(Result::err).collect()
}

fn check(nvme: &Path, line: &str) -> Result<(), SessionError> {
    let (offset, length, expected) =
        parse_expectation(line).ok_or_else(|| SessionError::Expectation {
            line: line.to_owned(),
        })?;
    let found = nvme::digest_of(nvme, offset, length)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(SessionError::NvmeDiffers {
        offset,
        length,
        expected: expected.to_owned(),
        found,
    })
}

/// The error of paths that are not on the host, if there are some.
fn not_fetched(paths: Vec<String>) -> Option<SessionError> {
    (!paths.is_empty()).then_some(SessionError::NotFetched { paths })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
