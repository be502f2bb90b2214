//! Opening what the host's kernel serves queues of devices by (vhost), for both front ends.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use spapr_devices::vhost::{Kind, Vhost, VhostError};
use spapr_devices::virtio::VsockHost;

use crate::spec::{MachineDescription, VhostSource, VirtualDevice};

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VhostRefusal {
    /// The kernel's device.
    #[error(transparent)]
    Device(#[from] VhostError),
    /// A descriptor that is not open.
    #[error("file descriptor {fd} is not open")]
    Descriptor {
        /// Which.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
}

/// Opens the sockets of the socket devices of `description`.
///
/// # Errors
/// Why one cannot be had; all are closed then.
pub fn open_vsocks(description: &MachineDescription) -> Result<Vec<Arc<VsockHost>>, VhostRefusal> {
    let mut all = Vec::new();
    for (device, vsock) in description.vsocks() {
        for vhost in open(Kind::Vsock, device, &[vsock.vhost])? {
            vhost.set_cid(vsock.cid)?;
            all.push(Arc::new(VsockHost::new(vhost, vsock.cid)));
        }
    }
    Ok(all)
}

/// Opens what `device` is to be served by, if it is to be: one for each that is wanted.
///
/// # Errors
/// Why it cannot be had.
pub fn open(
    kind: Kind,
    device: &VirtualDevice,
    wanted: &[VhostSource],
) -> Result<Vec<Vhost>, VhostRefusal> {
    if device.by_bus_address && !wanted.is_empty() {
        log::warn!(
            "{}: the host's kernel does not pass its frames (vhost): it takes no bus addresses, which its driver gives \
             (iommu_platform); this program does",
            device.name
        );
        return Ok(Vec::new());
    }
    let opened = wanted.iter().map(|wanted| match *wanted {
        VhostSource::Path => Ok(Vhost::open(kind)?),
        VhostSource::Descriptor(fd) => {
            let duplicated = duplicate(fd);
            let descriptor =
                duplicated.map_err(|source| VhostRefusal::Descriptor { fd, source })?;
            Ok(Vhost::of_descriptor(kind, descriptor, fd)?)
        }
    });
    opened.collect()
}

/// Another descriptor of what was left open, which stays so: nothing else gets its number.
///
/// # Errors
/// It is not open.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: it is borrowed while it is duplicated alone, which fails for what is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use spapr_devices::error_chain::chain;

    use super::*;
    use crate::spec::VirtualDeviceKind;

    fn refusal(wanted: VhostSource, by_bus_address: bool) -> Option<String> {
        let device = VirtualDevice {
            kind: VirtualDeviceKind::Rng,
            name: "net0".to_owned(),
            place: None,
            by_bus_address,
        };
        let outcome = open(Kind::Net, &device, &[wanted]);
        outcome.err().map(|error| chain(&error))
    }

    #[test]
    fn a_descriptor_that_is_none_of_vhosts_is_named() {
        let other = File::open("/dev/null").unwrap();
        let fd = other.as_raw_fd();
        let refused = refusal(VhostSource::Descriptor(fd), false).unwrap();
        let wanted =
            format!("file descriptor {fd} is not an open /dev/vhost-net that nobody has used");
        assert!(refused.starts_with(&wanted), "{refused}");
        let refused = refusal(VhostSource::Descriptor(9999), false).unwrap();
        assert!(
            refused.starts_with("file descriptor 9999 is not open"),
            "{refused}"
        );
    }

    #[test]
    fn where_a_driver_gives_bus_addresses_nothing_is_opened() {
        assert_eq!(refusal(VhostSource::Descriptor(9999), true), None);
    }
}
