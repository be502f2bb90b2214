//! An IOMMU group: the devices that the host's IOMMU cannot tell apart, given away as one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use log::Level;
use uuid::Uuid;
use vfio_bindings::bindings::vfio::{VFIO_GROUP_FLAGS_VIABLE, vfio_group_status};
use vmm_sys_util::errno::Error as Errno;

use super::address::PciAddress;
use super::preflight::{GroupMember, GroupNumber, HostPaths, PreflightError, no_permission};
use super::{argument_size, kernel};
use crate::guest_message;

/// An open IOMMU group, in a container or not yet.
///
/// Dropping it takes it out of its container before its file descriptor closes.
#[derive(Debug)]
pub struct Group {
    number: GroupNumber,
    fd: OwnedFd,
    has_container: bool,
}

/// Why a group cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Another process has the group open; the kernel lets one have it.
    #[error(
        "IOMMU group {group} is in use by another process: find it with `fuser -v {}` and stop it",
        .path.display()
    )]
    Busy {
        /// The group.
        group: GroupNumber,
        /// Its node.
        path: PathBuf,
    },
    /// The group's node may not be opened, or something about it is in the way.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The group's node cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel says that a driver of the host still uses the group.
    #[error(
        "the kernel will not give IOMMU group {group} away (VFIO_GROUP_FLAGS_VIABLE is not set): \
         every device in it must be bound to vfio-pci or to no driver; it holds {}",
        member_list(.members)
    )]
    NotViable {
        /// The group.
        group: GroupNumber,
        /// Its devices.
        members: Vec<GroupMember>,
    },
    /// An ioctl of the group failed.
    #[error("{call} failed for IOMMU group {group}")]
    Call {
        /// Its name.
        call: &'static str,
        /// The group.
        group: GroupNumber,
        /// Why.
        #[source]
        source: Errno,
    },
}

fn member_list(members: &[GroupMember]) -> String {
    let members: Vec<_> = members.iter().map(GroupMember::to_string).collect();
    members.join(", ")
}

impl Group {
    /// Opens a group.
    ///
    /// # Errors
    /// When another process has it, this user may not, or the host still uses some of its devices.
    pub fn open(host: &HostPaths, number: GroupNumber) -> Result<Self, GroupError> {
        let path = host.group_node(number);
        let fd = match kernel::open(&path) {
            Ok(fd) => fd,
            Err(source) => {
                return Err(match source.raw_os_error() {
                    Some(libc::EBUSY) => GroupError::Busy {
                        group: number,
                        path,
                    },
                    Some(libc::EACCES) => no_permission(&path).into(),
                    Some(libc::ENOENT) => PreflightError::NoGroupNode(path).into(),
                    _ => GroupError::Open { path, source },
                });
            }
        };
        let group = Self {
            number,
            fd,
            has_container: false,
        };
        group.check_viable(host)?;
        Ok(group)
    }

    fn check_viable(&self, host: &HostPaths) -> Result<(), GroupError> {
        let mut status = vfio_group_status {
            argsz: argument_size::<vfio_group_status>(),
            flags: 0,
        };
        kernel::group_get_status(self.as_fd(), &mut status)
            .map_err(|source| self.call("VFIO_GROUP_GET_STATUS", source))?;
        if status.flags & VFIO_GROUP_FLAGS_VIABLE != 0 {
            return Ok(());
        }
        let group = self.number;
        let in_use = host.members_in_host_use(group)?;
        if !in_use.is_empty() {
            return Err(PreflightError::InHostUse {
                group,
                members: in_use,
            }
            .into());
        }
        Err(GroupError::NotViable {
            group,
            members: host.members(group)?,
        })
    }

    fn call(&self, call: &'static str, source: Errno) -> GroupError {
        GroupError::Call {
            call,
            group: self.number,
            source,
        }
    }

    /// The group's number.
    pub fn number(&self) -> GroupNumber {
        self.number
    }

    /// Puts the group into a container.
    pub(super) fn set_container(&mut self, container: BorrowedFd<'_>) -> Result<(), GroupError> {
        kernel::group_set_container(self.as_fd(), container)
            .map_err(|source| self.call("VFIO_GROUP_SET_CONTAINER", source))?;
        self.has_container = true;
        Ok(())
    }

    /// Opens a device of the group, with a VF token where there is one to show (`vfio_pci_core_match` in
    /// drivers/vfio/pci/vfio_pci_core.c).
    pub(super) fn device_fd(
        &self,
        address: PciAddress,
        vf_token: Option<Uuid>,
    ) -> Result<OwnedFd, Errno> {
        let name = match vf_token {
            Some(token) => format!("{address} vf_token={token}"),
            None => address.to_string(),
        };
        let name = CString::new(name).map_err(|_| Errno::new(libc::EINVAL))?;
        kernel::group_get_device_fd(self.as_fd(), &name)
    }
}

impl AsFd for Group {
    /// The group's file descriptor, as KVM's VFIO device wants it (KVM_DEV_VFIO_GROUP_ADD).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.has_container {
            return;
        }
        if let Err(error) = kernel::group_unset_container(self.fd.as_fd()) {
            guest_message!(
                Level::Warn,
                "VFIO_GROUP_UNSET_CONTAINER failed for IOMMU group {}: {error}",
                self.number
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{Call, Kernel};
    use super::super::preflight::tests::FakeHost;
    use super::*;

    fn refusal(host: &FakeHost) -> String {
        Group::open(&host.paths(), GroupNumber(0))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_group_that_another_process_has_is_told_apart() {
        Kernel::install(|k| k.open_errno = Some(libc::EBUSY));
        let message = refusal(&FakeHost::ready());
        assert!(message.contains("group 0 is in use by another process"));
        assert!(message.contains("fuser -v") && message.contains("dev/vfio/0"));
    }

    #[test]
    fn a_group_closed_to_this_user_names_its_owner() {
        Kernel::install(|k| k.open_errno = Some(libc::EACCES));
        assert!(refusal(&FakeHost::ready()).contains("belongs to user"));
    }

    #[test]
    fn a_group_that_is_not_viable_names_the_devices_in_the_way() {
        Kernel::install(|k| k.viable = false);
        let host = FakeHost::ready();
        host.add("0001:01:00.1", Some(0), Some("tg3"));
        assert!(refusal(&host).contains("0001:01:00.1 (bound to tg3)"));
        // Where /sys shows no culprit, all devices are shown.
        let message = refusal(&FakeHost::ready());
        assert!(message.contains("VFIO_GROUP_FLAGS_VIABLE"));
        assert!(message.contains("0001:01:00.0 (bound to vfio-pci)"));
    }

    #[test]
    fn a_group_that_was_in_no_container_is_not_taken_out_of_one() {
        Kernel::install(|_| {});
        drop(Group::open(&FakeHost::ready().paths(), GroupNumber(0)).unwrap());
        assert_eq!(Kernel::calls(), [Call::GroupGetStatus]);
    }
}
