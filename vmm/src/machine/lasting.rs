//! What a machine keeps over the guest's reboots, besides its console.

use std::io;
use std::sync::Arc;

use spapr_devices::rtas::TimeOfDayClock;
use uuid::Uuid;

use crate::random;

/// A machine's identity and its clock.
pub struct Lasting {
    /// What the machine calls itself.
    pub uuid: Uuid,
    /// The clock, with what the guest set it to.
    pub clock: Arc<TimeOfDayClock>,
}

impl Lasting {
    /// A new machine, with the host's time.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new() -> io::Result<Self> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        Ok(Self {
            uuid: uuid::Builder::from_random_bytes(bytes).into_uuid(),
            clock: Arc::new(TimeOfDayClock::new()),
        })
    }
}
