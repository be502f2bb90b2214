//! A run of `spapr-vmm`: its command line and its surroundings.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spapr_lab::cpio::Archive;
use spapr_lab::initrd::write_with_overlay;

use super::faults::{self, Fault};
use super::finished::Finished;
use super::host;
use super::refusal::Refusal;
use super::running::Running;

/// The Linux guest's kernel.
pub(crate) const KERNEL: &str = "/boot/vmlinux";
/// The Linux guest's initial RAM disk, without a job.
pub(crate) const INITRD: &str = "/boot/initrd";
/// Bare-metal guests.
pub(crate) const GUESTS: &str = "/usr/lib/spapr-lab/guests";
/// The most time that a run takes on an emulated host.
const TIME_LIMIT: Duration = Duration::from_secs(150);

/// An ordinary user who runs the VMM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    /// RLIMIT_MEMLOCK in bytes.
    pub(crate) memlock: u64,
}

/// A kernel that guests can run, with an initial RAM disk for it.
#[derive(Debug)]
pub(crate) struct GuestKernel {
    /// Its Debian release and page size, say `forky-64k`.
    pub(crate) name: String,
    folder: PathBuf,
}

impl GuestKernel {
    /// Every one that the lab has.
    pub(crate) fn all() -> Vec<Self> {
        let folders = fs::read_dir("/lab/guests").expect("no kernels for guests");
        let mut kernels: Vec<Self> = folders
            .map(|entry| {
                let entry = entry.expect("a readable folder");
                Self {
                    name: entry.file_name().into_string().expect("a name of ours"),
                    folder: entry.path(),
                }
            })
            .collect();
        kernels.sort_by(|left, right| left.name.cmp(&right.name));
        kernels
    }

    /// Its version, as `uname -r` has it.
    pub(crate) fn version(&self) -> String {
        fs::read_to_string(self.folder.join("version")).expect("the lab says which it is")
    }

    /// The size of its pages in bytes.
    pub(crate) fn page_bytes(&self) -> u64 {
        if self.name.ends_with("-64k") {
            0x1_0000
        } else {
            0x1000
        }
    }
}

/// A run to be started.
#[derive(Debug)]
pub(crate) struct Vmm {
    folder: Folder,
    arguments: Vec<String>,
    /// Commands that make the surroundings of the run, in a mount namespace of its own.
    namespace: Option<String>,
    /// How the shell redirects the run's streams.
    redirection: Option<&'static str>,
    user: Option<User>,
    refusals: Vec<Refusal>,
    faults: Vec<Fault>,
    limit: Duration,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
}

