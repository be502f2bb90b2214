//! The command line of each peer, for the same guest.

use std::path::Path;
use std::process::Command;

use spapr_devices::vfio::PciAddress;
use spapr_lab::benchmark::results::Peer;
use spapr_lab::peer::QEMU_MACHINE;

use super::command_line::RunArguments;
use super::host_network;

/// Bytes of guest memory, unless a measurement takes more.
pub(crate) const GUEST_BYTES: u64 = 1 << 30;

/// A guest to run.
#[derive(Clone, Debug)]
pub(crate) struct Guest<'a> {
    /// Its kernel.
    pub(crate) kernel: &'a Path,
    /// Its initial RAM disk.
    pub(crate) initrd: Option<&'a Path>,
    /// Its command line.
    pub(crate) append: &'a str,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Processors.
    pub(crate) cpus: u32,
    /// The devices that it is given, each in a group of its own.
    pub(crate) devices: Vec<PciAddress>,
    /// Its dynamic DMA windows.
    pub(crate) windows: Windows,
    /// Its interrupt controller.
    pub(crate) controller: Controller,
    /// Its virtio disk, if it has one.
    pub(crate) disk: Option<Disk<'a>>,
    /// Its virtio network card, if it has one.
    pub(crate) network: Option<Network>,
    /// It has an entropy device, a balloon and a serial port, whose other end is a socket at this path.
    pub(crate) others: Option<&'a Path>,
    /// What a floor is told besides.
    pub(crate) floor_options: &'a [String],
}

impl<'a> Guest<'a> {
    /// The bare-metal guest with one processor and no device.
    pub(crate) fn bare_metal(arguments: &'a RunArguments, append: &'a str) -> Self {
        Self {
            kernel: &arguments.guest,
            initrd: None,
            append,
            memory: GUEST_BYTES,
            cpus: 1,
            devices: Vec::new(),
            windows: Windows::Off,
            controller: Controller::Default,
            floor_options: &[],
            disk: None,
            network: None,
            others: None,
        }
    }
}

/// Dynamic DMA windows that a guest is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    /// As large as its memory.
    On,
    /// None.
    Off,
    /// At most so many bytes; spapr-vmm alone can.
    AtMost(u64),
}

/// A guest's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    /// What the VMM gives it by itself: XIVE, where the host can.
    Default,
    /// XICS.
    Xics,
}

/// The command that runs `guest` under `peer`; none when the peer cannot.
pub(crate) fn command(peer: Peer, arguments: &RunArguments, guest: &Guest<'_>) -> Option<Command> {
    match peer {
        Peer::Auto => Some(vmm(arguments, guest, "auto", "auto")),
        Peer::Kernel => Some(vmm(arguments, guest, "kernel", "v2")),
        Peer::User => Some(vmm(arguments, guest, "user", "v2")),
        Peer::UserV1 => Some(vmm(arguments, guest, "auto", "v1")),
        Peer::QemuKernel | Peer::QemuSafe | Peer::QemuUser => {
            qemu(&arguments.qemu, Firmware::Slof, guest)
        }
        Peer::QemuVof => qemu(&arguments.qemu, Firmware::Vof, guest),
        Peer::QemuNext => qemu(arguments.next_qemu.as_ref()?, Firmware::Slof, guest),
        Peer::QemuNextVof => qemu(arguments.next_qemu.as_ref()?, Firmware::Vof, guest),
        Peer::FloorExit => floor("exit", "v2", guest),
        Peer::FloorMap => floor("map", "v2", guest),
        Peer::FloorMapV1 => floor("map", "v1", guest),
        Peer::FloorKernel => floor("kernel", "v2", guest),
        Peer::Host => None,
    }
}

fn vmm(arguments: &RunArguments, guest: &Guest<'_>, tce: &str, iommu: &str) -> Command {
    let mut command = Command::new(&arguments.vmm);
    command.arg("run").arg("--kernel").arg(guest.kernel);
    if let Some(initrd) = guest.initrd {
        command.arg("--initrd").arg(initrd);
    }
    command.args(["--append", guest.append]);
    command.args(["--memory", &format!("{}M", guest.memory >> 20)]);
    command.args(["--cpus", &guest.cpus.to_string()]);
    command.args(["--tce", tce, "--iommu", iommu]);
    let windows = match guest.windows {
        Windows::On => "auto".to_owned(),
        Windows::Off => "off".to_owned(),
        Windows::AtMost(bytes) => format!("{}M", bytes >> 20),
    };
    command.args(["--ddw", &windows]);
    if guest.controller == Controller::Xics {
        command.args(["--interrupt-controller", "xics"]);
    }
    for device in &guest.devices {
        command.args(["--vfio", &device.to_string()]);
    }
    if let Some(disk) = guest.disk {
        let disk = match disk {
            Disk::Device(path) => format!("{},cache=none,format=raw,readonly", path.display()),
            Disk::Image(path) => format!("{},cache=none,format=qcow2", path.display()),
        };
        command.args(["--disk", &disk]);
    }
    if let Some(network) = guest.network {
        let vhost = network.vhost();
        command.args([
            "--net",
            &format!("tap={},vhost={vhost}", host_network::NAME),
        ]);
    }
    if let Some(socket) = guest.others {
        command.args(["--rng", "--balloon"]);
        command.args(["--serial-port", &format!("bench={}", socket.display())]);
    }
    command
}

