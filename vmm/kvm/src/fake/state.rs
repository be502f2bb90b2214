//! What the fake keeps in a kernel's place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use kvm_bindings::powerpc64::{
    KVM_CAP_IRQ_XICS, KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_PPC_AIL_MODE_3, KVM_CAP_PPC_ENABLE_HCALL, KVM_CAP_PPC_GET_CPU_CHAR,
    KVM_CAP_PPC_IRQ_XIVE, KVM_CAP_PPC_MMU_RADIX, KVM_CAP_PPC_RPT_INVALIDATE, KVM_CAP_PPC_RTAS,
    KVM_CAP_SPAPR_MULTITCE, KVM_CAP_SPAPR_TCE_64, KVM_CAP_SPAPR_TCE_VFIO, kvm_regs,
};
use parking_lot::{Mutex, MutexGuard};
use spapr_hypercalls::abi;
use vmm_sys_util::errno;

/// A call that was made, or a descriptor that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The ioctl's name, or `close` and the object's.
    pub name: &'static str,
    /// What it was about: a capability, a slot, a vCPU's id, a LIOBN, a token.
    pub argument: u64,
}

/// What a guest does, for which KVM_RUN returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// A hypercall. Where the kernel handles it, KVM_RUN does not return for it, and the answer is H_SUCCESS.
    Hypercall {
        /// Its number.
        nr: u64,
        /// Its arguments.
        args: [u64; 9],
    },
    /// A load of so many bytes from where there is no memory.
    Read {
        /// Where.
        address: u64,
        /// How many.
        bytes: u32,
    },
    /// A store to where there is no memory.
    Write {
        /// Where.
        address: u64,
        /// What.
        data: u64,
    },
    /// What KVM tells by this exit reason alone.
    Exit(u32),
    /// A hypercall that KVM_RUN fails at with this errno, and which is pending then.
    Fails {
        /// Its number.
        nr: u64,
        /// Its arguments.
        args: [u64; 9],
        /// KVM's refusal.
        errno: i32,
    },
}

/// What a guest got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a hypercall.
    Hypercall {
        /// Its number.
        nr: u64,
        /// r3.
        ret: u64,
        /// r4 to r12.
        args: [u64; 9],
        /// Whether the kernel handled it.
        in_kernel: bool,
    },
    /// Of a load.
    Read([u8; 8]),
}

