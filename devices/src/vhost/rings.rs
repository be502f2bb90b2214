//! Where a queue's rings are in this process, and what is asked of the kernel that is to serve it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vhost::vhost_kern::VhostKernBackend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::handle::{Vhost, refusal};

/// A queue as its driver has placed it, for a back end.
#[derive(Clone, Copy)]
pub(crate) struct Ring<'a> {
    /// Its number.
    pub(crate) index: usize,
    /// How many entries it has, a power of two.
    pub(crate) entries: u16,
    /// Guest addresses of descriptors, the driver's ring and the device's ring.
    pub(crate) addresses: [u64; 3],
    /// The driver's next entry to look at.
    pub(crate) next_avail: u16,
    /// What the driver rings.
    pub(crate) kick: &'a EventFd,
    /// What is signalled when something was given back.
    pub(crate) call: &'a EventFd,
    /// What is signalled when the rings make no sense.
    pub(crate) error: &'a EventFd,
}

/// Who serves the first queues of a device: the kernel, or another program.
pub(crate) trait BackEnd: Send {
    /// How messages name it.
    fn name(&self) -> &'static str {
        "the host's kernel"
    }

    /// How many they are.
    fn queues(&self) -> usize;

    /// What has input once when it ends by itself, if it can.
    fn end(&self) -> Option<Arc<dyn AsRawFd + Send + Sync>> {
        None
    }

    /// That it has ended, if that was not asked before.
    fn has_ended(&mut self) -> Option<io::Error> {
        None
    }

    /// Begins for a driver that has accepted `features`.
    fn begin(&mut self, features: u64) -> io::Result<()>;

    /// Places a queue, which is not served yet.
    fn place(&mut self, ring: &Ring<'_>) -> io::Result<()>;

    /// Has a queue signal `call` from now on.
    fn set_call(&mut self, index: usize, call: &EventFd) -> io::Result<()>;

    /// Serves the queues that are `placed` from now on.
    fn run(&mut self, placed: &[usize]) -> io::Result<()>;

    /// Serves them no more; guest memory is left alone from when this returns, or the driver's next entry was told.
    fn halt(&mut self, placed: &[usize]) -> io::Result<()>;

    /// The driver's next entry to look at of a queue that is not served.
    fn next_avail(&mut self, index: usize) -> io::Result<u16>;

    /// Whether it may still touch guest memory although it was told to serve nothing: it did not say that it has heard.
    fn may_touch_memory(&self) -> bool {
        false
    }
}

impl Ring<'_> {
    /// What is said of one that does not lie in one piece of memory.
    pub(super) fn out_of_memory(&self) -> io::Error {
        let queue = self.index;
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a ring of queue {queue} is not in one piece of guest memory"),
        )
    }
}

/// Where rings of a queue with so many entries are in this process: descriptors, the driver's ring and the device's ring,
/// whose guest addresses are given. None unless each lies in one piece of memory.
pub(super) fn host_addresses(
    ram: &GuestMemoryMmap,
    entries: u16,
    [descriptors, driver, device]: [u64; 3],
) -> Option<[u64; 3]> {
    let count = usize::from(entries);
    let host_address = |start, bytes| {
        let slice = GuestMemoryBackend::get_slice(ram, GuestAddress(start), bytes).ok()?;
        (slice.len() == bytes).then(|| slice.ptr_guard().as_ptr().addr() as u64)
    };
    // With what VIRTIO_F_EVENT_IDX has behind either (virtio 2.7.6, 2.7.8).
    let addresses = [
        host_address(descriptors, 16 * count)?,
        host_address(driver, 6 + 2 * count)?,
        host_address(device, 6 + 8 * count)?,
    ];
    entries.is_power_of_two().then_some(addresses)
}

/// An open device of the kernel's, and the memory of the machine that it is for.
pub(super) struct WithMemory {
    vhost: Arc<Vhost>,
    ram: Arc<GuestMemoryMmap>,
}

impl WithMemory {
    pub(super) fn new(vhost: Arc<Vhost>, ram: GuestMemoryMmap) -> Self {
        Self {
            vhost,
            ram: Arc::new(ram),
        }
    }

