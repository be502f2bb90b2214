//! The command line that libvirt builds for `qemu-system-ppc64`, and what it asks for.
//!
//! Whatever is not supported is refused by its name. Options that change nothing for the guests
//! that there can be are taken as hints: docs/libvirt.md lists them.

mod blockdev;
mod chardev;
mod device;
mod disk;
mod error;
mod filesystem;
mod help;
mod instead;
mod machine;
mod memory;
mod netdev;
mod options;
mod parameters;
mod pci;
mod process;
mod properties;
mod rng;
mod scsi;
mod serial;
mod tap;
#[cfg(test)]
mod tests;
mod usb;
mod values;
mod virtio;

use std::os::fd::RawFd;
use std::path::PathBuf;

use blockdev::Nodes;
pub use blockdev::{Driver, NODE_DRIVERS, Node};
use chardev::Serial;
pub use chardev::{BACKENDS, Backend, Chardev, OutputFile, SocketAddress};
pub use device::{DEVICE_TYPES, Device, DeviceKind, DeviceType, Drive, DriveKind, drives};
pub use error::CommandLineError;
pub use help::answer;
pub use machine::MACHINES;
use machine::MachineOptions;
use memory::MemoryOptions;
pub use netdev::Card;
use netdev::Netdevs;
#[cfg(test)]
pub(crate) use options::names as option_names;
pub use parameters::{OBJECT_TYPES, OPTION_PARAMETERS};
use pci::BackEnds;
use properties::Properties;
use rng::RngSources;
pub use virtio::{VirtioDevice, VirtioKind};

use log::LevelFilter;

use crate::setting::Setting;
use crate::spec::MachineDescription;

/// What a command line asks for.
#[derive(Debug)]
pub struct CommandLine {
    /// The machine; `None` for `-machine none`, which only answers questions.
    pub machine: Option<MachineDescription>,
    /// The devices as they were asked for.
    pub devices: Vec<Device>,
    /// The block nodes, in the order in which they were given.
    pub nodes: Vec<Node>,
    /// The character device of the guest's terminal.
    pub terminal: Option<Chardev>,
    /// Character devices in the order in which they were given, those of monitors among them.
    pub chardevs: Vec<Chardev>,
    /// Names of the character devices that are monitors.
    pub monitors: Vec<String>,
    /// Open descriptors that are named as `/dev/fdset/N`.
    pub descriptors: Vec<PassedDescriptor>,
    /// How the process is to run.
    pub process: ProcessOptions,
}

/// A descriptor that whoever started this process left open for it (`-add-fd`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedDescriptor {
    /// Number of its set.
    pub set: u32,
    /// The descriptor.
    pub fd: RawFd,
    /// What is said of it.
    pub opaque: Option<String>,
}

/// How the process is to run, apart from its machine.
#[derive(Debug, Default)]
pub struct ProcessOptions {
    /// The guest's name (`-name`).
    pub name: Option<String>,
    /// Leave the terminal once all is set up (`-daemonize`).
    pub daemonize: bool,
    /// Gets this process' id (`-pidfile`).
    pub pid_file: Option<PathBuf>,
    /// The guest does not start by itself (`-S`).
    pub starts_paused: bool,
    /// The process outlives the guest's power-off (`-no-shutdown`).
    pub no_shutdown: bool,
    /// A reboot is a power-off (`-no-reboot`).
    pub no_reboot: bool,
    /// Threads may make only the system calls that they use (`-sandbox on`).
    pub sandbox: bool,
    /// All memory of the process is locked (`-overcommit mem-lock=on`).
    pub locks_memory: bool,
    /// Messages carry the time (`-msg timestamp=on`).
    pub timestamps: bool,
    /// Messages carry the guest's name (`-msg guest-name=on`).
    pub guest_name_in_messages: bool,
    /// How much is logged (`-spapr-vmm log=`).
    pub log: Option<LevelFilter>,
    /// Gets counters at the end (`-spapr-vmm stats=`).
    pub stats: Option<PathBuf>,
}

/// The option that is about a setting, if there is one.
pub const fn option_of(setting: Setting) -> Option<&'static str> {
    Some(match setting {
        Setting::Memory => "-m",
        Setting::Hugepages => "-object",
        Setting::Cpus => "-smp",
        Setting::Processor => "-cpu",
        Setting::Speculation => "-machine",
        Setting::InterruptController => "-machine ic-mode",
        Setting::KernelCommandLine => "-append",
        Setting::Device => "-device vfio-pci",
        Setting::Disk => "-blockdev",
        Setting::Network => "-netdev",
        Setting::Vsock => "-device vhost-vsock-pci",
        Setting::FileSystem => "-device vhost-user-fs-pci",
        Setting::HostBridge => {
            "-device spapr-pci-host-bridge (<controller type='pci' model='pci-root'/> in a libvirt domain)"
        }
        Setting::DmaWindow => {
            "-global spapr-pci-host-bridge.dma_win_size (or dma_win_size= of one)"
        }
        Setting::Stats => "-spapr-vmm stats",
        // Their errors name the chardev.
        Setting::Console | Setting::SerialPort => return None,
    })
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    machine: MachineOptions,
    memory: MemoryOptions,
    rngs: RngSources,
    nodes: Nodes,
    netdevs: Netdevs,
    process: ProcessOptions,
    devices: Vec<Device>,
    chardevs: Vec<Chardev>,
    monitors: Vec<String>,
    descriptors: Vec<PassedDescriptor>,
    serial: SerialOptions,
}

