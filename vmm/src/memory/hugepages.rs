//! Huge pages of the host, as backing of guest memory.
//!
//! With them a DMA window can have pages of 2 MiB: fewer entries, smaller tables, fewer misses of
//! the IOMMU's cache. The kernel maps an IOMMU page only to memory whose own pages are as large
//! (`mm_iommu_ua_to_hpa` in arch/powerpc/mm/book3s64/iommu_api.c), and counts only pages of
//! hugetlbfs as that; transparent huge pages do not do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use spapr_hypercalls::address::PageShift;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

use super::shared;
use crate::spec::{ByteSize, HugepageSize};

/// Where the kernel keeps its pools of huge pages.
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// Why there is no guest memory in huge pages.
#[derive(Debug, thiserror::Error)]
pub enum HugepageError {
    /// The host has no pages of the size.
    #[error("this host has no huge pages of {size}; it has {has}")]
    NoSuchSize {
        /// The size asked for.
        size: ByteSize,
        /// The sizes there are.
        has: String,
    },
    /// Not a whole number of pages.
    #[error(
        "guest memory of {memory} is not a multiple of its huge pages of {size}; {next} would be"
    )]
    Unaligned {
        /// Size of guest memory.
        memory: ByteSize,
        /// Size of the pages.
        size: ByteSize,
        /// The next larger size that would do.
        next: ByteSize,
    },
    /// The pool has too few.
    #[error(
        "guest memory of {memory} needs {needed} huge pages of {size}, and {free} of the host's \
         {total} are free; get more as root with `echo {} > {}/nr_hugepages`{}",
        total + needed.saturating_sub(*free), pool.display(), at_boot(*size)
    )]
    TooFew {
        /// Size of guest memory.
        memory: ByteSize,
        /// Size of the pages.
        size: ByteSize,
        /// Pages needed.
        needed: u64,
        /// Pages that nobody uses or has reserved.
        free: u64,
        /// All pages of the pool.
        total: u64,
        /// The pool's folder.
        pool: PathBuf,
    },
    /// The pool's numbers cannot be read.
    #[error("cannot read the host's huge pages from {}", path.display())]
    Pool {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not map them.
    #[error("cannot map {memory} of guest memory in huge pages of {size}")]
    Map {
        /// Size of guest memory.
        memory: ByteSize,
        /// Size of the pages.
        size: ByteSize,
        /// Why.
        source: MmapRegionError,
    },
    /// They are not there when they are needed.
    #[error(
        "cannot get {memory} of guest memory in huge pages of {size}, though the host has as many: \
         look for a limit of this process' control group (hugetlb.{size}B.max)"
    )]
    Populate {
        /// Size of guest memory.
        memory: ByteSize,
        /// Size of the pages.
        size: ByteSize,
        /// Why.
        source: io::Error,
    },
}

/// Pages of 1 GiB are seldom to be had once the host has run for a while.
fn at_boot(size: ByteSize) -> String {
    if size == HugepageSize::Size1G.bytes() {
        ", or at boot with `hugepagesz=1G hugepages=NUMBER` on the host kernel's command line"
            .to_owned()
    } else {
        String::new()
    }
}

