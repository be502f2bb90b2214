//! What of a program's code runs, as the emulator sees it.

use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

/// A request to log what runs at some addresses, whichever program's it is.
#[derive(Debug, Clone)]
pub(crate) struct CodeLog {
    /// The addresses.
    pub(crate) addresses: Range<u64>,
    /// The log, a file of this machine: each instruction as it is translated, which it is before it runs first, and
    /// now and then again (`-d in_asm`).
    pub(crate) path: PathBuf,
}

impl CodeLog {
    /// Has an emulator write it.
    pub(super) fn request(&self, command: &mut Command) {
        let bytes = self.addresses.end - self.addresses.start;
        let filter = format!("{:#x}+{bytes:#x}", self.addresses.start);
        command.args(["-d", "in_asm", "-dfilter", &filter]);
        command.arg("-D").arg(&self.path);
    }
}
