//! SCSI among the devices of `-device`: virtio-scsi-pci, and scsi-hd and scsi-cd behind it.

use spapr_devices::virtio::disk::DiskOptions;
use spapr_devices::virtio::scsi::{
    Address, MOST_LUN, MOST_TARGET, ScsiOptions, UnitKind, UnitOptions,
};

use super::CommandLineError;
use super::blockdev::Nodes;
use super::device::{Device, DeviceKind, PLACE};
use super::disk::{
    self, BOOTINDEX, LOGICAL_BLOCK_SIZE, MIN_IO_SIZE, OPT_IO_SIZE, PHYSICAL_BLOCK_SIZE, RERROR,
    SHARE_RW, WERROR, WRITE_CACHE,
};
use super::properties::Properties;
use super::virtio::{
    DISABLE_LEGACY, DISABLE_MODERN, IOMMU_PLATFORM, Property, VirtioDevice, VirtioKind,
};
use crate::spec::{ScsiDescription, ScsiUnit};

/// A disk or CD drive as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The bus of its controller; when not given, that of the first one.
    bus: Option<String>,
    /// Its target and its number there; when not given, the first that is free.
    target: Option<u8>,
    lun: Option<u16>,
    /// All else that is said of it; its address is not.
    options: UnitOptions,
    /// The block node that it has; an empty drive has none.
    pub(super) drive: Option<String>,
    disk: DiskOptions,
    /// Others may write to its image.
    shares: bool,
}

/// The most queues for requests.
const MOST_QUEUES: u16 = 64;
/// The longest serial number.
const MOST_SERIAL_BYTES: usize = 36;

/// Properties of virtio-scsi-pci, by whichever of its names.
pub(super) const CONTROLLER_PROPERTIES: &[Property] = &[
    PLACE,
    ("cmd_per_lun", "uint32", "Commands of a unit at a time"),
    DISABLE_LEGACY,
    DISABLE_MODERN,
    IOMMU_PLATFORM,
    ("max_sectors", "uint32", "Sectors of 512 bytes of a command"),
    ("num_queues", "uint32", "1 to 64"),
    ("virtqueue_size", "uint32", "A power of two, 4 to 1024"),
];

const CHANNEL: Property = ("channel", "uint32", "0");
const DEVICE_ID: Property = (
    "device_id",
    "str",
    "By which the guest tells it from others",
);
const DRIVE: Property = ("drive", "str", "Node name of a -blockdev");
const LUN: Property = ("lun", "uint32", "0 to 16383");
const SCSI_ID: Property = ("scsi-id", "uint32", "0 to 255");
const PRODUCT: Property = ("product", "str", "At most 16 bytes");
const VENDOR: Property = ("vendor", "str", "At most 8 bytes");
const SERIAL: Property = ("serial", "str", "At most 36 bytes count");
const WWN: Property = ("wwn", "uint64", "World Wide Name");

/// Properties of scsi-hd.
pub(super) const DISK_PROPERTIES: &[Property] = &[
    BOOTINDEX,
    CHANNEL,
    DEVICE_ID,
    DRIVE,
    LOGICAL_BLOCK_SIZE,
    LUN,
    MIN_IO_SIZE,
    OPT_IO_SIZE,
    PHYSICAL_BLOCK_SIZE,
    PRODUCT,
    RERROR,
    ("rotation_rate", "uint16", "1 for what does not rotate"),
    SCSI_ID,
    SERIAL,
    SHARE_RW,
    VENDOR,
    WERROR,
    WRITE_CACHE,
    WWN,
];

/// Properties of scsi-cd.
pub(super) const CD_PROPERTIES: &[Property] = &[
    BOOTINDEX,
    CHANNEL,
    DEVICE_ID,
    DRIVE,
    LUN,
    PRODUCT,
    RERROR,
    SCSI_ID,
    SERIAL,
    SHARE_RW,
    VENDOR,
    WERROR,
    WRITE_CACHE,
    WWN,
];

