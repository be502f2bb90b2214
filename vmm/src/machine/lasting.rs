//! What a machine keeps over the guest's reboots, besides its console.

use std::io;
use std::sync::Arc;

use spapr_devices::rtas::TimeOfDayClock;
use uuid::Uuid;

use super::description::MachineDescription;
use crate::random;

/// A machine's identity and its clock.
pub struct Lasting {
    /// What the machine calls itself.
    pub uuid: Uuid,
    /// The clock, with what the guest set it to.
    pub clock: Arc<TimeOfDayClock>,
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
        })
    }
}
