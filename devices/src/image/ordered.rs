//! The file of a qcow2 image, with what its tables stand on written last.
//!
//! A qcow2 image has its data found through tables: its header says where the L1 table and the refcount table are, and
//! those say where L2 tables and refcount blocks are (docs/interop/qcow2.rst in QEMU). imago keeps L2 tables and
//! refcount blocks until it is asked to flush, in an order that leaves the image whole; but it writes header, L1 and
//! refcount table at once. A program that is killed in between would leave tables in use that count as free, and the
//! next one that writes would write over them. So writes to the latter are kept here until imago has written what
//! they lead to.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use imago::file::File;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::{Storage, StorageExt};
use parking_lot::Mutex;

/// Offsets in the header of an image, whose numbers are big-endian.
mod header {
    pub(super) const VERSION: usize = 4;
    pub(super) const CLUSTER_BITS: usize = 20;
    pub(super) const L1_ENTRIES: usize = 36;
    pub(super) const L1_OFFSET: usize = 40;
    pub(super) const REFCOUNT_TABLE_OFFSET: usize = 48;
    pub(super) const REFCOUNT_TABLE_CLUSTERS: usize = 56;
    /// Bytes that all versions have.
    pub(super) const BYTES: usize = 72;
    /// Of version 3: the logarithm of a count's bits.
    pub(super) const REFCOUNT_ORDER: usize = 96;
    pub(super) const BYTES_WITH_REFCOUNT_ORDER: usize = 100;
}

/// Writes that are kept, and where such writes go.
#[derive(Debug, Default)]
struct Kept {
    /// Header, L1 table and refcount table, where they are and where they were.
    roots: Vec<Range<u64>>,
    writes: Vec<(u64, Vec<u8>)>,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct OrderedFile {
    file: Arc<File>,
    /// It is not read and written past the page cache.
    is_cached: bool,
    /// The error of a sync that failed, by its number; 0 while none has. The kernel forgets what it could not write.
    lost_writes: Arc<AtomicI32>,
    kept: Arc<Mutex<Kept>>,
}

impl OrderedFile {
    /// A file of which nothing is kept: of a raw image, or one that is only read.
    pub(super) fn plain(file: File, is_cached: bool) -> Self {
        Self {
            file: Arc::new(file),
            is_cached,
            lost_writes: Arc::default(),
            kept: Arc::default(),
        }
    }

    /// The file of an image that is written to.
    ///
    /// # Errors
    /// Its header cannot be read.
    pub(super) fn of_image(file: File, is_cached: bool) -> io::Result<Self> {
        let ordered = Self::plain(file, is_cached);
        let mut head = vec![0; header::BYTES];
        ordered.file.read(&mut head[..], 0)?;
        ordered.kept.lock().roots = roots(&head);
        Ok(ordered)
    }

    /// Whether an image counts the cluster of its header as used. Where it does not, imago would put something else
    /// there, and where that is a refcount block, whose offset 0 in the table says that there is none, call itself
    /// without end.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn counts_header(&self) -> io::Result<bool> {
        /// The bits of an entry of the table that are the block's offset.
        const OFFSET: u64 = !0x1ff;
        let mut head = vec![0; header::BYTES_WITH_REFCOUNT_ORDER];
        self.file.read(&mut head[..], 0)?;
        // A table without clusters has no entries, whatever is where it would be.
        if number32(&head, header::REFCOUNT_TABLE_CLUSTERS) == 0 {
            return Ok(false);
        }
        let mut number = [0; 8];
        let table = number64(&head, header::REFCOUNT_TABLE_OFFSET);
        self.file.read(&mut number[..], table)?;
        let block = u64::from_be_bytes(number) & OFFSET;
        if block == 0 {
            return Ok(false);
        }
        self.file.read(&mut number[..], block)?;
        // The first count: of a byte's low bits, or of whole bytes. Version 2 has 16 bits always.
        let order = match number32(&head, header::VERSION) {
            2 => 4,
            _ => number32(&head, header::REFCOUNT_ORDER).min(6),
        };
        Ok(match order {
            0..3 => number[0] & ((1 << (1 << order)) - 1) != 0,
            _ => number[..1 << (order - 3)].iter().any(|byte| *byte != 0),
        })
    }

    /// Whether something is kept.
    pub(super) fn keeps_writes(&self) -> bool {
        !self.kept.lock().writes.is_empty()
    }

    /// Writes what was kept, in its order.
    ///
    /// # Errors
    /// The host's; what was not written is kept.
    pub(super) fn write_kept(&self) -> io::Result<()> {
        let mut kept = self.kept.lock();
        while let Some((offset, data)) = kept.writes.first() {
            self.file.write(&data[..], *offset)?;
            kept.writes.remove(0);
        }
        Ok(())
    }

