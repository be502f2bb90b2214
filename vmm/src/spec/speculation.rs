//! What a user wants the guest to be told of speculation: QEMU's `cap-cfpc`, `cap-sbbc`, `cap-ibs`,
//! `cap-ccf-assist`.

/// How safe a processor is from one kind of attack, the least safe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Safety {
    /// Not at all: the guest defends itself without the processor's help.
    Broken,
    /// With what the processor has for the guest's defence.
    Workaround,
    /// By itself: the guest need do nothing.
    Fixed,
}

/// How safe a processor is from attacks on the prediction of indirect branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchSafety {
    /// Not at all.
    Broken,
    /// The guest can flush the count cache, or the processor has something better.
    Workaround,
    /// Indirect branches are serialised.
    FixedIbs,
    /// The count cache is disabled.
    FixedCcd,
    /// There is nothing to defend.
    FixedNa,
}

/// What a user wants the guest to be told; what is `None` the guest is told as KVM knows it.
///
/// Less than KVM knows may be asked for, more never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of the L1 data cache (`cap-cfpc`; Meltdown, L1TF).
    pub cache: Option<Safety>,
    /// Of bounds checks (`cap-sbbc`; Spectre variant 1).
    pub bounds_checks: Option<Safety>,
    /// Of indirect branches (`cap-ibs`; Spectre variant 2).
    pub branches: Option<BranchSafety>,
    /// Of an instruction that flushes the count cache (`cap-ccf-assist`).
    pub flush_assist: Option<bool>,
}
