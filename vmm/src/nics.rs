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
        let (backend, known_as) = backend(&net.backend)?;
        let vhost = vhost::open(Kind::Net, device, net.vhost)?;
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
        Ok(Arc::new(match vhost {
            Some(vhost) => nic.with_vhost(vhost),
            None => nic,
        }))
    });
    nics.collect()
}

/// What carries the frames, and what it is known as on this host.
fn backend(wanted: &NetBackend) -> Result<(Backend, String), NicRefusal> {
    let tap = match wanted {
        NetBackend::Tap(name) => Tap::open(name)?,
        NetBackend::Descriptor(fd) => {
            let not_open = |source| NicRefusal::Descriptor { fd: *fd, source };
            Tap::of_descriptor(vhost::duplicate(*fd).map_err(not_open)?, *fd)?
        }
        NetBackend::Stream(path) => {
            let stream = Stream::connect(path).map_err(|source| NicRefusal::Socket {
                path: path.clone(),
                source,
            })?;
            return Ok((Backend::Stream(stream), path.display().to_string()));
        }
    };
    let known_as = tap.name().to_owned();
    Ok((Backend::Tap(tap), known_as))
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
        let refusal = |wanted: NetBackend| chain(&backend(&wanted).err().unwrap());
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
        let descriptor = refusal(NetBackend::Descriptor(9999));
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
        let refused = chain(&backend(&NetBackend::Descriptor(fd)).err().unwrap());
        let wanted = format!("file descriptor {fd} is not that of a TAP interface");
        assert!(refused.starts_with(&wanted), "{refused}");
    }
}
