//! How much memory this process may lock, how much it has locked, and how much DMA will need.
//!
//! The kernel charges DMA to RLIMIT_MEMLOCK in whole pages (`account_locked_vm` in mm/util.c):
//! the guest memory a v2 container registers, the TCE tables of its windows, and KVM's table of
//! each window; for a v1 container the whole default window at once, whatever the guest uses.

use std::fs;
use std::io;

use spapr_hypercalls::address::PageShift;

use super::preflight::Platform;

/// CAP_IPC_LOCK (include/uapi/linux/capability.h): the limit does not bind its holder.
const CAP_IPC_LOCK: u32 = 14;

/// The kernel's record of a KVM TCE table, without its list of pages: `struct
/// kvmppc_spapr_tce_table` in arch/powerpc/include/asm/kvm_host.h of Linux 6.12.
const KVM_TABLE_RECORD_BYTES: u64 = 120;

/// Bytes in a TCE.
const TCE_BYTES: u64 = 8;

/// This process' limit on locked memory, and how far it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// RLIMIT_MEMLOCK in bytes, the soft limit; `None` when there is none.
    pub limit_bytes: Option<u64>,
    /// Bytes locked now (`VmLck` in /proc/self/status).
    pub locked_bytes: u64,
    /// Whether the limit does not bind this process, because it holds CAP_IPC_LOCK.
    pub exempt: bool,
}

