//! The in-kernel XIVE interrupt controller in native exploitation mode
//! (Documentation/virt/kvm/devices/xive.rst).
//!
//! The device's descriptor maps to pages of the hardware, which become guest memory here: the
//! operating system's page of the thread interrupt management area, and two pages for each source.
//! Only those of sources that were made: for any other the kernel has no page, and an access would
//! end the guest's run (KVM_RUN fails with EFAULT), or this process (SIGBUS).

mod error;

use std::collections::BTreeSet;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

pub use error::XiveError;

use kvm_bindings::powerpc64::{
    KVM_CAP_PPC_IRQ_XIVE, KVM_DEV_XIVE_GRP_CTRL, KVM_DEV_XIVE_GRP_EQ_CONFIG,
    KVM_DEV_XIVE_GRP_SOURCE, KVM_DEV_XIVE_GRP_SOURCE_CONFIG, KVM_DEV_XIVE_GRP_SOURCE_SYNC,
    KVM_DEV_XIVE_NR_SERVERS, KVM_DEV_XIVE_RESET, KVM_XIVE_EQ_ALWAYS_NOTIFY,
    KVM_XIVE_EQ_PRIORITY_SHIFT, KVM_XIVE_EQ_SERVER_SHIFT, KVM_XIVE_ESB_PAGE_OFFSET,
    KVM_XIVE_LEVEL_SENSITIVE, KVM_XIVE_SOURCE_EISN_SHIFT, KVM_XIVE_SOURCE_MASKED_SHIFT,
    KVM_XIVE_SOURCE_PRIORITY_SHIFT, KVM_XIVE_SOURCE_SERVER_MASK, KVM_XIVE_SOURCE_SERVER_SHIFT,
    KVM_XIVE_TIMA_PAGE_OFFSET, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_XIVE, kvm_enable_cap,
    kvm_ppc_xive_eq,
};
use log::Level;
use parking_lot::Mutex;
use spapr_devices::guest_message;
use spapr_devices::interrupts::xive::{
    self, EventData, PAGE_BYTES, QUEUE_SHIFT, QueueFill, QueueName, SOURCE_BYTES, XiveDevice,
};
use spapr_devices::interrupts::{Lisn, LisnBlock, Trigger, TriggerRegister};
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress};
use vmm_sys_util::errno;

use crate::kernel::DeviceFd;
use crate::mapping::SharedMapping;
use crate::memory_slots::MemorySlots;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// Pages of the thread interrupt management area: the hardware's, the hypervisor's, the operating
/// system's and the programs'. The first two and the last cannot be touched.
const THREAD_MANAGEMENT_PAGES: u64 = 4;
const OS_THREAD_MANAGEMENT_PAGE: u64 = 2;

/// The XIVE interrupt controller of a VM. Dropping it takes it, and its pages, out of the VM.
#[derive(Debug)]
pub struct XiveKvm {
    slots: Arc<MemorySlots>,
    /// What the guest has of the pages.
    given: Mutex<Given>,
    // The mappings hold the device, too. They go when the guest does not have them any more, that of sources when
    // no device of this process has a register there, either.
    sources: ManuallyDrop<Arc<SharedMapping>>,
    thread_management: ManuallyDrop<SharedMapping>,
    device: DeviceFd,
}

/// The pages that are guest memory.
#[derive(Debug, Default)]
struct Given {
    slots: Vec<u32>,
    sources: BTreeSet<Lisn>,
}

