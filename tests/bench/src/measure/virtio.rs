//! What is measured of virtio devices: a disk and a network by Linux guests that keep them busy, and what a
//! VMM has in memory for a guest that has one of each kind.

use spapr_lab::benchmark::results::Peer;

use super::AnyError;
use super::host_disk::HostDisk;
use super::host_network::HostNetwork;
use super::jobs;
use super::linux_runs::{Equipment, Linux, LinuxRun};
use super::plan::{Session, linux_run};

/// Who gives a guest virtio devices. How TCE calls are served makes no difference to them.
const PEERS: [Peer; 3] = [Peer::Auto, Peer::QemuKernel, Peer::QemuNext];

/// Measures all.
pub(super) fn measure(session: &mut Session<'_>) {
    disks(session);
    networks(session);
    memory(session);
}

/// A Linux guest that reads a disk.
fn disks(session: &mut Session<'_>) {
    let Some(device) = session.arguments.vfio else {
        return;
    };
    let disk = || Ok(Equipment::Disk(HostDisk::take(device)?));
    let runs = PEERS.map(|peer| ("virtio disk: ", linux_run(peer)));
    run(session, &jobs::read("/dev/vda"), &disk, &runs);
}

/// A Linux guest that exchanges data with its host over a network.
fn networks(session: &mut Session<'_>) {
    let network = || Ok(Equipment::Network(HostNetwork::make()?));
    let runs = PEERS.into_iter().flat_map(|peer| {
        [false, true].map(|has_vhost| {
            let run = LinuxRun {
                has_vhost,
                prefix: if has_vhost { "vhost-" } else { "" },
                ..linux_run(peer)
            };
            ("virtio network: ", run)
        })
    });
    run(
        session,
        &jobs::exchange(),
        &network,
        &runs.collect::<Vec<_>>(),
    );
}

/// A Linux guest with a device of each kind.
fn memory(session: &mut Session<'_>) {
    let Some(device) = session.arguments.vfio else {
        return;
    };
    let all = || {
        Ok(Equipment::All(
            HostDisk::take(device)?,
            HostNetwork::make()?,
        ))
    };
    let runs = PEERS.map(|peer| ("virtio memory: ", linux_run(peer)));
    run(session, &jobs::use_all(), &all, &runs);
}

/// Has guests do a job with what is made for the first of them, and is there until the last has ended.
fn run(
    session: &mut Session<'_>,
    job: &str,
    equipment: &dyn Fn() -> Result<Equipment, AnyError>,
    runs: &[(&str, LinuxRun)],
) {
    let arguments = session.arguments;
    let (Some(kernel), Some(initrd)) = (&arguments.kernel, &arguments.initrd) else {
        return;
    };
    let mut prepared = None;
    for (what, run) in runs {
        let title = format!("{what}{}{}", run.prefix, run.peer.name());
        session.measure(&title, |session| {
            if prepared.is_none() {
                let linux = Linux::prepare(kernel, initrd, job)?;
                prepared = Some(linux.with(equipment()?));
            }
            match &prepared {
                Some(linux) => session.add_reads(linux, run),
                None => Ok(()),
            }
        });
    }
}
