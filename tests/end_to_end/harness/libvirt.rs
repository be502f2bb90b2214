//! Debian's libvirt, unmodified, in a root folder of its own (`lab-libvirt`).

use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use super::host;

/// The most time that anything takes on an emulated host.
const LIMIT: Duration = Duration::from_secs(100);

/// Where libvirt writes what the emulator says, seen from the host.
const MESSAGES: &str = "/libvirt/var/log/libvirt/qemu";

/// Starts libvirtd, if it does not run, and waits until it answers.
pub(crate) fn start() {
    run(&["start"]);
    let deadline = Instant::now() + LIMIT;
    while !try_virsh(&["version"]).status.success() {
        assert!(Instant::now() < deadline, "libvirtd does not answer");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Kills libvirtd at once. Guests go on.
pub(crate) fn kill() {
    run(&["stop"]);
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new("lab-libvirt").args(arguments).output();
    let output = output.expect("no lab-libvirt: not in a lab host with libvirt");
    assert!(
        output.status.success(),
        "lab-libvirt {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a program in libvirt's root folder prints; it has to end with status 0.
#[track_caller]
pub(crate) fn inside(arguments: &[&str]) -> String {
    run(arguments)
}

/// Runs virsh.
pub(crate) fn try_virsh(arguments: &[&str]) -> Output {
    let mut command = Command::new("lab-libvirt");
    command.arg("virsh").args(arguments);
    command
        .output()
        .expect("no lab-libvirt: not in a lab host with libvirt")
}

/// What virsh prints; it has to end with status 0.
#[track_caller]
pub(crate) fn virsh(arguments: &[&str]) -> String {
    let output = try_virsh(arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(
        status.success(),
        "virsh {arguments:?}: {status}\n{stdout}\n{stderr}"
    );
    stdout
}

/// What virsh says on standard error; it has to fail.
#[track_caller]
pub(crate) fn virsh_refuses(arguments: &[&str]) -> String {
    let output = try_virsh(arguments);
    assert!(!output.status.success(), "virsh {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A domain, defined; it goes with the test.
#[derive(Debug)]
pub(crate) struct Domain {
    /// Its name.
    pub(crate) name: String,
}

/// A domain to be defined.
#[derive(Debug)]
pub(crate) struct Description {
    name: String,
    command_line: String,
    devices: String,
    /// Elements beside `<devices>`.
    elements: String,
    /// Elements in place of those of QEMU's own name space.
    arguments: String,
}

impl Description {
    /// A domain of 1 GiB with one terminal, whose log is a file.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            command_line: "console=hvc0".to_owned(),
            devices: String::new(),
            elements: "<vcpu>2</vcpu>".to_owned(),
            arguments: String::new(),
        }
    }

    /// More of the guest kernel's command line.
    pub(crate) fn append(mut self, words: &str) -> Self {
        self.command_line = format!("{} {words}", self.command_line);
        self
    }

    /// One more device, in XML.
    pub(crate) fn device(mut self, xml: &str) -> Self {
        self.devices.push_str(xml);
        self
    }

    /// One more element beside the devices, in XML.
    pub(crate) fn element(mut self, xml: &str) -> Self {
        self.elements.push_str(xml);
        self
    }

    /// Options of `-spapr-vmm`.
    pub(crate) fn own_options(mut self, options: &str) -> Self {
        self.arguments = format!(
            "<qemu:commandline><qemu:arg value='-spapr-vmm'/><qemu:arg value='{options}'/>\
             </qemu:commandline>"
        );
        self
    }

    /// Passes a PCI device through, which libvirt takes from its driver and gives back.
    pub(crate) fn host_device(self, address: &str) -> Self {
        let (place, function) = address.split_once('.').expect("a PCI address");
        let parts: Vec<&str> = place.split(':').collect();
        let xml = format!(
            "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
             <address domain='0x{}' bus='0x{}' slot='0x{}' function='0x{function}'/>\
             </source></hostdev>",
            parts[0], parts[1], parts[2]
        );
        self.device(&xml)
    }

    /// Where its terminal's log is.
    pub(crate) fn log(&self) -> String {
        format!("/tmp/{}-console.log", self.name)
    }

    fn xml(&self) -> String {
        format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{name}</name><memory unit='MiB'>1024</memory>{elements}\
             <os><type arch='ppc64le' machine='pseries'>hvm</type><kernel>/boot/vmlinux</kernel>\
             <initrd>/boot/initrd</initrd><cmdline>{command_line}</cmdline></os>\
             <on_crash>destroy</on_crash><devices><emulator>/usr/bin/spapr-vmm-qemu</emulator>\
             <controller type='usb' model='none'/><memballoon model='none'/>\
             <video><model type='none'/></video>\
             <serial type='pty'><log file='{log}' append='off'/></serial>{devices}</devices>\
             {arguments}</domain>",
            name = self.name,
            elements = self.elements,
            command_line = self.command_line,
            log = self.log(),
            devices = self.devices,
            arguments = self.arguments,
        )
    }

    /// Defines it.
    #[track_caller]
    pub(crate) fn define(&self) -> Domain {
        self.try_define().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Defines it, or says why it cannot be defined.
    pub(crate) fn try_define(&self) -> Result<Domain, String> {
        start();
        let path = format!("/tmp/{}.xml", self.name);
        fs::write(&path, self.xml()).expect("write");
        let output = try_virsh(&["define", &path]);
        if output.status.success() {
            let name = self.name.clone();
            Ok(Domain { name })
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Domain {
    /// Runs virsh for it.
    #[track_caller]
    pub(crate) fn virsh(&self, command: &str) -> String {
        virsh(&[command, &self.name])
    }

    /// Starts it; what the emulator says is shown when that fails.
    #[track_caller]
    pub(crate) fn start(&self) {
        let output = try_virsh(&["start", &self.name]);
        let messages = self.messages();
        assert!(output.status.success(), "{output:?}\n{messages}");
    }

    /// What its terminal's log has.
    pub(crate) fn console(&self) -> String {
        let path = format!("/tmp/{}-console.log", self.name);
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the emulator said.
    pub(crate) fn messages(&self) -> String {
        fs::read_to_string(format!("{MESSAGES}/{}.log", self.name)).unwrap_or_default()
    }

    /// State and reason, as virsh names them.
    pub(crate) fn state(&self) -> String {
        virsh(&["domstate", &self.name, "--reason"])
            .trim()
            .to_owned()
    }

    /// Waits until the terminal's log has `text` so often.
    #[track_caller]
    pub(crate) fn wait_for_console(&self, text: &str, times: usize) {
        self.wait_until(text, |domain| {
            domain.console().matches(text).count() >= times
        });
    }

    /// Waits for a state.
    #[track_caller]
    pub(crate) fn wait_for_state(&self, state: &str) {
        self.wait_until(state, |domain| domain.state() == state);
    }

    #[track_caller]
    fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !is_so(self) {
            let (state, console, messages) = (self.state(), self.console(), self.messages());
            assert!(
                Instant::now() < deadline,
                "no {what:?}\n{state}\nconsole:\n{console}\nmessages:\n{messages}"
            );
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// The emulator's process.
    pub(crate) fn process(&self) -> u32 {
        let path = format!("/libvirt/run/libvirt/qemu/{}.pid", self.name);
        let text = fs::read_to_string(path).expect("no pid file of libvirt's");
        text.trim().parse().expect("a number")
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // Most tests end with a domain that does not run.
        let _ = try_virsh(&["destroy", &self.name]);
        let _ = try_virsh(&["undefine", &self.name]);
    }
}

/// The driver that a PCI device of the host has.
pub(crate) fn driver(address: &str) -> String {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{address}/driver"));
    let name = link
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.unwrap_or_default()
}

/// Gives a device that the lab bound to vfio-pci to its own driver.
pub(crate) fn give_to_its_driver(address: &str) {
    if driver(address) != "vfio-pci" {
        return;
    }
    fs::write(
        format!("/sys/bus/pci/devices/{address}/driver_override"),
        "\n",
    )
    .expect("override");
    fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", address).expect("unbind");
    fs::write("/sys/bus/pci/drivers_probe", address).expect("probe");
}

/// The NVMe, with its own driver.
pub(crate) fn nvme() -> String {
    let address = host::nvme();
    give_to_its_driver(&address);
    address
}

/// The network card, with its own driver.
pub(crate) fn nic() -> String {
    let address = host::nic();
    give_to_its_driver(&address);
    address
}