/// A virtio disk; its guest's requests go past the host's page cache.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disk<'a> {
    /// A block device of the host's, which the guest only reads.
    Device(&'a Path),
    /// An image in the format qcow2.
    Image(&'a Path),
}

/// A network card.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// The host's kernel passes its frames.
    pub(crate) has_vhost: bool,
}

impl Network {
    const fn vhost(self) -> &'static str {
        match self.has_vhost {
            true => "on",
            false => "off",
        }
    }
}

/// What QEMU's guests find first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firmware {
    /// What it gives them by itself: a firmware that runs in the guest.
    Slof,
    /// A few instructions that call QEMU, which answers itself.
    Vof,
}

fn qemu(program: &Path, firmware: Firmware, guest: &Guest<'_>) -> Option<Command> {
    let mut command = Command::new(program);
    let controller = match guest.controller {
        Controller::Default => "",
        Controller::Xics => ",ic-mode=xics",
    };
    let firmware = match firmware {
        Firmware::Slof => "",
        Firmware::Vof => ",x-vof=on",
    };
    let machine = format!("{QEMU_MACHINE}{controller}{firmware}");
    command.args(["-M", &machine, "-cpu", "host"]);
    command.args(["-m", &format!("{}M", guest.memory >> 20)]);
    command.args(["-smp", &guest.cpus.to_string()]);
    // Nothing but the terminal and what is passed through.
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-serial", "stdio", "-monitor", "none"]);
    match guest.windows {
        Windows::On => {}
        Windows::Off => {
            command.args(["-global", "spapr-pci-host-bridge.ddw=off"]);
        }
        Windows::AtMost(_) => return None,
    }
    for (index, device) in guest.devices.iter().enumerate() {
        let bus = if index == 0 {
            "pci.0".to_owned()
        } else {
            let bridge = format!("spapr-pci-host-bridge,index={index},id=bridge{index}");
            command.args(["-device", &bridge]);
            format!("bridge{index}.0")
        };
        command.args(["-device", &format!("vfio-pci,host={device},bus={bus}")]);
    }
    if let Some(disk) = guest.disk {
        qemu_disk(&mut command, disk);
    }
    if let Some(network) = guest.network {
        let (name, vhost) = (host_network::NAME, network.vhost());
        let tap = format!("tap,id=net,ifname={name},script=no,downscript=no,vhost={vhost}");
        // The driver that the guest has is for what virtio has become; and nothing starts from this card.
        let card = "virtio-net-pci-non-transitional,netdev=net,romfile=";
        command.args(["-netdev", &tap, "-device", card]);
    }
    if let Some(socket) = guest.others {
        qemu_others(&mut command, socket);
    }
    command.arg("-kernel").arg(guest.kernel);
    if let Some(initrd) = guest.initrd {
        command.arg("-initrd").arg(initrd);
    }
    command.args(["-append", guest.append]);
    Some(command)
}

/// A disk in QEMU's best setting: a thread of the disk's own, io_uring, past the page cache.
fn qemu_disk(command: &mut Command, disk: Disk<'_>) {
    let (path, file, format, access) = match disk {
        Disk::Device(path) => (path, "host_device", "raw", "read-only=on"),
        Disk::Image(path) => (path, "file", "qcow2", "read-only=off"),
    };
    let options = format!("{access},cache.direct=on");
    let path = path.display();
    let file = format!("{file},node-name=file,filename={path},aio=io_uring,{options}");
    command.args(["-object", "iothread,id=io", "-blockdev", &file]);
    let format = format!("{format},node-name=disk,file=file,{options}");
    command.args(["-blockdev", &format]);
    command.args(["-device", "virtio-blk-pci,drive=disk,iothread=io"]);
}