/// Why memory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum MemoryLimitError {
    /// The limit does not allow what is needed.
    #[error(
        "DMA needs {needed} bytes of locked memory, but only {available} bytes are available \
         (RLIMIT_MEMLOCK is {limit} bytes, of which {locked} are in use). Set the limit to \
         {enough} bytes, which is enough for whatever this guest maps for DMA: {}",
        remedies(*.enough)
    )]
    TooLow {
        /// Bytes to be locked.
        needed: u64,
        /// Bytes that may still be locked.
        available: u64,
        /// The limit in bytes.
        limit: u64,
        /// Bytes locked already.
        locked: u64,
        /// The limit to set, in bytes: enough for all that the guest can come to lock.
        enough: u64,
    },
    /// The limit itself cannot be read.
    #[error("cannot read the limit on locked memory (RLIMIT_MEMLOCK)")]
    Limit(#[source] io::Error),
    /// The kernel's account of this process cannot be read.
    #[error("cannot read {path}; is /proc mounted?")]
    Status {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's account of this process lacks a field.
    #[error("/proc/self/status has no readable field {0}")]
    Field(&'static str),
}

/// The ways to set the limit to `bytes`, in the units each of them takes.
fn remedies(bytes: u64) -> String {
    let kib = bytes.div_ceil(1024);
    format!(
        "`ulimit -l {kib}` in the shell (as root: `prlimit --memlock={bytes} --pid $$`); for good, \
         a line `USER - memlock {kib}` in /etc/security/limits.conf; for a systemd service \
         LimitMEMLOCK={bytes}; under libvirt `virsh memtune DOMAIN --hard-limit {kib}`"
    )
}

impl MemoryLimit {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When /proc is not there or not as the kernel writes it.
    pub fn current() -> Result<Self, MemoryLimitError> {
        let status = read("/proc/self/status")?;
        let user_map = read("/proc/self/uid_map")?;
        Ok(Self {
            limit_bytes: soft_limit()?,
            ..Self::from_status(&status, &user_map)?
        })
    }

    /// What /proc/self/status and /proc/self/uid_map tell, with no limit set.
    fn from_status(status: &str, user_map: &str) -> Result<Self, MemoryLimitError> {
        let locked_kib: u64 = field(status, "VmLck:")
            .and_then(|value| value.strip_suffix("kB")?.trim().parse().ok())
            .ok_or(MemoryLimitError::Field("VmLck"))?;
        let capabilities = field(status, "CapEff:")
            .and_then(|value| u64::from_str_radix(value, 16).ok())
            .ok_or(MemoryLimitError::Field("CapEff"))?;
        Ok(Self {
            limit_bytes: None,
            locked_bytes: locked_kib.saturating_mul(1024),
            exempt: capabilities & (1 << CAP_IPC_LOCK) != 0 && is_initial_namespace(user_map),
        })
    }

    /// Bytes that may still be locked; `None` when there is no bound.
    pub fn available_bytes(&self) -> Option<u64> {
        if self.exempt {
            return None;
        }
        self.limit_bytes
            .map(|limit| limit.saturating_sub(self.locked_bytes))
    }

    /// Whether `needed` more bytes may be locked.
    pub fn allows(&self, needed: u64) -> bool {
        self.available_bytes()
            .is_none_or(|available| available >= needed)
    }

    /// Whether `needed` more bytes may be locked. A refusal names one limit to set, `enough` bytes,
    /// whatever is short at the moment: a limit raised by just that would be short again at the
    /// guest's next step.
    ///
    /// # Errors
    /// [`MemoryLimitError::TooLow`], which says what is needed, what there is, and how to raise
    /// the limit.
    pub fn check(&self, needed: u64, enough: u64) -> Result<(), MemoryLimitError> {
        match (self.available_bytes(), self.limit_bytes) {
            (Some(available), Some(limit)) if available < needed => Err(MemoryLimitError::TooLow {
                needed,
                available,
                limit,
                locked: self.locked_bytes,
                enough: enough.max(self.locked_bytes.saturating_add(needed)),
            }),
            _ => Ok(()),
        }
    }
}

fn read(path: &'static str) -> Result<String, MemoryLimitError> {
    fs::read_to_string(path).map_err(|source| MemoryLimitError::Status { path, source })
}

fn soft_limit() -> Result<Option<u64>, MemoryLimitError> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit fills the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0 {
        return Err(MemoryLimitError::Limit(io::Error::last_os_error()));
    }
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// The kernel asks for the capability in the initial user namespace; one held in another, such as
/// a rootless container's, does not count. The initial namespace maps every id to itself.
fn is_initial_namespace(user_map: &str) -> bool {
    user_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What the kernel will lock for DMA, in bytes, by what it locks it for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockedMemoryNeed {
    /// Guest memory registered with a v2 container (counted once, however many containers
    /// register it), or a v1 container's whole default window.
    pub memory_bytes: u64,
    /// The host's TCE tables and the copies it keeps of them.
    pub host_table_bytes: u64,
    /// KVM's tables for the guest's view.
    pub kvm_table_bytes: u64,
}

impl LockedMemoryNeed {
    /// What a v2 container locks for `ram_bytes` of registered memory, before any window.
    pub fn v2(ram_bytes: u64) -> Self {
        Self {
            memory_bytes: ram_bytes,
            ..Self::default()
        }
    }

    /// What a v1 container locks: its default window of `window_bytes` when it is enabled, and
    /// that window's table of 4 KiB pages with the first mapping (`tce_iommu_enable` and
    /// `tce_iommu_create_default_window` in drivers/vfio/vfio_iommu_spapr_tce.c).
    pub fn v1(window_bytes: u64, host_page_bytes: u64, platform: Platform) -> Self {
        Self {
            memory_bytes: window_bytes,
            host_table_bytes: host_table_bytes(
                PageShift::SIZE_4K,
                window_bytes,
                1,
                host_page_bytes,
                platform,
            ),
            kvm_table_bytes: 0,
        }
    }

    /// Adds a window of a v2 container, and KVM's table for it when there is one.
    #[must_use]
    pub fn with_window(
        mut self,
        page: PageShift,
        window_bytes: u64,
        levels: u32,
        in_kernel: bool,
        host_page_bytes: u64,
        platform: Platform,
    ) -> Self {
        self.host_table_bytes = self.host_table_bytes.saturating_add(host_table_bytes(
            page,
            window_bytes,
            levels,
            host_page_bytes,
            platform,
        ));
        if in_kernel {
            let entries = window_bytes >> page.get();
            self.kvm_table_bytes = self
                .kvm_table_bytes
                .saturating_add(kvm_table_bytes(entries, host_page_bytes));
        }
        self
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.memory_bytes
            .saturating_add(self.host_table_bytes)
            .saturating_add(self.kvm_table_bytes)
    }
}

/// What the kernel charges for the host's TCE table of a window, in bytes. On bare metal, the tables of all
/// `levels` as if each were full, twice, for user space's addresses are kept beside the hardware's
/// (`pnv_pci_ioda2_get_table_size` in arch/powerpc/platforms/powernv/pci-ioda.c). In an LPAR, where the hypervisor
/// has the table, its entries once (`spapr_tce_get_table_size` in arch/powerpc/platforms/pseries/iommu.c), in whole
/// pages.
///
/// `window_bytes` is a power of two and `levels` is 1 to 5; the kernel makes no other window.
pub fn host_table_bytes(
    page: PageShift,
    window_bytes: u64,
    levels: u32,
    host_page_bytes: u64,
    platform: Platform,
) -> u64 {
    let entries = (window_bytes >> page.get()).max(1);
    if platform == Platform::Lpar {
        let bytes = entries.saturating_mul(TCE_BYTES);
        return bytes - bytes % host_page_bytes.max(1);
    }
    let index_bits = entries.ilog2().div_ceil(levels.max(1));
    let level_bytes = (TCE_BYTES << index_bits).max(host_page_bytes);
    let mut level_total = entries.saturating_mul(TCE_BYTES).max(4096);
    let mut bytes = 0u64;
    for _ in 0..levels.max(1) {
        let tables = level_total.div_ceil(level_bytes);
        bytes = bytes.saturating_add(tables.saturating_mul(level_bytes));
        level_total = (level_total / level_bytes)
            .saturating_mul(TCE_BYTES)
            .max(level_bytes);
    }
    bytes.saturating_mul(2)
}

/// What the kernel charges for KVM's table of a window of `entries` pages, in bytes: the entries
/// and its list of the pages that hold them (`kvmppc_stt_pages` in
/// arch/powerpc/kvm/book3s_64_vio.c).
pub fn kvm_table_bytes(entries: u64, host_page_bytes: u64) -> u64 {
    let pages = entries
        .saturating_mul(TCE_BYTES)
        .div_ceil(host_page_bytes.max(1));
    let record = pages
        .saturating_mul(8)
        .saturating_add(KVM_TABLE_RECORD_BYTES);
    pages
        .saturating_add(record.div_ceil(host_page_bytes.max(1)))
        .saturating_mul(host_page_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Platform::{BareMetal, Lpar};
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const STATUS: &str = "Name:\tx\nVmLck:\t    6208 kB\nCapEff:\t0000000000004000\n";
    const INITIAL: &str = "         0          0 4294967295\n";

    #[test]
    fn the_kernels_account_of_a_process_is_read() {
        let limit = MemoryLimit::from_status(STATUS, INITIAL).unwrap();
        assert_eq!(limit.locked_bytes, 6208 * 1024);
        assert!(limit.exempt);
        let rootless = MemoryLimit::from_status(STATUS, "0 1000 1\n").unwrap();
        assert!(!rootless.exempt);
        let plain = STATUS.replace("4000", "0000");
        assert!(!MemoryLimit::from_status(&plain, INITIAL).unwrap().exempt);
        let error = MemoryLimit::from_status("CapEff:\t0\n", INITIAL).unwrap_err();
        assert!(error.to_string().contains("VmLck"));
    }

    #[test]
    fn this_process_has_a_limit_that_can_be_read() {
        let limit = MemoryLimit::current().unwrap();
        assert!(limit.check(0, 0).is_ok());
    }

    #[test]
    fn an_lpar_is_charged_each_entry_once_and_whole_pages() {
        let table = |page, bytes| host_table_bytes(page, bytes, 1, 65536, Lpar);
        assert_eq!(table(PageShift::SIZE_4K, GIB), 2 * MIB);
        assert_eq!(table(PageShift::SIZE_64K, GIB), 128 << 10);
        assert_eq!(table(PageShift::SIZE_64K, 256 * MIB), 0, "half a page");
    }

    #[test]
    fn a_limit_too_low_is_told_in_bytes_with_every_way_to_raise_it() {
        let limit = MemoryLimit {
            limit_bytes: Some(8 * MIB),
            locked_bytes: 3 * MIB,
            exempt: false,
        };
        assert!(limit.allows(5 * MIB) && limit.check(5 * MIB, GIB).is_ok());
        assert!(!limit.allows(5 * MIB + 1));
        let refusal = |enough| limit.check(5 * MIB + 1, enough).unwrap_err().to_string();
        let message = refusal(0);
        for part in [
            "needs 5242881 bytes",
            "only 5242880 bytes are available",
            "RLIMIT_MEMLOCK is 8388608 bytes",
            "3145728 are in use",
            "Set the limit to 8388609 bytes",
            "ulimit -l 8193",
            "/etc/security/limits.conf",
            "LimitMEMLOCK=8388609",
            "--hard-limit 8193",
        ] {
            assert!(message.contains(part), "{part:?} in {message:?}");
        }
        // What is enough for all is what is named, whatever is short now.
        let message = refusal(GIB);
        for part in [
            "needs 5242881 bytes",
            "Set the limit to 1073741824 bytes",
            "ulimit -l 1048576`",
            "LimitMEMLOCK=1073741824",
        ] {
            assert!(message.contains(part), "{part:?} in {message:?}");
        }
        assert!(!message.contains("8388609"), "{message}");
    }

    #[test]
    fn no_limit_and_no_duty_to_keep_it_allow_everything() {
        let mut limit = MemoryLimit {
            limit_bytes: None,
            locked_bytes: GIB,
            exempt: false,
        };
        assert_eq!(limit.available_bytes(), None);
        assert!(limit.check(u64::MAX, 0).is_ok());
        limit.limit_bytes = Some(0);
        assert!(limit.check(1, 0).is_err());
        limit.exempt = true;
        assert!(limit.check(u64::MAX, 0).is_ok());
    }

    /// Seen on a POWER9 host with 64 KiB pages as VmLck after each step.
    #[test]
    fn tables_of_the_default_window_cost_what_the_kernel_was_seen_to_charge() {
        let page = PageShift::SIZE_4K;
        assert_eq!(
            host_table_bytes(page, GIB, 1, 65536, BareMetal),
            4096 * 1024
        );
        assert_eq!(kvm_table_bytes(GIB >> 12, 65536), (6208 - 4096) * 1024);
        let need =
            LockedMemoryNeed::v2(256 * MIB).with_window(page, GIB, 1, true, 65536, BareMetal);
        assert_eq!(need.total_bytes(), 268_352 * 1024);
    }

    #[test]
    fn a_table_of_several_levels_costs_its_upper_levels_too() {
        // 2^19 entries: 4 MiB in one level; in two levels of 2^10 entries, 8 KiB each, rounded
        // up to pages of 64 KiB.
        let one = host_table_bytes(PageShift::SIZE_64K, 32 * GIB, 1, 65536, BareMetal);
        let two = host_table_bytes(PageShift::SIZE_64K, 32 * GIB, 2, 65536, BareMetal);
        assert_eq!(one, 2 * 4 * MIB);
        assert_eq!(two, 2 * (4 * MIB + 65536));
    }

    #[test]
    fn a_v1_container_locks_its_whole_window() {
        let need = LockedMemoryNeed::v1(2 * GIB, 65536, BareMetal);
        assert_eq!(need.total_bytes(), 2 * GIB + 8 * MIB);
    }

    proptest! {
        #[test]
        fn no_window_makes_the_arithmetic_overflow(
            shift in 12u8..=34, bytes: u64, levels in 0u32..=6, entries: u64,
        ) {
            let page = PageShift::new(shift).unwrap();
            prop_assert!(host_table_bytes(page, bytes, levels, 4096, BareMetal) >= 8192);
            prop_assert!(kvm_table_bytes(entries, 65536) >= 65536);
        }
    }
}
