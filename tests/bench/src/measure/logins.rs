//! From exec to a login: a Debian system that comes up from a disk of its own, with what a domain of libvirt's has by
//! default beside it, until its terminal shows the first line of a login.

use std::fs;
use std::path::PathBuf;

use spapr_lab::benchmark::results::{Defences, Peer};
use spapr_lab::benchmark::row::{Row, Unit};
use spapr_lab::cpio::Archive;
use spapr_lab::initrd::write_with_overlay;

use super::AnyError;
use super::command_line::RunArguments;
use super::guest_runs::LIMIT;
use super::host_network::HostNetwork;
use super::jobs::{DEFENCES, LOGIN};
use super::linux_runs::{Found, add_defence, agreed};
use super::peers::{self, Controller, Disk, GUEST_BYTES, Guest, Network, Windows};
use super::plan::Session;
use super::watch;

/// How often each system is booted.
const BOOTS: usize = 3;
/// What its kernel is told; the initial RAM disk begins with [`LOGIN`].
const COMMAND_LINE: &str = "console=hvc0 root=LABEL=debian quiet audit=0 rdinit=/bench-init";
/// Where instructions are counted, an idle guest gives the processor up at once.
const COUNTED: &str = " cpuidle.off=1";

/// What comes up on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Userland {
    /// What asks for a name, and nothing else.
    Agetty,
    /// All that Debian starts.
    Systemd,
}

impl Userland {
    const ALL: [Self; 2] = [Self::Agetty, Self::Systemd];

    const fn name(self) -> &'static str {
        match self {
            Self::Agetty => "agetty",
            Self::Systemd => "systemd",
        }
    }

    /// What is added to the kernel's command line.
    const fn command_line(self) -> &'static str {
        match self {
            Self::Agetty => " login=agetty",
            Self::Systemd => "",
        }
    }
}

/// Measures all.
pub(super) fn measure(session: &mut Session<'_>) {
    if session.arguments.system.is_none() {
        return;
    }
    let mut prepared = None;
    for userland in Userland::ALL {
        for peer in Peer::STARTERS {
            let title = format!("login: {}: {}", userland.name(), peer.name());
            session.measure(&title, |session| {
                if prepared.is_none() {
                    prepared = System::prepare(session.arguments)?;
                }
                if let Some(system) = &prepared {
                    let found = system.logins(session.arguments, userland, peer)?;
                    session.add_linux(peer, found);
                }
                Ok(())
            });
        }
    }
}

/// A system, and the network that it is in.
#[derive(Debug)]
struct System {
    kernel: PathBuf,
    /// The disk as it was made.
    disk: PathBuf,
    /// Where the RAM disk is, and the disk of the boot under way.
    folder: tempfile::TempDir,
    _network: HostNetwork,
}

impl System {
    /// Makes its initial RAM disk and its network; none when the command line names no system.
    fn prepare(arguments: &RunArguments) -> Result<Option<Self>, AnyError> {
        let (Some(kernel), Some(system)) = (&arguments.kernel, &arguments.system) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let mut overlay = Archive::new();
        overlay.file("bench-init", 0o755, LOGIN.as_bytes())?;
        overlay.file("defences", 0o755, DEFENCES.as_bytes())?;
        let initrd = folder.path().join("initrd");
        write_with_overlay(&system.join("initrd"), &overlay.finish()?, &initrd)?;
        Ok(Some(Self {
            kernel: kernel.clone(),
            disk: system.join("disk.qcow2"),
            folder,
            _network: HostNetwork::make()?,
        }))
    }

    /// Boots it some times, and finds a row: what the VMM's threads took until the login, their guest included. None
    /// when the peer cannot.
    fn logins(
        &self,
        arguments: &RunArguments,
        userland: Userland,
        peer: Peer,
    ) -> Result<Option<Found>, AnyError> {
        let mut boots = Vec::new();
        for _ in 0..BOOTS {
            let Some(boot) = self.boot(arguments, userland, peer)? else {
                return Ok(None);
            };
            boots.push(boot);
        }
        let defences = agreed(boots.iter().map(|boot| &boot.defences))?;
        let samples: Option<Vec<u64>> = boots.iter().map(|boot| boot.login).collect();
        let samples = samples.ok_or("the system ended before its login")?;
        let name = format!("login-{}", userland.name());
        let row = Row::of_samples(&name, 1, Unit::Nanoseconds, &samples);
        let rows = row.into_iter().collect();
        Ok(Some(Found { rows, defences }))
    }

    fn boot(
        &self,
        arguments: &RunArguments,
        userland: Userland,
        peer: Peer,
    ) -> Result<Option<Boot>, AnyError> {
        let folder = self.folder.path();
        let (initrd, disk) = (folder.join("initrd"), folder.join("disk.qcow2"));
        let port = folder.join("port");
        let counted = if arguments.counts_instructions {
            COUNTED
        } else {
            ""
        };
        let append = format!("{COMMAND_LINE}{counted}{}", userland.command_line());
        let guest = Guest {
            kernel: &self.kernel,
            initrd: Some(&initrd),
            append: &append,
            memory: GUEST_BYTES,
            cpus: 1,
            devices: Vec::new(),
            windows: Windows::On,
            controller: Controller::Default,
            disk: Some(Disk::Image(&disk)),
            network: Some(Network { has_vhost: true }),
            others: Some(&port),
            floor_options: &[],
        };
        let Some(command) = peers::command(peer, arguments, &guest) else {
            return Ok(None);
        };
        // Each boot finds the disk as it was made.
        fs::copy(&self.disk, &disk)?;
        let mut boot = Boot::default();
        watch::run(
            command,
            guest.memory,
            LIMIT,
            &mut |_| Ok(()),
            &mut |running, at, line| {
                if boot.has_login(line) {
                    let all = running.time_since_start(arguments.counts_instructions, at)?;
                    let all = u64::try_from(all.as_nanos()).unwrap_or(u64::MAX);
                    boot.login = Some(all);
                    running.end();
                }
                Ok(())
            },
        )?;
        Ok(Some(boot))
    }
}

/// What was seen of a boot.
#[derive(Debug, Default)]
struct Boot {
    defences: Defences,
    /// What its VMM had taken when there was a login, in nanoseconds.
    login: Option<u64>,
}

impl Boot {
    /// Follows what the guest prints; whether this line has its login begin.
    fn has_login(&mut self, line: &str) -> bool {
        if let Some((_, said)) = line.trim_end().split_once("BENCH-DEFENCE ") {
            add_defence(&mut self.defences, said);
        }
        self.login.is_none() && is_first_of_login(line)
    }
}

/// Whether it is the first line of a login that is not empty: Debian's /etc/issue, with the system's name and its
/// terminal's.
fn is_first_of_login(line: &str) -> bool {
    line.contains("Debian GNU/Linux ") && line.trim_end().ends_with(" debian hvc0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_told_from_what_a_system_says_before() {
        for first in [
            "Debian GNU/Linux 13 debian hvc0\r",
            "\x1b[mDebian GNU/Linux forky/sid debian hvc0 ",
        ] {
            assert!(is_first_of_login(first), "{first:?}");
        }
        for other in [
            "Welcome to Debian GNU/Linux 13 (trixie)!",
            "debian login: ",
            "[  OK  ] Started serial-getty@hvc0.service on debian hvc0",
        ] {
            assert!(!is_first_of_login(other), "{other}");
        }
    }
}
