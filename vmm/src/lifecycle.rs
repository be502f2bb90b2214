//! How a machine's run ends, and how everyone learns of it.

use std::io;

use parking_lot::Mutex;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a machine stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// The machine is to start again, as a management program wants.
    Reset,
    /// The process is to end, as a management program wants.
    Quit,
    /// The guest's kernel gave up, for this reason if it gave one (RTAS ibm,os-term).
    OsTerm(Option<String>),
    /// The user left, by the keys on the console that do that.
    Left,
    /// This process was asked to end, by the signal of this name.
    Asked(&'static str),
    /// A processor could not go on.
    Failed(String),
}

/// The end of a machine's run: the first one reported counts.
#[derive(Debug)]
pub struct Lifecycle {
    end: Mutex<Option<End>>,
    ended: EventFd,
}

impl Lifecycle {
    /// A machine that runs.
    ///
    /// # Errors
    /// When there is no descriptor left for the event.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            end: Mutex::new(None),
            ended: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Reports the end. Returns whether it is the first report.
    pub fn end(&self, end: End) -> bool {
        let mut known = self.end.lock();
        if known.is_some() {
            return false;
        }
        *known = Some(end);
        // Fails only when the counter is full, and then it has been signalled.
        let _signalled = self.ended.write(1);
        true
    }

    /// How the run ended, once it has.
    pub fn ended(&self) -> Option<End> {
        self.end.lock().clone()
    }

    /// Readable once the run has ended.
    pub fn event(&self) -> &EventFd {
        &self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let lifecycle = Lifecycle::new().expect("eventfd");
        assert_eq!(lifecycle.ended(), None);
        assert!(lifecycle.event().read().is_err());
        assert!(lifecycle.end(End::PowerOff));
        assert!(!lifecycle.end(End::Asked("SIGTERM")));
        assert_eq!(lifecycle.ended(), Some(End::PowerOff));
        assert_eq!(lifecycle.event().read().ok(), Some(1));
    }
}
