//! The in-kernel XICS interrupt controller (Documentation/virt/kvm/devices/xics.rst).
//!
//! On hosts with XIVE the kernel emulates it on that (arch/powerpc/kvm/book3s_xive.c), with the
//! same interface.

use std::os::fd::AsRawFd;

use kvm_bindings::powerpc64::{
    KVM_CAP_IRQ_XICS, KVM_DEV_XICS_GRP_CTRL, KVM_DEV_XICS_GRP_SOURCES, KVM_DEV_XICS_NR_SERVERS,
    KVM_XICS_DESTINATION_MASK, KVM_XICS_LEVEL_SENSITIVE, KVM_XICS_MASKED, KVM_XICS_PENDING,
    KVM_XICS_PRESENTED, KVM_XICS_PRIORITY_MASK, KVM_XICS_PRIORITY_SHIFT, KVM_XICS_QUEUED,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_XICS, kvm_enable_cap,
};
use spapr_devices::interrupts::Trigger;
use vmm_sys_util::errno;

use crate::kernel::DeviceFd;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// The priority that lets no interrupt through, as a source's and as a server's least favoured one
/// (PAPR, "Interrupt Presentation").
pub const PRIORITY_MASKED: u8 = 0xff;

/// Why the interrupt controller could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum XicsError {
    /// There is none.
    #[error("KVM cannot make an XICS interrupt controller (KVM_DEV_TYPE_XICS)")]
    Create(#[source] errno::Error),
    /// The number of interrupt servers was refused.
    #[error(
        "KVM refused {servers} interrupt servers (KVM_DEV_XICS_NR_SERVERS): set it before the \
         first vCPU is connected, and use fewer vCPUs than the host's limit"
    )]
    Servers {
        /// The number asked for.
        servers: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// A vCPU could not be connected.
    #[error(
        "KVM cannot connect a vCPU as interrupt server {server} (KVM_CAP_IRQ_XICS): a vCPU is \
         connected once, and its number is below that of servers"
    )]
    Connect {
        /// The vCPU's interrupt server number.
        server: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// An interrupt source was refused.
    #[error(
        "KVM refused interrupt source {lisn:#x} (KVM_DEV_XICS_GRP_SOURCES): numbers are 0x10 to \
         0xfffff, and the server exists"
    )]
    Source {
        /// The interrupt.
        lisn: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
}

/// The state of an interrupt source, as KVM_DEV_XICS_GRP_SOURCES packs it in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// The interrupt server (vCPU) it goes to.
    pub server: u32,
    /// Its priority: 0 most favoured, [`PRIORITY_MASKED`] never presented.
    pub priority: u8,
    /// How it signals.
    pub trigger: Trigger,
    /// Masked by `ibm,int-off`; `priority` is what `ibm,int-on` restores.
    pub masked: bool,
    /// Raised (level), or signalled and not yet presented (edge).
    pub pending: bool,
    /// Presented to the server (level) and not yet ended.
    pub presented: bool,
    /// Signalled again while presented.
    pub queued: bool,
}

impl SourceState {
    /// The state after a machine reset: silent, masked, and routed nowhere until the guest calls
    /// `ibm,set-xive`.
    pub const fn reset(trigger: Trigger) -> Self {
        Self {
            server: 0,
            priority: PRIORITY_MASKED,
            trigger,
            masked: true,
            pending: false,
            presented: false,
            queued: false,
        }
    }

    /// The state in KVM's form.
    pub const fn to_bits(self) -> u64 {
        const fn bit(set: bool, bit: u64) -> u64 {
            if set { bit } else { 0 }
        }
        self.server as u64
            | (self.priority as u64) << KVM_XICS_PRIORITY_SHIFT
            | bit(
                matches!(self.trigger, Trigger::Level),
                KVM_XICS_LEVEL_SENSITIVE,
            )
            | bit(self.masked, KVM_XICS_MASKED)
            | bit(self.pending, KVM_XICS_PENDING)
            | bit(self.presented, KVM_XICS_PRESENTED)
            | bit(self.queued, KVM_XICS_QUEUED)
    }

    /// The state that `bits` mean.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked to the field's width"
    )]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            server: (bits & KVM_XICS_DESTINATION_MASK as u64) as u32,
            priority: (bits >> KVM_XICS_PRIORITY_SHIFT & KVM_XICS_PRIORITY_MASK as u64) as u8,
            trigger: if bits & KVM_XICS_LEVEL_SENSITIVE != 0 {
                Trigger::Level
            } else {
                Trigger::Edge
            },
            masked: bits & KVM_XICS_MASKED != 0,
            pending: bits & KVM_XICS_PENDING != 0,
            presented: bits & KVM_XICS_PRESENTED != 0,
            queued: bits & KVM_XICS_QUEUED != 0,
        }
    }
}