impl XiveKvm {
    /// Makes the interrupt controller of `vm`, for interrupt servers (vCPU ids) below `servers`, with
    /// no sources. To be done before the first vCPU is connected. The host's pages have
    /// [`PAGE_BYTES`], as the controller's.
    ///
    /// # Errors
    /// [`XiveError::Create`], [`XiveError::Servers`], [`XiveError::Map`] or [`XiveError::Slot`]; all
    /// is given back then.
    pub fn new(vm: &Vm, slots: &Arc<MemorySlots>, servers: u32) -> Result<Self, XiveError> {
        let device = vm.0.create_device(kvm_device_type_KVM_DEV_TYPE_XIVE);
        let device = device.map_err(XiveError::Create)?;
        let limit = control(KVM_DEV_XIVE_NR_SERVERS, std::ptr::from_ref(&servers) as u64);
        // SAFETY: the kernel reads one u32 for this attribute.
        unsafe { device.set_attr(&limit) }
            .map_err(|source| XiveError::Servers { servers, source })?;
        let map = |what, first_page: u32, bytes| {
            let offset = u64::from(first_page) * PAGE_BYTES;
            SharedMapping::at(&device, offset, bytes)
                .map_err(|source| XiveError::Map { what, source })
        };
        let sources = map(
            "the pages of sources",
            KVM_XIVE_ESB_PAGE_OFFSET,
            u64::from(Lisn::END.0) * SOURCE_BYTES,
        )?;
        let thread_management = map(
            "the thread interrupt management area",
            KVM_XIVE_TIMA_PAGE_OFFSET,
            THREAD_MANAGEMENT_PAGES * PAGE_BYTES,
        )?;
        let xive = Self {
            slots: Arc::clone(slots),
            given: Mutex::default(),
            sources: ManuallyDrop::new(Arc::new(sources)),
            thread_management: ManuallyDrop::new(thread_management),
            device,
        };
        xive.give_thread_management()?;
        Ok(xive)
    }

    fn give_thread_management(&self) -> Result<(), XiveError> {
        let page = self
            .thread_management
            .address(OS_THREAD_MANAGEMENT_PAGE * PAGE_BYTES);
        let mut given = self.given.lock();
        // SAFETY: the page is mapped until the slot has been taken away, when `self` is dropped; its
        // content is the hardware's, and nothing here looks at it.
        let slot = unsafe { self.slots.add(xive::OS_THREAD_MANAGEMENT, page, PAGE_BYTES) };
        given.slots.push(slot.map_err(|source| XiveError::Slot {
            what: "the thread interrupt management area",
            source,
        })?);
        Ok(())
    }

    /// Connects a vCPU as interrupt server `server`, before it first runs.
    ///
    /// # Errors
    /// [`XiveError::Connect`].
    pub fn connect_vcpu(&self, vcpu: &Vcpu, server: u32) -> Result<(), XiveError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_PPC_IRQ_XIVE,
            args: [
                u64::from(self.device.as_raw_fd().cast_unsigned()),
                server.into(),
                0,
                0,
            ],
            ..Default::default()
        };
        vcpu.0
            .enable_cap(&cap)
            .map_err(|source| XiveError::Connect { server, source })
    }

    /// Makes a source, or resets it: KVM masks it.
    fn make_source(&self, lisn: Lisn, trigger: Trigger) -> Result<(), XiveError> {
        let state = match trigger {
            Trigger::Edge => 0,
            Trigger::Level => u64::from(KVM_XIVE_LEVEL_SENSITIVE),
        };
        self.set(KVM_DEV_XIVE_GRP_SOURCE, lisn.0.into(), &state)
            .map_err(|source| XiveError::Source { lisn, source })
    }

    /// Gives the guest the pages of sources that were just made, as far as it does not have them,
    /// those that are neighbours in one memory slot.
    fn give_sources(&self, block: LisnBlock) -> Result<(), XiveError> {
        let mut given = self.given.lock();
        let missing: Vec<Lisn> = block
            .iter()
            .filter(|lisn| !given.sources.contains(lisn))
            .collect();
        for run in missing.chunk_by(|a, b| a.0 + 1 == b.0) {
            let first = run[0];
            let bytes = run.len() as u64 * SOURCE_BYTES;
            let host = self.source_page(first);
            // SAFETY: the pages are mapped until the slot has been taken away, when `self` is dropped;
            // their content is the hardware's.
            let slot = unsafe { self.slots.add(xive::trigger_page(first), host, bytes) };
            given.slots.push(slot.map_err(|source| XiveError::Slot {
                what: "the pages of sources",
                source,
            })?);
            given.sources.extend(run);
        }
        Ok(())
    }

    /// The register by which this process triggers source `lisn`; `None` unless it was made, an edge-triggered one.
    pub fn trigger_register(&self, lisn: Lisn) -> Option<TriggerRegister> {
        if !self.given.lock().sources.contains(&lisn) {
            return None;
        }
        let page = self.sources.register(u64::from(lisn.0) * SOURCE_BYTES);
        let mapping = Arc::<SharedMapping>::clone(&self.sources);
        // SAFETY: the page is mapped as long as that lives. There is one, as the source was made, for good
        // (`xive_native_esb_fault`), and it is the hardware's.
        Some(unsafe { TriggerRegister::new(NonNull::new(page)?, mapping) })
    }

    fn source_page(&self, lisn: Lisn) -> HostVirtualAddress {
        self.sources.address(u64::from(lisn.0) * SOURCE_BYTES)
    }

    fn configure(
        &self,
        action: &'static str,
        lisn: Lisn,
        configuration: u64,
    ) -> Result<(), XiveError> {
        self.set(
            KVM_DEV_XIVE_GRP_SOURCE_CONFIG,
            lisn.0.into(),
            &configuration,
        )
        .map_err(|source| XiveError::SourceConfig {
            action,
            lisn,
            attribute: "KVM_DEV_XIVE_GRP_SOURCE_CONFIG",
            source,
        })
    }

    fn configure_queue(
        &self,
        action: &'static str,
        queue: QueueName,
        configuration: &kvm_ppc_xive_eq,
    ) -> Result<(), XiveError> {
        self.set(
            KVM_DEV_XIVE_GRP_EQ_CONFIG,
            queue_attribute(queue),
            configuration,
        )
        .map_err(|source| queue_error(action, queue, source))
    }

    /// Sets an attribute whose value is a `T`.
    fn set<T>(&self, group: u32, attr: u64, value: &T) -> errno::Result<()> {
        let attribute = kvm_device_attr {
            flags: 0,
            group,
            attr,
            addr: std::ptr::from_ref(value) as u64,
        };
        // SAFETY: it is the address of a value of the attribute's type.
        unsafe { self.device.set_attr(&attribute) }
    }
}

