//! KVM's descriptors on a POWER host, and the calls that are made on them.
//!
//! `kvm-ioctls` makes most calls. What it keeps back on powerpc64 is made here, with the numbers in `ioctls`.

mod ioctls;

use std::arch::asm;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use kvm_bindings::powerpc64::{
    kvm_create_device, kvm_create_spapr_tce_64, kvm_device_attr, kvm_enable_cap, kvm_irqfd,
    kvm_ppc_cpu_char, kvm_ppc_mmuv3_cfg, kvm_ppc_rmmu_info, kvm_regs, kvm_rtas_token_args, kvm_run,
    kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};

pub use ioctls::REQUESTS;
use ioctls::check;

/// Whether guests can be run on this architecture, if the host has KVM.
pub const RUNS_GUESTS: bool = true;

/// The host's time base (Power ISA, Book II, "Time Base").
pub(crate) fn time_base() -> u64 {
    let ticks;
    // SAFETY: reads a register that user space may read, and touches nothing else.
    unsafe { asm!("mfspr {}, 268", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// `/dev/kvm`.
#[derive(Debug)]
pub(crate) struct KvmFd(kvm_ioctls::Kvm);

impl KvmFd {
    pub(crate) fn open(device: &CStr) -> errno::Result<Self> {
        kvm_ioctls::Kvm::new_with_path(device).map(Self)
    }

    pub(crate) fn api_version(&self) -> i32 {
        self.0.get_api_version()
    }

    pub(crate) fn check_extension(&self, capability: u32) -> i32 {
        self.0.check_extension_raw(capability.into())
    }

    pub(crate) fn create_vm(&self, kind: u32) -> errno::Result<VmFd> {
        self.0.create_vm_with_type(kind.into()).map(VmFd)
    }
}

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct VmFd(kvm_ioctls::VmFd);

impl VmFd {
    pub(crate) fn check_extension(&self, capability: u32) -> i32 {
        self.0.check_extension_raw(capability.into())
    }

    pub(crate) fn create_vcpu(&self, id: u32) -> errno::Result<VcpuFd> {
        self.0.create_vcpu(id.into()).map(VcpuFd)
    }

    pub(crate) fn create_device(&self, kind: u32) -> errno::Result<DeviceFd> {
        let mut request = kvm_create_device {
            type_: kind,
            ..Default::default()
        };
        self.0.create_device(&mut request).map(DeviceFd)
    }

    /// # Safety
    /// The guest reads and writes the region's memory from now on. It must stay mapped until the slot is
    /// removed or the VM is gone, and nothing may rest on its content being stable.
    pub(crate) unsafe fn set_user_memory_region(
        &self,
        region: kvm_userspace_memory_region,
    ) -> errno::Result<()> {
        // SAFETY: the caller vouches for the memory.
        unsafe { self.0.set_user_memory_region(region) }
    }

    pub(crate) fn enable_cap(&self, capability: &kvm_enable_cap) -> errno::Result<()> {
        self.0.enable_cap(capability)
    }

    pub(crate) fn set_irqfd(&self, request: &kvm_irqfd) -> errno::Result<()> {
        // SAFETY: the call reads one `kvm_irqfd`. The kernel takes its own references to the eventfds.
        check(unsafe { ioctl_with_ref(&self.0, ioctls::KVM_IRQFD, request) }).map(drop)
    }

    pub(crate) fn register_ioeventfd(&self, address: u64, event: &EventFd) -> errno::Result<()> {
        let address = IoEventAddress::Mmio(address);
        self.0.register_ioevent(event, &address, NoDatamatch)
    }

    pub(crate) fn unregister_ioeventfd(&self, address: u64, event: &EventFd) -> errno::Result<()> {
        let address = IoEventAddress::Mmio(address);
        self.0.unregister_ioevent(event, &address, NoDatamatch)
    }

    pub(crate) fn create_spapr_tce_64(
        &self,
        request: &kvm_create_spapr_tce_64,
    ) -> errno::Result<TableFd> {
        // SAFETY: the call reads one `kvm_create_spapr_tce_64`.
        let fd =
            check(unsafe { ioctl_with_ref(&self.0, ioctls::KVM_CREATE_SPAPR_TCE_64, request) })?;
        // SAFETY: KVM has just made this file descriptor, and nobody else has it.
        Ok(TableFd(unsafe { File::from_raw_fd(fd) }))
    }

    pub(crate) fn configure_v3_mmu(&self, config: &kvm_ppc_mmuv3_cfg) -> errno::Result<()> {
        // SAFETY: the call reads one `kvm_ppc_mmuv3_cfg`.
        check(unsafe { ioctl_with_ref(&self.0, ioctls::KVM_PPC_CONFIGURE_V3_MMU, config) })
            .map(drop)
    }

    pub(crate) fn rmmu_info(&self) -> errno::Result<kvm_ppc_rmmu_info> {
        let mut info = kvm_ppc_rmmu_info::default();
        // SAFETY: the call writes one `kvm_ppc_rmmu_info`.
        check(unsafe { ioctl_with_mut_ref(&self.0, ioctls::KVM_PPC_GET_RMMU_INFO, &mut info) })
            .map(|_| info)
    }

    pub(crate) fn cpu_char(&self) -> errno::Result<kvm_ppc_cpu_char> {
        let mut facts = kvm_ppc_cpu_char::default();
        // SAFETY: the call writes one `kvm_ppc_cpu_char`.
        check(unsafe { ioctl_with_mut_ref(&self.0, ioctls::KVM_PPC_GET_CPU_CHAR, &mut facts) })
            .map(|_| facts)
    }

    pub(crate) fn define_rtas_token(&self, args: &kvm_rtas_token_args) -> errno::Result<()> {
        // SAFETY: the call reads one `kvm_rtas_token_args`.
        check(unsafe { ioctl_with_ref(&self.0, ioctls::KVM_PPC_RTAS_DEFINE_TOKEN, args) }).map(drop)
    }
}

/// A virtual processor.
#[derive(Debug)]
pub(crate) struct VcpuFd(kvm_ioctls::VcpuFd);

impl VcpuFd {
    /// KVM_RUN. It keeps this thread's floating-point and vector registers.
    ///
    /// The ABI has a call preserve f14 to f31 and v20 to v31, and compiled code relies on it. But
    /// on the emulated POWER9 host with Linux 6.12, about one KVM_RUN in a hundred returns with
    /// zeroes in all of them.
    // Inlined, so that the function that it is inlined into saves the registers, once, and not each
    // time round its loop: to use them is also to have the kernel save and load them at each exit.
    #[inline(always)]
    pub(crate) fn run(&mut self) -> errno::Result<()> {
        // SAFETY: the call passes nothing; what it writes is in the page that KVM shares, to which no
        // reference is held now.
        let returned = unsafe { ioctl(&self.0, ioctls::KVM_RUN) };
        // SAFETY: there is no instruction here. It tells the compiler that the registers named have
        // changed, so that it restores them before returning.
        unsafe {
            asm!(
                "",
                out("f14") _, out("f15") _, out("f16") _, out("f17") _, out("f18") _,
                out("f19") _, out("f20") _, out("f21") _, out("f22") _, out("f23") _,
                out("f24") _, out("f25") _, out("f26") _, out("f27") _, out("f28") _,
                out("f29") _, out("f30") _, out("f31") _,
                out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _,
                out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _,
                out("v30") _, out("v31") _,
                options(nomem, nostack, preserves_flags),
            );
        }
        check(returned).map(drop)
    }

    /// What KVM and this process tell each other of the vCPU.
    #[inline]
    pub(crate) fn kvm_run(&mut self) -> &mut kvm_run {
        self.0.get_kvm_run()
    }

    pub(crate) fn enable_cap(&self, capability: &kvm_enable_cap) -> errno::Result<()> {
        // SAFETY: the call reads one `kvm_enable_cap`.
        check(unsafe { ioctl_with_ref(&self.0, ioctls::KVM_ENABLE_CAP, capability) }).map(drop)
    }

    pub(crate) fn sregs(&self) -> errno::Result<kvm_sregs> {
        let mut sregs = kvm_sregs::default();
        // SAFETY: the call writes one `kvm_sregs`.
        check(unsafe { ioctl_with_mut_ref(&self.0, ioctls::KVM_GET_SREGS, &mut sregs) })
            .map(|_| sregs)
    }

    pub(crate) fn regs(&self) -> errno::Result<kvm_regs> {
        self.0.get_regs()
    }

    pub(crate) fn set_regs(&self, registers: &kvm_regs) -> errno::Result<()> {
        self.0.set_regs(registers)
    }

    pub(crate) fn one_reg(&self, id: u64, value: &mut [u8]) -> errno::Result<()> {
        self.0.get_one_reg(id, value).map(drop)
    }

    pub(crate) fn set_one_reg(&self, id: u64, value: &[u8]) -> errno::Result<()> {
        self.0.set_one_reg(id, value).map(drop)
    }
}

impl AsRawFd for VcpuFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A device that KVM made.
#[derive(Debug)]
pub(crate) struct DeviceFd(kvm_ioctls::DeviceFd);

impl DeviceFd {
    pub(crate) fn has_attr(&self, attribute: &kvm_device_attr) -> bool {
        self.0.has_device_attr(attribute).is_ok()
    }

    /// # Safety
    /// `addr` is what the kernel takes for the attribute: an address of as many bytes as it reads.
    pub(crate) unsafe fn set_attr(&self, attribute: &kvm_device_attr) -> errno::Result<()> {
        self.0.set_device_attr(attribute)
    }

    /// # Safety
    /// `addr` is the address of as many bytes as the kernel writes for the attribute.
    pub(crate) unsafe fn get_attr(&self, attribute: &mut kvm_device_attr) -> errno::Result<()> {
        // SAFETY: the caller vouches for the address.
        unsafe { self.0.get_device_attr(attribute) }
    }
}

impl AsRawFd for DeviceFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A TCE table.
#[derive(Debug)]
pub(crate) struct TableFd(File);

impl AsRawFd for TableFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
