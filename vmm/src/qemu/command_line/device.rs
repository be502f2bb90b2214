//! `-device`: the devices of the machine.

use std::os::fd::RawFd;

use spapr_devices::pci::DeviceFunction;
use spapr_devices::vfio::PciAddress;
use spapr_devices::vty::DEFAULT_UNIT_ADDRESS;
use uuid::Uuid;

use super::properties::Properties;
use super::serial::Port;
use super::usb::{USB_PROPERTIES, UsbController};
use super::virtio::{
    self, BALLOON_PROPERTIES, DISK_PROPERTIES, NET_PROPERTIES, RNG_PROPERTIES, SERIAL_PROPERTIES,
    VSOCK_PROPERTIES, VirtioDevice, VirtioKind,
};
use super::{CommandLineError, instead};
use crate::spec::{DmaWindowSize, VhostSource, VsockDescription};

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
    },
    /// A virtio device.
    Virtio(VirtioDevice),
    /// A port of a virtio serial device.
    Port(Port),
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
            PLACE,
        ],
    },
    DeviceType {
        name: "virtio-blk-pci",
        parent: "pci-device",
        properties: DISK_PROPERTIES,
    },
    DeviceType {
        name: "virtio-blk-pci-non-transitional",
        parent: "pci-device",
        properties: DISK_PROPERTIES,
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
            Self::Virtio(device) => device.kind.type_name(),
            Self::Port(port) => port.type_name(),
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
            Self::HostBridge { .. } | Self::Vty { .. } | Self::Port(_) => None,
        }
    }
}

