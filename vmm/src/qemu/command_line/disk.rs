//! Disks among the devices of `-device`: properties of virtio-blk-pci, and those that disks of all kinds have.

use spapr_devices::virtio::block::MOST_SERIAL_BYTES;
use spapr_devices::virtio::disk::{DiskOptions, ErrorPolicy, OnError};

use super::CommandLineError;
use super::device::PLACE;
use super::properties::Properties;
use super::virtio::{DISABLE_LEGACY, DISABLE_MODERN, IOMMU_PLATFORM, Property, VirtioKind};
use crate::spec::{MOST_DISK_QUEUES, choice};

pub(super) const BOOTINDEX: Property = (
    "bootindex",
    "int32",
    "Changes nothing: there is no firmware",
);

pub(super) const LOGICAL_BLOCK_SIZE: Property = (
    "logical_block_size",
    "size",
    "A power of two between 512 B and 2 MiB",
);
pub(super) const PHYSICAL_BLOCK_SIZE: Property = (
    "physical_block_size",
    "size",
    "A power of two between 512 B and 2 MiB",
);
pub(super) const MIN_IO_SIZE: Property = ("min_io_size", "size", "In bytes");
pub(super) const OPT_IO_SIZE: Property = ("opt_io_size", "size", "In bytes");
pub(super) const RERROR: Property = (
    "rerror",
    "BlockdevOnError",
    "report (the default), stop, ignore or enospc",
);
pub(super) const WERROR: Property = (
    "werror",
    "BlockdevOnError",
    "enospc (the default), report, stop or ignore",
);
pub(super) const SHARE_RW: Property = ("share-rw", "bool", "Others may write to the image");
pub(super) const WRITE_CACHE: Property = (
    "write-cache",
    "OnOffAuto",
    "Whether writes wait for a flush",
);

/// Properties of virtio-blk-pci, by whichever of its names.
pub(super) const DISK_PROPERTIES: &[Property] = &[
    PLACE,
    BOOTINDEX,
    DISABLE_LEGACY,
    DISABLE_MODERN,
    ("discard", "bool", "Whether the guest is offered to discard"),
    ("drive", "str", "Node name of a -blockdev"),
    IOMMU_PLATFORM,
    LOGICAL_BLOCK_SIZE,
    MIN_IO_SIZE,
    ("num-queues", "uint16", "1 to 64"),
    OPT_IO_SIZE,
    PHYSICAL_BLOCK_SIZE,
    ("queue-size", "uint16", "A power of two, 4 to 1024"),
    RERROR,
    ("serial", "str", "At most 20 bytes count"),
    SHARE_RW,
    WERROR,
    WRITE_CACHE,
    (
        "write-zeroes",
        "bool",
        "Goes with discard: both are offered, or neither",
    ),
];

/// Reads a virtio disk.
pub(super) fn read(properties: &mut Properties) -> Result<VirtioKind, CommandLineError> {
    let drive = properties.required("drive")?;
    properties.always("scsi", false)?;
    properties.either("config-wce")?;
    properties.either("request-merging")?;
    properties.either("seg-max-adjust")?;
    // Each disk has a thread of its own in any case.
    properties.either("ioeventfd")?;
    let discards = properties.switch("discard")?.unwrap_or(true);
    let zeroes = properties.switch("write-zeroes")?.unwrap_or(discards);
    if zeroes != discards {
        let expected = format!("as discard: {}", if discards { "on" } else { "off" });
        return Err(properties.wrong("write-zeroes", &zeroes, &expected));
    }
    let usual = DiskOptions::default();
    let options = DiskOptions {
        queues: properties
            .number16("num-queues", "1 to 64", |queues| {
                (1..=MOST_DISK_QUEUES).contains(&queues)
            })?
            .unwrap_or(usual.queues),
        queue_size: properties
            .number16("queue-size", "a power of two, 4 to 1024", |size| {
                size.is_power_of_two() && (4..=1024).contains(&size)
            })?
            .unwrap_or(usual.queue_size),
        discards,
        ..common(properties, MOST_SERIAL_BYTES)?
    };
    Ok(VirtioKind::Disk {
        drive,
        options,
        shares: properties.switch("share-rw")?.unwrap_or(false),
    })
}

/// What disks of all kinds have; of a serial number so many bytes count.
pub(super) fn common(
    properties: &mut Properties,
    most_serial_bytes: usize,
) -> Result<DiskOptions, CommandLineError> {
    let usual = DiskOptions::default();
    // There is no firmware that would boot from it.
    properties.ignore(&["bootindex"]);
    let logical = block_size(properties, "logical_block_size")?;
    let logical = logical.unwrap_or(usual.logical_block_bytes);
    let physical = block_size(properties, "physical_block_size")?;
    Ok(DiskOptions {
        serial: serial(properties, most_serial_bytes)?,
        write_cache: write_cache(properties)?,
        logical_block_bytes: logical,
        physical_block_bytes: physical.unwrap_or(logical).max(logical),
        min_io_bytes: properties.number32("min_io_size")?.unwrap_or(0),
        opt_io_bytes: properties.number32("opt_io_size")?.unwrap_or(0),
        on_error: ErrorPolicy {
            read: on_error(properties, "rerror")?.unwrap_or(usual.on_error.read),
            write: on_error(properties, "werror")?.unwrap_or(usual.on_error.write),
        },
        ..usual
    })
}

/// What is done about errors; `None` for what is usual.
fn on_error(properties: &mut Properties, name: &str) -> Result<Option<OnError>, CommandLineError> {
    match properties.text(name)?.as_deref() {
        None | Some("auto") => Ok(None),
        Some(given) => match choice::find(&choice::DISK_ERROR, given) {
            Some(chosen) => Ok(Some(chosen)),
            None => {
                let expected = format!("auto, {}", choice::names(&choice::DISK_ERROR));
                Err(properties.wrong(name, &given, &expected))
            }
        },
    }
}

fn serial(properties: &mut Properties, most_bytes: usize) -> Result<String, CommandLineError> {
    let mut serial = properties.text("serial")?.unwrap_or_default();
    // As QEMU has it: what is longer is cut.
    let mut length = serial.len().min(most_bytes);
    while !serial.is_char_boundary(length) {
        length -= 1;
    }
    serial.truncate(length);
    Ok(serial)
}

fn write_cache(properties: &mut Properties) -> Result<bool, CommandLineError> {
    let cache = properties.text_or_switch("write-cache")?;
    match cache.as_deref() {
        None | Some("auto" | "on" | "true" | "yes") => Ok(true),
        Some("off" | "false" | "no") => Ok(false),
        Some(other) => Err(properties.wrong("write-cache", &other, "on, off or auto")),
    }
}

fn block_size(properties: &mut Properties, name: &str) -> Result<Option<u32>, CommandLineError> {
    let Some(given) = properties.number32(name)? else {
        return Ok(None);
    };
    match given {
        // As QEMU's: the default.
        0 => Ok(None),
        512..=0x20_0000 if given.is_power_of_two() => Ok(Some(given)),
        _ => Err(properties.wrong(name, &given, "a power of two, 512 to 2097152")),
    }
}