/// A vCPU's registers and its guest.
#[derive(Debug, Default)]
pub(super) struct VcpuState {
    pub(super) registers: kvm_regs,
    pub(super) one_regs: BTreeMap<u64, Vec<u8>>,
    pub(super) to_do: VecDeque<Does>,
    pub(super) answers: Vec<Answer>,
    /// KVM_RUN waits, and there is nothing to do.
    pub(super) is_idle: bool,
    /// Where the last hypercall's `sc 1` is.
    pub(super) last_call: Option<u64>,
    /// Capabilities that were enabled.
    pub(super) capabilities: BTreeSet<u32>,
    /// The vector of an interrupt that waits until the guest has interrupts enabled.
    pub(super) pending: Option<u64>,
    /// Where the guest's handler of an interrupt starts, which it has not yet returned from.
    pub(super) handler: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) is_kvm: bool,
    calls: Vec<Call>,
    refusals: BTreeMap<(&'static str, u64), i32>,
    alive: Vec<(&'static str, u64)>,
    pub(super) capabilities: BTreeMap<u32, i32>,
    // Of the last VM that was made.
    pub(super) vcpus: BTreeMap<u32, VcpuState>,
    /// Guest physical address and size of each.
    pub(super) slots: BTreeMap<u32, (u64, u64)>,
    pub(super) in_kernel: BTreeSet<u64>,
    /// Interrupt and eventfd.
    pub(super) irqfds: BTreeSet<(u32, u32)>,
    /// Events of doorbells, by their addresses.
    pub(super) doorbells: BTreeMap<u64, i32>,
    pub(super) tokens: BTreeMap<u64, String>,
    pub(super) process_table: Option<u64>,
}

/// Hypercalls that the kernel has a handler for, of those that this program switches, and whether it is enabled at first
/// (`default_hcall_list` in arch/powerpc/kvm/book3s_hv.c).
const HANDLERS: [(u64, bool); 4] = [
    (abi::H_REGISTER_VPA, true),
    (abi::H_PUT_TCE, true),
    (abi::H_PUT_TCE_INDIRECT, false),
    (abi::H_STUFF_TCE, false),
];

impl State {
    pub(super) fn capability(&self, capability: u32) -> i32 {
        self.capabilities.get(&capability).copied().unwrap_or(0)
    }

    pub(super) fn begin_vm(&mut self) {
        self.vcpus.clear();
        self.slots.clear();
        self.irqfds.clear();
        self.doorbells.clear();
        self.tokens.clear();
        self.process_table = None;
        let enabled = HANDLERS.iter().filter(|(_, at_first)| *at_first);
        self.in_kernel = enabled.map(|&(nr, _)| nr).collect();
    }

    pub(super) fn enable_hcall(&mut self, nr: u64, enable: bool) -> errno::Result<()> {
        if !HANDLERS.iter().any(|&(handled, _)| handled == nr) {
            return Err(errno::Error::new(libc::EINVAL));
        }
        if enable {
            self.in_kernel.insert(nr);
        } else {
            self.in_kernel.remove(&nr);
        }
        Ok(())
    }

    /// Whether the kernel handles a call by itself: of those about TCEs, one for a LIOBN that has a table.
    pub(super) fn handles(&self, nr: u64, args: &[u64; 9]) -> bool {
        let is_tce = [abi::H_PUT_TCE, abi::H_PUT_TCE_INDIRECT, abi::H_STUFF_TCE].contains(&nr);
        let has_table = || self.tables().any(|liobn| liobn == args[0]);
        self.in_kernel.contains(&nr) && (!is_tce || has_table())
    }

    /// The LIOBNs that have one.
    pub(super) fn tables(&self) -> impl Iterator<Item = u64> {
        let tables = self.alive.iter().filter(|(what, _)| *what == "TCE table");
        tables.map(|&(_, liobn)| liobn)
    }

    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }

    pub(super) fn alive(&self) -> &[(&'static str, u64)] {
        &self.alive
    }

    pub(super) fn refuse(&mut self, name: &'static str, argument: u64, errno: i32) {
        self.refusals.insert((name, argument), errno);
    }

    fn note(&mut self, name: &'static str, argument: u64) -> errno::Result<()> {
        self.calls.push(Call { name, argument });
        match self.refusals.get(&(name, argument)) {
            Some(&errno) => Err(errno::Error::new(errno)),
            None => Ok(()),
        }
    }
}

/// The state, for all descriptors of a host.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(super) fn new(is_kvm: bool) -> Self {
        let state = State {
            is_kvm,
            capabilities: CAPABILITIES.into_iter().collect(),
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Notes a call, unless it is to be refused.
    pub(super) fn call(
        &self,
        name: &'static str,
        argument: u64,
    ) -> errno::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.note(name, argument)?;
        Ok(state)
    }

    /// Notes a call that makes something.
    pub(super) fn make(
        &self,
        name: &'static str,
        argument: u64,
        what: &'static str,
        id: u64,
    ) -> errno::Result<Object> {
        self.call(name, argument)?.alive.push((what, id));
        Ok(Object {
            shared: self.clone(),
            what,
            id,
        })
    }
}

/// What a host with POWER9 and Linux 6.12 offers.
const CAPABILITIES: [(u32, i32); 15] = [
    (KVM_CAP_MAX_VCPUS, 2048),
    (KVM_CAP_MAX_VCPU_ID, 2048),
    (KVM_CAP_NR_MEMSLOTS, 512),
    (KVM_CAP_PPC_MMU_RADIX, 1),
    (KVM_CAP_IRQ_XICS, 1),
    (KVM_CAP_PPC_IRQ_XIVE, 1),
    (KVM_CAP_PPC_RTAS, 1),
    (KVM_CAP_PPC_ENABLE_HCALL, 1),
    (KVM_CAP_PPC_AIL_MODE_3, 1),
    (KVM_CAP_PPC_GET_CPU_CHAR, 1),
    (KVM_CAP_PPC_RPT_INVALIDATE, 1),
    (KVM_CAP_SPAPR_TCE_64, 1),
    (KVM_CAP_SPAPR_TCE_VFIO, 1),
    (KVM_CAP_SPAPR_MULTITCE, 1),
    (kvm_bindings::powerpc64::KVM_CAP_PPC_SMT, 1),
];

/// Something that KVM made and that lives as long as its descriptor.
#[derive(Debug)]
pub(super) struct Object {
    shared: Shared,
    what: &'static str,
    id: u64,
}

impl Object {
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.calls.push(Call {
            name: closing(self.what),
            argument: self.id,
        });
        let this = (self.what, self.id);
        if let Some(place) = state.alive.iter().position(|object| *object == this) {
            state.alive.remove(place);
        }
    }
}

fn closing(what: &str) -> &'static str {
    match what {
        "VM" => "close VM",
        "vCPU" => "close vCPU",
        "TCE table" => "close TCE table",
        _ => "close device",
    }
}

/// A file in memory, of zeroes.
pub(super) fn file_of(bytes: u64) -> errno::Result<File> {
    // SAFETY: the name is a string that ends with a zero.
    let fd = unsafe { libc::memfd_create(c"kvm".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(errno::Error::last());
    }
    // SAFETY: the descriptor was made just now, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)
        .map_err(|error| errno::Error::new(error.raw_os_error().unwrap_or_default()))?;
    Ok(file)
}
