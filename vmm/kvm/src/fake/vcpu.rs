//! A vCPU: its registers, and KVM_RUN.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::powerpc64::{
    KVM_EXIT_MMIO, KVM_EXIT_PAPR_HCALL, KVM_EXIT_UNKNOWN, KVM_REG_PPC_VPA_ADDR,
    KVM_REG_PPC_VPA_DTL, KVM_REG_PPC_VPA_SLB, KVM_REG_SIZE_MASK, KVM_REG_SIZE_SHIFT,
    kvm_enable_cap, kvm_regs, kvm_run, kvm_sregs,
};
use spapr_devices::vfio::host_page_bytes;
use vmm_sys_util::errno;

use super::state::{Answer, Does, Object, Shared, State, VcpuState, file_of};
use crate::exit;
use crate::mapping::SharedMapping;
use crate::vcpu::msr;

/// POWER9, DD 2.2.
const PVR: u32 = 0x004e_1202;

/// A virtual processor.
#[derive(Debug)]
pub(crate) struct VcpuFd {
    object: Object,
    page: File,
    run: SharedMapping,
}

/// What KVM_RUN does next.
enum Next {
    /// It returns.
    Return(errno::Result<()>),
    /// The guest goes on.
    GoOn,
    /// The guest has nothing to do.
    Wait,
}

impl VcpuFd {
    pub(super) fn new(shared: &Shared, id: u32) -> errno::Result<Self> {
        if shared.lock().vcpus.contains_key(&id) {
            return Err(errno::Error::new(libc::EEXIST));
        }
        let page_bytes = host_page_bytes();
        let page = file_of(page_bytes)?;
        let bytes = usize::try_from(page_bytes).unwrap_or(size_of::<kvm_run>());
        let run = SharedMapping::new(&page, bytes)?;
        let object = shared.make("KVM_CREATE_VCPU", id.into(), "vCPU", id.into())?;
        shared.lock().vcpus.insert(id, VcpuState::default());
        Ok(Self { object, page, run })
    }

    fn call(&self, name: &'static str, argument: u64) -> errno::Result<()> {
        self.object.shared().call(name, argument).map(drop)
    }

    /// Does something with the state of this vCPU; ENODEV when its VM is the last one no more.
    fn with<T>(&self, work: impl FnOnce(&mut VcpuState) -> T) -> errno::Result<T> {
        let mut state = self.object.shared().lock();
        let vcpu = u32::try_from(self.object.id())
            .ok()
            .and_then(|id| state.vcpus.get_mut(&id));
        let gone = || errno::Error::new(libc::ENODEV);
        vcpu.map(work).ok_or_else(gone)
    }

    /// KVM_RUN.
    pub(crate) fn run(&mut self) -> errno::Result<()> {
        self.complete()?;
        loop {
            if self.kvm_run().immediate_exit != 0 {
                self.with(|vcpu| vcpu.is_idle = false)?;
                return Err(errno::Error::new(libc::EINTR));
            }
            match self.step()? {
                Next::Return(outcome) => return outcome,
                Next::GoOn => {}
                Next::Wait => self.wait()?,
            }
        }
    }

    /// A moment in the guest, which a signal ends.
    fn wait(&self) -> errno::Result<()> {
        // SAFETY: no descriptors, so no memory is touched.
        let returned = unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
        if returned < 0 {
            let error = errno::Error::last();
            self.with(|vcpu| vcpu.is_idle = false)?;
            return Err(error);
        }
        Ok(())
    }

    /// Gives the guest the results of what it stopped for.
    fn complete(&mut self) -> errno::Result<()> {
        let run = self.kvm_run();
        let answer = if let Some(call) = exit::papr_hcall(run) {
            Answer::Hypercall {
                nr: call.nr,
                ret: *call.ret,
                args: *call.args,
                in_kernel: false,
            }
        } else if run.exit_reason == KVM_EXIT_MMIO {
            // SAFETY: the exit reason says that this is the field in use.
            let mmio = unsafe { run.__bindgen_anon_1.mmio };
            if mmio.is_write != 0 {
                run.exit_reason = KVM_EXIT_UNKNOWN;
                return Ok(());
            }
            Answer::Read(mmio.data)
        } else {
            return Ok(());
        };
        run.exit_reason = KVM_EXIT_UNKNOWN;
        self.with(|vcpu| {
            if let Answer::Hypercall { ret, args, .. } = answer {
                vcpu.registers.gpr[3] = ret;
                vcpu.registers.gpr[4..13].copy_from_slice(&args);
            }
            vcpu.answers.push(answer);
        })
    }

