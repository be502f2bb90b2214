//! `-device vhost-user-fs-pci`: file systems of the host's, which another program serves.

use super::device::{Device, DeviceKind, PLACE};
use super::properties::Properties;
use super::virtio::{DISABLE_LEGACY, DISABLE_MODERN, Property, VirtioDevice, VirtioKind};
use super::{Backend, Chardev, CommandLineError, SocketAddress};
use crate::spec::{FsDescription, USUAL_FS_ENTRIES, is_queue_size};

/// How errors name the option.
const OPTION: &str = "-device vhost-user-fs-pci";

/// Properties of vhost-user-fs-pci.
pub(super) const PROPERTIES: &[Property] = &[
    PLACE,
    (
        "chardev",
        "str",
        "ID of a chardev socket at which the program listens that serves it (virtiofsd)",
    ),
    DISABLE_LEGACY,
    DISABLE_MODERN,
    ("num-request-queues", "uint16", "1"),
    ("queue-size", "uint16", "A power of two, 2 to 1024"),
    ("tag", "str", "By which the guest mounts it"),
];

/// A file system device as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystemDevice {
    /// The character device of the program that serves it.
    chardev: String,
    tag: String,
    queue_size: u16,
}

pub(super) fn read(properties: &mut Properties) -> Result<VirtioKind, CommandLineError> {
    // What serves it takes no bus addresses.
    properties.always("iommu_platform", false)?;
    properties.only("num-request-queues", &["1"])?;
    let expected = "a power of two from 2 to 1024";
    let queue_size = properties.number16("queue-size", expected, is_queue_size)?;
    Ok(VirtioKind::FileSystem(FileSystemDevice {
        chardev: properties.required("chardev")?,
        tag: properties.required("tag")?,
        queue_size: queue_size.unwrap_or(USUAL_FS_ENTRIES),
    }))
}

fn all(devices: &[Device]) -> impl Iterator<Item = &FileSystemDevice> {
    devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::Virtio(VirtioDevice {
            kind: VirtioKind::FileSystem(filesystem),
            ..
        }) => Some(filesystem),
        _ => None,
    })
}

/// The character devices that are file systems'.
pub(super) fn chardevs(devices: &[Device]) -> Vec<&str> {
    all(devices)
        .map(|filesystem| filesystem.chardev.as_str())
        .collect()
}

/// Refuses file systems in a machine whose memory nobody else can have.
pub(super) fn check_memory(devices: &[Device], is_shared: bool) -> Result<(), CommandLineError> {
    if is_shared || all(devices).next().is_none() {
        return Ok(());
    }
    Err(CommandLineError::Combination(format!(
        "{OPTION}: what serves it has to have guest memory, which is to be an -object memory-backend-memfd,share=on of \
         -machine memory-backend= (in a libvirt domain, <memoryBacking><source type='memfd'/><access \
         mode='shared'/></memoryBacking>)"
    )))
}

/// The file system of that device, served by one of `chardevs`.
pub(super) fn describe(
    device: &FileSystemDevice,
    chardevs: &[Chardev],
) -> Result<FsDescription, CommandLineError> {
    let id = &device.chardev;
    let chardev = chardevs.iter().find(|chardev| chardev.id == *id);
    let chardev = chardev.ok_or_else(|| CommandLineError::Unknown {
        option: OPTION.to_owned(),
        what: "chardev",
        id: id.clone(),
    })?;
    let Backend::Connect(SocketAddress::Unix(path)) = &chardev.backend else {
        return Err(CommandLineError::Combination(format!(
            "{OPTION}: the chardev {id} should be a socket with path=, at which the program listens that serves it"
        )));
    };
    Ok(FsDescription {
        socket: path.clone(),
        tag: device.tag.clone(),
        queue_size: device.queue_size,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::CommandLine;
    use super::*;

    /// What libvirt 11.3 writes for `<filesystem type='mount'><driver type='virtiofs' queue='1024'/>`.
    const LIBVIRT: &str = r#"-machine
pseries,accel=kvm,memory-backend=ppc_spapr.ram
-kernel
/k
-object
{"qom-type":"memory-backend-memfd","id":"ppc_spapr.ram","share":true,"x-use-canonical-path-for-ramblock-id":false,"size":1073741824}
-chardev
socket,id=chr-vu-fs0,path=/var/lib/libvirt/qemu/domain-1-g1/fs0-fs.sock
-device
{"driver":"vhost-user-fs-pci","id":"fs0","chardev":"chr-vu-fs0","queue-size":1024,"tag":"home","bus":"pci.0","addr":"0x3"}"#;

    fn with(from: &str, to: &str) -> Result<CommandLine, CommandLineError> {
        assert!(LIBVIRT.contains(from), "{from}");
        CommandLine::parse(LIBVIRT.replace(from, to).lines().map(str::to_owned))
    }

    #[test]
    fn a_file_system_is_that_of_the_program_behind_its_chardev() {
        let line = with("fs0", "fs0").expect("parses");
        let machine = line.machine.expect("a machine");
        let filesystem = machine.filesystems().next().expect("a file system");
        let socket = PathBuf::from("/var/lib/libvirt/qemu/domain-1-g1/fs0-fs.sock");
        assert_eq!(filesystem.socket, socket);
        assert_eq!(
            (filesystem.tag.as_str(), filesystem.queue_size),
            ("home", 1024)
        );
        assert!(machine.shares_memory());
        let usual = with(r#""queue-size":1024,"#, "").expect("parses");
        let usual = usual.machine.expect("a machine");
        assert_eq!(usual.filesystems().next().expect("one").queue_size, 128);
    }

    #[test]
    fn memory_is_shared_for_a_file_system_alone() {
        let device = LIBVIRT.find("\n-chardev").expect("a chardev");
        let words = LIBVIRT[..device].lines().map(str::to_owned);
        let line = CommandLine::parse(words).expect("parses");
        assert!(!line.machine.expect("a machine").shares_memory());
    }

    #[test]
    fn a_file_system_that_cannot_be_is_refused_with_what_to_write() {
        for (from, to, part) in [
            (
                r#""share":true,"#,
                r#""share":false,"#,
                "<access mode='shared'/></memoryBacking>",
            ),
            ("backend-memfd", "backend-ram", "<source type='memfd'/>"),
            (
                "\"chr-vu-fs0\"",
                "\"other\"",
                "-chardev: chr-vu-fs0 is used by nothing",
            ),
            (
                "path=",
                "server=on,wait=off,path=",
                "should be a socket with path=",
            ),
            (
                "\"queue-size\":1024",
                "\"queue-size\":1000",
                "a power of two from 2 to 1024",
            ),
            ("\"tag\":\"home\",", "", "tag"),
            (
                "\"tag\"",
                "\"iommu_platform\":true,\"tag\"",
                "iommu_platform=true should be off",
            ),
            (
                "\"tag\"",
                "\"num-request-queues\":2,\"tag\"",
                "num-request-queues=2 should be 1",
            ),
            (
                "-chardev\nsocket,id=chr-vu-fs0,path=/var/lib/libvirt/qemu/domain-1-g1/fs0-fs.sock\n",
                "",
                "there is no chardev chr-vu-fs0",
            ),
        ] {
            let refused = with(from, to).expect_err("refused").to_string();
            assert!(refused.contains(part), "{to}: {refused}");
        }
    }
}
