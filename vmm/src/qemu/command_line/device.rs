//! `-device`: the devices of the machine.

use std::os::fd::RawFd;

use spapr_devices::pci::DeviceFunction;
use spapr_devices::vfio::PciAddress;
use spapr_devices::vty::DEFAULT_UNIT_ADDRESS;
use uuid::Uuid;

use super::disk;
use super::filesystem;
use super::properties::Properties;
use super::scsi;
use super::serial::Port;
use super::usb::{USB_PROPERTIES, UsbController};
use super::virtio::{
    self, BALLOON_PROPERTIES, NET_PROPERTIES, RNG_PROPERTIES, SERIAL_PROPERTIES, VSOCK_PROPERTIES,
    VirtioDevice, VirtioKind,
};
use super::{CommandLineError, instead};
use crate::spec::{DmaWindowSize, ExpansionRom};

/// A device as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, if it has one.
    pub id: Option<String>,
    /// What it is.
    pub kind: DeviceKind,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A PCI host bridge.
    HostBridge {
        /// Its number: 0 is the one that every machine has.
        index: u8,
        /// The DMA window that it has from the start.
        dma_window: Option<DmaWindowSize>,
    },
    /// A virtual terminal.
    Vty {
        /// The character device behind it.
        chardev: String,
        /// Its unit address.
        reg: u32,
    },
    /// A passed-through PCI device.
    Vfio {
        /// Where it is on the host.
        host: PciAddress,
        /// The bus it is on: that of a host bridge.
        bus: String,
        /// Where it is on that bus; when not given, in the first place that is free.
        place: Option<DeviceFunction>,
        /// What its user has in common with those of its physical or virtual functions.
        vf_token: Option<Uuid>,
        /// Its expansion ROM.
        rom: ExpansionRom,
    },
    /// A virtio device.
    Virtio(VirtioDevice),
    /// A port of a virtio serial device.
    Port(Port),
    /// A disk or CD drive behind a SCSI controller.
    ScsiUnit(Box<scsi::Unit>),
    /// A USB controller, which the guest is not shown.
    Usb(UsbController),
}

/// A type of device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceType {
    /// Its name.
    pub name: &'static str,
    /// The type it is one of.
    pub parent: &'static str,
    /// Its properties, with their types and what is said of them.
    pub properties: &'static [(&'static str, &'static str, &'static str)],
}

/// Properties that every PCI device has.
pub(super) const PLACE: (&str, &str, &str) = (
    "addr",
    "str",
    "Slot and optional function number, example: 06.0 or 06",
);

/// The property of a host bridge for its default DMA window.
const DMA_WIN_SIZE: &str = "dma_win_size";

/// The property of a function of a device with SR-IOV.
const VF_TOKEN: &str = "vf-token";

/// The properties of a device for its expansion ROM.
const ROM_BAR: &str = "rombar";
const ROM_FILE: &str = "romfile";

/// Properties of virtserialport and virtconsole.
const PORT_PROPERTIES: &[(&str, &str, &str)] = &[
    ("chardev", "str", "ID of a chardev to use as a backend"),
    ("name", "str", "By which the guest finds it"),
    ("nr", "uint32", "1 to 30; 0 for a virtconsole"),
];

