//! Guest memory for the next guest: all of it zero.

use std::io;
use std::ptr;
use std::thread;

use spapr_hypercalls::world::{GuestRange, HostRange};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{Block, GuestRam};

/// Bytes for which it is worth it to start one more thread that clears them: a tenth of a second or two.
const CLEARED_BY_ONE: u64 = 1 << 30;

impl GuestRam {
    /// Has all of it read as zero, for another guest. What can be had again is given back to the host, which
    /// gives clear pages when they are touched. Huge pages and locked memory are overwritten where they are:
    /// others could have them in between.
    ///
    /// Nothing of it may be locked for DMA or be reached by a guest any more, or that goes on with the pages
    /// that there were.
    pub fn clear(&self) {
        if !self.give_back() {
            for block in self.blocks() {
                let range = block.guest_range();
                self.overwrite(range, clearing_threads(range.bytes));
            }
        }
    }

    /// Gives the host the pages back, but for huge pages and locked memory, as [`GuestRam::clear`] does.
    /// Returns whether all of it reads as zero now.
    pub fn give_back(&self) -> bool {
        self.blocks().all(give_back)
    }

    /// Writes zeroes to all of `range`, which is RAM, with so many threads, or as many of them as there are.
    fn overwrite(&self, range: GuestRange, threads: u64) {
        let share = range.bytes.div_ceil(threads.max(1));
        let shares = (0..threads.max(1)).map(|index| {
            let offset = (index * share).min(range.bytes);
            (offset, share.min(range.bytes - offset))
        });
        thread::scope(|scope| {
            let mut own = Vec::new();
            for (offset, bytes) in shares {
                let start = range.start.0 + offset;
                let thread = thread::Builder::new().name("clear memory".to_owned());
                let is_last = offset + bytes == range.bytes;
                let started = !is_last
                    && thread
                        .spawn_scoped(scope, move || self.overwrite_part(start, bytes))
                        .is_ok();
                if !started {
                    own.push((start, bytes));
                }
            }
            for (start, bytes) in own {
                self.overwrite_part(start, bytes);
            }
        });
    }

    fn overwrite_part(&self, start: u64, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        for slice in self.mmap().get_slices(GuestAddress(start), bytes) {
            // All of it is memory.
            let Ok(slice) = slice else { return };
            // SAFETY: the slice is memory of this process' that may be written, as long as the guard lives,
            // and no reference to it is ever made.
            unsafe { ptr::write_bytes(slice.ptr_guard_mut().as_ptr(), 0, slice.len()) };
        }
    }
}

/// Gives the host the pages of a block back, if they can be had again; whether they read as zero now.
fn give_back(block: &Block) -> bool {
    let Some(advice) = block.backing().giving_back() else {
        return false;
    };
    let HostRange { start, bytes } = block.host_range();
    let (Ok(start), Ok(length)) = (usize::try_from(start.0), usize::try_from(bytes)) else {
        return false;
    };
    // SAFETY: the range is the block's mapping, of guest memory, to which no reference is ever made: that it reads
    // as zero afterwards is as if someone had written zeroes to it.
    let result = unsafe { libc::madvise(ptr::without_provenance_mut(start), length, advice) };
    if result != 0 {
        // EINVAL for locked memory (mlockall(2)).
        log::debug!(
            "guest memory is kept as it is: {}",
            io::Error::last_os_error()
        );
    }
    result == 0
}