    /// Does the guest's next thing.
    fn step(&mut self) -> errno::Result<Next> {
        let shared = self.object.shared().clone();
        let mut state = shared.lock();
        let id = u32::try_from(self.object.id()).unwrap_or(u32::MAX);
        let Some(does) = next_of(&mut state, id) else {
            return Ok(Next::Wait);
        };
        let (nr, args, failure) = match does {
            Does::Hypercall { nr, args } => (nr, args, None),
            Does::Fails { nr, args, errno } => (nr, args, Some(errno)),
            other => {
                leave_for(self.kvm_run(), &other);
                return Ok(Next::Return(Ok(())));
            }
        };
        let in_kernel = state.handles(nr, &args);
        let Some(vcpu) = state.vcpus.get_mut(&id) else {
            return Err(errno::Error::new(libc::ENODEV));
        };
        vcpu.last_call = Some(vcpu.registers.pc);
        // The kernel leaves the guest after its `sc 1`.
        vcpu.registers.pc = vcpu.registers.pc.wrapping_add(4);
        if in_kernel {
            vcpu.registers.gpr[3] = 0;
            vcpu.answers.push(Answer::Hypercall {
                nr,
                ret: 0,
                args,
                in_kernel,
            });
            return Ok(Next::GoOn);
        }
        vcpu.deliver();
        let run = self.kvm_run();
        run.exit_reason = KVM_EXIT_PAPR_HCALL;
        // SAFETY: any bits will do.
        let hcall = unsafe { &mut run.__bindgen_anon_1.papr_hcall };
        (hcall.nr, hcall.ret, hcall.args) = (nr, 0, args);
        let failure = failure.map(errno::Error::new);
        Ok(Next::Return(failure.map_or(Ok(()), Err)))
    }

    /// What KVM and this process tell each other of the vCPU.
    pub(crate) fn kvm_run(&mut self) -> &mut kvm_run {
        let start = std::ptr::with_exposed_provenance_mut::<kvm_run>(self.run_address());
        // SAFETY: the page is mapped as long as `self` lives, is larger than a `kvm_run`, and any bits will do.
        // Others reach it through mappings of their own alone.
        unsafe { &mut *start }
    }

    fn run_address(&self) -> usize {
        usize::try_from(self.run.address(0).0).unwrap_or_default()
    }

    pub(crate) fn enable_cap(&self, capability: &kvm_enable_cap) -> errno::Result<()> {
        self.call("KVM_ENABLE_CAP", capability.cap.into())?;
        if self.with(|vcpu| vcpu.capabilities.insert(capability.cap))? {
            Ok(())
        } else {
            Err(errno::Error::new(libc::EBUSY))
        }
    }

    pub(crate) fn sregs(&self) -> errno::Result<kvm_sregs> {
        self.call("KVM_GET_SREGS", self.object.id())?;
        Ok(kvm_sregs {
            pvr: PVR,
            ..Default::default()
        })
    }

    pub(crate) fn regs(&self) -> errno::Result<kvm_regs> {
        self.with(|vcpu| vcpu.registers)
    }

    pub(crate) fn set_regs(&self, registers: &kvm_regs) -> errno::Result<()> {
        self.call("KVM_SET_REGS", self.object.id())?;
        self.with(|vcpu| vcpu.registers = *registers)
    }

    pub(crate) fn one_reg(&self, id: u64, value: &mut [u8]) -> errno::Result<()> {
        check_size(id, value)?;
        self.with(|vcpu| match vcpu.one_regs.get(&id) {
            Some(kept) => value.copy_from_slice(kept),
            None => value.fill(0),
        })
    }

