//! The command line of the emulator that is a host.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::nice;

use super::channels::Channel;
use super::code_log::CodeLog;
use super::devices::{self, DeviceKind, Files};
use super::{HostKind, LparOption, Platform};
use crate::command::ends_with_its_starter;

const KERNEL_COMMAND_LINE: &str = "console=hvc0 panic=-1";

/// The one server in the network card's network, which no packet leaves: it sends back what it gets.
pub(super) const ECHO: &str = "guestfwd=tcp:10.0.2.100:7-cmd:cat";

/// The socket of the emulator's monitor, in the folder of the channels' sockets.
pub(super) const MONITOR: &str = "monitor";

/// Everything a host is started with.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) kind: HostKind,
    pub(super) icount: bool,
    /// Whether it gives way to other programs of this machine.
    pub(super) gives_way: bool,
    /// Code of which the emulator logs what runs.
    pub(super) code_log: Option<&'a CodeLog>,
    /// What it has as an LPAR.
    pub(super) lpar: &'a [LparOption],
    /// Root folder of the unpacked emulator.
    pub(super) emulator: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    /// The run's folder, shared with the host.
    pub(super) share: &'a Path,
    /// Extra programs, shared read-only.
    pub(super) extra: Option<&'a Path>,
    /// The next Debian's QEMU, shared read-only.
    pub(super) next: Option<&'a Path>,
    /// This run's copy of the NVMe.
    pub(super) nvme: &'a Path,
    /// Further devices.
    pub(super) devices: &'a [DeviceKind],
    /// What they have of this machine.
    pub(super) files: &'a Files,
    /// Folder of the channels' sockets.
    pub(super) sockets: &'a Path,
    /// The device tree to give it in place of the emulator's own.
    pub(super) device_tree: Option<&'a Path>,
}

/// The command that starts the host.
///
/// The emulator is another release's program: it runs through its own loader with its own
/// libraries, the C library included.
pub(super) fn command(settings: &Settings<'_>) -> Command {
    let mut command = emulator(settings);
    machine(&mut command, settings, "");
    if let Some(tree) = settings.device_tree {
        // The kernel's command line is in the tree.
        command.arg("-dtb").arg(tree);
    } else {
        command.args(["-append", KERNEL_COMMAND_LINE]);
    }
    monitor(&mut command, settings);
    connect_channels(&mut command, settings);
    add_bridges(&mut command, settings);
    add_devices(&mut command, settings);
    if let Some(log) = settings.code_log {
        log.request(&mut command);
    }
    // Not in the terminal's process group: the lab decides what Ctrl-C means.
    command.process_group(0);
    prepare_process(&mut command, settings.gives_way);
    command
}

/// The command that writes the host's own device tree to `path` and ends.
pub(super) fn dump_command(settings: &Settings<'_>, path: &Path) -> Command {
    let mut command = emulator(settings);
    machine(&mut command, settings, &joined(",dumpdtb=", path));
    command.args(["-append", KERNEL_COMMAND_LINE]);
    command.args(["-serial", "null", "-monitor", "none"]);
    command
}

/// The emulator, with nothing said of what it is to be.
fn emulator(settings: &Settings<'_>) -> Command {
    let root = settings.emulator;
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    command.arg("--library-path").arg(&libraries);
    command.arg(root.join("usr/bin/qemu-system-ppc64"));
    for data in ["qemu", "skiboot"] {
        command.arg("-L").arg(root.join("usr/share").join(data));
    }
    // Without these, its modules and libraries could be taken from this machine.
    command
        .env("QEMU_MODULE_DIR", libraries.join("qemu"))
        .env_remove("LD_LIBRARY_PATH");
    command.stdin(Stdio::null());
    command
}

fn machine(command: &mut Command, settings: &Settings<'_>, options: &str) {
    command.args([
        "-M",
        &format!("{}{options}", settings.kind.machine()),
        "-m",
        "6G",
        "-nographic",
        "-no-reboot",
    ]);
    if settings.icount {
        command.args(["-smp", "1", "-accel", "tcg", "-icount", "shift=0,sleep=off"]);
    } else {
        command.args(["-smp", "2,cores=2,threads=1", "-accel", "tcg,thread=multi"]);
    }
    if settings.kind.platform() == Platform::Lpar {
        command.args(["-cpu", settings.kind.lpar_processor(), "-nodefaults"]);
        for option in settings.lpar {
            command.args(["-global", &option.property()]);
        }
    }
    command
        .arg("-kernel")
        .arg(settings.kernel)
        .arg("-initrd")
        .arg(settings.initrd);
    command.args(["-nic", "none"]);
}

/// The monitor, which is asked where the processors are when the host stands still.
fn monitor(command: &mut Command, settings: &Settings<'_>) {
    let socket = settings.sockets.join(MONITOR);
    command.arg("-chardev").arg(joined(
        "socket,id=monitor,server=on,wait=off,path=",
        &socket,
    ));
    command.args(["-mon", "chardev=monitor,mode=readline"]);
}