/// The XICS interrupt controller of a VM. Dropping it takes it out of the VM.
#[derive(Debug)]
pub struct Xics(DeviceFd);

impl Xics {
    /// Makes the interrupt controller of `vm`, for interrupt servers (vCPU ids) below `servers`.
    ///
    /// # Errors
    /// [`XicsError::Create`] or [`XicsError::Servers`].
    pub fn new(vm: &Vm, servers: u32) -> Result<Self, XicsError> {
        let device = vm.0.create_device(kvm_device_type_KVM_DEV_TYPE_XICS);
        let xics = Self(device.map_err(XicsError::Create)?);
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_XICS_GRP_CTRL,
            attr: KVM_DEV_XICS_NR_SERVERS.into(),
            addr: std::ptr::from_ref(&servers) as u64,
        };
        // Only XICS on XIVE sets resources aside per server, and has the attribute.
        if xics.0.has_attr(&attribute) {
            // SAFETY: the kernel reads one u32 for this attribute.
            unsafe { xics.0.set_attr(&attribute) }
                .map_err(|source| XicsError::Servers { servers, source })?;
        }
        Ok(xics)
    }

    /// Connects a vCPU as interrupt server `server`, before it first runs.
    ///
    /// # Errors
    /// [`XicsError::Connect`].
    pub fn connect_vcpu(&self, vcpu: &Vcpu, server: u32) -> Result<(), XicsError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_IRQ_XICS,
            args: [
                u64::from(self.0.as_raw_fd().cast_unsigned()),
                server.into(),
                0,
                0,
            ],
            ..Default::default()
        };
        vcpu.0
            .enable_cap(&cap)
            .map_err(|source| XicsError::Connect { server, source })
    }

    /// Makes interrupt source `lisn`, or resets it, silent and masked.
    ///
    /// # Errors
    /// [`XicsError::Source`].
    pub fn create_source(&self, lisn: u32, trigger: Trigger) -> Result<(), XicsError> {
        self.set_source(lisn, SourceState::reset(trigger))
    }

    /// Sets the state of interrupt source `lisn`, making it if need be.
    ///
    /// # Errors
    /// [`XicsError::Source`].
    pub fn set_source(&self, lisn: u32, state: SourceState) -> Result<(), XicsError> {
        let bits = state.to_bits();
        let attribute = source_attribute(lisn, std::ptr::from_ref(&bits) as u64);
        // SAFETY: the kernel reads one u64 for this attribute.
        unsafe { self.0.set_attr(&attribute) }.map_err(|source| XicsError::Source { lisn, source })
    }

    /// The state of interrupt source `lisn`.
    ///
    /// # Errors
    /// [`XicsError::Source`], with ENOENT if it was not made.
    pub fn source(&self, lisn: u32) -> Result<SourceState, XicsError> {
        let mut bits = 0u64;
        let mut attribute = source_attribute(lisn, std::ptr::from_mut(&mut bits) as u64);
        // SAFETY: for this attribute the kernel writes one u64 to `addr`, which is that of `bits`.
        unsafe { self.0.get_attr(&mut attribute) }
            .map_err(|source| XicsError::Source { lisn, source })?;
        Ok(SourceState::from_bits(bits))
    }
}

fn source_attribute(lisn: u32, addr: u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_DEV_XICS_GRP_SOURCES,
        attr: lisn.into(),
        addr,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_starts_masked_with_no_priority() {
        assert_eq!(
            SourceState::reset(Trigger::Edge).to_bits(),
            0x0000_02ff_0000_0000
        );
        assert_eq!(
            SourceState::reset(Trigger::Level).to_bits(),
            0x0000_03ff_0000_0000
        );
    }

    proptest! {
        #[test]
        fn a_source_state_survives_packing(
            server: u32,
            priority: u8,
            level: bool,
            [masked, pending, presented, queued]: [bool; 4],
        ) {
            let trigger = if level { Trigger::Level } else { Trigger::Edge };
            let state = SourceState {
                server, priority, trigger, masked, pending, presented, queued,
            };
            prop_assert_eq!(SourceState::from_bits(state.to_bits()), state);
        }

        #[test]
        fn bits_beyond_the_fields_are_ignored(bits: u64) {
            let state = SourceState::from_bits(bits);
            prop_assert_eq!(state.to_bits(), bits & 0x0000_1fff_ffff_ffff);
        }
    }
}
