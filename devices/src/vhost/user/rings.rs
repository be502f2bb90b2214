//! Queues that a vhost-user back end is told of.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserMemory, VhostUserU64, VhostUserVirtioFeatures, VhostUserVringAddr,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vm_memory::{ByteValued, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::VhostUser;
use crate::vhost::rings::{BackEnd, Ring, host_addresses};

/// The most pieces of memory that every back end takes (VHOST_MEMORY_BASELINE_NREGIONS).
const MOST_REGIONS: usize = 8;

/// A back end, and the memory of the machine that it is for, which has descriptors.
pub(crate) struct UserBackEnd {
    back_end: Arc<VhostUser>,
    ram: GuestMemoryMmap,
    queues: usize,
}

impl UserBackEnd {
    /// For so many queues of a machine with that memory.
    pub(crate) const fn new(back_end: Arc<VhostUser>, ram: GuestMemoryMmap, queues: usize) -> Self {
        Self {
            back_end,
            ram,
            queues,
        }
    }

    fn tell(&self, request: FrontendReq, body: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let mut channel = self.back_end.channel.lock();
        channel.tell(request, body, descriptors)
    }

    fn tell_of_event(&self, request: FrontendReq, index: usize, event: &EventFd) -> io::Result<()> {
        let queue = VhostUserU64::new(index as u64);
        self.tell(request, queue.as_slice(), &[event.as_raw_fd()])
    }

    fn tell_of_state(&self, request: FrontendReq, index: usize, number: u32) -> io::Result<()> {
        self.tell(request, state(index, number).as_slice(), &[])
    }

    /// Where guest memory is, by its descriptors.
    fn tell_of_memory(&self) -> io::Result<()> {
        let regions = self
            .ram
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region);
        let regions = regions.collect::<Result<Vec<_>, _>>();
        let regions = regions.map_err(|_| io::Error::other("guest memory has no descriptor"))?;
        let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
        if regions.len() > MOST_REGIONS {
            return Err(io::Error::other(format!(
                "guest memory is in {count} pieces, and it takes {MOST_REGIONS}"
            )));
        }
        let mut body = VhostUserMemory::new(count).as_slice().to_vec();
        for region in &regions {
            let fields = [
                region.guest_phys_addr,
                region.memory_size,
                region.userspace_addr,
                region.mmap_offset,
            ];
            body.extend(fields.iter().flat_map(|field| field.to_ne_bytes()));
        }
        let descriptors: Vec<_> = regions.iter().map(|region| region.mmap_handle).collect();
        self.tell(FrontendReq::SET_MEM_TABLE, &body, &descriptors)
    }

    fn switch(&self, placed: &[usize], on: bool) -> io::Result<()> {
        if !self.back_end.has_switches {
            return Ok(());
        }
        let mut placed = placed.iter();
        placed.try_for_each(|&index| {
            self.tell_of_state(FrontendReq::SET_VRING_ENABLE, index, on.into())
        })
    }
}

fn state(index: usize, number: u32) -> VhostUserVringState {
    VhostUserVringState::new(u32::try_from(index).unwrap_or(u32::MAX), number)
}

impl BackEnd for UserBackEnd {
    fn name(&self) -> &'static str {
        "its vhost-user back end"
    }

    fn queues(&self) -> usize {
        self.queues
    }

    fn end(&self) -> Option<Arc<dyn AsRawFd + Send + Sync>> {
        Some(Arc::<vmm_sys_util::epoll::Epoll>::clone(&self.back_end.end))
    }

    fn has_ended(&mut self) -> Option<io::Error> {
        let has_ended = self.back_end.has_ended();
        has_ended.then(|| io::Error::other("it has ended"))
    }

    fn begin(&mut self, features: u64) -> io::Result<()> {
        self.back_end.channel.lock().begin_turn();
        let mut features = features & self.back_end.features;
        if self.back_end.has_switches {
            features |= VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        }
        let features = VhostUserU64::new(features);
        self.tell(FrontendReq::SET_FEATURES, features.as_slice(), &[])?;
        self.tell_of_memory()
    }

    fn place(&mut self, ring: &Ring<'_>) -> io::Result<()> {
        let addresses = host_addresses(&self.ram, ring.entries, ring.addresses);
        let [descriptors, driver, device] = addresses.ok_or_else(|| ring.out_of_memory())?;
        let index = ring.index;
        let address = VhostUserVringAddr::new(
            u32::try_from(index).unwrap_or(u32::MAX),
            VhostUserVringAddrFlags::empty(),
            descriptors,
            device,
            driver,
            0,
        );
        self.tell_of_state(FrontendReq::SET_VRING_NUM, index, ring.entries.into())?;
        self.tell_of_state(FrontendReq::SET_VRING_BASE, index, ring.next_avail.into())?;
        self.tell(FrontendReq::SET_VRING_ADDR, address.as_slice(), &[])?;
        self.tell_of_event(FrontendReq::SET_VRING_CALL, index, ring.call)?;
        self.tell_of_event(FrontendReq::SET_VRING_ERR, index, ring.error)?;
        self.tell_of_event(FrontendReq::SET_VRING_KICK, index, ring.kick)
    }

    fn set_call(&mut self, index: usize, call: &EventFd) -> io::Result<()> {
        self.back_end.channel.lock().begin_turn();
        self.tell_of_event(FrontendReq::SET_VRING_CALL, index, call)
    }

    fn run(&mut self, placed: &[usize]) -> io::Result<()> {
        self.switch(placed, true)
    }

    fn halt(&mut self, placed: &[usize]) -> io::Result<()> {
        self.back_end.channel.lock().begin_turn();
        self.back_end.note_stop(self.switch(placed, false))
    }

    fn may_touch_memory(&self) -> bool {
        self.back_end.may_touch_memory()
    }

    /// A back end stops a queue when it is asked for that.
    fn next_avail(&mut self, index: usize) -> io::Result<u16> {
        let asked = state(index, 0);
        let answer: io::Result<VhostUserVringState> = {
            let mut channel = self.back_end.channel.lock();
            channel.ask(FrontendReq::GET_VRING_BASE, asked.as_slice())
        };
        let answer = self.back_end.note_stop(answer)?;
        // There is nothing above for rings of this kind.
        let number = answer.num;
        Ok(u16::try_from(number & 0xffff).unwrap_or(0))
    }
}
