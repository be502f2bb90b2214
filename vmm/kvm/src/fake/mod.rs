//! KVM without a kernel: the same descriptors and calls as on a POWER host, on a state that tests look at and
//! set.
//!
//! A test makes a [`Host`], passes its [`Kvm`](crate::host::Kvm) to the code under test, and sees which calls
//! were made, in which order, and what of it is still there ([`Host::calls`], [`Host::alive`]); it may have any
//! of them refused ([`Host::refuse`]). A guest is what a test says that it does ([`Guest::make`]): KVM_RUN returns
//! for one after the other, and waits for a kick when there are no more.
//!
//! Like KVM, it completes what a vCPU stopped for at the next KVM_RUN, even one that returns at once; it serves
//! hypercalls that the kernel has enabled; it makes a hypercall again whose `sc 1` the vCPU was put back on; and
//! it refuses what the kernel refuses.

mod device;
mod host;
mod state;
mod vcpu;

use std::collections::btree_map::Entry;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::raw::c_ulong;
use std::time::{SystemTime, UNIX_EPOCH};

use kvm_bindings::powerpc64::{
    KVM_API_VERSION, KVM_CAP_PPC_ENABLE_HCALL, KVM_CAP_PPC_SMT, KVM_IRQFD_FLAG_DEASSIGN,
    KVM_VM_PPC_HV, kvm_create_spapr_tce_64, kvm_enable_cap, kvm_irqfd, kvm_ppc_cpu_char,
    kvm_ppc_mmuv3_cfg, kvm_ppc_rmmu_info, kvm_rtas_token_args, kvm_userspace_memory_region,
};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

pub(crate) use device::DeviceFd;
pub use host::{Guest, Host};
pub use state::{Answer, Call, Does};
use state::{Object, Shared, file_of};
pub(crate) use vcpu::VcpuFd;

/// The kernel's structures and numbers.
pub use kvm_bindings::powerpc64 as bindings;

/// Whether guests can be run on this architecture, if the host has KVM.
pub const RUNS_GUESTS: bool = false;

/// All calls of KVM that this program makes: none.
pub const REQUESTS: &[c_ulong] = &[];

/// Of a host whose time base has 512 ticks in a microsecond, as POWER's have.
pub(crate) fn time_base() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX).wrapping_mul(512)
}

/// `/dev/kvm`.
#[derive(Debug)]
pub(crate) struct KvmFd(Host);

impl KvmFd {
    /// What the machine has of the name, which is no KVM of this kind.
    pub(crate) fn open(device: &CStr) -> errno::Result<Self> {
        let path = std::path::Path::new(device.to_str().unwrap_or_default());
        match std::fs::metadata(path) {
            Ok(_) => Ok(Self(Host::no_kvm())),
            Err(error) => Err(errno::Error::new(error.raw_os_error().unwrap_or_default())),
        }
    }

    pub(crate) fn api_version(&self) -> i32 {
        if self.0.shared().lock().is_kvm {
            KVM_API_VERSION.cast_signed()
        } else {
            -1
        }
    }

    pub(crate) fn check_extension(&self, capability: u32) -> i32 {
        self.0.shared().lock().capability(capability)
    }

    pub(crate) fn create_vm(&self, kind: u32) -> errno::Result<VmFd> {
        if kind != KVM_VM_PPC_HV {
            return Err(errno::Error::new(libc::EINVAL));
        }
        let object = self
            .0
            .shared()
            .make("KVM_CREATE_VM", kind.into(), "VM", 0)?;
        object.shared().lock().begin_vm();
        Ok(VmFd(object))
    }
}

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct VmFd(Object);

impl VmFd {
    fn shared(&self) -> &Shared {
        self.0.shared()
    }

    pub(crate) fn check_extension(&self, capability: u32) -> i32 {
        self.shared().lock().capability(capability)
    }

    pub(crate) fn create_vcpu(&self, id: u32) -> errno::Result<VcpuFd> {
        VcpuFd::new(self.shared(), id)
    }

    pub(crate) fn create_device(&self, kind: u32) -> errno::Result<DeviceFd> {
        DeviceFd::new(self.shared(), kind)
    }

    /// # Safety
    /// As of the kernel's: see `real`. Here nobody reads or writes the memory.
    pub(crate) unsafe fn set_user_memory_region(
        &self,
        region: kvm_userspace_memory_region,
    ) -> errno::Result<()> {
        let mut state = self
            .shared()
            .call("KVM_SET_USER_MEMORY_REGION", region.slot.into())?;
        if region.memory_size == 0 {
            state.slots.remove(&region.slot);
        } else {
            let place = (region.guest_phys_addr, region.memory_size);
            state.slots.insert(region.slot, place);
        }
        Ok(())
    }