impl Drop for XiveKvm {
    fn drop(&mut self) {
        let given = self.given.get_mut();
        let taken = given
            .slots
            .drain(..)
            .try_for_each(|slot| self.slots.remove(slot));
        if let Err(error) = taken {
            guest_message!(
                Level::Error,
                "pages of the interrupt controller stay with the guest: {error}"
            );
            return;
        }
        // SAFETY: this is the only place where it is dropped, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.sources) };
        // SAFETY: the same.
        unsafe { ManuallyDrop::drop(&mut self.thread_management) };
    }
}

impl XiveDevice for XiveKvm {
    fn make_sources(&self, block: LisnBlock, trigger: Trigger) -> io::Result<()> {
        block
            .iter()
            .try_for_each(|lisn| self.make_source(lisn, trigger))
            .and_then(|()| match trigger {
                Trigger::Edge => self.give_sources(block),
                // The end of its interrupts is to be seen.
                Trigger::Level => Ok(()),
            })
            .map_err(io::Error::other)
    }

    fn target_source(&self, lisn: Lisn, queue: QueueName, data: EventData) -> io::Result<()> {
        self.configure("target", lisn, targeted(queue, data))
            .map_err(io::Error::other)
    }

    fn mask_source(&self, lisn: Lisn) -> io::Result<()> {
        self.configure("mask", lisn, MASKED)
            .map_err(io::Error::other)
    }

    fn sync_source(&self, lisn: Lisn) -> io::Result<()> {
        self.set(KVM_DEV_XIVE_GRP_SOURCE_SYNC, lisn.0.into(), &0u64)
            .map_err(|source| XiveError::SourceConfig {
                action: "wait for",
                lisn,
                attribute: "KVM_DEV_XIVE_GRP_SOURCE_SYNC",
                source,
            })
            .map_err(io::Error::other)
    }

    fn place_queue(&self, queue: QueueName, address: GuestPhysicalAddress) -> io::Result<()> {
        let configuration = kvm_ppc_xive_eq {
            flags: KVM_XIVE_EQ_ALWAYS_NOTIFY,
            qshift: QUEUE_SHIFT,
            qaddr: address.0,
            // As the hardware begins.
            qtoggle: 1,
            qindex: 0,
            ..Default::default()
        };
        self.configure_queue("place", queue, &configuration)
            .map_err(io::Error::other)
    }

