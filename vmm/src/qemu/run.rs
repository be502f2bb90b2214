//! A machine under monitors: from its command line to the end of the process.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use spapr_devices::virtio::balloon::BalloonControl;
use spapr_devices::virtio::disk::DiskFailures;
use spapr_devices::virtio::serial::{Outlet, PortOptions, Ports};

use super::chardev::{self, ChardevError, Endpoints, Open};
use super::command_line::{
    self, CommandLine, CommandLineError, Device, DeviceKind, ProcessOptions, VirtioDevice,
    VirtioKind, drives,
};
use super::daemon::{DaemonError, PidFile, Readiness};
use super::disks::{DiskErrors, DiskFacts, EmptyDrive};
use super::dumps::Dumps;
use super::events::{self, EventSource, Events};
use super::fd_sets::FdSets;
use super::inherited::{Inherited, InheritedError};
use super::monitor::{BalloonFacts, ChardevFacts, Facts, Monitor, NicFacts};
use super::qmp::Server;
use super::state::{GuestState, Policy};
use crate::console::Console;
use crate::control::{Alarm, Control, ControlError};
use crate::filesystems::{self, FsError};
use crate::lifecycle::{End, Lifecycle};
use crate::machine::Attachments;
use crate::nics::{self, NicRefusal};
use crate::sandbox::{self, Role};
use crate::session::{Next, SessionError};
use crate::setting::{self, Setting};
use crate::spec::{MachineDescription, PortDescription, PortOutlet};
use crate::vhost::{self, VhostRefusal};

