//! SCSI controllers.

use spapr_devices::virtio::scsi::{Address, CD_BLOCK_BYTES, ScsiOptions, UnitKind, UnitOptions};

use super::disk::DiskDescription;

/// A SCSI controller as the user asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScsiDescription {
    /// How it is to look.
    pub options: ScsiOptions,
    /// The units of its targets.
    pub units: Vec<ScsiUnit>,
}

/// A disk or CD drive behind a SCSI controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiUnit {
    /// What it is, and where.
    pub options: UnitOptions,
    /// The disk, or the medium in the drive, which may have none.
    pub disk: Option<Box<DiskDescription>>,
}

/// Commands that a unit does at a time.
pub const COMMANDS_PER_UNIT: u16 = 128;

impl ScsiUnit {
    /// A unit with `disk`, or an empty drive.
    pub fn new(options: UnitOptions, disk: Option<DiskDescription>) -> Self {
        let is_cd = options.kind == UnitKind::CdDrive;
        let disk = disk.map(|mut disk| {
            disk.options.queues = 1;
            disk.options.queue_size = COMMANDS_PER_UNIT;
            if is_cd {
                disk.image.read_only = true;
                disk.options.logical_block_bytes = CD_BLOCK_BYTES;
                disk.options.physical_block_bytes = CD_BLOCK_BYTES;
            }
            Box::new(disk)
        });
        Self { options, disk }
    }
}

impl ScsiDescription {
    /// A controller whose targets have a disk or a CD drive each, in this order, and a second one each where there are
    /// more.
    pub fn of_targets(
        disks: impl IntoIterator<Item = DiskDescription>,
        discs: impl IntoIterator<Item = DiskDescription>,
    ) -> Self {
        let disks = disks.into_iter().map(|disk| (UnitKind::Disk, disk));
        let discs = discs.into_iter().map(|disc| (UnitKind::CdDrive, disc));
        let units = (0_u16..).zip(disks.chain(discs));
        let units = units.map(|(number, (kind, disk))| {
            let [lun, target] = number.to_be_bytes();
            let lun = lun.into();
            let options = UnitOptions {
                device_id: disk.options.serial.clone(),
                ..UnitOptions::new(Address { target, lun }, kind)
            };
            ScsiUnit::new(options, Some(disk))
        });
        Self {
            options: ScsiOptions::default(),
            units: units.collect(),
        }
    }
}
