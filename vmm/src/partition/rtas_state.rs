//! What RTAS keeps between calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spapr_devices::rtas::{ErrorInjection, SERVICES, TimeOfDayClock};
use uuid::Uuid;

use super::lasting::Lasting;

/// The token of the first service; there are fewer than [`TOKENS`].
const FIRST_TOKEN: u32 = 0x2000;
const TOKENS: usize = 64;

/// What RTAS keeps between calls.
pub struct RtasState {
    /// The guest's clock.
    pub clock: Arc<TimeOfDayClock>,
    /// What the machine calls itself.
    pub uuid: Uuid,
    /// Whether the guest injects errors.
    pub error_injection: ErrorInjection,
    calls: [AtomicU64; TOKENS],
}

impl RtasState {
    /// The state of a machine that starts.
    pub fn new(lasting: &Lasting) -> Self {
        Self {
            clock: Arc::clone(&lasting.clock),
            uuid: lasting.uuid,
            error_injection: ErrorInjection::default(),
            calls: [const { AtomicU64::new(0) }; TOKENS],
        }
    }

    /// How often each service was called, those that were.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        SERVICES
            .iter()
            .filter_map(|service| {
                let calls = self
                    .calls
                    .get(index(service.token)?)?
                    .load(Ordering::Relaxed);
                (calls != 0).then(|| (service.name.to_owned(), calls))
            })
            .collect()
    }

    /// Counts a call of the service with this token.
    pub fn count(&self, token: u32) {
        if let Some(calls) = index(token).and_then(|index| self.calls.get(index)) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn index(token: u32) -> Option<usize> {
    usize::try_from(token.checked_sub(FIRST_TOKEN)?).ok()
}
