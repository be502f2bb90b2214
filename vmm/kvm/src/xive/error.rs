//! What the in-kernel XIVE interrupt controller refuses.

use spapr_devices::interrupts::Lisn;
use vmm_sys_util::errno;

use crate::memory_slots::MemorySlotError;

/// Why the interrupt controller could not be set up, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum XiveError {
    /// There is none.
    #[error("KVM cannot make a XIVE interrupt controller (KVM_DEV_TYPE_XIVE); xics may do")]
    Create(#[source] errno::Error),
    /// The number of interrupt servers was refused.
    #[error(
        "KVM refused {servers} interrupt servers (KVM_DEV_XIVE_NR_SERVERS): use fewer vCPUs than \
         the host's limit"
    )]
    Servers {
        /// The number asked for.
        servers: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// Its pages could not be mapped.
    #[error("cannot map {what} of KVM's XIVE interrupt controller")]
    Map {
        /// Which of them.
        what: &'static str,
        /// The kernel's refusal.
        #[source]
        source: errno::Error,
    },
    /// Its pages could not be given to the guest.
    #[error("cannot give {what} of KVM's XIVE interrupt controller to the guest")]
    Slot {
        /// Which of them.
        what: &'static str,
        /// KVM's refusal.
        #[source]
        source: MemorySlotError,
    },
    /// A vCPU could not be connected.
    #[error(
        "KVM cannot connect a vCPU as interrupt server {server} (KVM_CAP_PPC_IRQ_XIVE): a vCPU is \
         connected once, and its number is below that of servers"
    )]
    Connect {
        /// The vCPU's interrupt server number.
        server: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// A source was refused.
    #[error("KVM refused interrupt source {lisn} (KVM_DEV_XIVE_GRP_SOURCE)")]
    Source {
        /// The interrupt.
        lisn: Lisn,
        /// KVM's refusal: ENXIO when the host has no interrupt left.
        #[source]
        source: errno::Error,
    },
    /// A source's configuration was refused.
    #[error("KVM cannot {action} interrupt source {lisn} ({attribute})")]
    SourceConfig {
        /// What was to be done.
        action: &'static str,
        /// The interrupt.
        lisn: Lisn,
        /// KVM's name for it.
        attribute: &'static str,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// An event queue was refused.
    #[error(
        "KVM cannot {action} the event queue of interrupt server {server} for priority {priority} \
         (KVM_DEV_XIVE_GRP_EQ_CONFIG)"
    )]
    Queue {
        /// What was to be done.
        action: &'static str,
        /// The server.
        server: u32,
        /// The priority.
        priority: u8,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// It could not be reset.
    #[error("KVM cannot reset the interrupt controller (KVM_DEV_XIVE_RESET)")]
    Reset(#[source] errno::Error),
}
