//! Debian's libvirt, unmodified, in a root folder of its own (`lab-libvirt`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use spapr_lab::initrd::write_with_overlay;

use super::host;
use super::typist::{PROMPT, Typist};
use super::vmm::{INITRD, KERNEL, job_archive};

/// The most time that anything takes on an emulated host.
const LIMIT: Duration = Duration::from_secs(100);

/// Printed by a guest's init before it starts the shell.
const INIT_SAYS: &str = "LAB-GUEST-INIT";

/// Time for a simple answer on an emulated host.
const SHORTLY: Duration = Duration::from_secs(5);

/// Where libvirt writes what the emulator says, seen from the host.
const MESSAGES: &str = "/libvirt/var/log/libvirt/qemu";

/// Starts libvirtd, if it does not run. It lets clients wait until it can answer.
pub(crate) fn start() {
    run(&["start"]);
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

/// Runs a program in libvirt's root folder, which may fail.
pub(crate) fn try_inside(arguments: &[&str]) -> Output {
    let output = Command::new("lab-libvirt").args(arguments).output();
    output.expect("no lab-libvirt: not in a lab host with libvirt")
}

/// Runs virsh.
pub(crate) fn try_virsh(arguments: &[&str]) -> Output {
    try_inside(&[&["virsh"], arguments].concat())
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
    initrd: String,
    command_line: String,
    /// Elements that keep libvirt from adding devices by itself.
    no_defaults: &'static str,
    /// The terminal's element.
    terminal: String,
    devices: String,
    /// Elements beside `<devices>`.
    elements: String,
    /// What libvirt does when the guest crashes.
    on_crash: &'static str,
    /// Elements in place of those of QEMU's own name space.
    arguments: String,
}

impl Description {
    /// A domain of 1 GiB with a pseudo-terminal, whose log is a file, and a shell.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            initrd: INITRD.to_owned(),
            command_line: "console=hvc0".to_owned(),
            no_defaults: "<controller type='usb' model='none'/><memballoon model='none'/>\
                          <video><model type='none'/></video>",
            terminal: format!(
                "<serial type='pty'><log file='{}' append='off'/></serial>",
                console_file(name)
            ),
            devices: String::new(),
            elements: "<vcpu>2</vcpu>".to_owned(),
            on_crash: "destroy",
            arguments: String::new(),
        }
    }

    /// Runs a shell script in place of the shell, and powers off.
    pub(crate) fn job(mut self, script: &str) -> Self {
        self.initrd = format!("/tmp/{}-initrd", self.name);
        let overlay = job_archive(script, &[]);
        write_with_overlay(Path::new(INITRD), &overlay, Path::new(&self.initrd))
            .expect("cannot write the initrd");
        self
    }

    /// Another initial RAM disk and command line.
    pub(crate) fn boot(mut self, initrd: &str, command_line: &str) -> Self {
        self.initrd = initrd.to_owned();
        self.command_line = command_line.to_owned();
        self
    }

    /// Leaves libvirt to add the devices that it adds by itself.
    pub(crate) fn with_defaults(mut self) -> Self {
        self.no_defaults = "";
        self
    }

    /// Another terminal, in XML.
    pub(crate) fn terminal(mut self, xml: &str) -> Self {
        self.terminal = xml.to_owned();
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

    /// What libvirt does when the guest crashes, in place of destroying it.
    pub(crate) fn on_crash(mut self, action: &'static str) -> Self {
        self.on_crash = action;
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

    /// What libvirt is given.
    pub(crate) fn xml(&self) -> String {
        format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{name}</name><memory unit='MiB'>1024</memory>{elements}\
             <os><type arch='ppc64le' machine='pseries'>hvm</type><kernel>{KERNEL}</kernel>\
             <initrd>{initrd}</initrd><cmdline>{command_line}</cmdline></os>\
             <on_crash>{on_crash}</on_crash><devices><emulator>/usr/bin/spapr-vmm-qemu</emulator>\
             {no_defaults}{terminal}{devices}</devices>\
             {arguments}</domain>",
            name = self.name,
            elements = self.elements,
            on_crash = self.on_crash,
            initrd = self.initrd,
            command_line = self.command_line,
            no_defaults = self.no_defaults,
            terminal = self.terminal,
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
        let bytes = fs::read(console_file(&self.name)).unwrap_or_default();
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

    /// Attaches `virsh console` to its terminal, where a shell waits for a command.
    pub(crate) fn attach_console(&self) -> Console {
        let mut console = self.open_console();
        // What is typed before virsh has set up its terminal is lost.
        let deadline = Instant::now() + LIMIT;
        let typist = &mut console.typist;
        while !typist.try_command("echo attached-$((1 + 1))", "attached-2", SHORTLY) {
            assert!(Instant::now() < deadline, "the console takes no command");
        }
        console
    }

    /// Attaches `virsh console` to its terminal, whatever is there.
    pub(crate) fn open_console(&self) -> Console {
        // virsh wants a terminal of its own.
        let console = format!("virsh console {}", self.name);
        let mut virsh = Command::new("lab-libvirt")
            .args(["script", "-qfec", &console, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("virsh console");
        let keyboard = virsh.stdin.take().expect("piped");
        let screen = virsh.stdout.take().expect("piped");
        let mut typist = Typist::new(keyboard, screen);
        typist.wait_for("Escape character");
        Console { virsh, typist }
    }

    /// Waits until its shell waits for a command, and has done so this often.
    #[track_caller]
    pub(crate) fn wait_for_prompt(&self, times: usize) {
        self.wait_for_console(PROMPT, times);
    }

    /// Waits until the shell of its life of this number waits for a command. What the kernel says before comes in
    /// between the words of the guest's init.
    #[track_caller]
    pub(crate) fn wait_for_shell(&self, life: usize) {
        self.wait_until("a shell", |domain| {
            let console = domain.console();
            let begun = console.match_indices(INIT_SAYS).nth(life - 1);
            begun.is_some_and(|(at, _)| console[at..].contains(PROMPT))
        });
    }

    /// Waits until the terminal's log has `text` so often.
    #[track_caller]
    pub(crate) fn wait_for_console(&self, text: &str, times: usize) {
        self.wait_until(text, |domain| {
            domain.console().matches(text).count() >= times
        });
    }

    /// Waits for a state that comes with the end of the emulator.
    #[track_caller]
    pub(crate) fn wait_for_state(&self, state: &str) {
        // Asking libvirt all the time would keep the guest waiting.
        let emulator = self.emulator();
        self.wait_until(state, |_| {
            emulator.as_ref().is_none_or(|emulator| !emulator.exists())
        });
        self.wait_until(state, |domain| domain.state() == state);
    }

    /// Waits until something is so; `what` it is, for the message when it never is.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, is_so: impl FnMut(&Self) -> bool) {
        self.wait_as_long_as(LIMIT, what, is_so);
    }

    /// The same, for what takes longer.
    #[track_caller]
    pub(crate) fn wait_as_long_as(
        &self,
        limit: Duration,
        what: &str,
        mut is_so: impl FnMut(&Self) -> bool,
    ) {
        let deadline = Instant::now() + limit;
        while !is_so(self) {
            if Instant::now() > deadline {
                let (state, console, messages) = (self.state(), self.console(), self.messages());
                panic!("no {what:?}\n{state}\nconsole:\n{console}\nmessages:\n{messages}");
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// The emulator's folder in /proc, while it runs.
    fn emulator(&self) -> Option<PathBuf> {
        let path = format!("/libvirt/run/libvirt/qemu/{}.pid", self.name);
        let text = fs::read_to_string(path).ok()?;
        Some(Path::new("/proc").join(text.trim()))
    }

    /// What a file of the emulator's in /proc says.
    #[track_caller]
    pub(crate) fn proc(&self, file: &str) -> String {
        let folder = self.emulator().expect("no pid file of libvirt's");
        let bytes = fs::read(folder.join(file)).expect("the emulator does not run");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The folder of its descriptors in /proc.
    pub(crate) fn descriptors(&self) -> PathBuf {
        self.emulator()
            .expect("no pid file of libvirt's")
            .join("fd")
    }

    /// Its /dev, which is not the host's.
    pub(crate) fn devices(&self) -> PathBuf {
        let folder = self.emulator().expect("no pid file of libvirt's");
        folder.join("root/dev")
    }

    /// Its threads: their folders in /proc.
    pub(crate) fn threads(&self) -> Vec<PathBuf> {
        let folder = self.emulator().expect("no pid file of libvirt's");
        let threads = fs::read_dir(folder.join("task")).expect("the emulator does not run");
        threads
            .map(|thread| thread.expect("a thread").path())
            .collect()
    }
}

/// `virsh console`, which is to be left: when its keyboard is merely gone, `script` types an end-of-file, and
/// the guest's shell ends by that.
#[derive(Debug)]
pub(crate) struct Console {
    virsh: Child,
    /// The user in front of it.
    pub(crate) typist: Typist<ChildStdin>,
}

impl Console {
    /// Leaves it by its key, Ctrl-].
    pub(crate) fn leave(mut self) {
        self.typist.keys(b"\x1d");
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.virsh.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "virsh console does not end");
            thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "virsh console: {status}");
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It has ended, unless a test failed.
        let _ = self.virsh.kill();
        let _ = self.virsh.wait();
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // Most tests end with a domain that does not run.
        let name = &self.name;
        let _ = try_virsh(&[&format!("destroy {name}; undefine {name}")]);
    }
}

/// Where the log of a domain's terminal is.
pub(crate) fn console_file(domain: &str) -> String {
    format!("/tmp/{domain}-console.log")
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
