//! What a user wants the guest to be told, beside what KVM promises.

use super::{Known, Told, behaviour, characteristic};
use crate::spec::choice::{BRANCH_SAFETY, SAFETY, name_of};
use crate::spec::speculation::{BranchSafety, Safety, Wanted};

impl Safety {
    fn of_cache(known: &Known) -> Self {
        use characteristic::{L1D_FLUSH_ORI30, L1D_FLUSH_TRIG2, L1D_THREAD_PRIV};
        if known.needs_no(behaviour::L1D_FLUSH_PR) {
            Self::Fixed
        } else if known.has(L1D_THREAD_PRIV) && known.has(L1D_FLUSH_ORI30 | L1D_FLUSH_TRIG2) {
            Self::Workaround
        } else {
            Self::Broken
        }
    }

    fn of_bounds_checks(known: &Known) -> Self {
        if known.needs_no(behaviour::BNDS_CHK_SPEC_BAR) {
            Self::Fixed
        } else if known.has(characteristic::SPEC_BAR_ORI31) {
            Self::Workaround
        } else {
            Self::Broken
        }
    }
}

impl BranchSafety {
    fn is_promised(self, known: &Known) -> bool {
        use characteristic::{BCCTRL_SERIALISED, COUNT_CACHE_DISABLED};
        let remedies = BCCTRL_SERIALISED | COUNT_CACHE_DISABLED;
        let nothing_to_defend = known.needs_no(behaviour::FLUSH_COUNT_CACHE)
            && known.characteristics_mask & remedies == remedies
            && !known.has(remedies);
        match self {
            Self::Broken => true,
            Self::Workaround => {
                let flushes = known.needs(behaviour::FLUSH_COUNT_CACHE);
                flushes || known.has(remedies) || nothing_to_defend
            }
            Self::FixedIbs => known.has(BCCTRL_SERIALISED),
            Self::FixedCcd => known.has(COUNT_CACHE_DISABLED),
            Self::FixedNa => nothing_to_defend,
        }
    }
}

/// KVM does not promise what a guest is to be told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{option}={value}: this host's KVM does not promise {promise}; leave {option} out, and \
     the guest is told what KVM promises and no more"
)]
pub struct NotPromised {
    option: &'static str,
    value: &'static str,
    promise: &'static str,
}

impl Wanted {
    /// Checks that no more is wanted than KVM knows.
    pub(super) fn check(&self, known: &Known) -> Result<(), NotPromised> {
        let refusal = |option, value, promise| NotPromised {
            option,
            value,
            promise,
        };
        if let Some(cache) = self.cache
            && cache > Safety::of_cache(known)
        {
            let promise = match cache {
                Safety::Fixed => "that the L1 data cache needs no flush",
                _ => "a way to flush the L1 data cache",
            };
            return Err(refusal("cap-cfpc", name_of(&SAFETY, &cache), promise));
        }
        if let Some(checks) = self.bounds_checks
            && checks > Safety::of_bounds_checks(known)
        {
            let promise = match checks {
                Safety::Fixed => "that bounds checks need no speculation barrier",
                _ => "a speculation barrier",
            };
            return Err(refusal("cap-sbbc", name_of(&SAFETY, &checks), promise));
        }
        if let Some(branches) = self.branches
            && !branches.is_promised(known)
        {
            let promise = match branches {
                BranchSafety::Broken | BranchSafety::FixedNa => {
                    "that indirect branches need no defence"
                }
                BranchSafety::Workaround => "that a flush of the count cache works",
                BranchSafety::FixedIbs => "that indirect branches are serialised",
                BranchSafety::FixedCcd => "that the count cache is disabled",
            };
            let value = name_of(&BRANCH_SAFETY, &branches);
            return Err(refusal("cap-ibs", value, promise));
        }
        if self.flush_assist == Some(true) && !known.has(characteristic::BCCTR_FLUSH_ASSIST) {
            let promise = "an instruction that flushes the count cache";
            return Err(refusal("cap-ccf-assist", "on", promise));
        }
        Ok(())
    }

    /// Takes from `told` what goes beyond what is wanted. Defences that KVM asks for stay.
    pub(super) fn apply(&self, told: &mut Told) {
        use behaviour::{NO_L1D_FLUSH_ENTRY, NO_L1D_FLUSH_UACCESS, NO_STF_BARRIER};
        use characteristic::{
            BCCTR_FLUSH_ASSIST, BCCTR_LINK_FLUSH_ASSIST, BCCTRL_SERIALISED, COUNT_CACHE_DISABLED,
            L1D_FLUSH_ORI30, L1D_FLUSH_TRIG2, L1D_THREAD_PRIV, SPEC_BAR_ORI31,
        };
        if let Some(cache) = self.cache {
            if cache < Safety::Fixed {
                told.behaviour |= behaviour::L1D_FLUSH_PR;
                told.behaviour &= !(NO_L1D_FLUSH_ENTRY | NO_L1D_FLUSH_UACCESS | NO_STF_BARRIER);
            }
            if cache == Safety::Broken {
                told.characteristics &= !(L1D_FLUSH_ORI30 | L1D_FLUSH_TRIG2 | L1D_THREAD_PRIV);
            }
        }
        if let Some(checks) = self.bounds_checks {
            if checks < Safety::Fixed {
                told.behaviour |= behaviour::BNDS_CHK_SPEC_BAR;
            }
            if checks == Safety::Broken {
                told.characteristics &= !SPEC_BAR_ORI31;
            }
        }
        if let Some(branches) = self.branches {
            told.characteristics &= !match branches {
                BranchSafety::Broken => BCCTRL_SERIALISED | COUNT_CACHE_DISABLED,
                BranchSafety::FixedIbs => COUNT_CACHE_DISABLED,
                BranchSafety::FixedCcd => BCCTRL_SERIALISED,
                BranchSafety::Workaround | BranchSafety::FixedNa => 0,
            };
        }
        if self.flush_assist == Some(false) {
            told.characteristics &= !(BCCTR_FLUSH_ASSIST | BCCTR_LINK_FLUSH_ASSIST);
        }
    }
}
