//! The fake as tests see it.

use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::powerpc64::kvm_regs;

use super::KvmFd;
use super::state::{Answer, Call, Does, Shared};
use crate::host::Kvm;

/// How long a guest may take for what a test has it do. A test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host with KVM.
#[derive(Clone, Debug)]
pub struct Host(Shared);

impl Default for Host {
    fn default() -> Self {
        Self(Shared::new(true))
    }
}

impl Host {
    /// A host on which nothing has been done.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn no_kvm() -> Self {
        Self(Shared::new(false))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Its KVM, as [`host::open`](crate::host::open) gives it on a POWER host.
    pub fn kvm(&self) -> Kvm {
        Kvm(KvmFd(self.clone()))
    }

    /// Has KVM answer so when it is asked for a capability (KVM_CAP_*); 0 is no.
    pub fn set_capability(&self, capability: u32, answer: i32) {
        self.0.lock().capabilities.insert(capability, answer);
    }

    /// Has a call about `argument` refused with `errno`; names and arguments are those of [`Call`].
    pub fn refuse(&self, name: &'static str, argument: u64, errno: i32) {
        self.0.lock().refuse(name, argument, errno);
    }

    /// All calls that were made, and what was closed in between, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().calls().to_vec()
    }

    /// What was made and is still there: `VM`, `vCPU`, `device` and `TCE table`, each with its id (of a device
    /// its kind).
    pub fn alive(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().alive().to_vec()
    }

    /// Guest physical address and size in bytes of the memory slots.
    pub fn slots(&self) -> Vec<(u64, u64)> {
        self.0.lock().slots.values().copied().collect()
    }

    /// Whether the kernel handles hypercall `nr`.
    pub fn is_in_kernel(&self, nr: u64) -> bool {
        self.0.lock().in_kernel.contains(&nr)
    }

    /// The interrupts that eventfds are connected to.
    pub fn irqfds(&self) -> Vec<u32> {
        let state = self.0.lock();
        state.irqfds.iter().map(|&(lisn, _)| lisn).collect()
    }

    /// The RTAS calls that the kernel handles, by token.
    pub fn rtas_tokens(&self) -> Vec<(u64, String)> {
        let state = self.0.lock();
        let tokens = state.tokens.iter();
        tokens.map(|(&token, name)| (token, name.clone())).collect()
    }

    /// The guest's process table, if it was set.
    pub fn process_table(&self) -> Option<u64> {
        self.0.lock().process_table
    }

    /// What runs on vCPU `id` of the VM.
    pub fn guest(&self, id: u32) -> Guest {
        Guest {
            shared: self.0.clone(),
            id,
        }
    }
}

/// A guest on one vCPU.
#[derive(Clone, Debug)]
pub struct Guest {
    shared: Shared,
    id: u32,
}

impl Guest {
    /// Has the guest do something when it has done all else that it was told.
    pub fn make(&self, what: Does) {
        let mut state = self.shared.lock();
        if let Some(vcpu) = state.vcpus.get_mut(&self.id) {
            vcpu.to_do.push_back(what);
            vcpu.is_idle = false;
        }
    }

    /// Has an interrupt of this vector wait for the guest, which takes it where KVM delivers it: behind the next
    /// hypercall that the kernel does not handle and that is made with interrupts enabled. The guest's handler returns
    /// at once.
    pub fn interrupt(&self, vector: u64) {
        let mut state = self.shared.lock();
        if let Some(vcpu) = state.vcpus.get_mut(&self.id) {
            vcpu.pending = Some(vector);
        }
    }

    /// Waits until the guest has done all that it was told and runs on; false when it has not for long.
    pub fn is_done(&self) -> bool {
        self.waits_for(|vcpu| vcpu.is_idle && vcpu.to_do.is_empty())
    }

    /// Whether the guest has done all that it was told.
    pub fn is_idle(&self) -> bool {
        let state = self.shared.lock();
        let vcpu = state.vcpus.get(&self.id);
        vcpu.is_some_and(|vcpu| vcpu.is_idle && vcpu.to_do.is_empty())
    }

    /// Waits until the guest is in no KVM_RUN; false when it has been for long.
    pub fn is_out(&self) -> bool {
        self.waits_for(|vcpu| !vcpu.is_idle)
    }

    fn waits_for(&self, is_so: impl Fn(&super::state::VcpuState) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.shared.lock().vcpus.get(&self.id).is_some_and(&is_so) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// What the guest got so far, in the order in which it did things.
    pub fn answers(&self) -> Vec<Answer> {
        let state = self.shared.lock();
        let vcpu = state.vcpus.get(&self.id);
        vcpu.map(|vcpu| vcpu.answers.clone()).unwrap_or_default()
    }

    /// The general registers.
    pub fn registers(&self) -> kvm_regs {
        let state = self.shared.lock();
        let vcpu = state.vcpus.get(&self.id);
        vcpu.map(|vcpu| vcpu.registers).unwrap_or_default()
    }

    /// A register that was set by KVM_SET_ONE_REG; none if it was not.
    pub fn one_reg(&self, id: u64) -> Option<Vec<u8>> {
        let state = self.shared.lock();
        state.vcpus.get(&self.id)?.one_regs.get(&id).cloned()
    }

    /// Whether a capability was enabled for the vCPU.
    pub fn has_capability(&self, capability: u32) -> bool {
        let state = self.shared.lock();
        let vcpu = state.vcpus.get(&self.id);
        vcpu.is_some_and(|vcpu| vcpu.capabilities.contains(&capability))
    }
}