    /// Keeps a write, if it is one of those.
    fn keep(&self, offset: u64, data: &IoVector<'_>) -> bool {
        let range = offset..offset.saturating_add(data.len());
        let mut kept = self.kept.lock();
        if !kept.roots.iter().any(|root| overlap(root, &range)) {
            return false;
        }
        let Ok(bytes) = usize::try_from(data.len()) else {
            return false;
        };
        let mut copy = vec![0; bytes];
        data.copy_into_slice(&mut copy);
        if offset == 0 {
            // They may be elsewhere from now on; where they were, they are until this is written.
            kept.roots.extend(roots(&copy));
        }
        kept.writes.push((offset, copy));
        true
    }

    /// Whether a range is, or was, one of those.
    fn has_roots(&self, offset: u64, bytes: u64) -> bool {
        let range = offset..offset.saturating_add(bytes);
        let kept = self.kept.lock();
        kept.roots.iter().any(|root| overlap(root, &range))
    }

    /// Whether something is kept of a range.
    fn keeps(&self, offset: u64, bytes: u64) -> bool {
        let range = offset..offset.saturating_add(bytes);
        let kept = self.kept.lock();
        let ranges = kept
            .writes
            .iter()
            .map(|(at, data)| *at..at + data.len() as u64);
        ranges.into_iter().any(|written| overlap(&written, &range))
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// A number of a header; 0 past its end.
fn number32(head: &[u8], at: usize) -> u64 {
    let bytes = head.get(at..).and_then(<[u8]>::first_chunk);
    u64::from(bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes)))
}

/// A number of a header; 0 past its end.
fn number64(head: &[u8], at: usize) -> u64 {
    let bytes = head.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Where the header, the L1 table and the refcount table of an image are, by its header.
fn roots(head: &[u8]) -> Vec<Range<u64>> {
    // What makes no sense imago refuses.
    let cluster = 1_u64 << number32(head, header::CLUSTER_BITS).min(30);
    let range = |start: u64, bytes: u64| start..start.saturating_add(bytes);
    vec![
        range(0, cluster),
        range(
            number64(head, header::L1_OFFSET),
            (8 * number32(head, header::L1_ENTRIES)).next_multiple_of(cluster),
        ),
        range(
            number64(head, header::REFCOUNT_TABLE_OFFSET),
            number32(head, header::REFCOUNT_TABLE_CLUSTERS).saturating_mul(cluster),
        ),
    ]
}

impl fmt::Display for OrderedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Storage for OrderedFile {
    fn mem_align(&self) -> usize {
        self.file.mem_align()
    }

    fn req_align(&self) -> usize {
        self.file.req_align()
    }

    fn zero_align(&self) -> usize {
        self.file.zero_align()
    }

    fn discard_align(&self) -> usize {
        self.file.discard_align()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, relative: P) -> io::Result<PathBuf> {
        self.file.resolve_relative_path(relative)
    }

    fn get_filename(&self) -> Option<PathBuf> {
        self.file.get_filename()
    }

    unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        if !self.keeps(offset, bufv.len()) {
            // SAFETY: the caller's promise.
            return unsafe { self.file.pure_readv(bufv, offset) };
        }
        let bytes = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut whole = vec![0; bytes];
        self.file.read(&mut whole[..], offset)?;
        for (at, data) in &self.kept.lock().writes {
            for (place, byte) in (*at..).zip(data) {
                let index = place
                    .checked_sub(offset)
                    .and_then(|it| usize::try_from(it).ok());
                if let Some(old) = index.and_then(|index| whole.get_mut(index)) {
                    *old = *byte;
                }
            }
        }
        bufv.copy_from_slice(&whole);
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        if self.keep(offset, &bufv) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.file.pure_writev(bufv, offset) }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.has_roots(offset, length) {
            // Where tables were that are elsewhere now: what says so is written first.
            self.write_kept()?;
        }
        // SAFETY: the caller's promise.
        unsafe { self.file.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.has_roots(offset, length) {
            self.write_kept()?;
        }
        // SAFETY: the caller's promise.
        unsafe { self.file.pure_write_allocated_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.has_roots(offset, length) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.file.pure_discard(offset, length) }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn sync(&self) -> io::Result<()> {
        match self.lost_writes.load(Ordering::Relaxed) {
            0 => {}
            number => return Err(io::Error::from_raw_os_error(number)),
        }
        self.file.sync().inspect_err(|error| {
            if self.is_cached {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                self.lost_writes.store(number, Ordering::Relaxed);
            }
        })
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.file.invalidate_cache() }
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        self.file.get_storage_helper()
    }

    fn resize(
        &self,
        new_size: u64,
        prealloc_mode: imago::storage::PreallocateMode,
    ) -> io::Result<()> {
        self.file.resize(new_size, prealloc_mode)
    }
}
