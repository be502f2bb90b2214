//! Values that a user picks by name: one table for the help, the errors and the readers of both programs.

use log::LevelFilter;
use spapr_devices::image::Format;
use spapr_devices::vfio::IommuPolicy;
use spapr_devices::virtio::disk::OnError;
use spapr_hypercalls::policy::{LockPolicy, TcePolicy};

use super::speculation::{BranchSafety, Safety};
use super::{Aio, CacheMode, DiskBus, HugepageSize, InterruptControllerMode};

/// A value, the name that a user has for it, and what help says of it.
#[derive(Debug)]
pub struct Choice<T: 'static> {
    /// What is typed.
    pub name: &'static str,
    /// What is meant.
    pub value: T,
    /// What it does; empty where the name says it.
    pub help: &'static str,
}

const fn choice<T>(name: &'static str, value: T, help: &'static str) -> Choice<T> {
    Choice { name, value, help }
}

/// Who serves the TCE hypercalls.
pub static TCE: [Choice<TcePolicy>; 3] = [
    choice(
        "auto",
        TcePolicy::Auto,
        "Wherever it is cheaper and safe: single entries in the kernel, ranges in this process, \
         scattered lists in the kernel if it checks where they end; all in this process when the \
         kernel cannot. A guest that changes one entry from two processors at once can make Linux \
         keep some of its memory locked after its end, until the host restarts; that is then \
         told, and ends in an error",
    ),
    choice(
        "kernel",
        TcePolicy::Kernel,
        "All in the kernel, as far as it can. For guests that you trust: before Linux 7, a guest \
         can write behind the kernel's tables with it",
    ),
    choice(
        "user",
        TcePolicy::User,
        "All in this process: dearer for single entries, and leaves a hostile guest no bug of the \
         kernel's handlers to use",
    ),
];

/// When guest memory is locked.
pub static LOCK: [Choice<LockPolicy>; 2] = [
    choice(
        "first-map",
        LockPolicy::FirstMap,
        "Region by region, when the guest first maps a page of it for DMA",
    ),
    choice(
        "attach",
        LockPolicy::Attach,
        "All of it, before the guest starts",
    ),
];

/// What a disk's image holds.
pub static DISK_FORMAT: [Choice<Format>; 2] = [
    choice("raw", Format::Raw, "The disk's bytes"),
    choice("qcow2", Format::Qcow2, "QEMU's format"),
];

/// What a guest finds a disk on.
pub static DISK_BUS: [Choice<DiskBus>; 2] = [
    choice("virtio", DiskBus::Virtio, "A virtio device of its own"),
    choice("scsi", DiskBus::Scsi, "A target of a SCSI controller"),
];

/// What becomes of what a guest writes to a disk.
pub static DISK_CACHE: [Choice<CacheMode>; 5] = [
    choice("none", CacheMode::None, "Past the host's page cache"),
    choice(
        "writeback",
        CacheMode::Writeback,
        "Through the host's page cache",
    ),
    choice(
        "writethrough",
        CacheMode::Writethrough,
        "Through the host's page cache, and on stable storage before the guest hears of it",
    ),
    choice(
        "directsync",
        CacheMode::Directsync,
        "Past the host's page cache, and on stable storage before the guest hears of it",
    ),
    choice(
        "unsafe",
        CacheMode::Unsafe,
        "Through the host's page cache, and flushed never: lost when the host crashes",
    ),
];

/// Whether a disk gives back blocks that the guest discards.
pub static DISK_DISCARD: [Choice<bool>; 2] = [
    choice("unmap", true, "They are given back to the host"),
    choice("ignore", false, "They stay"),
];

/// What is done when the host fails a disk's request, by QEMU's names.
pub static DISK_ERROR: [Choice<OnError>; 4] = [
    choice("report", OnError::Report, "The guest is told"),
    choice(
        "stop",
        OnError::Stop,
        "The guest is paused, and the request tried again when it goes on",
    ),
    choice(
        "enospc",
        OnError::Enospc,
        "As stop when the host has no room left, else as report",
    ),
    choice(
        "ignore",
        OnError::Ignore,
        "The guest is told that it was done",
    ),
];

/// Who does what is asked of a disk.
pub static DISK_AIO: [Choice<Aio>; 2] = [
    choice(
        "io_uring",
        Aio::IoUring,
        "The host's kernel, where it lets this process have io_uring",
    ),
    choice("threads", Aio::Threads, "A thread"),
];