    pub(crate) fn enable_cap(&self, capability: &kvm_enable_cap) -> errno::Result<()> {
        let mut state = self
            .shared()
            .call("KVM_ENABLE_CAP", capability.cap.into())?;
        let [first, second, ..] = capability.args;
        match capability.cap {
            KVM_CAP_PPC_SMT if state.vcpus.is_empty() => Ok(()),
            KVM_CAP_PPC_ENABLE_HCALL => state.enable_hcall(first, second != 0),
            _ => Err(errno::Error::new(libc::EINVAL)),
        }
    }

    pub(crate) fn set_irqfd(&self, request: &kvm_irqfd) -> errno::Result<()> {
        let mut state = self.shared().call("KVM_IRQFD", request.gsi.into())?;
        if request.flags & KVM_IRQFD_FLAG_DEASSIGN == 0 {
            let is_new = state.irqfds.insert((request.gsi, request.fd));
            let busy = errno::Error::new(libc::EBUSY);
            return if is_new { Ok(()) } else { Err(busy) };
        }
        state.irqfds.remove(&(request.gsi, request.fd));
        Ok(())
    }

    pub(crate) fn register_ioeventfd(&self, address: u64, event: &EventFd) -> errno::Result<()> {
        let mut state = self.shared().call("KVM_IOEVENTFD", address)?;
        match state.doorbells.entry(address) {
            Entry::Occupied(_) => Err(errno::Error::new(libc::EEXIST)),
            Entry::Vacant(place) => {
                place.insert(event.as_raw_fd());
                Ok(())
            }
        }
    }

    pub(crate) fn unregister_ioeventfd(&self, address: u64, event: &EventFd) -> errno::Result<()> {
        let mut state = self.shared().call("KVM_IOEVENTFD", address)?;
        if state.doorbells.get(&address) != Some(&event.as_raw_fd()) {
            return Err(errno::Error::new(libc::ENOENT));
        }
        state.doorbells.remove(&address);
        Ok(())
    }

    pub(crate) fn create_spapr_tce_64(
        &self,
        request: &kvm_create_spapr_tce_64,
    ) -> errno::Result<TableFd> {
        let liobn = request.liobn;
        if self.shared().lock().tables().any(|table| table == liobn) {
            return Err(errno::Error::new(libc::EBUSY));
        }
        let entries = file_of(request.size.saturating_mul(8))?;
        let object = self
            .shared()
            .make("KVM_CREATE_SPAPR_TCE", liobn, "TCE table", liobn)?;
        Ok(TableFd {
            entries,
            _object: object,
        })
    }

    pub(crate) fn configure_v3_mmu(&self, config: &kvm_ppc_mmuv3_cfg) -> errno::Result<()> {
        let mut state = self
            .shared()
            .call("KVM_PPC_CONFIGURE_V3_MMU", config.flags)?;
        state.process_table = Some(config.process_table);
        Ok(())
    }

    pub(crate) fn rmmu_info(&self) -> errno::Result<kvm_ppc_rmmu_info> {
        drop(self.shared().call("KVM_PPC_GET_RMMU_INFO", 0)?);
        let mut info = kvm_ppc_rmmu_info::default();
        // As of POWER9: pages of 4 KiB, 64 KiB, 2 MiB and 1 GiB.
        let codes = [0xc, 0xa000_0010, 0x2000_0015, 0x4000_001e];
        info.ap_encodings[..4].copy_from_slice(&codes);
        Ok(info)
    }

    pub(crate) fn cpu_char(&self) -> errno::Result<kvm_ppc_cpu_char> {
        drop(self.shared().call("KVM_PPC_GET_CPU_CHAR", 0)?);
        Ok(kvm_ppc_cpu_char::default())
    }

    pub(crate) fn define_rtas_token(&self, args: &kvm_rtas_token_args) -> errno::Result<()> {
        let mut state = self
            .shared()
            .call("KVM_PPC_RTAS_DEFINE_TOKEN", args.token)?;
        let name = args.name.iter().flat_map(|byte| byte.to_ne_bytes());
        let name: Vec<u8> = name.take_while(|&byte| byte != 0).collect();
        let name = String::from_utf8_lossy(&name).into_owned();
        if state.tokens.insert(args.token, name).is_some() {
            return Err(errno::Error::new(libc::EEXIST));
        }
        Ok(())
    }
}

/// A TCE table.
#[derive(Debug)]
pub(crate) struct TableFd {
    entries: std::fs::File,
    _object: Object,
}

impl AsRawFd for TableFd {
    fn as_raw_fd(&self) -> RawFd {
        self.entries.as_raw_fd()
    }
}
