//! What devices of `spapr-vmm run` have at their other ends.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use spapr_devices::virtio::balloon::BalloonControl;
use spapr_devices::virtio::disk::DiskFailures;
use spapr_devices::virtio::serial::{HIGHEST_PORT, Outlet, PortOptions, Ports};

use crate::console::socket;
use crate::filesystems::{self, FsError};
use crate::machine::Attachments;
use crate::nics::{self, NicRefusal};
use crate::setting::Setting;
use crate::spec::{MachineDescription, PortDescription, PortOutlet};
use crate::vhost::{self, VhostRefusal};

/// Why something cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// A port's socket cannot be made.
    #[error("cannot make the socket {}", path.display())]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are more ports than a device has.
    #[error("there are {0} ports, and a guest can have {HIGHEST_PORT}")]
    TooManyPorts(usize),
    /// A network card's frames cannot be carried.
    #[error(transparent)]
    Nic(#[from] NicRefusal),
    /// The host's kernel does not serve sockets.
    #[error(transparent)]
    Vsock(#[from] VhostRefusal),
    /// Nobody serves a file system.
    #[error(transparent)]
    FileSystem(#[from] FsError),
    /// The kernel gives no descriptors.
    #[error("cannot get descriptors")]
    Descriptors(#[from] io::Error),
}

impl AttachmentError {
    /// What of the user's choice it is about.
    pub const fn setting(&self) -> Option<Setting> {
        match self {
            Self::Socket { .. } | Self::TooManyPorts(_) => Some(Setting::SerialPort),
            Self::Nic(_) => Some(Setting::Network),
            Self::Vsock(_) => Some(Setting::Vsock),
            Self::FileSystem(_) => Some(Setting::FileSystem),
            Self::Descriptors(_) => None,
        }
    }

    /// The process' exit status: 2 when it is what was asked for, 1 when something failed on the way.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Socket { .. }
            | Self::TooManyPorts(_)
            | Self::Nic(_)
            | Self::Vsock(_)
            | Self::FileSystem(_) => 2,
            Self::Descriptors(_) => 1,
        }
    }
}

/// Opens what the devices of `description` are to have.
///
/// # Errors
/// What cannot be had.
pub fn open(description: &MachineDescription) -> Result<Attachments, AttachmentError> {
    let ports = description.serial_devices().map(|ports| {
        if ports.iter().any(|port| port.number > HIGHEST_PORT) {
            return Err(AttachmentError::TooManyPorts(ports.len()));
        }
        let options = ports.iter().map(port).collect::<Result<_, _>>()?;
        // Nobody here asks whether a guest has opened a port.
        Ok(Arc::new(Ports::new(options, |_, _| {})?))
    });
    let balloon = description.has_balloon().then(|| {
        let bytes = description.memory.0;
        BalloonControl::new(bytes, |_| {}).map(Arc::new)
    });
    let has_disks = description.disks().next().is_some();
    let disk_failures = has_disks.then(|| DiskFailures::new().map(Arc::new));
    Ok(Attachments {
        disk_failures: disk_failures.transpose()?,
        nics: nics::open(description)?,
        vsocks: vhost::open_vsocks(description)?,
        filesystems: filesystems::open(description)?,
        ports: ports.collect::<Result<_, _>>()?,
        balloon: balloon.transpose()?,
    })
}

fn port(port: &PortDescription) -> Result<PortOptions, AttachmentError> {
    let outlet = match &port.outlet {
        PortOutlet::Listen(path) => {
            let bound = socket::bind(path);
            let listener = bound.map_err(|source| AttachmentError::Socket {
                path: path.clone(),
                source,
            })?;
            Outlet::Listener(listener.into())
        }
        // These are another front end's.
        PortOutlet::Chardev(_) => Outlet::Nothing,
    };
    Ok(PortOptions {
        number: port.number,
        name: port.name.clone(),
        is_console: port.is_console,
        outlet,
    })
}
