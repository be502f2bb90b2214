//! What the user chooses, as data: how TCE hypercalls are served and when memory is locked.

pub(crate) mod adaptive;

use std::fmt;
use std::str::FromStr;

use crate::locking::RegionSize;

/// Who serves the TCE hypercalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcePolicy {
    /// Whoever is cheaper for what the guest does, and safe: single entries in the kernel where it can,
    /// bulk calls in user space, coalesced; short and scattered lists in the kernel, if it has been shown
    /// to check where their range ends.
    #[default]
    Auto,
    /// The kernel, bulk calls included; what it cannot do falls back to user space. For trusted guests:
    /// before Linux 7, the kernel does not check where a bulk call's range ends.
    Kernel,
    /// User space alone.
    User,
}

impl TcePolicy {
    /// Every policy, by the name it has on the command line.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("kernel", Self::Kernel),
        ("user", Self::User),
    ];

    /// Whether a window's LIOBN is to be bound to the IOMMU group through a kernel table.
    pub const fn binds_kernel_table(self) -> bool {
        !matches!(self, Self::User)
    }

    /// Whether H_PUT_TCE_INDIRECT and H_STUFF_TCE are enabled in the kernel
    /// (KVM_CAP_PPC_ENABLE_HCALL) from the start and for good.
    pub const fn bulk_calls_in_kernel(self) -> bool {
        matches!(self, Self::Kernel)
    }

    /// Whether lists may be handed over to the kernel and taken back while the guest runs.
    pub const fn adapts_bulk_calls(self) -> bool {
        matches!(self, Self::Auto)
    }
}

/// When guest memory is locked for DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LockPolicy {
    /// Region by region, as the guest first maps a page of each.
    #[default]
    FirstMap,
    /// All of it before the guest runs.
    Attach,
}

impl LockPolicy {
    /// Every policy, by the name it has on the command line.
    pub const NAMES: [(&'static str, Self); 2] =
        [("first-map", Self::FirstMap), ("attach", Self::Attach)];
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not one of {choices}")]
pub struct UnknownPolicy {
    name: String,
    choices: &'static str,
}

macro_rules! named {
    ($policy:ty, $choices:literal) => {
        impl FromStr for $policy {
            type Err = UnknownPolicy;

            fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
                match Self::NAMES.iter().find(|(known, _)| *known == name) {
                    Some((_, policy)) => Ok(*policy),
                    None => Err(UnknownPolicy {
                        name: name.to_owned(),
                        choices: $choices,
                    }),
                }
            }
        }

        impl fmt::Display for $policy {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let known = Self::NAMES.iter().find(|(_, policy)| policy == self);
                f.write_str(known.map_or("?", |(name, _)| name))
            }
        }
    };
}

named!(TcePolicy, "auto, kernel, user");
named!(LockPolicy, "first-map, attach");

/// All that the engine is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who serves the calls.
    pub tce: TcePolicy,
    /// When memory is locked.
    pub lock: LockPolicy,
    /// How large the pieces are in which memory is locked; `None` chooses by the size of RAM
    /// ([`RegionSize::for_ram`]).
    pub region: Option<RegionSize>,
    /// How much is locked at once of a region that is not present yet; `None`, or what is no smaller
    /// than a region: all of it.
    pub block: Option<RegionSize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_back_the_names_they_print() {
        for (name, policy) in TcePolicy::NAMES {
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.to_string(), name);
        }
        for (name, policy) in LockPolicy::NAMES {
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.to_string(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_choices() {
        let error = "never".parse::<LockPolicy>().unwrap_err();
        assert_eq!(error.to_string(), "`never` is not one of first-map, attach");
    }
}
