//! Which memory one container has registered.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Regions;
use super::ram::Piece;
use crate::address::GuestPhysicalAddress;
use crate::sync::AtomicBool;
use crate::world::{GuestMemory, HostError, HostIommu, HostRange};

/// How long a processor waits for another that registers, before its guest may be interrupted: not as long as
/// that may take.
const PATIENCE: Duration = Duration::from_millis(1);

/// Which blocks one container has registered.
///
/// A block's flag is read without a lock by every map. Who registers or unregisters holds the lock on the
/// pieces of all containers, so that two windows that touch the same block first register it once, and that
/// all containers have the same pieces; the kernel does one after the other, too.
#[derive(Debug)]
pub(crate) struct RegionLocks {
    registered: Box<[AtomicBool]>,
    /// False in a container that locks by itself: every flag is set from the start.
    registers: bool,
}

impl RegionLocks {
    pub(crate) fn new(regions: &Regions, registers: bool) -> Self {
        Self {
            registered: (0..regions.blocks())
                .map(|_| AtomicBool::new(!registers))
                .collect(),
            registers,
        }
    }

    /// Whether pages of block `index` can be mapped.
    pub(crate) fn is_registered(&self, index: usize) -> bool {
        self.registered
            .get(index)
            .is_some_and(|registered| registered.load(Ordering::Acquire))
    }

    fn set_registered(&self, blocks: &Range<usize>, is_registered: bool) {
        for registered in self.registered.get(blocks.clone()).unwrap_or_default() {
            registered.store(is_registered, Ordering::Release);
        }
    }

    /// Registers block `index` unless it is: in the piece that another container has it in; else with all
    /// of its region that is present, as one piece; else by itself, also if the host refuses the piece. It
    /// may be one page of the others that the host cannot lock.
    ///
    /// Or does a part of what that takes, so that nobody waits long: while another processor registers, nothing;
    /// where a region is in as many pieces as it may be ([`Regions::crowd`]), it makes one more block of it present, until the rest is one.
    /// The caller asks again.
    pub(crate) fn register<M: GuestMemory, H: HostIommu>(
        &self,
        host: &H,
        memory: &M,
        regions: &Regions,
        index: usize,
    ) -> Result<(), HostError> {
        let Some(mut pieces) = regions.pieces_within(PATIENCE) else {
            return Ok(());
        };
        if index >= regions.blocks() || self.is_registered(index) {
            return Ok(());
        }
        if is_crowded(regions, &pieces, index) && regions.populate_one_of(memory, index) {
            return Ok(());
        }
        let is_present = regions.is_present(index);
        let piece = with_neighbours(regions, &pieces, index, |block| {
            is_present && regions.is_present(block)
        });
        let alone = index..index + 1;
        let is_shared = pieces.iter().any(|known| known.blocks == piece);
        let may_be_less = piece != alone && !is_shared;
        let outcome = self.register_piece(host, regions, &mut pieces, piece);
        if outcome.is_err() && may_be_less {
            return self.register_piece(host, regions, &mut pieces, alone);
        }
        outcome
    }

    fn register_piece<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
        pieces: &mut Vec<Piece>,
        blocks: Range<usize>,
    ) -> Result<(), HostError> {
        let Some(range) = regions.host_range(&blocks) else {
            return Ok(());
        };
        host.register_memory(range)
            .inspect_err(|_| regions.count_refusal())?;
        // What is locked is present.
        regions.note_present(&blocks);
        self.set_registered(&blocks, true);
        let holders = match pieces.iter_mut().find(|piece| piece.blocks == blocks) {
            Some(piece) => {
                piece.holders += 1;
                piece.holders - 1
            }
            None => {
                pieces.push(Piece { blocks, holders: 1 });
                0
            }
        };
        regions.count_registered(range.bytes, holders);
        Ok(())
    }

    /// Whether this container's memory is registered before it is mapped.
    pub(crate) const fn registers(&self) -> bool {
        self.registers
    }

    /// Has the host move `bytes` from guest address `address` on to where they may stay pinned, but what is
    /// registered, hence there.
    pub(crate) fn settle<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
        address: GuestPhysicalAddress,
        bytes: u64,
    ) {
        // The kernel would refuse a piece that is registered at the same time and overlaps.
        let pieces = regions.pieces();
        let (mut at, end) = (address.0, address.0.saturating_add(bytes));
        while at < end {
            let Some(found) = regions.find(GuestPhysicalAddress(at)) else {
                return;
            };
            let part = HostRange {
                bytes: found.host.bytes.min(end - at),
                ..found.host
            };
            let is_locked = |piece: &Piece| piece.blocks.contains(&found.block);
            if !pieces.iter().any(is_locked) {
                host.settle(part);
            }
            at += part.bytes;
        }
    }

    /// Registers all memory, region by region.
    ///
    /// # Errors
    /// The first refusal; regions before it stay registered.
    pub(crate) fn register_all<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
    ) -> Result<(), HostError> {
        let mut pieces = regions.pieces();
        for index in 0..regions.blocks() {
            if !self.is_registered(index) {
                let piece = with_neighbours(regions, &pieces, index, |_| true);
                self.register_piece(host, regions, &mut pieces, piece)?;
            }
        }
        Ok(())
    }

    /// Unregisters all memory. The caller sees to it that no window of the container maps. Returns how many
    /// bytes the host holds on to though no container has them registered any more, and the first refusal,
    /// after all have been tried: what was refused stays registered.
    pub(crate) fn unregister_all<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
    ) -> (u64, Result<(), HostError>) {
        if !self.registers {
            return (0, Ok(()));
        }
        let mut outcome = Ok(());
        let mut kept_bytes = 0;
        regions.pieces().retain_mut(|piece| {
            let range = regions.host_range(&piece.blocks);
            let Some(range) = range.filter(|_| self.is_registered(piece.blocks.start)) else {
                return true;
            };
            if let Err(refusal) = host.unregister_memory(range) {
                outcome = outcome.and(Err(refusal));
                return true;
            }
            self.set_registered(&piece.blocks, false);
            piece.holders -= 1;
            if piece.holders == 0 {
                regions.count_unlocked(range.bytes);
                if host.holds_on_to(range) {
                    kept_bytes += range.bytes;
                }
            }
            piece.holders > 0
        });
        (kept_bytes, outcome)
    }
}

/// Whether block `index` is in no piece, and its region in as many as it may be before all of it is present.
fn is_crowded(regions: &Regions, pieces: &[Piece], index: usize) -> bool {
    let region = regions.around(index, |_| true);
    let of_region = |piece: &&Piece| region.contains(&piece.blocks.start);
    let crowd = pieces.iter().filter(of_region);
    // What is one block is made present as it is locked.
    region.len() > 1
        && crowd.clone().count() >= regions.crowd()
        && !crowd.clone().any(|piece| piece.blocks.contains(&index))
}

/// The piece that block `index` is in; if it is in none, the blocks round it that are of its region, in no
/// piece, and for which `is_meant` holds.
fn with_neighbours(
    regions: &Regions,
    pieces: &[Piece],
    index: usize,
    is_meant: impl Fn(usize) -> bool,
) -> Range<usize> {
    let of = |block| {
        pieces
            .iter()
            .find(move |piece| piece.blocks.contains(&block))
    };
    match of(index) {
        Some(piece) => piece.blocks.clone(),
        None => regions.around(index, |block| is_meant(block) && of(block).is_none()),
    }
}
