//! What of a function's BARs the guest reaches without an exit to user space: memory that is mapped, and doorbells.

use std::io;

use log::Level;
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;

use super::backend::Doorbell;
use super::function::{Function, State};
use crate::guest_message;

/// A piece of a BAR that the guest reaches without an exit to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) guest: GuestPhysicalAddress,
    piece: Piece,
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Memory(HostRange),
    /// A doorbell of a BAR, by their numbers.
    Doorbell(usize, usize),
}

impl Function {
    /// What the guest should reach directly now. Left out, and served by exits: BARs that the
    /// guest has put where a page of the host cannot begin, and pages that two BARs of the
    /// function share.
    fn wanted(&self, state: &State) -> Vec<Mapped> {
        let page = self.board.host_page_bytes;
        let decoded: Vec<_> = self.decoded(state).collect();
        let mut wanted = Vec::new();
        for &(index, bar, start) in &decoded {
            for mapping in &bar.mappings {
                let guest = GuestPhysicalAddress(start.0 + mapping.offset);
                let end = guest.0 + mapping.host.bytes;
                let shared = decoded.iter().any(|&(other, bar, start)| {
                    other != index && start.0 < end && guest.0 < start.0 + bar.bytes
                });
                let in_window = [self.windows.memory32, self.windows.memory64]
                    .iter()
                    .any(|window| window.bus_address(guest, mapping.host.bytes).is_some());
                if guest.0.is_multiple_of(page) && in_window && !shared {
                    wanted.push(Mapped {
                        guest,
                        piece: Piece::Memory(mapping.host),
                    });
                }
            }
            for (number, doorbell) in bar.doorbells.iter().enumerate() {
                wanted.push(Mapped {
                    guest: GuestPhysicalAddress(start.0 + doorbell.offset),
                    piece: Piece::Doorbell(index, number),
                });
            }
        }
        wanted
    }

    fn connect(&self, mapped: Mapped) -> io::Result<()> {
        let space = &self.board.space;
        match mapped.piece {
            Piece::Memory(host) => space.map(mapped.guest, host),
            Piece::Doorbell(bar, number) => self.doorbell(bar, number).map_or(Ok(()), |doorbell| {
                space.connect_doorbell(mapped.guest, &doorbell.event)
            }),
        }
    }

    fn disconnect(&self, mapped: Mapped) -> io::Result<()> {
        let space = &self.board.space;
        match mapped.piece {
            Piece::Memory(host) => space.unmap(mapped.guest, host),
            Piece::Doorbell(bar, number) => self.doorbell(bar, number).map_or(Ok(()), |doorbell| {
                space.disconnect_doorbell(mapped.guest, &doorbell.event)
            }),
        }
    }

    fn doorbell(&self, bar: usize, number: usize) -> Option<&Doorbell> {
        self.bars.get(bar)?.as_ref()?.doorbells.get(number)
    }

    pub(super) fn unmap_stale(&self, state: &mut State) -> io::Result<()> {
        let wanted = self.wanted(state);
        let mut result = Ok(());
        state.mapped.retain(|mapped| {
            if wanted.contains(mapped) {
                return true;
            }
            match self.disconnect(*mapped) {
                Ok(()) => false,
                Err(error) => {
                    result = Err(error);
                    true
                }
            }
        });
        result
    }

    pub(super) fn map_missing(&self, state: &mut State) {
        for mapped in self.wanted(state) {
            if state.mapped.contains(&mapped) {
                continue;
            }
            match self.connect(mapped) {
                Ok(()) => state.mapped.push(mapped),
                Err(error) => guest_message!(
                    Level::Warn,
                    "{}: a BAR cannot be mapped at {} in the guest and is served by exits: {error}",
                    self.name(),
                    mapped.guest
                ),
            }
        }
    }
}