/// What is said of serial ports other than by `-device spapr-vty`.
#[derive(Default)]
struct SerialOptions {
    /// How many times `-serial` was given.
    given: usize,
    /// The character devices that it named.
    chardevs: Vec<String>,
    nographic: bool,
    nodefaults: bool,
}

/// A path that means the same after the process has left its folder (`-daemonize`).
fn absolute(option: &str, path: &str) -> Result<PathBuf, CommandLineError> {
    std::path::absolute(path).map_err(|why| CommandLineError::Syntax {
        option: option.to_owned(),
        why: format!("{path:?} is no path: {why}"),
    })
}

impl CommandLine {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// What is not supported or makes no sense, by name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, CommandLineError> {
        let mut reader = Reader::default();
        for (option, value) in options::split(arguments)? {
            reader.read(option, &value)?;
        }
        reader.finish()
    }
}

impl Reader {
    fn read(&mut self, option: &'static str, value: &str) -> Result<(), CommandLineError> {
        match option {
            "blockdev" => self.nodes.read(value)?,
            "netdev" => self.netdevs.read(value)?,
            "chardev" => {
                let chardev = Chardev::parse(value)?;
                self.add_chardev("-chardev", chardev)?;
            }
            "device" => {
                let device = Device::parse(value)?;
                let taken = self
                    .devices
                    .iter()
                    .any(|known| device.id.is_some() && known.id == device.id);
                if taken {
                    return Err(CommandLineError::Twice {
                        option: "-device".to_owned(),
                        id: device.id.unwrap_or_default(),
                    });
                }
                self.devices.push(device);
            }
            "global" => self.machine.set_dma_window(device::global(value)?),
            "mon" => self.read_monitor(value)?,
            "qmp" => {
                if value != "none" {
                    let id = format!("compat_monitor{}", self.monitors.len());
                    let chardev = Chardev::of_monitor(id.clone(), value)?;
                    self.add_chardev("-qmp", chardev)?;
                    self.monitors.push(id);
                }
            }
            "serial" => self.read_serial(value)?,
            "nographic" => self.serial.nographic = true,
            "nodefaults" => self.serial.nodefaults = true,
            "object" => {
                if !self.rngs.read(value)? {
                    self.memory.read_object(value)?;
                }
            }
            "m" => self.memory.read_size(value)?,
            "add-fd" => {
                let descriptor = process::passed_descriptor(value)?;
                self.nodes.passed.push((descriptor.set, descriptor.fd));
                self.descriptors.push(descriptor);
            }
            _ => {
                let taken = self.machine.read(option, value)?
                    || process::read(&mut self.process, option, value)?;
                if !taken {
                    return Err(CommandLineError::Option(format!("-{option}")));
                }
            }
        }
        Ok(())
    }

    fn add_chardev(&mut self, option: &str, chardev: Chardev) -> Result<(), CommandLineError> {
        if self.chardevs.iter().any(|known| known.id == chardev.id) {
            return Err(CommandLineError::Twice {
                option: option.to_owned(),
                id: chardev.id,
            });
        }
        self.chardevs.push(chardev);
        Ok(())
    }

    /// `-serial`: a vty, and perhaps a character device for it, as QEMU's pseries makes them.
    fn read_serial(&mut self, value: &str) -> Result<(), CommandLineError> {
        let id = format!("serial{}", self.serial.given);
        self.serial.given += 1;
        let chardev = match Chardev::of_serial(id, value)? {
            None => return Ok(()),
            Some(Serial::Named(id)) => {
                self.serial.chardevs.push(id.clone());
                id
            }
            Some(Serial::New(chardev)) => {
                let id = chardev.id.clone();
                self.add_chardev("-serial", chardev)?;
                id
            }
        };
        self.devices.push(Device::vty(chardev));
        Ok(())
    }

    /// With `-nographic`, QEMU has the first serial port on standard input and output unless something is
    /// said of serial ports or of all such defaults.
    fn default_serial(&mut self) -> Result<(), CommandLineError> {
        let SerialOptions {
            given,
            nographic,
            nodefaults,
            ..
        } = self.serial;
        let has_terminal = self
            .devices
            .iter()
            .any(|device| matches!(device.kind, DeviceKind::Vty { .. }));
        if nographic && !nodefaults && given == 0 && !has_terminal && !self.process.daemonize {
            self.read_serial("stdio")?;
        }
        Ok(())
    }

    fn read_monitor(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-mon", Some("chardev"), value)?;
        let chardev = properties.required("chardev")?;
        // A human monitor, which is the default, is not there.
        let mode = properties
            .text("mode")?
            .unwrap_or_else(|| "readline".to_owned());
        if mode != "control" {
            return Err(properties.wrong("mode", &mode, "control"));
        }
        properties.ignore(&["id"]);
        properties.only("pretty", &["off"])?;
        properties.finish()?;
        self.monitors.push(chardev);
        Ok(())
    }

