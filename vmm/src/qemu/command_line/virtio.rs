//! Virtio devices among those of `-device`: the properties of each kind, and those of all.

use std::os::fd::RawFd;

use spapr_devices::pci::DeviceFunction;
use spapr_devices::virtio::disk::DiskOptions;
use spapr_devices::virtio::scsi::ScsiOptions;

use super::CommandLineError;
use super::device::{DEVICE_TYPES, DeviceKind, PLACE, bus_and_place};
use super::disk::{self, BOOTINDEX};
use super::filesystem::{self, FileSystemDevice};
use super::netdev::{self, Card};
use super::properties::Properties;
use super::scsi;
use super::serial::MOST_PORTS;
use crate::spec::{BalloonDescription, LEAST_CID, VhostSource, VsockDescription};

/// A virtio device in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioDevice {
    /// What it is.
    pub kind: VirtioKind,
    /// The name of its type as it was given: libvirt looks for devices by it.
    pub type_name: &'static str,
    /// The bus it is on: that of a host bridge.
    pub bus: String,
    /// Where it is on that bus; when not given, in the first place that is free.
    pub place: Option<DeviceFunction>,
    /// Whether its driver gives it bus addresses.
    pub iommu_platform: bool,
}

impl VirtioDevice {
    /// The descriptor of a device of the kernel's that serves its queues, if it names one.
    pub(super) const fn vhost_descriptor(&self) -> Option<RawFd> {
        match self.kind {
            VirtioKind::Vsock(VsockDescription {
                vhost: VhostSource::Descriptor(fd),
                ..
            }) => Some(fd),
            _ => None,
        }
    }
}

/// A kind of virtio device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtioKind {
    /// An entropy device.
    Rng {
        /// The object that its bytes come from.
        source: String,
    },
    /// A memory balloon.
    Balloon(BalloonDescription),
    /// A serial device.
    Serial {
        /// The most ports that it may have.
        most_ports: u32,
    },
    /// A disk.
    Disk {
        /// The block node that it has.
        drive: String,
        /// How it is to look.
        options: DiskOptions,
        /// Others may write to its image.
        shares: bool,
    },
    /// A SCSI controller.
    Scsi(ScsiOptions),
    /// A network card.
    Net(Card),
    /// A socket device.
    Vsock(VsockDescription),
    /// A file system device.
    FileSystem(FileSystemDevice),
}

impl VirtioKind {
    /// The name of its type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Rng { .. } => "virtio-rng-pci",
            Self::Disk { .. } => "virtio-blk-pci",
            Self::Scsi(_) => "virtio-scsi-pci",
            Self::Balloon(_) => "virtio-balloon-pci",
            Self::Serial { .. } => "virtio-serial-pci",
            Self::Net(_) => "virtio-net-pci",
            Self::Vsock(_) => "vhost-vsock-pci",
            Self::FileSystem(_) => "vhost-user-fs-pci",
        }
    }
}