/// All types of devices that there are.
pub const DEVICE_TYPES: &[DeviceType] = &[
    DeviceType {
        name: "spapr-pci-host-bridge",
        parent: "pci-host-bridge",
        properties: &[
            ("index", "uint32", "Number of the host bridge, 0 to 30"),
            (
                DMA_WIN_SIZE,
                "uint64",
                "Bytes of the DMA window that it has from the start, a power of two",
            ),
        ],
    },
    DeviceType {
        name: "spapr-vty",
        parent: "vio-spapr-device",
        properties: &[
            ("reg", "uint32", "Unit address"),
            ("chardev", "str", "ID of a chardev to use as a backend"),
        ],
    },
    DeviceType {
        name: "vfio-pci",
        parent: "pci-device",
        properties: &[
            (
                "host",
                "str",
                "Address (bus/device/function) of the host device",
            ),
            (VF_TOKEN, "str", "UUID of the users of an SR-IOV device"),
            (ROM_BAR, "uint32", "1: its expansion ROM is shown"),
            (ROM_FILE, "str", "Image that is shown as its expansion ROM"),
            PLACE,
        ],
    },
    DeviceType {
        name: "virtio-blk-pci",
        parent: "pci-device",
        properties: disk::DISK_PROPERTIES,
    },
    DeviceType {
        name: "virtio-blk-pci-non-transitional",
        parent: "pci-device",
        properties: disk::DISK_PROPERTIES,
    },
    DeviceType {
        name: "virtio-net-pci",
        parent: "pci-device",
        properties: NET_PROPERTIES,
    },
    DeviceType {
        name: "virtio-net-pci-non-transitional",
        parent: "pci-device",
        properties: NET_PROPERTIES,
    },
    DeviceType {
        name: "virtio-rng-pci",
        parent: "pci-device",
        properties: RNG_PROPERTIES,
    },
    DeviceType {
        name: "virtio-rng-pci-non-transitional",
        parent: "pci-device",
        properties: RNG_PROPERTIES,
    },
    DeviceType {
        name: "vhost-vsock-pci",
        parent: "pci-device",
        properties: VSOCK_PROPERTIES,
    },
    DeviceType {
        name: "vhost-vsock-pci-non-transitional",
        parent: "pci-device",
        properties: VSOCK_PROPERTIES,
    },
    DeviceType {
        name: "vhost-user-fs-pci",
        parent: "pci-device",
        properties: filesystem::PROPERTIES,
    },
    DeviceType {
        name: "pci-ohci",
        parent: "pci-device",
        properties: USB_PROPERTIES,
    },
    DeviceType {
        name: "qemu-xhci",
        parent: "pci-device",
        properties: USB_PROPERTIES,
    },
    DeviceType {
        name: "nec-usb-xhci",
        parent: "pci-device",
        properties: USB_PROPERTIES,
    },
    DeviceType {
        name: "virtio-balloon-pci",
        parent: "pci-device",
        properties: BALLOON_PROPERTIES,
    },
    DeviceType {
        name: "virtio-balloon-pci-non-transitional",
        parent: "pci-device",
        properties: BALLOON_PROPERTIES,
    },
    DeviceType {
        name: "virtio-serial-pci",
        parent: "pci-device",
        properties: SERIAL_PROPERTIES,
    },
    DeviceType {
        name: "virtio-serial-pci-non-transitional",
        parent: "pci-device",
        properties: SERIAL_PROPERTIES,
    },
    DeviceType {
        name: "virtio-scsi-pci",
        parent: "pci-device",
        properties: scsi::CONTROLLER_PROPERTIES,
    },
    DeviceType {
        name: "virtio-scsi-pci-non-transitional",
        parent: "pci-device",
        properties: scsi::CONTROLLER_PROPERTIES,
    },
    DeviceType {
        name: "scsi-hd",
        parent: "scsi-device",
        properties: scsi::DISK_PROPERTIES,
    },
    DeviceType {
        name: "scsi-cd",
        parent: "scsi-device",
        properties: scsi::CD_PROPERTIES,
    },
    DeviceType {
        name: "virtserialport",
        parent: "virtio-serial-port",
        properties: PORT_PROPERTIES,
    },
    DeviceType {
        name: "virtconsole",
        parent: "virtio-serial-port",
        properties: PORT_PROPERTIES,
    },
];