/// Reads a controller.
pub(super) fn controller(properties: &mut Properties) -> Result<ScsiOptions, CommandLineError> {
    let usual = ScsiOptions::default();
    // It has a thread of its own in any case, and units that do not come and go.
    properties.either("ioeventfd")?;
    properties.either("hotplug")?;
    properties.either("seg_max_adjust")?;
    properties.always("param_change", true)?;
    properties.ignore(&["vectors"]);
    Ok(ScsiOptions {
        queues: properties
            .number16("num_queues", "1 to 64", |queues| {
                (1..=MOST_QUEUES).contains(&queues)
            })?
            .unwrap_or(usual.queues),
        queue_size: properties
            .number16("virtqueue_size", "a power of two, 4 to 1024", |size| {
                size.is_power_of_two() && (4..=1024).contains(&size)
            })?
            .unwrap_or(usual.queue_size),
        commands_per_unit: properties
            .number32("cmd_per_lun")?
            .unwrap_or(usual.commands_per_unit),
        most_sectors: properties
            .number32("max_sectors")?
            .unwrap_or(usual.most_sectors),
    })
}

impl Unit {
    /// The name of its type.
    pub const fn type_name(&self) -> &'static str {
        match self.options.kind {
            UnitKind::Disk => "scsi-hd",
            UnitKind::CdDrive => "scsi-cd",
        }
    }

    /// Whether it is a CD drive.
    pub fn is_cd(&self) -> bool {
        self.options.kind == UnitKind::CdDrive
    }

    /// Reads the unit of that type; `None` for any other.
    pub(super) fn read(
        driver: &str,
        properties: &mut Properties,
    ) -> Result<Option<Self>, CommandLineError> {
        let kind = match driver {
            "scsi-hd" => UnitKind::Disk,
            "scsi-cd" => UnitKind::CdDrive,
            _ => return Ok(None),
        };
        let is_cd = kind == UnitKind::CdDrive;
        properties.only("channel", &["0"])?;
        properties.always("removable", is_cd)?;
        properties.either("dpofua")?;
        if is_cd {
            properties.only("logical_block_size", &["2048"])?;
            properties.only("physical_block_size", &["2048"])?;
        }
        let target = ranged(properties, "scsi-id", MOST_TARGET.into())?;
        let lun = ranged(properties, "lun", MOST_LUN.into())?;
        let disk = disk::common(properties, MOST_SERIAL_BYTES)?;
        // As QEMU has it: without an ID, the serial number tells it from others.
        let device_id = short(properties, "device_id", 247)?.unwrap_or_else(|| disk.serial.clone());
        let usual = Address { target: 0, lun: 0 };
        let options = UnitOptions {
            device_id,
            wwn: properties.number64("wwn")?.filter(|wwn| *wwn != 0),
            vendor: short(properties, "vendor", 8)?.unwrap_or_default(),
            product: short(properties, "product", 16)?.unwrap_or_default(),
            rotation_rate: match is_cd {
                true => 0,
                false => properties
                    .number16("rotation_rate", "a number up to 65534", |rate| {
                        rate != 65535
                    })?
                    .unwrap_or(0),
            },
            ..UnitOptions::new(usual, kind)
        };
        let drive = match is_cd {
            true => properties.text("drive")?,
            false => Some(properties.required("drive")?),
        };
        Ok(Some(Self {
            bus: properties.text("bus")?,
            target: target.and_then(|target| u8::try_from(target).ok()),
            lun: lun.and_then(|lun| u16::try_from(lun).ok()),
            options,
            drive,
            disk,
            shares: properties.switch("share-rw")?.unwrap_or(false),
        }))
    }
}

/// A number from 0 to `most`.
fn ranged(
    properties: &mut Properties,
    name: &str,
    most: u32,
) -> Result<Option<u32>, CommandLineError> {
    match properties.number32(name)? {
        Some(number) if number > most => {
            Err(properties.wrong(name, &number, &format!("0 to {most}")))
        }
        number => Ok(number),
    }
}

/// Text of at most so many bytes.
fn short(
    properties: &mut Properties,
    name: &str,
    most: usize,
) -> Result<Option<String>, CommandLineError> {
    match properties.text(name)? {
        Some(text) if text.len() > most || !text.is_ascii() => {
            Err(properties.wrong(name, &text, &format!("up to {most} characters of ASCII")))
        }
        text => Ok(text),
    }
}

fn options_of(device: &Device) -> Option<ScsiOptions> {
    match &device.kind {
        DeviceKind::Virtio(VirtioDevice {
            kind: VirtioKind::Scsi(options),
            ..
        }) => Some(*options),
        _ => None,
    }
}

