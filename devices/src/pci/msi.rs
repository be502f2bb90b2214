//! MSI and MSI-X vectors of a function, as the guest asks for them by RTAS `ibm,change-msi`.
//!
//! The guest never programs a vector itself: it asks for a number of them and learns which
//! interrupt sources they became.

use std::io;
use std::sync::Arc;

use log::Level;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backend::{InterruptKind, VectorsEnabled};
use super::function::Function;
use crate::guest_message;
use crate::interrupts::{InterruptLines, Lisn, LisnBlock, Signal};

/// Vectors that plain MSI has at most.
const MAX_MSI: u32 = 32;

/// Why a function's vectors could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MsiError {
    /// The function has no vector of that kind.
    #[error("{function} has no {kind} interrupts")]
    NoSuchKind {
        /// The function's address on the host.
        function: String,
        /// What was asked for.
        kind: InterruptKind,
    },
    /// All interrupt source numbers are in use.
    #[error("no interrupt source numbers are left for {function}")]
    NoNumbers {
        /// The function's address on the host.
        function: String,
    },
    /// eventfd(2) failed.
    #[error("no event can be made for {function}; the limit of open files may be too low")]
    Event {
        /// The function's address on the host.
        function: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The interrupt controller has no such sources.
    #[error("{count} interrupt sources from {first} on cannot be made for {function}")]
    Make {
        /// The function's address on the host.
        function: String,
        /// The first source.
        first: Lisn,
        /// How many were asked for.
        count: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The interrupt controller refused a line.
    #[error("interrupt source {lisn} of {function} cannot be connected")]
    Connect {
        /// The function's address on the host.
        function: String,
        /// The source.
        lisn: Lisn,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device refused the vectors.
    #[error("{count} interrupts of {function} cannot be enabled")]
    Enable {
        /// The function's address on the host.
        function: String,
        /// How many were asked for.
        count: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device or the interrupt controller refused to let go.
    #[error("the interrupts of {function} cannot be disabled")]
    Disable {
        /// The function's address on the host.
        function: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// What came of a request for vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsiGrant {
    /// The function has as many vectors as were asked for.
    Granted(u32),
    /// More were asked for than the function can have, which is this many, at least one. It has those that
    /// it had before, or none; the guest asks again.
    AtMost(u32),
}

/// The vectors that a function has now.
pub(super) struct Vectors {
    kind: InterruptKind,
    block: LisnBlock,
    signals: Vec<Signal>,
    /// Whether the device has them no more, over a reset.
    suspended: bool,
}

/// The connected lines of a block, from its first number on, which are disconnected again unless
/// all goes well.
struct Lines<'a> {
    lines: &'a dyn InterruptLines,
    block: LisnBlock,
    signals: Vec<Signal>,
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        for (lisn, signal) in self.block.iter().zip(self.signals.drain(..)) {
            if let Err(error) = self.lines.disconnect(lisn, signal.event()) {
                guest_message!(
                    Level::Warn,
                    "interrupt source {lisn} cannot be disconnected: {error}"
                );
            }
        }
    }
}

impl Function {
    /// How many vectors of `kind` the guest can have.
    pub fn max_vectors(&self, kind: InterruptKind) -> u32 {
        let vectors = self.backend.interrupt_vectors(kind);
        match kind {
            InterruptKind::Msi => vectors.min(MAX_MSI),
            InterruptKind::MsiX => vectors,
        }
    }

    /// Gives the function `count` vectors of `kind`, at least one, in place of those it has.
    ///
    /// # Errors
    /// The reason why not; if the request was possible at all, the function has no vectors then.
    pub fn change_msi(&self, kind: InterruptKind, count: u32) -> Result<MsiGrant, MsiError> {
        let available = self.max_vectors(kind);
        if available == 0 {
            return Err(MsiError::NoSuchKind {
                function: self.name().into(),
                kind,
            });
        }
        if count > available {
            return Ok(MsiGrant::AtMost(available));
        }
        let mut vectors = self.vectors.lock();
        let replaced = self.replace(&mut vectors, kind, count);
        if vectors.is_none() {
            // The guest's driver may do with it.
            self.use_line();
        }
        replaced
    }

    fn replace(
        &self,
        vectors: &mut Option<Vectors>,
        kind: InterruptKind,
        count: u32,
    ) -> Result<MsiGrant, MsiError> {
        self.release_all(vectors)?;
        if let Some(line) = &self.line {
            line.give_up().map_err(|source| MsiError::Disable {
                function: self.name().into(),
                source,
            })?;
        }
        let numbers = &self.board.lisns;
        let is_aligned = kind == InterruptKind::Msi;
        let Some(block) = numbers.allocate(count, is_aligned) else {
            return match numbers.most(count, is_aligned) {
                0 => Err(MsiError::NoNumbers {
                    function: self.name().into(),
                }),
                most => Ok(MsiGrant::AtMost(most)),
            };
        };
        match self.enable(kind, block) {
            Ok(Ok(signals)) => {
                *vectors = Some(Vectors {
                    kind,
                    block,
                    signals,
                    suspended: false,
                });
                Ok(MsiGrant::Granted(count))
            }
            Ok(Err(most)) => {
                numbers.free(block);
                Ok(MsiGrant::AtMost(most))
            }
            Err(error) => {
                numbers.free(block);
                Err(error)
            }
        }
    }

    /// Takes all vectors from the function, which may use its interrupt line again. That it has
    /// none is no error.
    ///
    /// # Errors
    /// [`MsiError::Disable`]; the function has no vectors then all the same, and interrupt source
    /// numbers that could not be disconnected are not given out again.
    pub fn free_msi(&self) -> Result<(), MsiError> {
        let mut vectors = self.vectors.lock();
        let released = self.release_all(&mut vectors);
        self.use_line();
        released
    }

    /// Takes all vectors and the line from the function, for good.
    ///
    /// # Errors
    /// The first refusal; it has neither then all the same.
    pub(super) fn stop_interrupts(&self) -> io::Result<()> {
        let mut vectors = self.vectors.lock();
        let released = self.release_all(&mut vectors);
        let line = self.line.as_ref().map_or(Ok(()), |line| line.give_up());
        released.map_err(io::Error::other).and(line)
    }

    /// Takes vectors and line from the device, but not from the guest: until [`Function::resume_interrupts`].
    pub(super) fn suspend_interrupts(&self) {
        let mut vectors = self.vectors.lock();
        if let Some(vectors) = vectors.as_mut().filter(|vectors| !vectors.suspended) {
            vectors.suspended = true;
            if let Err(error) = self.take_vectors(vectors.kind) {
                guest_message!(
                    Level::Warn,
                    "{}: its {} vectors cannot be disabled for a reset: {error}",
                    self.name(),
                    vectors.kind
                );
            }
        }
        if let Some(line) = &self.line {
            line.suspend();
        }
    }

    /// Gives back to the device what it had.
    pub(super) fn resume_interrupts(&self) {
        let mut vectors = self.vectors.lock();
        if let Some(vectors) = vectors.as_mut().filter(|vectors| vectors.suspended) {
            let (kind, count) = (vectors.kind, vectors.signals.len());
            let failed = match self.give_vectors(kind, &vectors.signals) {
                Ok(VectorsEnabled::All) => {
                    vectors.suspended = false;
                    None
                }
                Ok(VectorsEnabled::AtMost(most)) => Some(format!("the host has {most} at present")),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = failed {
                guest_message!(
                    Level::Error,
                    "{}: its {count} {kind} vectors cannot be enabled again after a reset: {reason}",
                    self.name()
                );
            }
        }
        if let Some(line) = &self.line {
            line.resume();
        }
    }

    /// Without vectors, the function interrupts by its line, if it has one. One whose vectors could not be taken does not:
    /// the host would take them for that.
    fn use_line(&self) {
        let has_none = self.state().host_vectors.is_none();
        if let Some(line) = self.line.as_ref().filter(|_| has_none) {
            line.want();
            if self.is_decoded() {
                line.device_is_used();
            }
        }
    }

    /// The interrupt source that vector `index` became.
    pub fn interrupt_source(&self, index: u32) -> Option<Lisn> {
        let vectors = self.vectors.lock();
        vectors.as_ref()?.block.get(index)
    }

    /// Connects the lines before the device can use them: an interrupt that comes at once finds
    /// its way. The number of vectors there could be, when the host has fewer.
    fn enable(
        &self,
        kind: InterruptKind,
        block: LisnBlock,
    ) -> Result<Result<Vec<Signal>, u32>, MsiError> {
        let function = || self.name().to_owned();
        self.board
            .lines
            .make(block)
            .map_err(|source| MsiError::Make {
                function: function(),
                first: block.first(),
                count: block.count(),
                source,
            })?;
        let mut lines = Lines {
            lines: &*self.board.lines,
            block,
            signals: Vec::new(),
        };
        for lisn in block.iter() {
            let event = EventFd::new(EFD_NONBLOCK).map_err(|source| MsiError::Event {
                function: function(),
                source,
            })?;
            self.board
                .lines
                .connect(lisn, &event)
                .map_err(|source| MsiError::Connect {
                    function: function(),
                    lisn,
                    source,
                })?;
            let register = self.board.lines.trigger_register(lisn);
            lines.signals.push(Signal::new(Arc::new(event), register));
        }
        let enabled =
            self.give_vectors(kind, &lines.signals)
                .map_err(|source| MsiError::Enable {
                    function: function(),
                    count: block.count(),
                    source,
                })?;
        Ok(match enabled {
            VectorsEnabled::All => Ok(std::mem::take(&mut lines.signals)),
            VectorsEnabled::AtMost(most) => Err(most),
        })
    }

    /// Has the device interrupt by `signals`; the host goes to its memory for that.
    fn give_vectors(&self, kind: InterruptKind, signals: &[Signal]) -> io::Result<VectorsEnabled> {
        self.take_all_vectors()?;
        self.wake()?;
        if !self.answers()? {
            return Err(io::Error::other("it answers nothing"));
        }
        self.set_host_vectors(Some(kind))?;
        let given = self.backend.set_interrupts(kind, signals);
        if matches!(given, Ok(VectorsEnabled::All)) {
            return given;
        }
        let none = self.set_host_vectors(None);
        given.and_then(|most| none.map(|()| most))
    }

    /// Takes its vectors from the device, likewise. A device that cannot be woken keeps them until it is reset or its file
    /// is closed.
    fn take_vectors(&self, kind: InterruptKind) -> io::Result<()> {
        self.wake()?;
        self.backend.disable_interrupts(kind)?;
        self.set_host_vectors(None)
    }

    /// Takes what the device has kept.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn take_remaining_vectors(&self) -> io::Result<()> {
        let _vectors = self.vectors.lock();
        self.take_all_vectors()
    }

    fn take_all_vectors(&self) -> io::Result<()> {
        let kind = self.state().host_vectors;
        kind.map_or(Ok(()), |kind| self.take_vectors(kind))
    }

    /// Takes what the guest has, and what the device has kept of what it had.
    fn release_all(&self, vectors: &mut Option<Vectors>) -> Result<(), MsiError> {
        match vectors.take() {
            Some(old) => self.release(&old),
            None => self.take_all_vectors().map_err(|source| MsiError::Disable {
                function: self.name().into(),
                source,
            }),
        }
    }

    /// Stops the device before its lines go.
    fn release(&self, old: &Vectors) -> Result<(), MsiError> {
        let mut result = self.take_all_vectors();
        let mut reusable = true;
        for (lisn, signal) in old.block.iter().zip(&old.signals) {
            if let Err(error) = self.board.lines.disconnect(lisn, signal.event()) {
                reusable = false;
                result = result.and(Err(error));
            }
        }
        if reusable {
            self.board.lisns.free(old.block);
        }
        result.map_err(|source| MsiError::Disable {
            function: self.name().into(),
            source,
        })
    }
}

impl std::fmt::Display for InterruptKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Msi => "MSI",
            Self::MsiX => "MSI-X",
        })
    }
}

#[cfg(test)]
#[path = "msi_tests.rs"]
mod tests;
