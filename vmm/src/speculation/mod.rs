//! What a guest is told of attacks that use speculation: which defences its processor has, and which
//! ones are left to the guest (H_GET_CPU_CHARACTERISTICS).
//!
//! KVM_PPC_GET_CPU_CHAR has these bits as the host's firmware gives them, and masks of those that it
//! knows; without firmware features in the host's device tree it knows none. A guest believes the
//! answer (Linux: `init_cpu_char_feature_flags` in arch/powerpc/platforms/pseries/setup.c), so a bit
//! that is unknown is answered by what makes the guest take care:
//!
//! | bits | if KVM does not know |
//! |---|---|
//! | [`characteristic`]: the processor has a defence | 0: not promised |
//! | [`behaviour::FAVOUR_SECURITY`]: use defences at all | always 1: a guest can do without by itself |
//! | [`behaviour::L1D_FLUSH_PR`], [`behaviour::BNDS_CHK_SPEC_BAR`]: a defence is needed that works on every processor | 1: needed |
//! | [`behaviour::NO_L1D_FLUSH_ENTRY`] and its kin: a defence is not needed | 0: not waived |
//! | [`behaviour::FLUSH_COUNT_CACHE`], [`behaviour::FLUSH_LINK_STACK`]: flush branch prediction by software | 0, see there |

mod wanted;

use spapr_kvm::vm::CpuCharacteristics;

use crate::spec::speculation::Wanted;
pub use wanted::NotPromised;

/// What the processor has (r4), as PAPR and Linux number the bits (H_CPU_CHAR_* in
/// arch/powerpc/include/asm/hvcall.h).
pub mod characteristic {
    /// `ori 31,31,0` is a speculation barrier.
    pub const SPEC_BAR_ORI31: u64 = 1 << 63;
    /// Indirect branches are serialised.
    pub const BCCTRL_SERIALISED: u64 = 1 << 62;
    /// `ori 30,30,0` flushes the L1 data cache.
    pub const L1D_FLUSH_ORI30: u64 = 1 << 61;
    /// A write to TRIG2 flushes the L1 data cache.
    pub const L1D_FLUSH_TRIG2: u64 = 1 << 60;
    /// Lines of the L1 data cache are private to a thread.
    pub const L1D_THREAD_PRIV: u64 = 1 << 59;
    /// The count cache, which predicts indirect branches, is disabled.
    pub const COUNT_CACHE_DISABLED: u64 = 1 << 56;
    /// `bcctr 2,0,0` flushes the count cache.
    pub const BCCTR_FLUSH_ASSIST: u64 = 1 << 54;
    /// `bcctr 2,0,0` flushes the link stack.
    pub const BCCTR_LINK_FLUSH_ASSIST: u64 = 1 << 52;
}

/// What the guest is to do (r5), as PAPR and Linux number the bits (H_CPU_BEHAV_*).
pub mod behaviour {
    /// Security goes before speed. Without it Linux puts up no defence, whatever the other bits say
    /// (`init_cpu_char_feature_flags` in arch/powerpc/platforms/pseries/setup.c).
    ///
    /// KVM reads a firmware that does not mention it as one that favours speed, and the host's kernel
    /// as one that favours security; so KVM's 0 is not taken for a choice.
    pub const FAVOUR_SECURITY: u64 = 1 << 63;
    /// The L1 data cache needs a flush on the way to user mode.
    pub const L1D_FLUSH_PR: u64 = 1 << 62;
    /// Bounds checks need a speculation barrier.
    pub const BNDS_CHK_SPEC_BAR: u64 = 1 << 61;
    /// The count cache needs to be flushed by software between processes.
    ///
    /// Only processors that the firmware has set up for it have anything to flush that way, and a guest
    /// that does it calls itself safe: asking for it without KVM's word would promise a defence that
    /// nobody knows to work. The host's kernel waits for the firmware's word, too.
    pub const FLUSH_COUNT_CACHE: u64 = 1 << 58;
    /// The link stack needs to be flushed by software between processes; Linux infers it from
    /// [`FLUSH_COUNT_CACHE`] and [`COUNT_CACHE_DISABLED`](super::characteristic::COUNT_CACHE_DISABLED),
    /// on the host as in the guest.
    pub const FLUSH_LINK_STACK: u64 = 1 << 57;
    /// The L1 data cache needs no flush on the way into the kernel.
    pub const NO_L1D_FLUSH_ENTRY: u64 = 1 << 56;
    /// The L1 data cache needs no flush after the kernel's accesses to user memory.
    pub const NO_L1D_FLUSH_UACCESS: u64 = 1 << 55;
    /// Changes of the privilege level need no store-forwarding barrier.
    pub const NO_STF_BARRIER: u64 = 1 << 54;

    /// What a guest needs unless KVM knows better; any processor can do it.
    pub(super) const NEEDED_UNLESS_KNOWN: u64 = L1D_FLUSH_PR | BNDS_CHK_SPEC_BAR;
}

/// What KVM knows of the host's processor; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// [`characteristic`] bits.
    pub characteristics: u64,
    /// Which of them mean something.
    pub characteristics_mask: u64,
    /// [`behaviour`] bits.
    pub behaviour: u64,
    /// Which of them mean something.
    pub behaviour_mask: u64,
}

impl From<CpuCharacteristics> for Known {
    fn from(facts: CpuCharacteristics) -> Self {
        Self {
            characteristics: facts.characteristics,
            characteristics_mask: facts.characteristics_mask,
            behaviour: facts.behaviour,
            behaviour_mask: facts.behaviour_mask,
        }
    }
}

impl Known {
    /// Whether the processor has this.
    const fn has(&self, characteristic: u64) -> bool {
        self.characteristics & self.characteristics_mask & characteristic != 0
    }

    /// Whether the guest has to do this.
    const fn needs(&self, behaviour: u64) -> bool {
        self.behaviour & self.behaviour_mask & behaviour != 0
    }

    /// Whether it is known that the guest need not do this.
    const fn needs_no(&self, behaviour: u64) -> bool {
        !self.behaviour & self.behaviour_mask & behaviour != 0
    }
}

/// The answer to H_GET_CPU_CHARACTERISTICS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// r4: [`characteristic`] bits.
    pub characteristics: u64,
    /// r5: [`behaviour`] bits.
    pub behaviour: u64,
}

impl Told {
    /// What a guest is told on such a host.
    pub const fn of(known: &Known) -> Self {
        let needed = behaviour::NEEDED_UNLESS_KNOWN & !known.behaviour_mask;
        Self {
            characteristics: known.characteristics & known.characteristics_mask,
            behaviour: known.behaviour & known.behaviour_mask | needed | behaviour::FAVOUR_SECURITY,
        }
    }

    /// What a guest is told on such a host if its user has `wanted` something.
    ///
    /// # Errors
    /// When KVM does not promise what is wanted.
    pub fn as_wanted(known: &Known, wanted: &Wanted) -> Result<Self, NotPromised> {
        wanted.check(known)?;
        let mut told = Self::of(known);
        wanted.apply(&mut told);
        Ok(told)
    }
}

#[cfg(test)]
mod tests;