    /// Tells the kernel what it is to do of `features`, where guest memory is, and nothing else.
    pub(super) fn begin(&self, features: u64) -> io::Result<()> {
        let regions: Vec<_> = self.ram.iter().map(region).collect();
        self.set_features(features & self.vhost.features())
            .and_then(|()| self.set_mem_table(&regions))
            .map(|_| ())
            .map_err(refusal)
    }

    /// [`BackEnd::place`].
    pub(super) fn place(&self, ring: &Ring<'_>) -> io::Result<()> {
        let [descriptors, driver, device] = ring.addresses;
        let config = VringConfigData {
            queue_max_size: ring.entries,
            queue_size: ring.entries,
            flags: 0,
            desc_table_addr: descriptors,
            used_ring_addr: device,
            avail_ring_addr: driver,
            log_addr: None,
        };
        if !self.is_valid(&config) {
            return Err(ring.out_of_memory());
        }
        self.set_vring_num(ring.index, ring.entries)
            .and_then(|()| self.set_vring_base(ring.index, ring.next_avail))
            .and_then(|()| self.set_vring_addr(ring.index, &config))
            .and_then(|()| self.set_vring_call(ring.index, ring.call))
            .and_then(|()| self.set_vring_err(ring.index, ring.error))
            .and_then(|()| self.set_vring_kick(ring.index, ring.kick))
            .map_err(refusal)
    }

    /// [`BackEnd::set_call`].
    pub(super) fn set_call(&self, index: usize, call: &EventFd) -> io::Result<()> {
        self.set_vring_call(index, call).map_err(refusal)
    }

    /// [`BackEnd::next_avail`].
    pub(super) fn next_avail(&self, index: usize) -> io::Result<u16> {
        let base = self.get_vring_base(index).map_err(refusal)?;
        // There is nothing above for rings of this kind.
        Ok(u16::try_from(base & 0xffff).unwrap_or(0))
    }
}

fn region(region: &vm_memory::GuestRegionMmap) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        mmap_offset: 0,
        mmap_handle: -1,
    }
}

impl AsRawFd for WithMemory {
    fn as_raw_fd(&self) -> RawFd {
        self.vhost.as_raw_fd()
    }
}

impl VhostKernBackend for WithMemory {
    type AS = Arc<GuestMemoryMmap>;

    fn mem(&self) -> &Self::AS {
        &self.ram
    }

    /// Whether each ring lies in one piece of memory: the kernel goes on by this process' addresses, and would come
    /// upon what is behind the first of two pieces. The crate looks at the rings' ends alone.
    fn is_valid(&self, config: &VringConfigData) -> bool {
        let addresses = [
            config.desc_table_addr,
            config.avail_ring_addr,
            config.used_ring_addr,
        ];
        host_addresses(&self.ram, config.queue_size, addresses).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_ring_is_in_one_piece_of_memory_or_the_kernel_is_not_told_of_it() {
        let pieces = [(GuestAddress(0), 0x8000), (GuestAddress(0x8000), 0x8000)];
        let ram = GuestMemoryMmap::from_ranges(&pieces).unwrap();
        let nothing = Vhost::of_file(File::open("/dev/null").unwrap());
        let machine = WithMemory::new(Arc::new(nothing), ram);
        let is_valid = |queue_size, desc_table_addr, avail_ring_addr, used_ring_addr| {
            machine.is_valid(&VringConfigData {
                queue_max_size: queue_size,
                queue_size,
                desc_table_addr,
                avail_ring_addr,
                used_ring_addr,
                ..VringConfigData::default()
            })
        };
        assert!(is_valid(256, 0x1000, 0x2000, 0x3000));
        // To the last byte of either.
        assert!(is_valid(256, 0x7000, 0x1_0000 - 518, 0x8000 - 2054));
        // Their ends are memory, and what is between is not the guest's.
        assert!(!is_valid(256, 0x7010, 0x2000, 0x3000));
        assert!(!is_valid(256, 0x1000, 0x8000 - 516, 0x3000));
        assert!(!is_valid(256, 0x1000, 0x2000, 0x8000 - 2052));
        assert!(!is_valid(256, 0x1_0000, 0x2000, 0x3000));
        assert!(!is_valid(256, u64::MAX - 15, 0x2000, 0x3000));
        assert!(!is_valid(0, 0x1000, 0x2000, 0x3000));
        assert!(!is_valid(48, 0x1000, 0x2000, 0x3000));
    }
}
