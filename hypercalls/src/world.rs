//! What the engine needs of the world, as traits.
//!
//! The engine is generic over them: calls are direct, and tests put models in their place.

use std::io;
use std::time::Duration;

use crate::abi;
use crate::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba, Liobn, PageShift};
use crate::sync::AtomicU64;
use crate::tce::Permission;

/// A contiguous piece of this process' memory that backs guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    /// Where it starts.
    pub start: HostVirtualAddress,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A contiguous piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    /// Where it starts.
    pub start: GuestPhysicalAddress,
    /// Its length in bytes.
    pub bytes: u64,
}

impl GuestRange {
    /// Whether all of `bytes` bytes from `start` on are in it.
    pub fn contains(&self, start: GuestPhysicalAddress, bytes: u64) -> bool {
        let offset = start.0.checked_sub(self.start.0);
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        end.is_some_and(|end| end <= self.bytes)
    }
}

/// Guest RAM.
pub trait GuestMemory: Send + Sync {
    /// Copies `list.len()` big-endian doublewords starting at `address` into `list`, once, in
    /// host byte order.
    ///
    /// # Errors
    /// [`NotGuestRam`] when any byte of the range is no RAM; `list` may then be partly written.
    fn read_doublewords(
        &self,
        address: GuestPhysicalAddress,
        list: &mut [u64],
    ) -> Result<(), NotGuestRam>;

    /// Makes the pages of `range` of this process' memory present, as if all were written to, without
    /// changing what they hold; false when the host cannot. May take long.
    fn populate(&self, range: HostRange) -> bool;

    /// The host memory behind `address`, as far as it is contiguous; `None` when that byte is no
    /// RAM. Asked when the engine is made: it translates from its own table afterwards, in which
    /// RAM is already cut into the regions that are locked one by one.
    fn host_range(&self, address: GuestPhysicalAddress) -> Option<HostRange>;
}

/// An address that is no guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not guest RAM")]
pub struct NotGuestRam;

/// Where a DMA window lies on the bus and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// First bus address of the window in bytes.
    pub bus_offset: Ioba,
    /// Page size of an entry.
    pub page_shift: PageShift,
    /// Number of entries.
    pub entries: u64,
}

/// What an errno means, in words, with its number.
fn text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Why the host refused a request of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The host ran out of something: the locked-memory limit (RLIMIT_MEMLOCK), memory, or
    /// contiguous tables. The guest gets H_NOT_ENOUGH_RESOURCES, the only failure it acts on.
    #[error("out of resources: {}", text(*.0))]
    OutOfResources(i32),
    /// Any other refusal, with the errno.
    #[error("refused: {}", text(*.0))]
    Refused(i32),
}

/// The host's side of one PCI host bridge: a VFIO container with the bridge's IOMMU group, and
/// the KVM VM whose LIOBNs are bound to it.
///
/// Implementations log what a failure means in detail; the engine decides what the guest sees.
pub trait HostIommu: Send + Sync {
    /// The kernel's table for a LIOBN, as KVM_CREATE_SPAPR_TCE_64 makes it. Dropping it destroys
    /// the table, so that the guest's hypercalls for the LIOBN leave the kernel again.
    type KernelTable: KernelTable;

    /// Makes a window of the host's with `entries` pages of `page_shift`: at `place`, or without one where the
    /// host puts it, and gives where that is (VFIO_IOMMU_SPAPR_TCE_CREATE; a v1 container has one from the
    /// start).
    ///
    /// # Errors
    /// The host's refusal, or that it puts the window elsewhere; nothing has been made then.
    fn create_window(
        &self,
        page_shift: PageShift,
        entries: u64,
        place: Option<Ioba>,
    ) -> Result<Ioba, HostError>;

    /// Removes the window that starts at `bus_offset` with all that it maps
    /// (VFIO_IOMMU_SPAPR_TCE_REMOVE).
    ///
    /// # Errors
    /// The host's refusal.
    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError>;

    /// Why [`HostIommu::bind_kernel_table`] cannot succeed, whatever the window; `None` when it may.
    fn never_binds(&self) -> Option<BindRefusal>;

    /// Makes the kernel's table for `liobn` and binds it to the group
    /// (KVM_CREATE_SPAPR_TCE_64, then KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE). A table that cannot be
    /// bound is destroyed before this returns: KVM would swallow the guest's entries. It does so for
    /// a moment in any case, so this is called only while no processor can name the LIOBN.
    ///
    /// # Errors
    /// Why there is no in-kernel handling; the window is then served from user space.
    fn bind_kernel_table(
        &self,
        liobn: Liobn,
        geometry: Geometry,
    ) -> Result<Self::KernelTable, BindRefusal>;

    /// Whether memory must be registered before it is mapped: true of a v2 container. A v1
    /// container charges the limit once, when it is enabled, and pins page by page; the engine
    /// then neither registers nor counts regions. Asked once, when the engine is made.
    fn registers_memory(&self) -> bool;

    /// Locks `range` of this process' memory for DMA (VFIO_IOMMU_SPAPR_REGISTER_MEMORY). Never
    /// called when [`HostIommu::registers_memory`] is false.
    ///
    /// # Errors
    /// The host's refusal; nothing is locked then.
    fn register_memory(&self, range: HostRange) -> Result<(), HostError>;