/// What else QEMU's guest has of virtio.
fn qemu_others(command: &mut Command, socket: &Path) {
    let socket = format!(
        "socket,id=port,path={},server=on,wait=off",
        socket.display()
    );
    command.args(["-device", "virtio-rng-pci-non-transitional"]);
    command.args(["-device", "virtio-balloon-pci-non-transitional"]);
    command.args(["-device", "virtio-serial-pci-non-transitional"]);
    command.args(["-chardev", &socket]);
    command.args(["-device", "virtserialport,chardev=port,name=bench"]);
}

/// This program itself, as a floor; it takes one device and one processor.
fn floor(floor: &str, iommu: &str, guest: &Guest<'_>) -> Option<Command> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command
        .args(["floor", floor, "--iommu", iommu])
        .arg("--guest")
        .arg(guest.kernel);
    command.args(["--append", guest.append]);
    for device in &guest.devices {
        command.args(["--vfio", &device.to_string()]);
    }
    command.args(guest.floor_options);
    Some(command)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::command_line::{Command as Chosen, CommandLine};
    use super::*;

    fn arguments() -> RunArguments {
        let line = "spapr-bench run --output o --guest g --next-qemu next";
        let line = line.split(' ');
        match CommandLine::parse_from(line).command {
            Chosen::Run(arguments) => *arguments,
            Chosen::Floor(_) | Chosen::Read(_) | Chosen::Exchange(_) => panic!("not run"),
        }
    }

    fn words(peer: Peer, windows: Windows) -> Option<String> {
        let device = |text: &str| text.parse().unwrap();
        let guest = Guest {
            kernel: Path::new("g"),
            initrd: None,
            append: "parts=exit",
            memory: GUEST_BYTES,
            cpus: 2,
            devices: vec![device("0001:01:00.0"), device("0003:01:00.0")],
            windows,
            controller: Controller::Default,
            floor_options: &[],
            disk: None,
            network: None,
            others: None,
        };
        let command = command(peer, &arguments(), &guest)?;
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        Some(words.join(" "))
    }

    #[test]
    fn every_peer_gets_the_same_guest() {
        for peer in Peer::ALL.into_iter().filter(|peer| *peer != Peer::Host) {
            let words = words(peer, Windows::Off).unwrap();
            assert!(words.contains("parts=exit"), "{words}");
            assert!(words.contains("0001:01:00.0") && words.contains("0003:01:00.0"));
        }
    }

    #[test]
    fn only_who_is_named_for_it_gets_vof_and_the_next_qemu() {
        for peer in Peer::STARTERS {
            let words = words(peer, Windows::On).unwrap();
            let has_vof = peer == Peer::QemuVof || peer == Peer::QemuNextVof;
            assert_eq!(words.contains("x-vof=on"), has_vof, "{words}");
        }
        let mut arguments = arguments();
        let program = |arguments: &RunArguments, peer| {
            let guest = Guest::bare_metal(arguments, "");
            let command = command(peer, arguments, &guest)?;
            Some(command.get_program().to_owned())
        };
        assert_eq!(program(&arguments, Peer::QemuNextVof).unwrap(), "next");
        assert_eq!(
            program(&arguments, Peer::QemuVof).unwrap(),
            "qemu-system-ppc64"
        );
        arguments.next_qemu = None;
        assert_eq!(program(&arguments, Peer::QemuNext), None);
    }

    #[test]
    fn an_image_is_written_and_a_device_only_read_past_the_page_cache() {
        let arguments = arguments();
        let words = |peer, disk| {
            let guest = Guest {
                disk: Some(disk),
                ..Guest::bare_metal(&arguments, "")
            };
            let command = command(peer, &arguments, &guest).unwrap();
            let words: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
            words.join(" ")
        };
        let path = Path::new("/a");
        let [ours, theirs] = [Peer::Auto, Peer::QemuNext].map(|it| words(it, Disk::Image(path)));
        assert!(ours.contains("--disk /a,cache=none,format=qcow2"), "{ours}");
        assert!(theirs.contains("qcow2,node-name=disk,file=file,read-only=off,cache.direct=on"));
        assert!(!theirs.contains("read-only=on"), "{theirs}");
        let [ours, theirs] = [Peer::Auto, Peer::QemuNext].map(|it| words(it, Disk::Device(path)));
        assert!(ours.contains("format=raw,readonly"), "{ours}");
        assert!(!theirs.contains("read-only=off"), "{theirs}");
        assert_eq!(theirs.matches("read-only=on,cache.direct=on").count(), 2);
    }

    #[test]
    fn qemu_has_no_bounded_windows() {
        assert!(words(Peer::QemuKernel, Windows::AtMost(256 << 20)).is_none());
        let words = words(Peer::Auto, Windows::AtMost(256 << 20)).unwrap();
        assert!(words.contains("--ddw 256M"));
    }
}
