//! What a machine keeps over the guest's reboots, besides its console.

use std::io;
use std::sync::{Arc, OnceLock};

use spapr_devices::rtas::TimeOfDayClock;
use uuid::Uuid;

use crate::boot::BootError;
use crate::boot::files::BootFiles;
use crate::random;
use crate::spec::MachineDescription;

/// A machine's identity, its clock, and what its guest is loaded from.
pub struct Lasting {
    /// What the machine calls itself.
    pub uuid: Uuid,
    /// The clock, with what the guest set it to.
    pub clock: Arc<TimeOfDayClock>,
    /// What its guest is loaded from, once it has been.
    files: OnceLock<BootFiles>,
}

impl Lasting {
    /// What lasts of a machine as described.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new(description: &MachineDescription) -> io::Result<Self> {
        let uuid = match description.uuid {
            Some(uuid) => uuid,
            None => {
                let mut bytes = [0; 16];
                random::fill(&mut bytes)?;
                uuid::Builder::from_random_bytes(bytes).into_uuid()
            }
        };
        let clock = TimeOfDayClock::ahead_of_host(description.clock_offset_seconds);
        Ok(Self {
            uuid,
            clock: Arc::new(clock),
            files: OnceLock::new(),
        })
    }

    /// The files of `description`'s kernel and initial RAM disk, which are opened at the first start.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn boot_files(&self, description: &MachineDescription) -> Result<&BootFiles, BootError> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let files = BootFiles::open(&description.kernel, description.initrd.as_deref())?;
        Ok(self.files.get_or_init(|| files))
    }
}
