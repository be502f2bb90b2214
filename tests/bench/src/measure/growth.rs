//! How costs grow: with registered regions, with LIOBNs, with the size of windows, with processors.

use spapr_lab::benchmark::results::Peer;

use super::AnyError;
use super::engine_rows;
use super::guest_runs::{self, Run};
use super::peers::{GUEST_BYTES, Guest, Windows};
use super::plan::Session;

/// Pieces of memory that are registered.
const REGIONS: [u32; 6] = [1, 4, 16, 64, 256, 1000];
/// LIOBNs that have a table in the kernel.
const LIOBNS: [u32; 5] = [1, 4, 16, 64, 256];
/// Rows of the guest that are kept, of a floor's.
const KEPT: [&str; 2] = ["put-remap", "get"];
/// Guest memory where windows grow: those of spapr-vmm are at most as large. QEMU locks all of it.
const WINDOWS_GUESTS: [(Peer, u64); 2] = [
    (Peer::Auto, 4 * GUEST_BYTES),
    (Peer::QemuKernel, 2 * GUEST_BYTES),
];
/// Who is measured with several processors.
const PROCESSORS_PEERS: [Peer; 4] = [Peer::Auto, Peer::User, Peer::QemuKernel, Peer::QemuUser];
const PROCESSORS: u32 = 4;

/// Measures all.
pub(super) fn measure(session: &mut Session<'_>) {
    session.measure("growth: liobns: the engine alone", |session| {
        session.add_rows(Peer::Host, engine_rows::measure()?);
        Ok(())
    });
    if session.arguments.vfio.is_some() {
        with_a_device(session);
    }
}

fn with_a_device(session: &mut Session<'_>) {
    for peer in [Peer::FloorKernel, Peer::FloorMap] {
        grow(session, peer, "regions", &REGIONS);
    }
    grow(session, Peer::FloorKernel, "liobns", &LIOBNS);
    for (peer, memory) in WINDOWS_GUESTS {
        let title = format!("growth: windows: {}", peer.name());
        session.measure(&title, |session| {
            let devices = session.arguments.vfio.into_iter().collect();
            let guest = Guest {
                memory,
                windows: Windows::On,
                devices,
                ..Guest::bare_metal(session.arguments, "parts=windows samples=64")
            };
            let run = guest_runs::run(peer, session.arguments, &guest)?;
            session.add(peer, run);
            Ok(())
        });
    }
    for peer in PROCESSORS_PEERS {
        let title = format!("growth: processors: {}", peer.name());
        session.measure(&title, |session| {
            let arguments = session.arguments;
            let guest = Guest {
                cpus: PROCESSORS,
                windows: Windows::On,
                devices: arguments.vfio.into_iter().chain(arguments.second).collect(),
                ..Guest::bare_metal(session.arguments, "parts=processors")
            };
            let run = guest_runs::run(peer, arguments, &guest)?;
            session.add(peer, run);
            Ok(())
        });
    }
}

/// Runs a floor with more and more of something; the rows' names end in `-what`.
fn grow(session: &mut Session<'_>, peer: Peer, what: &str, counts: &[u32]) {
    let title = format!("growth: {what}: {}", peer.name());
    session.measure(&title, |session| {
        for &count in counts {
            let run = grown(session, peer, what, count)?;
            session.add(peer, run);
        }
        Ok(())
    });
}

fn grown(
    session: &Session<'_>,
    peer: Peer,
    what: &str,
    count: u32,
) -> Result<Option<Run>, AnyError> {
    let options = [format!("--{what}"), count.to_string()];
    let guest = Guest {
        devices: session.arguments.vfio.into_iter().collect(),
        floor_options: &options,
        disk: None,
        ..Guest::bare_metal(session.arguments, "parts=single samples=64")
    };
    let run = guest_runs::run(peer, session.arguments, &guest)?;
    Ok(run.map(|mut run| {
        run.rows.retain(|row| KEPT.contains(&row.name.as_str()));
        for row in &mut run.rows {
            row.name = format!("{}-{what}", row.name);
            row.n = count.into();
        }
        run
    }))
}