impl DeviceKind {
    /// The name of its type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::HostBridge { .. } => "spapr-pci-host-bridge",
            Self::Vty { .. } => "spapr-vty",
            Self::Vfio { .. } => "vfio-pci",
            Self::Virtio(device) => device.type_name,
            Self::Port(port) => port.type_name(),
            Self::ScsiUnit(unit) => unit.type_name(),
            Self::Usb(controller) => controller.type_name,
        }
    }

    /// The bus of a PCI device and its place there, if that is given.
    pub(super) fn pci_place(&self) -> Option<(&str, Option<DeviceFunction>)> {
        match self {
            Self::Vfio { bus, place, .. } | Self::Virtio(VirtioDevice { bus, place, .. }) => {
                Some((bus, *place))
            }
            Self::Usb(UsbController { bus, place, .. }) => Some((bus, *place)),
            Self::HostBridge { .. } | Self::Vty { .. } | Self::Port(_) | Self::ScsiUnit(_) => None,
        }
    }
}

/// What has a block node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveKind {
    /// A virtio disk.
    Virtio,
    /// A disk behind a SCSI controller.
    ScsiDisk,
    /// A CD drive behind one.
    ScsiCd,
}

/// A drive among devices.
#[derive(Clone, Copy, Debug)]
pub struct Drive<'a> {
    /// The device's name.
    pub id: Option<&'a str>,
    /// What it is.
    pub kind: DriveKind,
    /// The node in it; `None` if it is empty.
    pub node: Option<&'a str>,
}

/// The drives among `devices`, in the machine's order.
pub fn drives(devices: &[Device]) -> Vec<Drive<'_>> {
    let mut found = Vec::new();
    for device in devices {
        match &device.kind {
            DeviceKind::Virtio(VirtioDevice {
                kind: VirtioKind::Disk { drive, .. },
                ..
            }) => found.push(Drive {
                id: device.id.as_deref(),
                kind: DriveKind::Virtio,
                node: Some(drive),
            }),
            DeviceKind::Virtio(VirtioDevice {
                kind: VirtioKind::Scsi(_),
                ..
            }) => found.extend(
                scsi::units(devices, device).map(|(unit_device, unit)| Drive {
                    id: unit_device.id.as_deref(),
                    kind: match unit.is_cd() {
                        true => DriveKind::ScsiCd,
                        false => DriveKind::ScsiDisk,
                    },
                    node: unit.drive.as_deref(),
                }),
            ),
            _ => {}
        }
    }
    found
}

impl Device {
    /// The descriptor of a device of the kernel's that serves its queues, if it names one.
    pub(super) const fn vhost_descriptor(&self) -> Option<RawFd> {
        match &self.kind {
            DeviceKind::Virtio(device) => device.vhost_descriptor(),
            _ => None,
        }
    }