    /// Undoes [`HostIommu::register_memory`] of exactly that range. No entry of any window may map
    /// a page of it: Linux 6.12 takes such a call and forgets the range, but keeps its pages pinned
    /// and charged (seen on the emulated host).
    ///
    /// # Errors
    /// The host's refusal.
    fn unregister_memory(&self, range: HostRange) -> Result<(), HostError>;

    /// Whether the host holds on to `range` although no container has it registered any more. Linux does
    /// when it has lost count of the mappings: two processors that change one entry of a bound window at the
    /// same moment can each count the other's page (`kvmppc_tce_iommu_do_map` in
    /// arch/powerpc/kvm/book3s_64_vio.c exchanges the entry and its note of the page one after the other,
    /// without a lock). The pages then stay pinned until the host restarts.
    fn holds_on_to(&self, range: HostRange) -> bool;

    /// Moves `range` of this process' memory, some bytes, to where it may stay for long, by registering its
    /// pages and unregistering them. Nothing of it is registered or mapped, nor will be while this runs. Never
    /// called when [`HostIommu::registers_memory`] is false. What cannot be moved stays where it is.
    fn settle(&self, range: HostRange);

    /// Maps `host` at bus address `ioba` (VFIO_IOMMU_MAP_DMA). Live entries are replaced. The
    /// range lies in one registered region.
    ///
    /// # Errors
    /// The host's refusal; what of the range is mapped then is not known, and the engine unmaps it.
    fn map(&self, ioba: Ioba, host: HostRange, permission: Permission) -> Result<(), HostError>;

    /// Clears `bytes` of entries at bus address `ioba` (VFIO_IOMMU_UNMAP_DMA). Entries that map
    /// nothing are no error.
    ///
    /// # Errors
    /// The host's refusal.
    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError>;
}

/// The guest's view of a LIOBN that the kernel keeps: the mmap of the table's file descriptor.
pub trait KernelTable: Send + Sync {
    /// The entries, host-endian, one for each page of the window.
    fn entries(&self) -> &[AtomicU64];
}

/// A hypercall that the kernel handles only when it is told to (KVM_CAP_PPC_ENABLE_HCALL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkCall {
    /// H_PUT_TCE_INDIRECT
    PutIndirect,
    /// H_STUFF_TCE
    Stuff,
}

impl BulkCall {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::PutIndirect, Self::Stuff];

    /// The hypercall's number.
    pub const fn number(self) -> u64 {
        match self {
            Self::PutIndirect => abi::H_PUT_TCE_INDIRECT,
            Self::Stuff => abi::H_STUFF_TCE,
        }
    }
}

/// The kernel's handlers of bulk calls, which can be enabled and disabled while the guest runs, for
/// all windows of the machine at once.
///
/// Not on a hypercall's way: it is used when the policy changes its mind.
pub trait KernelHandlers: Send {
    /// Has the kernel handle `call`, or leave it to user space. It affects calls that are made
    /// afterwards.
    ///
    /// # Errors
    /// The kernel's refusal; where the call is handled has not changed then.
    fn set_in_kernel(&mut self, call: BulkCall, in_kernel: bool) -> Result<(), HostError>;

    /// The time since any one moment.
    fn now(&self) -> Duration;

    /// Has [`Engine::take_back_calls`](crate::engine::Engine::take_back_calls) called after
    /// `delay`, in place of what was asked for before; `None` asks for nothing.
    fn wake_after(&mut self, delay: Option<Duration>);
}

/// Why a LIOBN is not handled in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindRefusal {
    /// In-kernel handling was not asked for (`--tce user`).
    #[error("not asked for")]
    NotAsked,
    /// The kernel does not offer KVM_CAP_SPAPR_TCE_64 and KVM_CAP_SPAPR_TCE_VFIO.
    #[error("this kernel's KVM cannot bind a LIOBN to an IOMMU group (KVM_CAP_SPAPR_TCE_VFIO)")]
    NoCapability,
    /// The host had no window for it when it could have been bound; it has one now, and is in use.
    #[error(
        "the host made its DMA window only after the guest could use it, and the kernel would lose \
         entries written meanwhile"
    )]
    InUse,
    /// A v1 container: the kernel handles TCEs for v2 containers alone (`kvmppc_tce_iommu_do_map`
    /// in arch/powerpc/kvm/book3s_64_vio.c).
    #[error("the container is of version 1, for which the kernel handles no TCEs")]
    ContainerV1,
    /// The host's window for it starts elsewhere: KVM binds what starts where such a window does
    /// (`kvm_spapr_tce_attach_iommu_group` in arch/powerpc/kvm/book3s_64_vio.c).
    #[error(
        "it lies inside a DMA window of the host's, and the kernel serves what is at its start"
    )]
    InsideAnother,
    /// KVM_CREATE_SPAPR_TCE_64 failed with this errno.
    #[error("KVM_CREATE_SPAPR_TCE_64 failed: {}", text(*.0))]
    TableRefused(i32),
    /// The table that was made has fewer entries than the window.
    #[error("the kernel's table has {0} entries, fewer than the window")]
    ShortTable(usize),
    /// KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE failed with this errno.
    #[error("KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE failed: {}", text(*.0))]
    SetSpaprTceRefused(i32),
}