/// A folder that goes when the run's results are no longer needed.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// An empty one.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/end-to-end-{number}"));
        fs::create_dir_all(&path).expect("cannot make a folder");
        Self(path)
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An initial RAM disk in the folder: `stock` with archives appended.
    pub(super) fn initrd(&self, stock: &Path, overlay: &[u8]) -> String {
        let initrd = self.file("initrd");
        write_with_overlay(stock, overlay, &initrd).expect("cannot write the initrd");
        initrd.to_str().expect("a path of ours").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What remains is in memory until the host is off; that it is seen is no use to anyone.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Vmm {
    /// `spapr-vmm run` with no arguments but where its statistics go.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let stats = folder.file("stats.json");
        Self {
            folder,
            arguments: Vec::new(),
            namespace: None,
            redirection: None,
            user: None,
            refusals: Vec::new(),
            faults: Vec::new(),
            limit: TIME_LIMIT,
            stdin: Stdio::null(),
            stdout: Stdio::piped(),
            stderr: Stdio::piped(),
        }
        .option("--stats", stats.to_str().expect("a path of ours"))
    }

    /// A Linux guest of 1 GiB with the stock initial RAM disk: an interactive shell.
    pub(crate) fn linux() -> Self {
        Self::new()
            .option("--kernel", KERNEL)
            .option("--initrd", INITRD)
    }

    /// A Linux guest of 1 GiB that runs a shell script and powers off.
    pub(crate) fn job(script: &str) -> Self {
        Self::job_with_files(script, &[])
    }

    /// A Linux guest of 1 GiB that runs a shell script, with more files in its root folder, and
    /// powers off.
    pub(crate) fn job_with_files(script: &str, files: &[(&str, &[u8])]) -> Self {
        Self::with_overlay(&job_archive(script, files))
    }

    /// A Linux guest of 1 GiB with archives appended to its initial RAM disk.
    pub(crate) fn with_overlay(overlay: &[u8]) -> Self {
        Self::linux_with_overlay(Path::new("/boot"), overlay)
    }

    /// A Linux guest of 1 GiB with a kernel of its own, that runs a shell script and powers off.
    pub(crate) fn job_of(kernel: &GuestKernel, script: &str) -> Self {
        Self::linux_with_overlay(&kernel.folder, &job_archive(script, &[]))
    }

    fn linux_with_overlay(boot: &Path, overlay: &[u8]) -> Self {
        let vmm = Self::new();
        let initrd = vmm.folder.initrd(&boot.join("initrd"), overlay);
        let kernel = boot.join("vmlinux");
        vmm.option("--kernel", kernel.to_str().expect("a path of ours"))
            .option("--initrd", &initrd)
    }

    /// A bare-metal guest of 1 GiB.
    pub(crate) fn bare_metal(guest: &str, command_line: &str) -> Self {
        Self::new()
            .option("--kernel", &format!("{GUESTS}/{guest}"))
            .option("--append", command_line)
    }

    /// One more argument.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more option with its value.
    pub(crate) fn option(self, name: &str, value: &str) -> Self {
        self.argument(name).argument(value)
    }

    /// Passes the NVMe through, with the default DMA window alone: a Linux guest then maps and
    /// unmaps for each transfer.
    pub(crate) fn nvme(self) -> Self {
        self.nvme_with_windows().option("--ddw", "off")
    }

    /// Passes the NVMe through, with dynamic DMA windows as the options say.
    pub(crate) fn nvme_with_windows(self) -> Self {
        self.option("--vfio", &host::nvme())
    }

    /// Passes the network card through.
    pub(crate) fn nic(self) -> Self {
        self.option("--vfio", &host::nic())
    }

    /// Makes surroundings with shell commands, in a mount namespace of the run's own.
    pub(crate) fn in_namespace(mut self, commands: &str) -> Self {
        self.namespace = Some(commands.to_owned());
        self
    }

    /// Redirects the run's streams as the shell does, say `2>&-`.
    pub(crate) fn redirected(mut self, redirection: &'static str) -> Self {
        self.redirection = Some(redirection);
        self
    }

    /// Runs as the lab's ordinary user.
    pub(crate) fn run_by(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Has the kernel answer some of the run's calls otherwise than it would.
    pub(crate) fn refusing(mut self, refusal: Refusal) -> Self {
        self.refusals.push(refusal);
        self
    }

    /// Answers single calls of the run in the kernel's place.
    pub(crate) fn with_fault(mut self, fault: &Fault) -> Self {
        self.faults.push(fault.clone());
        self
    }

    /// The most time that it may take; a run that takes as long as most needs none.
    pub(crate) fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Where the guest's input comes from.
    pub(crate) fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdin = stdin;
        self
    }

    /// Where standard output goes.
    pub(crate) fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdout = stdout;
        self
    }

    /// Where standard error goes.
    pub(crate) fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = stderr;
        self
    }

    /// Starts it.
    pub(crate) fn start(self) -> Running {
        let mut command = self.command();
        command
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(self.stderr);
        let mut preparations = Vec::new();
        for refusal in &self.refusals {
            preparations.push(refusal.preparation());
        }
        if !self.faults.is_empty() {
            preparations.push(faults::preparation(&self.faults));
        }
        if let Some(user) = self.user {
            for path in [self.folder.0.clone(), self.folder.file("initrd")] {
                if path.exists() {
                    chown(&path, Some(host::USER), Some(host::USER)).expect("cannot give it away");
                }
            }
            fs::set_permissions(&self.folder.0, Permissions::from_mode(0o755)).expect("chmod");
            // Root may raise its own limit; the user below may only lower what it inherits.
            let unlimited = Rlimit {
                current: None,
                maximum: None,
            };
            setrlimit(Resource::Memlock, unlimited).expect("root may lift the limit");
            assert_eq!(getrlimit(Resource::Memlock), unlimited);
            command.uid(host::USER).gid(host::USER);
            let limit = Rlimit {
                current: Some(user.memlock),
                maximum: Some(user.memlock),
            };
            preparations.push(Box::new(move || Ok(setrlimit(Resource::Memlock, limit)?)));
        }
        for preparation in preparations {
            // SAFETY: the closures make system calls with values made before; they neither
            // allocate nor take locks.
            unsafe { command.pre_exec(preparation) };
        }
        let running = Running::start(command, self.folder, self.limit);
        if !self.faults.is_empty() {
            faults::supervise(running.id(), self.faults);
        }
        running
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Finished {
        self.start().finish()
    }

    fn command(&self) -> Command {
        if self.namespace.is_none() && self.redirection.is_none() {
            let mut command = Command::new("spapr-vmm");
            command
                .arg("run")
                .args(&self.arguments)
                .args(sandbox(&self.arguments));
            return command;
        }
        let surroundings = self.namespace.as_deref().unwrap_or("true");
        let redirection = self.redirection.unwrap_or_default();
        let script = format!("{surroundings} && exec \"$@\" {redirection}");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh", "spapr-vmm", "run"]);
        command.args(&self.arguments).args(sandbox(&self.arguments));
        command
    }
}

fn sandbox(arguments: &[String]) -> &'static [&'static str] {
    in_sandbox(arguments, &["--sandbox"])
}

/// With LAB_SANDBOX set, every run is in its sandbox, to see that nothing is missing there: what
/// asks for it, unless it is among the arguments.
pub(super) fn in_sandbox(
    arguments: &[String],
    option: &'static [&'static str],
) -> &'static [&'static str] {
    let has_it = arguments.iter().any(|argument| argument == option[0]);
    if has_it || std::env::var_os("LAB_SANDBOX").is_none() {
        &[]
    } else {
        option
    }
}

/// An archive that makes a Linux guest run a shell script, with more files in its root folder.
pub(crate) fn job_archive(script: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive
        .file("job", 0o755, script.as_bytes())
        .expect("a job is small");
    for (name, content) in files {
        archive
            .file(name, 0o644, content)
            .expect("files of tests are small");
    }
    archive.finish().expect("an archive in memory")
}