    fn finish(mut self) -> Result<CommandLine, CommandLineError> {
        self.default_serial()?;
        for id in &self.monitors {
            self.chardev("-mon", id)?;
        }
        self.check_descriptors()?;
        let terminal = self.terminal()?;
        let of_ports = self.port_chardevs()?;
        let of_filesystems = filesystem::chardevs(&self.devices);
        for chardev in &self.chardevs {
            let is_used = self.monitors.contains(&chardev.id)
                || terminal.as_ref().is_some_and(|it| it.id == chardev.id)
                || of_ports.contains(&chardev.id)
                || of_filesystems.contains(&chardev.id.as_str());
            if !is_used {
                return Err(CommandLineError::Unused {
                    option: "-chardev",
                    id: chardev.id.clone(),
                });
            }
        }
        self.rngs.check(&self.devices)?;
        self.nodes.check(&self.devices)?;
        self.netdevs.check(&self.devices)?;
        let machine = self.machine.finish(
            &self.memory,
            &self.devices,
            BackEnds {
                nodes: &self.nodes,
                netdevs: &self.netdevs,
                chardevs: &self.chardevs,
            },
        )?;
        Ok(CommandLine {
            machine,
            terminal,
            devices: self.devices,
            nodes: self.nodes.all,
            chardevs: self.chardevs,
            monitors: self.monitors,
            descriptors: self.descriptors,
            process: self.process,
        })
    }

    /// A descriptor that two options use would be closed by the first that is done with it.
    fn check_descriptors(&self) -> Result<(), CommandLineError> {
        let of_sets = self.descriptors.iter().map(|it| ("-add-fd", it.fd));
        let of_sockets = self.chardevs.iter().filter_map(Chardev::descriptor);
        let of_sockets = of_sockets.map(|fd| ("-chardev", fd));
        let mut seen = Vec::new();
        let of_interfaces = self.netdevs.descriptors().map(|fd| ("-netdev", fd));
        let of_vsocks = self.devices.iter().filter_map(Device::vhost_descriptor);
        let of_vsocks = of_vsocks.map(|fd| ("-device", fd));
        let all = of_sets.chain(of_sockets).chain(of_interfaces);
        for (option, fd) in all.chain(of_vsocks) {
            if seen.contains(&fd) {
                return Err(CommandLineError::Twice {
                    option: format!("{option} fd"),
                    id: fd.to_string(),
                });
            }
            seen.push(fd);
        }
        Ok(())
    }

    fn chardev(&self, option: &str, id: &str) -> Result<&Chardev, CommandLineError> {
        let found = self.chardevs.iter().find(|chardev| chardev.id == id);
        found.ok_or_else(|| CommandLineError::Unknown {
            option: option.to_owned(),
            what: "chardev",
            id: id.to_owned(),
        })
    }

    /// The character devices of serial devices' ports: each is one port's.
    fn port_chardevs(&self) -> Result<Vec<String>, CommandLineError> {
        serial::check(&self.devices)?;
        scsi::check(&self.devices)?;
        let mut of_ports: Vec<String> = Vec::new();
        for device in &self.devices {
            let DeviceKind::Port(port) = &device.kind else {
                continue;
            };
            let option = format!("-device {}", port.type_name());
            let chardev = self.chardev(&option, &port.chardev)?;
            port.check(chardev)?;
            let is_terminal = |device: &Device| match &device.kind {
                DeviceKind::Vty { chardev, .. } => *chardev == port.chardev,
                _ => false,
            };
            if of_ports.contains(&chardev.id)
                || self.monitors.contains(&chardev.id)
                || self.devices.iter().any(is_terminal)
            {
                let id = &chardev.id;
                return Err(CommandLineError::Combination(format!(
                    "{option}: the chardev {id} is used by another device or a monitor, too"
                )));
            }
            of_ports.push(chardev.id.clone());
        }
        Ok(of_ports)
    }

    /// The character device of the one terminal.
    fn terminal(&self) -> Result<Option<Chardev>, CommandLineError> {
        let mut terminal = None;
        for device in &self.devices {
            let DeviceKind::Vty { chardev, .. } = &device.kind else {
                continue;
            };
            let option = if self.serial.chardevs.contains(chardev) {
                "-serial"
            } else {
                "-device spapr-vty"
            };
            let chardev = self.chardev(option, chardev)?;
            if terminal.is_some() {
                return Err(CommandLineError::Combination(
                    "the guest has one terminal, and -serial or -device spapr-vty give it a second (in a \
                     libvirt domain: one <serial>, and no <console> of another kind)"
                        .to_owned(),
                ));
            }
            if self.monitors.contains(&chardev.id) {
                return Err(CommandLineError::Combination(format!(
                    "the chardev {} is a monitor's and cannot be the terminal's, too",
                    chardev.id
                )));
            }
            terminal = Some(chardev.clone());
        }
        Ok(terminal)
    }
}