/// How many threads clear so many bytes: as many as this process may use processors, if there is enough for
/// each to do.
fn clearing_threads(bytes: u64) -> u64 {
    let processors = thread::available_parallelism().map_or(1, |number| number.get() as u64);
    processors.min(bytes / CLEARED_BY_ONE).max(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, FileOffset, GuestMemoryRegion, MmapRegion};

    use super::super::{Backing, LEAST_BYTES, shared};
    use super::*;
    use crate::spec::ByteSize;

    /// Marks at both ends of memory, and where the shares of three or seven threads meet.
    fn marked(backing: Backing) -> (GuestRam, Vec<GuestAddress>) {
        let ram = GuestRam::new(ByteSize(LEAST_BYTES), backing).expect("guest memory");
        let shares = [3, 7].into_iter().flat_map(|threads| {
            let share = LEAST_BYTES.div_ceil(threads);
            (1..threads).flat_map(move |index| [index * share - 1, index * share])
        });
        let marks = [0, LEAST_BYTES - 1].into_iter().chain(shares);
        let marks: Vec<_> = marks.map(GuestAddress).collect();
        for &mark in &marks {
            ram.mmap().write_obj(0x5a_u8, mark).expect("write");
        }
        (ram, marks)
    }

    #[track_caller]
    fn assert_clear(ram: &GuestRam, marks: &[GuestAddress]) {
        for &mark in marks {
            let byte: u8 = ram.mmap().read_obj(mark).expect("read");
            assert_eq!(byte, 0, "at {mark:?}");
        }
    }

    /// Whether MADV_REMOVE does what it says. Under qemu-user it does nothing, and says that it has.
    fn removes() -> bool {
        const BYTES: usize = 1 << 20;
        let file = shared::file(ByteSize(BYTES as u64), None).expect("a file");
        file.write_all_at(&[0x5a], 0).expect("write");
        let file = FileOffset::new(file, 0);
        let region = MmapRegion::<()>::from_file(file, BYTES).expect("memory");
        // SAFETY: the range is the mapping, to which there is no reference.
        let said = unsafe { libc::madvise(region.as_ptr().cast(), BYTES, libc::MADV_REMOVE) };
        assert_eq!(said, 0, "{}", io::Error::last_os_error());
        let mut byte = [0xff];
        let file = region.file_offset().expect("its file").file();
        file.read_exact_at(&mut byte, 0).expect("read");
        byte == [0]
    }

    #[test]
    fn memory_is_clear_for_the_next_guest_whoever_clears_it() {
        let of_file = removes().then_some(Backing::Shared(None));
        for backing in [Backing::Anonymous].into_iter().chain(of_file) {
            let (ram, marks) = marked(backing);
            assert!(ram.give_back());
            assert_clear(&ram, &marks);
        }
        for threads in [0, 1, 3, 7, 1000] {
            let (ram, marks) = marked(Backing::Anonymous);
            for range in ram.guest_ranges() {
                ram.overwrite(range, threads);
            }
            assert_clear(&ram, &marks);
        }
    }

    /// A process that locks its memory has it all the time, also between two guests.
    #[test]
    fn locked_memory_is_cleared_where_it_is() {
        let (ram, marks) = marked(Backing::Anonymous);
        let block = ram.blocks().next().expect("a block");
        let middle = block.host_range().start.0 + LEAST_BYTES / 2;
        let middle = usize::try_from(middle).expect("an address");
        // SAFETY: it is guest memory, of which it changes nothing.
        let locked = unsafe { libc::mlock(std::ptr::without_provenance(middle), 0x1_0000) };
        if locked != 0 {
            // No page may be locked here.
            return;
        }
        assert!(!ram.give_back(), "locked memory was given back");
        ram.clear();
        assert_clear(&ram, &marks);
    }

    /// Another program that has the memory finds the next guest's, not what it was.
    #[test]
    fn shared_memory_stays_the_same_for_who_has_its_descriptor() {
        if !removes() {
            return;
        }
        let (ram, marks) = marked(Backing::Shared(None));
        let region = ram.mmap().iter().next().expect("a block");
        let file = region.file_offset().expect("a descriptor").file();
        ram.clear();
        let mut byte = [0xff];
        file.read_exact_at(&mut byte, marks[0].0).expect("read");
        assert_eq!(byte, [0]);
        ram.mmap().write_obj(7_u8, marks[0]).expect("write");
        file.read_exact_at(&mut byte, marks[0].0).expect("read");
        assert_eq!(byte, [7]);
    }

    #[test]
    fn large_memory_is_cleared_by_several() {
        assert_eq!(clearing_threads(LEAST_BYTES), 1);
        let processors = thread::available_parallelism().map_or(1, |number| number.get() as u64);
        assert_eq!(clearing_threads(u64::MAX), processors);
    }
}
