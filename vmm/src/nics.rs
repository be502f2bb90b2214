//! Opening the host's side of a machine's network cards, for both front ends.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use spapr_devices::net::{Backend, Mac, Stream, Tap, TapError};
use spapr_devices::vhost::Kind;
use spapr_devices::virtio::net::{Nic, NicOptions};

use crate::spec::{MachineDescription, NetBackend};
use crate::vhost::{self, VhostRefusal};

/// What names this host, and is another's nowhere (machine-id(5)).
const HOST_NAME: &str = "/etc/machine-id";

/// Why a network card cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NicRefusal {
    /// Its interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A descriptor that is not open.
    #[error("file descriptor {fd} is not open")]
    Descriptor {
        /// Which.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
    /// There is no descriptor for it.
    #[error("no file descriptor is given for it")]
    NoQueue,
    /// What the host's kernel would pass its frames by.
    #[error(transparent)]
    Vhost(#[from] VhostRefusal),
    /// The socket of the program that carries its frames.
    #[error("cannot connect to {}; the program that listens there (passt) is started first", path.display())]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are no descriptors left for it.
    #[error("no descriptors are left for {name}")]
    Resource {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Opens what carries the frames of the cards of `description`.
///
/// # Errors
/// Why one cannot be had; all are closed then.
pub fn open(description: &MachineDescription) -> Result<Vec<Arc<Nic>>, NicRefusal> {
    let nics = description.nics().map(|(device, net)| {
        let name = device.name.as_str();
        let (backend, more, known_as) = backends(&net.backend, net.pairs)?;
        let vhosts = vhost::open(Kind::Net, device, &net.vhosts)?;
        let options = NicOptions {
            name: name.to_owned(),
            mac: net.mac.unwrap_or_else(|| made_up(&known_as)),
            mtu: net.mtu,
            receive_entries: net.receive_entries,
            transmit_entries: net.transmit_entries,
        };
        let nic = Nic::new(backend, options).map_err(|source| NicRefusal::Resource {
            name: name.to_owned(),
            source,
        })?;
        Ok(Arc::new(nic.with_pairs(more).with_vhosts(vhosts)))
    });
    nics.collect()
}

/// What carries the frames of the first pair of queues, of the others, and what it is known as on this host.
fn backends(
    wanted: &NetBackend,
    pairs: u16,
) -> Result<(Backend, Vec<Backend>, String), NicRefusal> {
    let taps = match wanted {
        NetBackend::Tap(name) => Tap::open_queues(name, pairs)?,
        NetBackend::Descriptors(fds) => {
            let duplicates = fds.iter().map(|&fd| {
                let not_open = |source| NicRefusal::Descriptor { fd, source };
                Ok((vhost::duplicate(fd).map_err(not_open)?, fd))
            });
            Tap::of_descriptors(duplicates.collect::<Result<_, NicRefusal>>()?)?
        }
        NetBackend::Stream(path) => {
            let stream = Stream::connect(path).map_err(|source| NicRefusal::Socket {
                path: path.clone(),
                source,
            })?;
            let known_as = path.display().to_string();
            return Ok((Backend::Stream(stream), Vec::new(), known_as));
        }
    };
    let mut taps = taps.into_iter();
    let first = taps.next().ok_or(NicRefusal::NoQueue)?;
    let known_as = first.name().to_owned();
    Ok((
        Backend::Tap(first),
        taps.map(Backend::Tap).collect(),
        known_as,
    ))
}

/// The address of a card that was given none: always the same on this host for what carries its frames.
fn made_up(known_as: &str) -> Mac {
    // A host without a name makes the same ones as others without.
    let host = fs::read(HOST_NAME).unwrap_or_default();
    Mac::made_of(&[&host, known_as.as_bytes()])
}

#[cfg(test)]
mod tests {
    use spapr_devices::error_chain::chain;

    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let refusal = |wanted: NetBackend| chain(&backends(&wanted, 1).err().unwrap());
        let missing = refusal(NetBackend::Tap("no-such-tap".to_owned()));
        assert_eq!(
            missing,
            "this host has no interface no-such-tap; make it: ip tuntap add dev no-such-tap mode tap user USER"
        );
        let name = refusal(NetBackend::Tap("a name".to_owned()));
        assert!(
            name.starts_with("\"a name\" is no name of an interface"),
            "{name}"
        );
        let descriptor = refusal(NetBackend::Descriptors(vec![9999]));
        assert!(
            descriptor.starts_with("file descriptor 9999 is not open"),
            "{descriptor}"
        );
        let socket = refusal(NetBackend::Stream("/no/such/socket".into()));
        assert!(
            socket.starts_with("cannot connect to /no/such/socket"),
            "{socket}"
        );
    }

    #[test]
    fn what_is_no_interface_is_refused() {
        let (reader, _writer) = io::pipe().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
        let wanted = NetBackend::Descriptors(vec![fd]);
        let refused = chain(&backends(&wanted, 1).err().unwrap());
        let wanted = format!("file descriptor {fd} is not that of a TAP interface");
        assert!(refused.starts_with(&wanted), "{refused}");
    }
}