    /// A virtual terminal without a name, where the first one is.
    pub(super) fn vty(chardev: String) -> Self {
        let reg = DEFAULT_UNIT_ADDRESS;
        Self {
            id: None,
            kind: DeviceKind::Vty { chardev, reg },
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, CommandLineError> {
        let mut properties = Properties::parse("-device", Some("driver"), text)?;
        let driver = properties.required("driver")?;
        properties.set_kind(&driver);
        let id = properties.text("id")?;
        let kind = match driver.as_str() {
            "spapr-pci-host-bridge" => host_bridge(&mut properties)?,
            "spapr-vty" => vty(&mut properties)?,
            "vfio-pci" => vfio(&mut properties)?,
            _ => behind_another(&driver, &mut properties)
                .transpose()
                .unwrap_or_else(|| pci_device(driver, &mut properties))?,
        };
        properties.finish()?;
        Ok(Self { id, kind })
    }
}

/// What is behind a device of this list; `None` for any other.
fn behind_another(
    driver: &str,
    properties: &mut Properties,
) -> Result<Option<DeviceKind>, CommandLineError> {
    if let Some(port) = Port::read(driver, properties)? {
        return Ok(Some(DeviceKind::Port(port)));
    }
    let unit = scsi::Unit::read(driver, properties)?;
    Ok(unit.map(|unit| DeviceKind::ScsiUnit(Box::new(unit))))
}

/// A PCI device of one of the types that have names in common.
fn pci_device(driver: String, properties: &mut Properties) -> Result<DeviceKind, CommandLineError> {
    if let Some(controller) = UsbController::read(&driver, properties)? {
        return Ok(DeviceKind::Usb(controller));
    }
    match virtio::read(&driver, properties)? {
        Some(kind) => Ok(kind),
        None => Err(unsupported(driver)),
    }
}

/// Why there is no device of that type.
fn unsupported(driver: String) -> CommandLineError {
    if let Some(instead) = instead::of_device(&driver) {
        return CommandLineError::Instead {
            option: format!("-device {driver}"),
            instead,
        };
    }
    let names: Vec<_> = DEVICE_TYPES.iter().map(|kind| kind.name).collect();
    CommandLineError::Kind {
        option: "-device",
        name: driver,
        supported: names.join(", "),
    }
}

fn host_bridge(properties: &mut Properties) -> Result<DeviceKind, CommandLineError> {
    let Some(index) = properties.number32("index")? else {
        return Err(CommandLineError::MissingProperty {
            option: properties.context().to_owned(),
            name: "index",
        });
    };
    match u8::try_from(index) {
        Ok(index @ 0..=30) => Ok(DeviceKind::HostBridge {
            index,
            dma_window: properties.dma_window(DMA_WIN_SIZE)?,
        }),
        _ => Err(properties.wrong("index", &index, "0 to 30")),
    }
}

/// `-global`: a property of all devices of a type. There is one that can be given so.
pub(super) fn global(text: &str) -> Result<DmaWindowSize, CommandLineError> {
    let name = format!("spapr-pci-host-bridge.{DMA_WIN_SIZE}");
    let mut properties = Properties::parse("-global", None, text)?;
    let size = properties.dma_window(&name)?;
    properties.finish()?;
    size.ok_or_else(|| CommandLineError::Kind {
        option: "-global",
        name: text.to_owned(),
        supported: format!("{name}=BYTES"),
    })
}

fn vty(properties: &mut Properties) -> Result<DeviceKind, CommandLineError> {
    Ok(DeviceKind::Vty {
        chardev: properties.required("chardev")?,
        reg: properties.number32("reg")?.unwrap_or(DEFAULT_UNIT_ADDRESS),
    })
}

fn vfio(properties: &mut Properties) -> Result<DeviceKind, CommandLineError> {
    let host = properties.host_address("host")?;
    let host = host.ok_or_else(|| CommandLineError::MissingProperty {
        option: properties.context().to_owned(),
        name: "host",
    })?;
    let (bus, place) = bus_and_place(properties)?;
    // There is no firmware that would boot from it.
    properties.ignore(&["bootindex"]);
    let rombar = properties.number32(ROM_BAR)?;
    let rombar = match rombar {
        None => None,
        Some(number @ 0..=1) => Some(number == 1),
        Some(other) => return Err(properties.wrong(ROM_BAR, &other, "0 or 1")),
    };
    let romfile = properties.text(ROM_FILE)?;
    let rom = ExpansionRom::asked_for(rombar, romfile.as_deref());
    let rom = match rom {
        Some(ExpansionRom::File(path)) => {
            let option = format!("{} {ROM_FILE}", properties.context());
            ExpansionRom::File(super::absolute(&option, &path.to_string_lossy())?)
        }
        Some(rom) => rom,
        None => {
            let expected = "left out where rombar=0 says that there is no ROM";
            return Err(properties.wrong(ROM_FILE, &romfile.unwrap_or_default(), expected));
        }
    };
    properties.either("multifunction")?;
    let vf_token = properties.uuid(VF_TOKEN)?;
    Ok(DeviceKind::Vfio {
        host,
        bus,
        place,
        vf_token,
        rom,
    })
}

pub(super) fn bus_and_place(
    properties: &mut Properties,
) -> Result<(String, Option<DeviceFunction>), CommandLineError> {
    let bus = properties.text("bus")?;
    let place = properties.place("addr")?;
    Ok((bus.unwrap_or_else(|| "pci.0".to_owned()), place))
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