/// Version of the VFIO container.
pub static IOMMU: [Choice<IommuPolicy>; 3] = [
    choice(
        "auto",
        IommuPolicy::Auto,
        "Version 2, or 1 where the host has no 2",
    ),
    choice(
        "v1",
        IommuPolicy::V1,
        "Version 1: every TCE call is served in this process, pages are locked one by one",
    ),
    choice(
        "v2",
        IommuPolicy::V2,
        "Version 2: memory is registered before it is mapped",
    ),
];

/// The guest's interrupt controller.
pub static INTERRUPT_CONTROLLER: [Choice<InterruptControllerMode>; 3] = [
    choice(
        "auto",
        InterruptControllerMode::Auto,
        "XIVE where the host can: KVM offers it (not in a nested host), and pages have 64 KiB. \
         Else XICS",
    ),
    choice(
        "xive",
        InterruptControllerMode::Xive,
        "XIVE, native exploitation mode: the guest takes and ends interrupts without hypercalls",
    ),
    choice("xics", InterruptControllerMode::Xics, "XICS, on any host"),
];

/// Sizes of huge pages.
pub static HUGEPAGES: [Choice<HugepageSize>; 2] = [
    choice("2M", HugepageSize::Size2M, "2 MiB"),
    choice("1G", HugepageSize::Size1G, "1 GiB"),
];

/// How safe a processor is from one kind of attack, by QEMU's names.
pub static SAFETY: [Choice<Safety>; 3] = [
    choice("broken", Safety::Broken, ""),
    choice("workaround", Safety::Workaround, ""),
    choice("fixed", Safety::Fixed, ""),
];

/// The same of attacks on the prediction of indirect branches.
pub static BRANCH_SAFETY: [Choice<BranchSafety>; 5] = [
    choice("broken", BranchSafety::Broken, ""),
    choice("workaround", BranchSafety::Workaround, ""),
    choice("fixed-ibs", BranchSafety::FixedIbs, ""),
    choice("fixed-ccd", BranchSafety::FixedCcd, ""),
    choice("fixed-na", BranchSafety::FixedNa, ""),
];

/// How much is logged.
pub static LOG: [Choice<LevelFilter>; 6] = [
    choice("off", LevelFilter::Off, "Nothing"),
    choice(
        "error",
        LevelFilter::Error,
        "What ends the VMM or a device's work",
    ),
    choice(
        "warn",
        LevelFilter::Warn,
        "What works less well than it could",
    ),
    choice("info", LevelFilter::Info, "What was set up, and how"),
    choice(
        "debug",
        LevelFilter::Debug,
        "Rare events, and what the guest asks for: hypercalls other than TCE calls, RTAS calls, \
         changes of configuration space; of each kind two a second at most",
    ),
    choice(
        "trace",
        LevelFilter::Trace,
        "Also reads of configuration space and accesses to BARs that are served here, of each \
         kind two a second at most",
    ),
];

/// The value that has this name, in letters of either case.
pub fn find<T: Copy>(choices: &[Choice<T>], name: &str) -> Option<T> {
    let mut choices = choices.iter();
    let found = choices.find(|choice| choice.name.eq_ignore_ascii_case(name));
    found.map(|choice| choice.value)
}

/// The name of a value; empty if it is no choice.
pub fn name_of<T: PartialEq>(choices: &[Choice<T>], value: &T) -> &'static str {
    let found = choices.iter().find(|choice| choice.value == *value);
    found.map_or("", |choice| choice.name)
}

/// All names, as a sentence has them: `auto, kernel or user`.
pub fn names<T>(choices: &[Choice<T>]) -> String {
    let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_value_and_no_other_does() {
        assert_eq!(find(&LOCK, "attach"), Some(LockPolicy::Attach));
        assert_eq!(find(&LOCK, "Attach"), Some(LockPolicy::Attach));
        assert_eq!(find(&LOCK, "attached"), None);
        assert_eq!(name_of(&LOCK, &LockPolicy::FirstMap), "first-map");
        assert_eq!(find(&TCE, ""), None);
    }

    #[test]
    fn names_are_listed_as_a_sentence_has_them() {
        assert_eq!(names(&TCE), "auto, kernel or user");
        assert_eq!(names(&LOCK), "first-map or attach");
        assert_eq!(names(&LOCK[..1]), "first-map");
    }
}
