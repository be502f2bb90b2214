//! A logical unit: what it is, what it remembers of its initiator, and which command is whose.

use std::sync::Arc;

use super::address::Address;
use super::cdb::{self, Cdb};
use super::sense::Sense;
use super::{blocks, optical, primary};
use crate::image::Operation;
use crate::virtio::disk::{Disk, Place};

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// A disk.
    Disk,
    /// A drive for CDs and DVDs, which are read alone.
    CdDrive,
}

/// A unit as its user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitOptions {
    /// Where it is.
    pub address: Address,
    /// What it is.
    pub kind: UnitKind,
    /// By which guests name it apart from others (VPD page 83h), if anything: up to 247 bytes.
    pub device_id: String,
    /// Its World Wide Name, as the standards have it, if it has one.
    pub wwn: Option<u64>,
    /// Who made it, up to 8 bytes; empty for what is usual.
    pub vendor: String,
    /// What it is called, up to 16 bytes; empty for what is usual.
    pub product: String,
    /// Its rotations per minute; 0 to say nothing about that, 1 for none.
    pub rotation_rate: u16,
}

impl UnitOptions {
    /// A unit without any of that.
    pub const fn new(address: Address, kind: UnitKind) -> Self {
        Self {
            address,
            kind,
            device_id: String::new(),
            wwn: None,
            vendor: String::new(),
            product: String::new(),
            rotation_rate: 0,
        }
    }
}

/// What comes of a command that can be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is done.
    Nothing,
    /// It is done, and its initiator gets that, as far as it has room.
    Data(Vec<u8>),
    /// The medium has work to do.
    Medium(Operation, Place),
}

/// What comes of a command.
pub(super) type Outcome = Result<Wish, Sense>;

/// A unit.
pub(super) struct Unit {
    pub(super) options: UnitOptions,
    /// Its medium; a CD drive may have none.
    pub(super) disk: Option<Arc<Disk>>,
    /// What its initiator has to be told before anything else is done (SAM-5 5.14).
    attentions: Vec<Sense>,
    /// What is written may be in a cache until it is flushed.
    pub(super) write_cache: bool,
    /// A CD drive's.
    pub(super) tray_is_open: bool,
    pub(super) removal_is_prevented: bool,
}

impl Unit {
    pub(super) fn new(options: UnitOptions, disk: Option<Arc<Disk>>) -> Self {
        let mut unit = Self {
            options,
            disk,
            attentions: Vec::new(),
            write_cache: false,
            tray_is_open: false,
            removal_is_prevented: false,
        };
        unit.power_on();
        unit
    }

    /// Everything as it was at first.
    pub(super) fn power_on(&mut self) {
        self.reset(Sense::POWER_ON);
        self.tray_is_open = false;
    }

    /// What a reset does, of which the initiator is told by `attention`.
    pub(super) fn reset(&mut self, attention: Sense) {
        let mut disk = self.disk.iter();
        self.write_cache = disk.any(|disk| disk.options().write_cache);
        self.removal_is_prevented = false;
        // One of these implies the others (SPC-4 4.5.6).
        self.attentions.clear();
        self.attentions.push(attention);
    }

    /// Has the initiator be told of that, unless it will be.
    pub(super) fn note(&mut self, attention: Sense) {
        if !self.attentions.contains(&attention) {
            self.attentions.push(attention);
        }
    }

    /// What the initiator is to be told next, which it is then.
    pub(super) fn take_attention(&mut self) -> Option<Sense> {
        (!self.attentions.is_empty()).then(|| self.attentions.remove(0))
    }

    /// The medium, if there is one that can be used.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn medium(&self) -> Result<&Disk, Sense> {
        if self.tray_is_open {
            return Err(Sense::NO_MEDIUM_TRAY_OPEN);
        }
        let disk = self.disk.as_deref().ok_or(Sense::NO_MEDIUM)?;
        // Where a drive has an image of no bytes there is nothing to be read, not even how much.
        match disk.image().bytes() / u64::from(disk.options().logical_block_bytes) {
            0 => Err(Sense::NOT_READY),
            _ => Ok(disk),
        }
    }

    /// Whether its medium can be written.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn writable(&self) -> Result<&Disk, Sense> {
        let disk = self.medium()?;
        match self.is_read_only() {
            true => Err(Sense::WRITE_PROTECTED),
            false => Ok(disk),
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        let mut disk = self.disk.iter();
        self.is_cd() || disk.any(|disk| disk.image().options().read_only)
    }

    pub(super) fn is_cd(&self) -> bool {
        self.options.kind == UnitKind::CdDrive
    }

    /// Whether what is written has to last when it is done, where the initiator has `forced` it to or not.
    pub(super) fn is_durable(&self, forced: bool) -> bool {
        let ignores = |disk: &Arc<Disk>| disk.image().options().ignores_flush;
        (forced || !self.write_cache) && !self.disk.as_ref().is_some_and(ignores)
    }

    /// What comes of a command, with as much of its parameters as there is.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub(super) fn command(&mut self, cdb: &Cdb, parameters: &[u8]) -> Outcome {
        // These tell of attentions in their own way, or of nothing that they would change (SPC-4, MMC-6).
        let goes_first = matches!(
            cdb.opcode(),
            cdb::INQUIRY
                | cdb::REQUEST_SENSE
                | cdb::REPORT_LUNS
                | cdb::GET_CONFIGURATION
                | cdb::GET_EVENT_STATUS
        );
        if !goes_first && let Some(attention) = self.take_attention() {
            return Err(attention);
        }
        if let Some(outcome) = primary::command(self, cdb, parameters) {
            return outcome;
        }
        let own = match self.options.kind {
            UnitKind::Disk => blocks::command,
            UnitKind::CdDrive => optical::command,
        };
        own(self, cdb, parameters)
    }
}

/// Whether a command has parameters, which are read before it is looked at.
pub(super) const fn has_parameters(opcode: u8) -> bool {
    matches!(
        opcode,
        cdb::MODE_SELECT_6
            | cdb::MODE_SELECT_10
            | cdb::UNMAP
            | cdb::WRITE_SAME_10
            | cdb::WRITE_SAME_16
    )
}

/// `data`, of which the initiator wants `most` bytes.
pub(super) fn cut(mut data: Vec<u8>, most: usize) -> Outcome {
    data.truncate(most);
    Ok(Wish::Data(data))
}