/// A property with its type and what is said of it.
pub(super) type Property = (&'static str, &'static str, &'static str);

pub(super) const DISABLE_LEGACY: Property = (
    "disable-legacy",
    "OnOffAuto",
    "Always on: modern virtio alone",
);
pub(super) const DISABLE_MODERN: Property =
    ("disable-modern", "bool", "Always off: modern virtio alone");
pub(super) const IOMMU_PLATFORM: Property = (
    "iommu_platform",
    "bool",
    "Bus addresses, through the DMA window of the host bridge",
);

/// Properties of virtio-rng-pci, by whichever of its names.
pub(super) const RNG_PROPERTIES: &[Property] = &[
    PLACE,
    DISABLE_LEGACY,
    DISABLE_MODERN,
    IOMMU_PLATFORM,
    (
        "rng",
        "link<rng-backend>",
        "ID of an object rng-random or rng-builtin",
    ),
];

/// Properties of virtio-balloon-pci, by whichever of its names.
pub(super) const BALLOON_PROPERTIES: &[Property] = &[
    PLACE,
    (
        "deflate-on-oom",
        "bool",
        "Whether the guest takes pages back before it ends programs",
    ),
    DISABLE_LEGACY,
    DISABLE_MODERN,
    (
        "free-page-reporting",
        "bool",
        "Whether the guest gives back pages that it has no use for",
    ),
];

/// Properties of virtio-serial-pci, by whichever of its names.
pub(super) const SERIAL_PROPERTIES: &[Property] = &[
    PLACE,
    DISABLE_LEGACY,
    DISABLE_MODERN,
    IOMMU_PLATFORM,
    ("max_ports", "uint32", "1 to 31"),
    (
        "vectors",
        "uint32",
        "Changes nothing: each queue has an MSI-X vector",
    ),
];

/// Properties of virtio-net-pci, by whichever of its names.
pub(super) const NET_PROPERTIES: &[Property] = &[
    PLACE,
    BOOTINDEX,
    DISABLE_LEGACY,
    DISABLE_MODERN,
    (
        "host_mtu",
        "uint16",
        "Bytes of the longest packets, 68 to 65535",
    ),
    IOMMU_PLATFORM,
    (
        "mac",
        "str",
        "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56",
    ),
    ("netdev", "str", "ID of a netdev to use as a backend"),
    ("rx_queue_size", "uint16", "A power of two, 64 to 1024"),
    ("tx_queue_size", "uint16", "A power of two, 64 to 1024"),
];

/// Properties of vhost-vsock-pci, by whichever of its names.
pub(super) const VSOCK_PROPERTIES: &[Property] = &[
    PLACE,
    DISABLE_LEGACY,
    DISABLE_MODERN,
    ("guest-cid", "uint64", "3 to 4294967294"),
    (
        "vhostfd",
        "str",
        "Number of an open file descriptor of /dev/vhost-vsock",
    ),
];

/// Reads the virtio device of that type; `None` for any other.
pub(super) fn read(
    driver: &str,
    properties: &mut Properties,
) -> Result<Option<DeviceKind>, CommandLineError> {
    let plain = driver.strip_suffix("-non-transitional").unwrap_or(driver);
    let kind = match plain {
        "virtio-rng-pci" => VirtioKind::Rng {
            source: properties.required("rng")?,
        },
        "virtio-blk-pci" => disk::read(properties)?,
        "virtio-scsi-pci" => VirtioKind::Scsi(scsi::controller(properties)?),
        "virtio-balloon-pci" => balloon(properties)?,
        "virtio-serial-pci" => serial_device(properties)?,
        "virtio-net-pci" => netdev::card(properties)?,
        "vhost-vsock-pci" => vsock(properties)?,
        "vhost-user-fs-pci" => filesystem::read(properties)?,
        _ => return Ok(None),
    };
    let (bus, place) = bus_and_place(properties)?;
    let plain_name = kind.type_name();
    let mut known = DEVICE_TYPES.iter().map(|known| known.name);
    let type_name = known.find(|name| *name == driver);
    Ok(Some(DeviceKind::Virtio(VirtioDevice {
        kind,
        type_name: type_name.unwrap_or(plain_name),
        bus,
        place,
        iommu_platform: common(properties)?,
    })))
}

/// What all virtio devices have: whether their driver gives them bus addresses.
fn common(properties: &mut Properties) -> Result<bool, CommandLineError> {
    let iommu_platform = properties.switch("iommu_platform")?.unwrap_or(false);
    // Guests that would need legacy virtio are older than KVM on these processors.
    properties.only("disable-legacy", &["on", "true", "off", "false", "auto"])?;
    properties.always("disable-modern", false)?;
    properties.always("ats", false)?;
    properties.always("packed", false)?;
    properties.either("multifunction")?;
    // What the bus does when a driver is wrong about it.
    properties.either("event_idx")?;
    Ok(iommu_platform)
}

fn vsock(properties: &mut Properties) -> Result<VirtioKind, CommandLineError> {
    // The host's kernel takes no bus addresses.
    properties.always("iommu_platform", false)?;
    properties.only("seqpacket", &["on", "true", "auto"])?;
    if properties.peek("guest-cid").is_none() {
        properties.required("guest-cid")?;
    }
    let cid = properties.number32("guest-cid")?.unwrap_or(0);
    if !(LEAST_CID..u32::MAX).contains(&cid) {
        return Err(properties.wrong("guest-cid", &cid, "3 to 4294967294"));
    }
    let vhost = properties.descriptor("vhostfd")?;
    let vhost = vhost.map_or(VhostSource::Path, VhostSource::Descriptor);
    Ok(VirtioKind::Vsock(VsockDescription { cid, vhost }))
}

fn balloon(properties: &mut Properties) -> Result<VirtioKind, CommandLineError> {
    // Linux's driver takes no bus addresses.
    properties.always("iommu_platform", false)?;
    properties.always("free-page-hint", false)?;
    Ok(VirtioKind::Balloon(BalloonDescription {
        deflates_on_oom: properties.switch("deflate-on-oom")?.unwrap_or(false),
        reports_free_pages: properties.switch("free-page-reporting")?.unwrap_or(false),
    }))
}

fn serial_device(properties: &mut Properties) -> Result<VirtioKind, CommandLineError> {
    properties.ignore(&["vectors"]);
    let most_ports = properties.number32("max_ports")?.unwrap_or(MOST_PORTS);
    if !(1..=MOST_PORTS).contains(&most_ports) {
        let expected = format!("1 to {MOST_PORTS}");
        return Err(properties.wrong("max_ports", &most_ports, &expected));
    }
    Ok(VirtioKind::Serial { most_ports })
}
