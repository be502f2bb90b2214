//! A run of `spapr-vmm-qemu`: a command line such as libvirt builds, and the monitor.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use spapr_lab::initrd::write_with_overlay;

use super::host;
use super::monitor::Monitor;
use super::running::Running;
use super::vmm::{Folder, GUESTS, INITRD, KERNEL, in_sandbox, job_archive};

/// The most time that a run takes on an emulated host.
const TIME_LIMIT: Duration = Duration::from_secs(150);

/// A run to be started.
#[derive(Debug)]
pub(crate) struct FrontEnd {
    folder: Folder,
    arguments: Vec<String>,
    limit: Duration,
}

impl FrontEnd {
    /// A machine of 1 GiB whose monitor is in the run's folder and whose terminal is on standard
    /// input and output.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let monitor = folder.file("monitor");
        let stats = folder.file("stats.json");
        let text = format!(
            "-name guest=test,debug-threads=on -machine pseries,usb=off,dump-guest-core=off \
             -accel kvm -cpu host -m size=1048576k -overcommit mem-lock=off -display none \
             -no-user-config -nodefaults -rtc base=utc -boot strict=on -msg timestamp=on \
             -chardev socket,id=charmonitor,path={},server=on,wait=off \
             -mon chardev=charmonitor,id=monitor,mode=control \
             -chardev stdio,id=charserial0 \
             -device spapr-vty,chardev=charserial0,id=serial0,reg=0x30000000 \
             -spapr-vmm stats={}",
            monitor.display(),
            stats.display()
        );
        Self {
            folder,
            arguments: text.split_whitespace().map(str::to_owned).collect(),
            limit: TIME_LIMIT,
        }
    }

    /// A Linux guest with the stock initial RAM disk: an interactive shell.
    pub(crate) fn linux() -> Self {
        Self::new()
            .option("-kernel", KERNEL)
            .option("-initrd", INITRD)
            .option("-append", "console=hvc0")
    }

    /// A Linux guest that runs a shell script and powers off.
    pub(crate) fn job(script: &str) -> Self {
        let front_end = Self::new();
        let initrd = front_end.folder.file("initrd");
        let overlay = job_archive(script, &[]);
        write_with_overlay(Path::new(INITRD), &overlay, &initrd).expect("cannot write the initrd");
        front_end
            .option("-kernel", KERNEL)
            .option("-initrd", initrd.to_str().expect("a path of ours"))
            .option("-append", "console=hvc0")
    }

    /// A Linux guest that runs a shell script and powers off, with as few options as people type for QEMU.
    pub(crate) fn by_hand(script: &str) -> Self {
        let job = Self::job(script);
        let given = |name: &str| {
            let place = job.arguments.iter().position(|argument| argument == name);
            let value = place.and_then(|place| job.arguments.get(place + 1));
            value.expect("an option of every run").clone()
        };
        let text = format!(
            "-M pseries,accel=kvm,kernel_irqchip=on,usb=no,kvm-type=HV -m 1GiB -nographic \
             -qmp unix:{},server,nowait -spapr-vmm {} -kernel {} -initrd {} -append console=hvc0",
            job.monitor().display(),
            given("-spapr-vmm"),
            given("-kernel"),
            given("-initrd"),
        );
        Self {
            arguments: text.split_whitespace().map(str::to_owned).collect(),
            ..job
        }
    }

    /// A bare-metal guest that has the process' standard input and output.
    pub(crate) fn bare_metal_by_hand(guest: &str, command_line: &str) -> Self {
        let given = Self::bare_metal(guest, command_line);
        let text = format!("-M pseries,accel=kvm -serial stdio -kernel {GUESTS}/{guest} -append");
        let arguments = text.split_whitespace().map(str::to_owned);
        Self {
            arguments: arguments.chain([command_line.to_owned()]).collect(),
            ..given
        }
    }

    /// A bare-metal guest.
    pub(crate) fn bare_metal(guest: &str, command_line: &str) -> Self {
        Self::new()
            .option("-kernel", &format!("{GUESTS}/{guest}"))
            .option("-append", command_line)
    }

    /// Has what the guest prints written to a file of the run's, too.
    pub(crate) fn logged(mut self) -> Self {
        let log = self.folder.file("console.log");
        let terminal = self
            .arguments
            .iter_mut()
            .find(|argument| argument.starts_with("stdio,"));
        let terminal = terminal.expect("the terminal is among the arguments");
        terminal.push_str(&format!(",logfile={}", log.display()));
        self
    }

    /// Passes the NVMe through behind host bridge 1, where libvirt puts a first device.
    pub(crate) fn nvme(self) -> Self {
        self.nvme_behind(1)
    }

    /// Passes the NVMe through behind a host bridge of its own.
    pub(crate) fn nvme_behind(self, index: u8) -> Self {
        let id = format!("pci.{index}");
        let bridge = json!({"driver": "spapr-pci-host-bridge", "index": index, "id": id});
        let device = json!({
            "driver": "vfio-pci", "host": host::nvme(), "id": "hostdev0",
            "bus": format!("{id}.0"), "addr": "0x1"
        });
        self.option("-device", &bridge.to_string())
            .option("-device", &device.to_string())
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

    /// How long the run may take.
    pub(crate) fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Where the monitor is.
    fn monitor(&self) -> PathBuf {
        self.folder.file("monitor")
    }

    /// Starts it, and connects to its monitor.
    pub(crate) fn start(self) -> (Running, Monitor) {
        let (running, path) = self.start_alone();
        (running, Monitor::connect(&path))
    }

    /// Starts it; its monitor is or will be where the path says.
    pub(crate) fn start_alone(self) -> (Running, PathBuf) {
        self.start_on([Stdio::piped(), Stdio::piped(), Stdio::piped()])
    }

    /// Starts it with these as its standard input, output and error.
    pub(crate) fn start_on(self, streams: [Stdio; 3]) -> (Running, PathBuf) {
        let [stdin, stdout, stderr] = streams;
        let path = self.monitor();
        let mut command = Command::new("spapr-vmm-qemu");
        command
            .args(&self.arguments)
            .args(in_sandbox(&self.arguments, &["-sandbox", "on"]));
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        (Running::start(command, self.folder, self.limit), path)
    }
}
