//! A run of QEMU: the same Linux guest with the same devices, to see what it can and we cannot.

use std::process::{Command, Stdio};
use std::time::Duration;

use spapr_lab::peer::QEMU_MACHINE;

use super::finished::Finished;
use super::running::Running;
use super::vmm::{Folder, INITRD, KERNEL, job_archive};

/// Hosts that run tests that take long have it.
const PROGRAM: &str = "qemu-system-ppc64";

/// Gives it more descriptors than a shell has: it opens one for each vector that a device has, and some have 2,048.
const MANY_FILES: &str = "ulimit -n 16384 && exec \"$0\" \"$@\"";

/// A run to be started.
#[derive(Debug)]
pub(crate) struct Qemu {
    folder: Folder,
    arguments: Vec<String>,
    /// What its machine is told beside what emulated hosts need.
    machine: String,
    /// The host bridge with the highest number, so far.
    last_bridge: usize,
    limit: Duration,
}

impl Qemu {
    /// A Linux guest of 1 GiB that runs a shell script and powers off, with nothing but a terminal.
    pub(crate) fn job(script: &str, limit: Duration) -> Self {
        let folder = Folder::new();
        let initrd = folder.initrd(INITRD.as_ref(), &job_archive(script, &[]));
        Self::new(folder, limit)
            .option("-m", "1G")
            .option("-kernel", KERNEL)
            .option("-initrd", &initrd)
    }

    fn new(folder: Folder, limit: Duration) -> Self {
        let qemu = Self {
            folder,
            arguments: Vec::new(),
            machine: QEMU_MACHINE.to_owned(),
            last_bridge: 0,
            limit,
        };
        qemu.option("-cpu", "host")
            .option("-display", "none")
            .option("-serial", "stdio")
            .option("-monitor", "none")
    }

    /// One more option with its value.
    pub(crate) fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// One more option of the machine's, say `ic-mode=xics`.
    pub(crate) fn machine(mut self, option: &str) -> Self {
        self.machine.push(',');
        self.machine.push_str(option);
        self
    }

    /// Passes a device through, behind the host bridge of this number; the machine has number 0 by itself.
    pub(crate) fn device(self, address: &str, bridge: usize) -> Self {
        let mut qemu = self;
        if bridge > qemu.last_bridge {
            let options = format!("spapr-pci-host-bridge,index={bridge},id=bridge{bridge}");
            qemu = qemu.option("-device", &options);
            qemu.last_bridge = bridge;
        }
        let bus = match bridge {
            0 => "pci.0".to_owned(),
            _ => format!("bridge{bridge}.0"),
        };
        qemu.option("-device", &format!("vfio-pci,host={address},bus={bus}"))
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Finished {
        self.start().finish()
    }

    pub(crate) fn start(self) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", MANY_FILES, PROGRAM]);
        command.args(["-nodefaults", "-no-user-config", "-M", &self.machine]);
        command.args(&self.arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running::start(command, self.folder, self.limit)
    }
}