/// The lab's channels to the host, of which one is its console.
fn connect_channels(command: &mut Command, settings: &Settings<'_>) {
    for channel in Channel::ALL {
        let name = channel.name();
        command.arg("-chardev").arg(joined(
            &format!("socket,id={name},path="),
            &settings.sockets.join(name),
        ));
    }
    command.args(["-serial", "chardev:console"]);
}

/// The host bridges that the machine does not have by itself.
fn add_bridges(command: &mut Command, settings: &Settings<'_>) {
    if settings.kind.platform() == Platform::Lpar {
        for number in 1..=5 {
            let bridge = format!("spapr-pci-host-bridge,index={number},id=phb{number}");
            command.args(["-device", &bridge]);
        }
    }
}

/// A bus: each is a host bridge's, hence an IOMMU group, of its own.
fn bus(platform: Platform, number: u8) -> String {
    match platform {
        Platform::BareMetal => format!("pcie.{number}"),
        Platform::Lpar if number == 0 => "pci.0".to_owned(),
        Platform::Lpar => format!("phb{number}.0"),
    }
}

fn add_devices(command: &mut Command, settings: &Settings<'_>) {
    let platform = settings.kind.platform();
    let bus = |number| bus(platform, number);
    command.arg("-drive").arg(joined(
        "if=none,id=nvme,format=raw,cache=writeback,file=",
        settings.nvme,
    ));
    // 1 MiB by one command (2^8 pages of 4 KiB). Of two, some guests see one interrupt and others see two, for as
    // long as they live: what is measured would be a matter of chance.
    let nvme = format!("nvme,bus={},drive=nvme,serial=lab,mdts=8", bus(1));
    command.args(["-device", &nvme]);
    command.args(["-netdev", &format!("user,id=nic,restrict=on,{ECHO}")]);
    let nic = format!("e1000e,bus={},netdev=nic,romfile=", bus(3));
    command.args(["-device", &nic]);
    // On bare metal all DMA goes through the IOMMU; in an LPAR the lab's own devices need not fit its windows.
    let virtio = match platform {
        Platform::BareMetal => "disable-legacy=on,iommu_platform=on",
        Platform::Lpar => "disable-legacy=on",
    };
    let ports = format!("virtio-serial-pci,bus={},{virtio}", bus(4));
    command.args(["-device", &ports]);
    for port in ["control", "stdout", "stderr"] {
        command.args([
            "-device",
            &format!("virtserialport,chardev={port},name=lab.{port}"),
        ]);
    }
    command.args(["-device", "virtconsole,chardev=terminal,name=lab.terminal"]);
    let share = |command: &mut Command, name, folder, options, place: &str| {
        share(command, name, folder, options, &format!("{place},{virtio}"));
    };
    share(
        command,
        "run",
        settings.share,
        "",
        &format!("bus={}", bus(0)),
    );
    // Two functions of one device where host bridges are few: the last is for further devices.
    let place = |function| format!("bus={},addr=0.{function},multifunction=on", bus(2));
    let (extra, next, bridge) = match platform {
        Platform::BareMetal => (place(0), place(u8::from(settings.extra.is_some())), 5),
        Platform::Lpar => (format!("bus={}", bus(2)), format!("bus={}", bus(5)), 6),
    };
    if let Some(folder) = settings.extra {
        share(command, "extra", folder, ",readonly=on", &extra);
    }
    if let Some(folder) = settings.next {
        share(command, "next", folder, ",readonly=on", &next);
    }
    command.args(devices::options(
        platform,
        bridge,
        settings.devices,
        settings.files,
    ));
}

/// A folder of this machine, by a device with these properties.
fn share(command: &mut Command, name: &str, folder: &Path, options: &str, properties: &str) {
    command.arg("-fsdev").arg(joined(
        &format!("local,id={name},security_model=none{options},path="),
        folder,
    ));
    command.args([
        "-device",
        &format!("virtio-9p-pci,fsdev={name},mount_tag=lab.{name},{properties}"),
    ]);
}

/// An option with a path in it; QEMU wants commas doubled.
pub(super) fn joined(before: &str, path: &Path) -> String {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}")
}

/// How much nicer a host is that gives way: it gets a quarter of a processor that others want too, for
/// its firmware must not seem to hang.
const GIVES_WAY_BY: i32 = 5;

/// Has the emulator end with the thread that starts it, and prefers others to it if it gives way.
fn prepare_process(command: &mut Command, gives_way: bool) {
    ends_with_its_starter(command);
    if !gives_way {
        return;
    }
    let give_way = || Ok(nice(GIVES_WAY_BY).map(drop)?);
    // SAFETY: between fork and exec only async-signal-safe work is allowed; the closure makes one
    // system call and touches no memory of the parent's.
    unsafe {
        command.pre_exec(give_way);
    }
}

/// What the emulator needs to be there; the first one that is not.
pub(super) fn missing_part(emulator: &Path) -> Option<PathBuf> {
    [
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/bin/qemu-system-ppc64",
    ]
    .into_iter()
    .map(|part| emulator.join(part))
    .find(|part| !part.exists())
}