/// Why a machine was not run, or ended otherwise than its monitors or its guest wanted.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The command line is refused.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The process cannot leave the terminal.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A descriptor that was to be passed in is not there.
    #[error(transparent)]
    Descriptor(#[from] InheritedError),
    /// A character device cannot be opened.
    #[error(transparent)]
    Chardev(#[from] ChardevError),
    /// A network card's frames cannot be carried.
    #[error(transparent)]
    Nic(#[from] NicRefusal),
    /// The host's kernel does not serve its sockets.
    #[error(transparent)]
    Vsock(#[from] VhostRefusal),
    /// Nobody serves a file system.
    #[error(transparent)]
    FileSystem(#[from] FsError),
    /// The control plane does not work.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Something that every process has is not to be had.
    #[error("cannot get {what}")]
    Resource {
        /// What is missing.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Memory cannot be locked.
    #[error(
        "cannot lock the memory of this process (-overcommit mem-lock=on, <locked/> in a libvirt \
         domain); raise the limit (RLIMIT_MEMLOCK)"
    )]
    LockMemory(#[source] io::Error),
    /// The host has not got everything back. What it is has been told when the machine ended.
    #[error("the guest has ended, and its machine was not given back whole")]
    LeftBehind,
    /// The machine cannot be made again. Why has been told when it ended.
    #[error("the guest cannot start again in this process: its machine was not given back whole")]
    NotGivenBack,
    /// The machine cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl QemuError {
    /// What is said of it: the option that it is about, if any, and what went wrong with its causes.
    pub fn message(&self) -> String {
        let setting = match self {
            Self::Session(error) => error.setting(),
            Self::Nic(_) => Some(Setting::Network),
            Self::Vsock(_) => Some(Setting::Vsock),
            Self::FileSystem(_) => Some(Setting::FileSystem),
            _ => None,
        };
        setting::message(self, setting.and_then(command_line::option_of))
    }
}

/// Runs what the command line asks for, until a monitor, a signal or the guest ends it.
///
/// # Errors
/// When it cannot be run.
pub fn run(
    line: CommandLine,
    mut inherited: Inherited,
    readiness: Option<Readiness>,
    started: Instant,
) -> Result<(), QemuError> {
    // Signals are caught before anyone can send one to a process that is known.
    let control = Control::new()?;
    let (events, source) = events::channel().map_err(resource("an eventfd"))?;
    let mut open = OpenDevices::open(&line, &mut inherited, &events)?;
    let terminal = open.terminal.take();
    tell_of_hidden(&line);
    if line.process.locks_memory {
        lock_memory().map_err(QemuError::LockMemory)?;
    }
    let waiting = Waiting {
        facts: facts(&line, open.chardevs, &open.attachments),
        disk_failures: open.attachments.disk_failures.clone(),
        attachments: open.attachments,
        fd_sets: inherited.sets,
        endpoints: open.endpoints,
        events,
        source,
        readiness,
        control,
        process: line.process,
    };
    sandbox::restrict_paths(&waiting.paths(line.machine.as_ref()))
        .map_err(resource("a sandbox for files"))?;
    match (line.machine, terminal) {
        (Some(description), Some(terminal)) => {
            super::machine::run(&description, terminal, waiting, started)
        }
        _ => waiting.answer_questions(),
    }
}

/// Says what of the command line the guest does not get.
fn tell_of_hidden(line: &CommandLine) {
    for device in &line.devices {
        if let DeviceKind::Usb(controller) = &device.kind {
            log::warn!(
                "-device {}: there is no USB; the guest is not shown this controller (<controller type='usb' \
                 model='none'/> in a libvirt domain leaves it out)",
                controller.type_name
            );
        }
    }
}

/// A resource's error.
pub(super) fn resource(what: &'static str) -> impl Fn(io::Error) -> QemuError {
    move |source| QemuError::Resource { what, source }
}

/// Character devices, open.
struct OpenDevices {
    terminal: Option<Console>,
    endpoints: Endpoints,
    chardevs: Vec<ChardevFacts>,
    attachments: Attachments,
}

impl OpenDevices {
    fn open(
        line: &CommandLine,
        inherited: &mut Inherited,
        events: &Events,
    ) -> Result<Self, QemuError> {
        let mut endpoints = Endpoints::default();
        let mut chardevs = Vec::new();
        let terminal = if line.machine.is_some() {
            let Open { value, filename } =
                chardev::open_terminal(line.terminal.as_ref(), inherited)?;
            if let Some(chardev) = &line.terminal {
                chardevs.push(ChardevFacts {
                    label: chardev.id.clone(),
                    filename,
                    port: None,
                });
            }
            Some(value)
        } else {
            None
        };
        for id in &line.monitors {
            let chardev = line.chardevs.iter().find(|chardev| chardev.id == *id);
            if let Some(chardev) = chardev {
                let filename = chardev::open_monitor(chardev, inherited, &mut endpoints)?;
                chardevs.push(ChardevFacts {
                    label: chardev.id.clone(),
                    filename,
                    port: None,
                });
            }
        }
        let mut attachments = Attachments::default();
        if let Some(machine) = &line.machine {
            attachments.nics = nics::open(machine)?;
            if machine.disks().next().is_some() {
                let failures = DiskFailures::new().map_err(resource("an eventfd"))?;
                attachments.disk_failures = Some(Arc::new(failures));
            }
            attachments.vsocks = vhost::open_vsocks(machine)?;
            attachments.filesystems = filesystems::open(machine)?;
        }
        let serials = line.machine.iter();
        for described in serials.flat_map(MachineDescription::serial_devices) {
            let ports = open_ports(line, described, inherited, events, &mut chardevs)?;
            attachments.ports.push(ports);
        }
        if let Some(machine) = &line.machine
            && machine.has_balloon()
        {
            let events = events.clone();
            let tell = move |bytes: u64| events.send("BALLOON_CHANGE", &json!({"actual": bytes}));
            let control = BalloonControl::new(machine.memory.0, tell);
            let control = control.map_err(resource("an eventfd"))?;
            attachments.balloon = Some(Arc::new(control));
        }
        Ok(Self {
            terminal,
            endpoints,
            chardevs,
            attachments,
        })
    }
}

/// Opens the ports of a serial device, whose events go to monitors.
fn open_ports(
    line: &CommandLine,
    described: &[PortDescription],
    inherited: &mut Inherited,
    events: &Events,
    chardevs: &mut Vec<ChardevFacts>,
) -> Result<Arc<Ports>, QemuError> {
    let (mut options, mut opened) = (Vec::new(), Vec::new());
    for port in described {
        let chardev = line.chardevs.iter().find(|chardev| match &port.outlet {
            PortOutlet::Chardev(id) => chardev.id == *id,
            PortOutlet::Listen(_) => false,
        });
        let outlet = match chardev {
            Some(chardev) => {
                let Open { value, filename } = chardev::open_port(chardev, inherited)?;
                opened.push((chardev.id.clone(), filename, options.len()));
                value
            }
            None => Outlet::Nothing,
        };
        options.push(PortOptions {
            number: port.number,
            name: port.name.clone(),
            is_console: port.is_console,
            outlet,
        });
    }
    let ids: Vec<Option<String>> = described.iter().map(|port| port.id.clone()).collect();
    let events = events.clone();
    let tell = move |place: usize, is_open: bool| {
        // One without an ID has no name that a monitor would know.
        if let Some(Some(id)) = ids.get(place) {
            events.send("VSERPORT_CHANGE", &json!({"id": id, "open": is_open}));
        }
    };
    let ports = Ports::new(options, tell).map_err(resource("descriptors for serial ports"))?;
    let ports = Arc::new(ports);
    chardevs.extend(
        opened
            .into_iter()
            .map(|(label, filename, place)| ChardevFacts {
                label,
                filename,
                port: Some((Arc::clone(&ports), place)),
            }),
    );
    Ok(ports)
}

fn facts(line: &CommandLine, chardevs: Vec<ChardevFacts>, attachments: &Attachments) -> Facts {
    let is_balloon = |device: &&Device| matches!(&device.kind, DeviceKind::Virtio(it) if matches!(it.kind, VirtioKind::Balloon(_)));
    let balloon = line.devices.iter().find(is_balloon);
    let devices = line.devices.iter().filter_map(|device| {
        let kind: &DeviceKind = &device.kind;
        Some((device.id.clone()?, kind.type_name()))
    });
    let machine = line.machine.as_ref();
    let uuid = machine.and_then(|machine| machine.uuid).unwrap_or_default();
    Facts {
        name: line.process.name.clone(),
        uuid: uuid.to_string(),
        // Known when the machine's threads are there.
        processors: Vec::new(),
        threads_per_core: machine.map_or(1, |machine| machine.threads_per_core),
        memory_bytes: machine.map_or(0, |machine| machine.memory.0),
        kvm: super::host::has_kvm(),
        host_processor: super::host::processor_name(),
        chardevs,
        devices: devices.collect(),
        disks: disks(line),
        empty_drives: empty_drives(line),
        nics: nics(line, attachments),
        balloon: attachments.balloon.as_ref().map(|control| BalloonFacts {
            device: balloon.and_then(|device| device.id.clone()),
            control: Arc::clone(control),
        }),
    }
}

/// The disks, before there is a machine.
fn disks(line: &CommandLine) -> Vec<DiskFacts> {
    let find = |name: &str| line.nodes.iter().find(|node| node.name == name);
    let drives = drives(&line.devices).into_iter();
    let disks = drives.filter_map(|drive| {
        let nodes = std::iter::successors(find(drive.node?), |node| find(node.driver.below()?));
        Some(DiskFacts {
            device: drive.id.map(str::to_owned),
            kind: drive.kind,
            nodes: nodes
                .map(|node| (node.name.clone(), node.driver.name()))
                .collect(),
            disk: None,
        })
    });
    disks.collect()
}

/// The drives that have no medium.
fn empty_drives(line: &CommandLine) -> Vec<EmptyDrive> {
    let drives = drives(&line.devices).into_iter();
    let empty = drives.filter(|drive| drive.node.is_none());
    empty
        .map(|drive| EmptyDrive {
            device: drive.id.map(str::to_owned),
        })
        .collect()
}

/// The network cards.
fn nics(line: &CommandLine, attachments: &Attachments) -> Vec<NicFacts> {
    let cards = line.devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::Virtio(VirtioDevice {
            kind: VirtioKind::Net(card),
            ..
        }) => Some((device.id.clone(), card.netdev.clone())),
        _ => None,
    });
    let nics = attachments.nics.iter().map(Arc::clone);
    cards
        .zip(nics)
        .map(|((device, netdev), nic)| NicFacts {
            device,
            netdev,
            nic,
        })
        .collect()
}

/// Locks all memory of the process, what it has and what it will have.
fn lock_memory() -> io::Result<()> {
    // SAFETY: changes no memory, only whether it stays in RAM.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What is ready before there is a machine.
pub(super) struct Waiting {
    pub(super) facts: Facts,
    pub(super) attachments: Attachments,
    disk_failures: Option<Arc<DiskFailures>>,
    pub(super) process: ProcessOptions,
    pub(super) control: Control,
    fd_sets: FdSets,
    endpoints: Endpoints,
    events: Events,
    source: EventSource,
    readiness: Option<Readiness>,
}

/// A machine's monitors, which answer.
pub(super) struct Serving {
    pub(super) monitor: Arc<Monitor>,
    control: Control,
    server: Server,
    _pid_file: Option<PidFile>,
}

impl Waiting {
    /// The files that the process needs from here on.
    fn paths(&self, machine: Option<&MachineDescription>) -> sandbox::Paths {
        let mut paths = machine.map_or_else(sandbox::Paths::default, sandbox::machine_paths);
        // Made later, and removed at the end.
        let made = [&self.process.pid_file, &self.process.stats];
        let folders = made.into_iter().flatten().filter_map(|path| path.parent());
        paths.written_in = folders.map(Path::to_owned).collect();
        paths
    }

    /// Lets monitors in, and whoever waits for this process know that it is set up.
    pub(super) fn serve(self) -> Result<Serving, QemuError> {
        let policy = Policy {
            no_shutdown: self.process.no_shutdown,
            no_reboot: self.process.no_reboot,
        };
        let starts_paused = self.process.starts_paused;
        let guest = GuestState::new(policy, starts_paused, self.events.clone());
        let disk_errors = DiskErrors::of(self.disk_failures, self.facts.disks.clone());
        let guest = Arc::new(guest.with_disks(disk_errors));
        let dumps = Dumps::start(Arc::clone(&guest), self.events.clone());
        let monitor = Arc::new(Monitor {
            facts: self.facts,
            guest,
            dumps: dumps.map_err(resource("the thread that writes dumps"))?,
            fd_sets: self.fd_sets,
            migration_events: AtomicBool::new(false),
        });
        let server = Server::start(
            self.endpoints,
            Arc::clone(&monitor),
            self.events,
            self.source,
            Some(sandbox::enter_monitor),
        );
        let server = server.map_err(resource("the monitors' thread"))?;
        let pid_file = self.process.pid_file.as_deref().map(PidFile::write);
        let pid_file = pid_file.transpose()?;
        let enter = || sandbox::enter(Role::Main).map_err(resource("a sandbox"));
        match self.readiness {
            Some(readiness) => readiness.tell(enter)?,
            None => enter()?,
        }
        Ok(Serving {
            monitor,
            control: self.control,
            server,
            _pid_file: pid_file,
        })
    }

    /// `-machine none`: answers questions until told to end.
    fn answer_questions(self) -> Result<(), QemuError> {
        let serving = self.serve()?;
        loop {
            let end = serving.wait_while_none_runs()?;
            if serving.monitor.guest.ended(&end) == Next::Exit {
                serving.finish();
                return Ok(());
            }
        }
    }
}

impl Serving {
    /// What the guest does.
    pub(super) fn guest(&self) -> &GuestState {
        &self.monitor.guest
    }

    /// Waits for the end of a machine's run.
    pub(super) fn wait_for_end(
        &self,
        lifecycle: &Arc<Lifecycle>,
        mut alarms: Vec<Alarm>,
    ) -> Result<End, QemuError> {
        let guest = Arc::clone(&self.monitor.guest);
        if let Some(failures) = self.guest().disk_errors().failures() {
            let alarm = Alarm::watching(failures.event(), move || guest.disks_told());
            alarms.push(alarm.map_err(resource("a descriptor"))?);
        }
        Ok(self.control.wait_for_end(lifecycle, alarms)?)
    }

    /// Waits for what a monitor or a signal says while no machine runs: there is none, or that of a
    /// guest that has crashed, which monitors lose then.
    pub(super) fn wait_while_none_runs(&self) -> Result<End, QemuError> {
        let attach = |lifecycle: &_| self.guest().attach_idle(lifecycle);
        let end = self.control.wait_while_none_runs(attach);
        self.guest().detach();
        Ok(end?)
    }

    /// Lets monitors hear the last events.
    pub(super) fn finish(self) {
        self.server.finish();
    }
}