    fn remove_queue(&self, queue: QueueName) -> io::Result<()> {
        self.configure_queue("remove", queue, &kvm_ppc_xive_eq::default())
            .map_err(io::Error::other)
    }

    fn queue_fill(&self, queue: QueueName) -> io::Result<QueueFill> {
        let mut configuration = kvm_ppc_xive_eq::default();
        let mut attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_XIVE_GRP_EQ_CONFIG,
            attr: queue_attribute(queue),
            addr: std::ptr::from_mut(&mut configuration) as u64,
        };
        // SAFETY: for this attribute the kernel writes one `kvm_ppc_xive_eq` to `addr`, which is that
        // of `configuration`.
        unsafe { self.device.get_attr(&mut attribute) }
            .map_err(|source| queue_error("read", queue, source))
            .map_err(io::Error::other)?;
        Ok(QueueFill {
            toggle: configuration.qtoggle,
            index: configuration.qindex,
        })
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: the kernel reads nothing for this attribute.
        unsafe { self.device.set_attr(&control(KVM_DEV_XIVE_RESET, 0)) }
            .map_err(XiveError::Reset)
            .map_err(io::Error::other)
    }

    fn load(&self, lisn: Lisn, offset: u64) -> u64 {
        self.sources.load_big_endian(management(lisn, offset))
    }

    fn store(&self, lisn: Lisn, offset: u64, value: u64) {
        self.sources
            .store_big_endian(management(lisn, offset), value);
    }
}

/// Where in the mapping of sources' pages a doubleword of a management page is.
fn management(lisn: Lisn, offset: u64) -> u64 {
    u64::from(lisn.0) * SOURCE_BYTES + PAGE_BYTES + offset
}

fn control(attr: u32, addr: u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_DEV_XIVE_GRP_CTRL,
        attr: attr.into(),
        addr,
    }
}

fn queue_error(action: &'static str, queue: QueueName, source: errno::Error) -> XiveError {
    XiveError::Queue {
        action,
        server: queue.server,
        priority: queue.priority.get(),
        source,
    }
}

/// The queue's name as KVM has it.
fn queue_attribute(queue: QueueName) -> u64 {
    u64::from(queue.priority.get()) << KVM_XIVE_EQ_PRIORITY_SHIFT
        | u64::from(queue.server) << KVM_XIVE_EQ_SERVER_SHIFT
}

/// The configuration of a source that goes to `queue`.
fn targeted(queue: QueueName, data: EventData) -> u64 {
    u64::from(queue.priority.get()) << KVM_XIVE_SOURCE_PRIORITY_SHIFT
        | u64::from(queue.server) << KVM_XIVE_SOURCE_SERVER_SHIFT
        | u64::from(data.get()) << KVM_XIVE_SOURCE_EISN_SHIFT
}

/// The configuration of a source that goes nowhere. KVM does not look at the flag when the rest is as
/// before (`kvmppc_xive_native_update_source_config`): the server is one that no vCPU is.
const MASKED: u64 = 1 << KVM_XIVE_SOURCE_MASKED_SHIFT | KVM_XIVE_SOURCE_SERVER_MASK as u64;

#[cfg(test)]
mod tests {
    use spapr_devices::interrupts::xive::Priority;

    use super::*;

    fn queue() -> QueueName {
        QueueName {
            server: 0x123,
            priority: Priority::new(6).unwrap(),
        }
    }

    #[test]
    fn a_source_is_configured_in_the_kernels_form() {
        let data = EventData::new(0x7fff_ffff).unwrap();
        assert_eq!(targeted(queue(), data), 0xffff_fffe_0000_091e);
        assert_eq!(
            targeted(queue(), EventData::default()),
            0x0000_0000_0000_091e
        );
        assert_eq!(MASKED, 0x0000_0001_ffff_fff8);
    }

    #[test]
    fn a_queue_is_named_in_the_kernels_form() {
        assert_eq!(queue_attribute(queue()), 0x91e);
    }

    #[test]
    fn a_management_page_follows_the_trigger_page() {
        assert_eq!(management(Lisn(0), 0), 0x1_0000);
        assert_eq!(management(Lisn(3), 0xc00), 0x7_0c00);
    }
}