impl HugepageSize {
    /// The size.
    pub const fn page(self) -> PageShift {
        match self {
            Self::Size2M => PageShift::SIZE_2M,
            Self::Size1G => PageShift::SIZE_1G,
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> ByteSize {
        ByteSize(self.page().bytes())
    }

    /// Maps `memory` of guest memory in pages of this size, all of them there:
    /// a host that has too few says so now, and not with a signal when the guest touches one. Others can be given
    /// it, by a descriptor, if it `is_shared`.
    ///
    /// # Errors
    /// How many are missing and how to get them.
    pub fn map(self, memory: ByteSize, is_shared: bool) -> Result<MmapRegion, HugepageError> {
        self.map_from(memory, is_shared, Path::new(POOLS))
    }

    fn map_from(
        self,
        memory: ByteSize,
        is_shared: bool,
        pools: &Path,
    ) -> Result<MmapRegion, HugepageError> {
        let size = self.bytes();
        if !memory.0.is_multiple_of(size.0) {
            let next = ByteSize(memory.0.next_multiple_of(size.0));
            return Err(HugepageError::Unaligned { memory, size, next });
        }
        let pool = Pool::find(pools, size)?;
        let length = usize::try_from(memory.0).unwrap_or(usize::MAX);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let refusal = |source| {
            pool.shortage(memory).unwrap_or(HugepageError::Map {
                memory,
                size,
                source,
            })
        };
        let (file, kind) = if is_shared {
            let file = shared::file(memory, Some(self));
            let file = file.map_err(|source| refusal(MmapRegionError::Mmap(source)))?;
            (Some(FileOffset::new(file, 0)), libc::MAP_SHARED)
        } else {
            let page = i32::try_from(self.page().get()).unwrap_or(0) << libc::MAP_HUGE_SHIFT;
            (
                None,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | page,
            )
        };
        // Not MAP_NORESERVE: the kernel sets the pages aside now.
        let region = MmapRegion::build(file, length, protection, kind).map_err(refusal)?;
        populate(region.as_ptr(), region.size()).map_err(|source| {
            pool.shortage(memory).unwrap_or(HugepageError::Populate {
                memory,
                size,
                source,
            })
        })?;
        Ok(region)
    }
}

/// Makes pages of this process present, as if all were written to (madvise(2)).
///
/// # Errors
/// What the kernel says: some may be present then. Before Linux 5.14 it knows no such advice
/// (MADV_POPULATE_WRITE in mm/madvise.c).
pub(crate) fn populate(start: *mut u8, length: usize) -> io::Result<()> {
    // SAFETY: the call makes pages present and changes nothing in them; where there is no mapping that may
    // be written, it fails.
    let result = unsafe { libc::madvise(start.cast(), length, libc::MADV_POPULATE_WRITE) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Size in bytes of the pages of the hugetlbfs that `path` is in; `None` when it is in another file
/// system.
///
/// # Errors
/// When the file system cannot be asked.
pub fn page_bytes_of_mount(path: &Path) -> io::Result<Option<u64>> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut facts = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the name ends with a zero byte and the pointer is good for one statfs.
    if unsafe { libc::statfs(name.as_ptr(), facts.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statfs succeeded, so it filled the struct.
    let facts = unsafe { facts.assume_init() };
    let is_hugetlbfs = i128::from(facts.f_type) == i128::from(libc::HUGETLBFS_MAGIC);
    Ok(is_hugetlbfs
        .then(|| u64::try_from(facts.f_bsize).ok())
        .flatten())
}

/// The host's pool of pages of one size.
#[derive(Debug)]
struct Pool {
    folder: PathBuf,
    size: ByteSize,
    free: u64,
    total: u64,
}

impl Pool {
    fn find(pools: &Path, size: ByteSize) -> Result<Self, HugepageError> {
        let folder = pools.join(format!("hugepages-{}kB", size.0 >> 10));
        if !folder.is_dir() {
            let has = sizes(pools);
            return Err(HugepageError::NoSuchSize { size, has });
        }
        let free = read(&folder, "free_hugepages")?;
        let reserved = read(&folder, "resv_hugepages")?;
        Ok(Self {
            free: free.saturating_sub(reserved),
            total: read(&folder, "nr_hugepages")?,
            folder,
            size,
        })
    }

    /// The error to report if there were too few pages for `memory`.
    fn shortage(&self, memory: ByteSize) -> Option<HugepageError> {
        let needed = memory.0 / self.size.0;
        (self.free < needed).then(|| HugepageError::TooFew {
            memory,
            size: self.size,
            needed,
            free: self.free,
            total: self.total,
            pool: self.folder.clone(),
        })
    }
}

fn read(folder: &Path, name: &str) -> Result<u64, HugepageError> {
    let path = folder.join(name);
    let number = fs::read_to_string(&path).and_then(|text| {
        let parsed = text.trim().parse();
        parsed.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
    });
    number.map_err(|source| HugepageError::Pool { path, source })
}

/// The sizes of huge pages that there are, for a message.
fn sizes(pools: &Path) -> String {
    let mut sizes: Vec<u64> = fs::read_dir(pools)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let kib = name.to_str()?.strip_prefix("hugepages-")?;
            kib.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    if sizes.is_empty() {
        return "none of any size: its kernel or processor does not offer them".to_owned();
    }
    let sizes: Vec<_> = sizes
        .into_iter()
        .map(|kib| ByteSize(kib << 10).to_string())
        .collect();
    sizes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(pools: &[(u64, [u64; 3])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (kib, [total, free, reserved]) in pools {
            let pool = folder.path().join(format!("hugepages-{kib}kB"));
            fs::create_dir(&pool).unwrap();
            for (name, number) in [
                ("nr_hugepages", total),
                ("free_hugepages", free),
                ("resv_hugepages", reserved),
            ] {
                fs::write(pool.join(name), format!("{number}\n")).unwrap();
            }
        }
        folder
    }

    #[test]
    fn too_few_pages_are_told_with_how_many_and_how_to_get_them() {
        let folder = pools(&[(2048, [100, 60, 10])]);
        let pool = Pool::find(folder.path(), HugepageSize::Size2M.bytes()).unwrap();
        assert!(pool.shortage(ByteSize(100 << 20)).is_none());
        let message = pool.shortage(ByteSize(4 << 30)).unwrap().to_string();
        for part in [
            "4G needs 2048 huge pages of 2M",
            "50 of the host's 100 are free",
            "echo 2098 > ",
            "hugepages-2048kB/nr_hugepages",
        ] {
            assert!(message.contains(part), "{part:?} in {message:?}");
        }
    }

    #[test]
    fn memory_that_is_no_whole_number_of_pages_is_refused_with_what_would_be() {
        let folder = pools(&[(1 << 20, [0, 0, 0])]);
        let error = HugepageSize::Size1G
            .map_from(ByteSize(1536 << 20), false, folder.path())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "guest memory of 1536M is not a multiple of its huge pages of 1G; 2G would be"
        );
    }

    #[test]
    fn a_size_that_the_host_lacks_is_told_with_those_it_has() {
        let folder = pools(&[(1 << 24, [0, 0, 0]), (16384, [0, 0, 0])]);
        let error = HugepageSize::Size2M.map_from(ByteSize(1 << 30), false, folder.path());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("no huge pages of 2M") && message.ends_with("it has 16M, 16G"));
        let none = pools(&[]);
        let error = HugepageSize::Size2M.map_from(ByteSize(1 << 30), false, none.path());
        assert!(error.unwrap_err().to_string().contains("none of any size"));
    }

    #[test]
    fn pages_of_a_gibibyte_are_asked_for_at_boot() {
        let folder = pools(&[(1 << 20, [0, 0, 0])]);
        let pool = Pool::find(folder.path(), HugepageSize::Size1G.bytes()).unwrap();
        let message = pool.shortage(ByteSize(2 << 30)).unwrap().to_string();
        assert!(message.contains("hugepagesz=1G"), "{message}");
    }

    /// On a machine whose pool is empty the kernel refuses; on another it may have as many.
    #[test]
    fn the_kernel_gives_what_it_has_and_no_more() {
        let Ok(pool) = Pool::find(Path::new(POOLS), HugepageSize::Size2M.bytes()) else {
            return;
        };
        let memory = ByteSize((pool.total + 1024) << 21);
        for is_shared in [false, true] {
            match HugepageSize::Size2M.map(memory, is_shared) {
                Err(HugepageError::TooFew { needed, .. }) => assert_eq!(needed, pool.total + 1024),
                // Pages beyond the pool, where the host allows them.
                Ok(_) => assert!(read(&pool.folder, "nr_overcommit_hugepages").unwrap() >= 1024),
                Err(other) => panic!("{other}"),
            }
        }
    }
}
