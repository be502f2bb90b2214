//! What a machine keeps over the guest's reboots, besides its console.

use std::sync::Arc;

use spapr_devices::rtas::TimeOfDayClock;
use uuid::Uuid;

/// A machine's identity and its clock.
pub struct Lasting {
    /// What the machine calls itself.
    pub uuid: Uuid,
    /// The clock, with what the guest set it to.
    pub clock: Arc<TimeOfDayClock>,
}

impl Default for Lasting {
    /// A new machine, with the host's time.
    fn default() -> Self {
        Self {
            uuid: Uuid::new_v4(),
            clock: Arc::new(TimeOfDayClock::new()),
        }
    }
}