impl Device {
    /// The descriptor of a device of the kernel's that serves its queues, if it names one.
    pub(super) const fn vhost_descriptor(&self) -> Option<RawFd> {
        match &self.kind {
            DeviceKind::Virtio(VirtioDevice {
                kind:
                    VirtioKind::Vsock(VsockDescription {
                        vhost: VhostSource::Descriptor(fd),
                        ..
                    }),
                ..
            }) => Some(*fd),
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
            _ => match Port::read(&driver, &mut properties)? {
                Some(port) => DeviceKind::Port(port),
                None => pci_device(driver, &mut properties)?,
            },
        };
        properties.finish()?;
        Ok(Self { id, kind })
    }
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
    // There is no firmware that would boot from it, and no ROM is shown to the guest.
    properties.ignore(&["bootindex"]);
    properties.only("rombar", &["0"])?;
    if let Some(path) = properties.text("romfile")?
        && !path.is_empty()
    {
        let expected = "left empty: the guest is shown no ROM";
        return Err(properties.wrong("romfile", &path, expected));
    }
    properties.either("multifunction")?;
    let vf_token = properties.uuid(VF_TOKEN)?;
    Ok(DeviceKind::Vfio {
        host,
        bus,
        place,
        vf_token,
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
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Device::parse(text).expect_err("refused").to_string()
    }

    #[test]
    fn devices_are_read_from_json_and_from_pairs() {
        let json = r#"{"driver":"vfio-pci","host":"0005:90:01.0","id":"hostdev0","bus":"pci.1.0","addr":"0x1"}"#;
        let pairs = "vfio-pci,host=0005:90:01.0,id=hostdev0,bus=pci.1.0,addr=0x1";
        let device = Device::parse(json).expect("parses");
        assert_eq!(Device::parse(pairs).expect("parses"), device);
        assert_eq!(device.id.as_deref(), Some("hostdev0"));
        let DeviceKind::Vfio {
            host, bus, place, ..
        } = device.kind
        else {
            panic!("not vfio-pci")
        };
        assert_eq!(host.to_string(), "0005:90:01.0");
        let place = place.map(|place| place.to_string());
        assert_eq!((bus.as_str(), place.as_deref()), ("pci.1.0", Some("01.0")));
        let vty = Device::parse(
            r#"{"driver":"spapr-vty","chardev":"charserial0","id":"serial0","reg":805306368}"#,
        );
        let kind = DeviceKind::Vty {
            chardev: "charserial0".to_owned(),
            reg: 0x3000_0000,
        };
        assert_eq!(vty.expect("parses").kind, kind);
    }

    #[test]
    fn a_device_may_be_written_in_any_way_that_qemu_takes() {
        let json =
            r#"{"driver":"vfio-pci","host":"0001:01:00.0","addr":"0x0","rombar":0,"romfile":""}"#;
        let device = Device::parse(json).expect("parses");
        for pairs in [
            "vfio-pci,host=1:1:0.0,multifunction=true,addr=0",
            "vfio-pci,host=0001:01:00.0,addr=0,multifunction=no",
            "vfio-pci,host=0x1:01:00.0,addr=0x0.0x0,romfile=",
            "driver=vfio-pci,host=0001:01:00.0,addr=00.0,multifunction",
        ] {
            assert_eq!(Device::parse(pairs).expect("parses"), device, "{pairs}");
        }
        assert_eq!(
            refusal("vfio-pci,host=0001:01:00.0,romfile=/rom"),
            "-device vfio-pci: romfile=/rom should be left empty: the guest is shown no ROM (in a libvirt domain: <rom \
             enabled='no'/>, or no <rom>)"
        );
        let with_token =
            Device::parse("vfio-pci,host=1:1:0,vf-token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3");
        let DeviceKind::Vfio { vf_token, .. } = with_token.expect("parses").kind else {
            panic!("not vfio-pci")
        };
        assert!(vf_token.is_some());
        assert_eq!(
            refusal("vfio-pci,host=1:1:0,vf-token=1"),
            "-device vfio-pci: vf-token=1 should be a UUID such as bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
        );
        assert_eq!(
            refusal("vfio-pci,host=nvme"),
            "-device vfio-pci: host=nvme should be a PCI address such as 0001:01:00.0"
        );
        assert_eq!(
            refusal("vfio-pci"),
            "-device vfio-pci needs the property host"
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let crypto = refusal("frobnicator-pci,id=crypto0");
        assert!(
            crypto.starts_with(
                "-device: frobnicator-pci is not supported; there are spapr-pci-host-bridge, spapr-vty, vfio-pci, "
            ),
            "{crypto}"
        );
        let disk = refusal("ide-hd,drive=d");
        assert!(
            disk.starts_with("-device ide-hd is not supported: disks are virtio's"),
            "{disk}"
        );
        assert_eq!(
            refusal("vfio-pci,host=0001:01:00.0,x-igd-opregion=on"),
            "-device vfio-pci: the property x-igd-opregion=on is not supported"
        );
        assert_eq!(
            refusal("spapr-pci-host-bridge,index=31,id=pci.31"),
            "-device spapr-pci-host-bridge: index=31 should be 0 to 30"
        );
        assert_eq!(
            refusal("spapr-pci-host-bridge,index=1,dma_win_size=0x30000000"),
            "-device spapr-pci-host-bridge: dma_win_size=0x30000000: a window's size is a power of two, such \
             as 512M"
        );
    }

    #[test]
    fn a_host_bridges_dma_window_has_a_size_for_one_or_for_all() {
        let size = DmaWindowSize::new(256 << 20).ok();
        for written in ["0x10000000", "268435456", "256M"] {
            let text = format!("spapr-pci-host-bridge,index=1,id=pci.1,dma_win_size={written}");
            let kind = DeviceKind::HostBridge {
                index: 1,
                dma_window: size,
            };
            assert_eq!(Device::parse(&text).expect("parses").kind, kind);
            let text = format!("spapr-pci-host-bridge.dma_win_size={written}");
            assert_eq!(global(&text).ok(), size);
        }
        let refused = global("vfio-pci.x=1").unwrap_err().to_string();
        assert!(refused.contains("vfio-pci.x"), "{refused}");
    }

    #[test]
    fn an_entropy_device_is_known_by_each_of_its_names() {
        let json =
            r#"{"driver":"virtio-rng-pci","rng":"objrng0","id":"rng0","bus":"pci.0","addr":"0x3"}"#;
        let pairs = "virtio-rng-pci-non-transitional,rng=objrng0,id=rng0,addr=3,iommu_platform=off";
        let device = |text: &str| Device::parse(text).unwrap();
        assert_eq!(device(json), device(pairs));
        let with_iommu = format!("{pairs},disable-legacy=on,disable-modern=off")
            .replace("iommu_platform=off", "iommu_platform=on");
        assert_ne!(device(json), device(&with_iommu));
        assert_eq!(
            refusal("virtio-rng-pci"),
            "-device virtio-rng-pci needs the property rng"
        );
        assert_eq!(
            refusal("virtio-rng-pci,rng=r,disable-modern=on"),
            "-device virtio-rng-pci: disable-modern=on should be off"
        );
        assert_eq!(
            refusal("virtio-rng-pci,rng=r,max-bytes=1024"),
            "-device virtio-rng-pci: the property max-bytes=1024 is not supported: entropy is not throttled; in a \
             libvirt domain, remove <rate> from <rng>"
        );
    }
}