    pub(crate) fn set_one_reg(&self, id: u64, value: &[u8]) -> errno::Result<()> {
        check_size(id, value)?;
        self.call("KVM_SET_ONE_REG", id)?;
        let is_set = self.with(|vcpu| {
            let may = vcpu.may_have(id, value);
            if may {
                vcpu.one_regs.insert(id, value.to_vec());
            }
            may
        })?;
        if is_set {
            Ok(())
        } else {
            Err(errno::Error::new(libc::EINVAL))
        }
    }
}

impl VcpuState {
    /// Has the guest take the interrupt that is pending, if it may (`kvmppc_inject_interrupt_hv` in
    /// arch/powerpc/kvm/book3s_hv_builtin.c).
    fn deliver(&mut self) {
        if self.registers.msr & msr::EE == 0 {
            return;
        }
        if let Some(vector) = self.pending.take() {
            let registers = &mut self.registers;
            (registers.srr0, registers.srr1) = (registers.pc, registers.msr);
            registers.pc = vector;
            registers.msr &= !msr::EE;
            self.handler = Some(vector);
        }
    }

    /// Returns from the interrupt that was delivered, if the guest is at its handler.
    fn return_from_interrupt(&mut self) {
        let registers = &mut self.registers;
        if self
            .handler
            .take_if(|start| *start == registers.pc)
            .is_some()
        {
            (registers.pc, registers.msr) = (registers.srr0, registers.srr1);
        }
    }

    /// Without a virtual processor area there are no other areas (`kvmppc_set_one_reg_hv` in
    /// arch/powerpc/kvm/book3s_hv.c).
    fn may_have(&self, id: u64, value: &[u8]) -> bool {
        let address_of = |value: &[u8]| value.iter().take(8).any(|&byte| byte != 0);
        let has = |id| {
            self.one_regs
                .get(&id)
                .is_some_and(|value| address_of(value))
        };
        match id {
            KVM_REG_PPC_VPA_SLB | KVM_REG_PPC_VPA_DTL => {
                !address_of(value) || has(KVM_REG_PPC_VPA_ADDR)
            }
            KVM_REG_PPC_VPA_ADDR => {
                address_of(value) || !has(KVM_REG_PPC_VPA_SLB) && !has(KVM_REG_PPC_VPA_DTL)
            }
            _ => true,
        }
    }
}

impl AsRawFd for VcpuFd {
    fn as_raw_fd(&self) -> RawFd {
        self.page.as_raw_fd()
    }
}

/// What the guest does next: the hypercall that it was put back on, or what it was told.
fn next_of(state: &mut State, id: u32) -> Option<Does> {
    let vcpu = state.vcpus.get_mut(&id)?;
    vcpu.return_from_interrupt();
    let registers = vcpu.registers;
    let next = if vcpu.last_call == Some(registers.pc) {
        let mut args = [0; 9];
        args.copy_from_slice(&registers.gpr[4..13]);
        let nr = registers.gpr[3];
        Some(Does::Hypercall { nr, args })
    } else {
        vcpu.to_do.pop_front()
    };
    vcpu.is_idle = next.is_none();
    next
}

/// Leaves in the page what KVM would for anything but a hypercall.
fn leave_for(run: &mut kvm_run, does: &Does) {
    // SAFETY: any bits will do.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    run.exit_reason = match *does {
        Does::Read { address, bytes } => {
            (mmio.phys_addr, mmio.len, mmio.is_write) = (address, bytes, 0);
            mmio.data = [0; 8];
            KVM_EXIT_MMIO
        }
        Does::Write { address, data } => {
            (mmio.phys_addr, mmio.len, mmio.is_write) = (address, 8, 1);
            mmio.data = data.to_ne_bytes();
            KVM_EXIT_MMIO
        }
        Does::Exit(reason) => reason,
        Does::Hypercall { .. } | Does::Fails { .. } => KVM_EXIT_UNKNOWN,
    };
}

/// A register's id says how large it is.
fn check_size(id: u64, value: &[u8]) -> errno::Result<()> {
    let bytes = 1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
    if value.len() == bytes {
        Ok(())
    } else {
        Err(errno::Error::new(libc::EINVAL))
    }
}