/// Whether a unit's `bus` is that of `controller`, which is the first or not.
fn is_on(bus: Option<&str>, controller: &Device, is_first: bool) -> bool {
    match (bus, &controller.id) {
        (None, _) => is_first,
        (Some(bus), Some(id)) => bus.strip_suffix(".0") == Some(id),
        (Some(_), None) => false,
    }
}

/// Whether each unit among `devices` has a controller that it is on.
pub(super) fn check(devices: &[Device]) -> Result<(), CommandLineError> {
    for device in devices {
        let DeviceKind::ScsiUnit(unit) = &device.kind else {
            continue;
        };
        let controllers = devices.iter().filter(|it| options_of(it).is_some());
        let bus = unit.bus.as_deref();
        let mut places = controllers.enumerate();
        if !places.any(|(place, controller)| is_on(bus, controller, place == 0)) {
            return Err(CommandLineError::Unknown {
                option: format!("-device {}", unit.type_name()),
                what: "bus of a virtio-scsi-pci device",
                id: unit.bus.clone().unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// The units of `controller`, one of `devices`, in the machine's order.
pub(super) fn units<'a>(
    devices: &'a [Device],
    controller: &Device,
) -> impl Iterator<Item = (&'a Device, &'a Unit)> {
    let first = devices.iter().find(|device| options_of(device).is_some());
    // Without names, they may be alike.
    let is_first = first.is_some_and(|first| std::ptr::eq(first, controller));
    devices.iter().filter_map(move |device| match &device.kind {
        DeviceKind::ScsiUnit(unit) if is_on(unit.bus.as_deref(), controller, is_first) => {
            Some((device, &**unit))
        }
        _ => None,
    })
}

/// The controller that `controller` asks for, with its units among `devices`, whose images are made of `nodes`.
pub(super) fn describe(
    devices: &[Device],
    controller: &Device,
    options: ScsiOptions,
    nodes: &Nodes,
) -> Result<ScsiDescription, CommandLineError> {
    let own: Vec<&Unit> = units(devices, controller).map(|(_, unit)| unit).collect();
    let named = own.iter().filter_map(|unit| {
        let (target, lun) = (unit.target?, unit.lun?);
        Some(Address { target, lun })
    });
    let mut taken: Vec<Address> = named.collect();
    let mut described = Vec::new();
    for unit in own {
        let address = place(unit, &mut taken)?;
        let option = format!("-device {}", unit.type_name());
        let disk = unit
            .drive
            .as_ref()
            .map(|drive| nodes.disk(&option, drive, &unit.disk, unit.shares));
        let options = UnitOptions {
            address,
            ..unit.options.clone()
        };
        described.push(ScsiUnit::new(options, disk.transpose()?));
    }
    let mut addresses: Vec<Address> = described.iter().map(|it| it.options.address).collect();
    addresses.sort_unstable();
    if let Some([twice, _]) = addresses.array_windows().find(|[one, next]| one == next) {
        let Address { target, lun } = twice;
        return Err(CommandLineError::Combination(format!(
            "-device {}: two devices behind it have scsi-id={target} and lun={lun}",
            controller.kind.type_name()
        )));
    }
    Ok(ScsiDescription {
        options,
        units: described,
    })
}

/// Where a unit is: as it says, or in the first place that is free.
fn place(unit: &Unit, taken: &mut Vec<Address>) -> Result<Address, CommandLineError> {
    let targets = unit
        .target
        .map_or(0..=MOST_TARGET, |target| target..=target);
    let luns = match (unit.target, unit.lun) {
        (_, Some(lun)) => lun..=lun,
        (Some(_), None) => 0..=MOST_LUN,
        (None, None) => 0..=0,
    };
    if let (Some(target), Some(lun)) = (unit.target, unit.lun) {
        return Ok(Address { target, lun });
    }
    let mut all = targets.flat_map(|target| luns.clone().map(move |lun| Address { target, lun }));
    let free = all.find(|address| !taken.contains(address));
    let address = free.ok_or_else(|| {
        CommandLineError::Combination(format!(
            "-device {}: there is no free scsi-id and lun for it",
            unit.type_name()
        ))
    })?;
    taken.push(address);
    Ok(address)
}

#[cfg(test)]
#[path = "scsi_tests.rs"]
mod tests;
