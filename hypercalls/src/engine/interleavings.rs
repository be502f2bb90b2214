//! The engine beside Linux' own handlers, in many orders of their steps.
//!
//! With `--cfg shuttle` locks and atomics are shuttle's, which decides at each use of one which processor
//! goes on. The model of the kernel has apart what Linux has apart: KVM_CREATE_SPAPR_TCE_64 makes a table
//! visible, KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE binds it later; H_PUT_TCE changes the hardware's entry, then
//! the view's, without a lock (`kvm_vm_ioctl_create_spapr_tce`, `kvm_spapr_tce_attach_iommu_group` and
//! `kvmppc_h_put_tce` in arch/powerpc/kvm/book3s_64_vio.c).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shuttle::thread;

use super::*;
use crate::address::{Liobn, PageShift};
use crate::policy::{LockPolicy, TcePolicy};
use crate::sync::{AtomicBool, Mutex};
use crate::tce::Permission;
use crate::testing::FakeMemory;
use crate::world::{BindRefusal, HostError, HostRange, KernelTable};

/// Orders of steps that each test tries, with each of two ways to choose them.
const ORDERS: usize = 4_000;
/// How many of the steps where processors change over matter, at most.
const DEPTH: usize = 4;

const LIOBN: u64 = 0x8000_0000;
const LIST: u64 = 0x8000;
const ENTRIES: usize = 8;
const SUCCESS: ReturnCode = ReturnCode::SUCCESS;

#[derive(Clone, Debug)]
struct Table(Arc<[AtomicU64]>);

impl KernelTable for Table {
    fn entries(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// A host with a window for the bridge and the VM's tables.
#[derive(Debug)]
struct Kernel {
    /// What is mapped: a host address, or 0.
    hardware: Vec<AtomicU64>,
    /// Visible to H_PUT_TCE.
    table: Mutex<Option<Table>>,
    /// H_PUT_TCE tells the hardware.
    is_bound: AtomicBool,
    registered: AtomicBool,
    refuses_to_unmap: AtomicBool,
}

impl Kernel {
    fn new() -> Self {
        Self {
            hardware: (0..ENTRIES).map(|_| AtomicU64::new(0)).collect(),
            table: Mutex::new(None),
            is_bound: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            refuses_to_unmap: AtomicBool::new(false),
        }
    }

    /// H_PUT_TCE in the kernel; false when it leaves the call to user space.
    fn put(&self, index: usize, tce: Tce, memory: &FakeMemory) -> bool {
        let Some(table) = self.table.lock().clone() else {
            return false;
        };
        let maps = !tce.permission().is_none();
        if self.is_bound.load(Relaxed) {
            if maps && !self.registered.load(Relaxed) {
                return false;
            }
            let host = memory.host_range(tce.address()).filter(|_| maps);
            self.hardware[index].store(host.map_or(0, |host| host.start.0), Relaxed);
        }
        table.0[index].store(tce.0, Relaxed);
        true
    }
}

impl HostIommu for Kernel {
    type KernelTable = Table;

    fn create_window(&self, _: PageShift, _: u64, place: Option<Ioba>) -> Result<Ioba, HostError> {
        Ok(place.unwrap_or(Ioba(0)))
    }

    fn remove_window(&self, _: Ioba) -> Result<(), HostError> {
        Ok(())
    }

    fn never_binds(&self) -> Option<BindRefusal> {
        None
    }

    fn bind_kernel_table(&self, _: Liobn, _: Geometry) -> Result<Table, BindRefusal> {
        let table = Table((0..ENTRIES).map(|_| AtomicU64::new(0)).collect());
        *self.table.lock() = Some(table.clone());
        self.is_bound.store(true, Relaxed);
        Ok(table)
    }

    fn registers_memory(&self) -> bool {
        true
    }

    fn register_memory(&self, _: HostRange) -> Result<(), HostError> {
        self.registered.store(true, Relaxed);
        Ok(())
    }

    fn unregister_memory(&self, _: HostRange) -> Result<(), HostError> {
        Ok(())
    }

    fn holds_on_to(&self, _: HostRange) -> bool {
        false
    }

    fn settle(&self, _: HostRange) {}

    fn map(&self, ioba: Ioba, host: HostRange, _: Permission) -> Result<(), HostError> {
        let entries = self.hardware.iter().skip((ioba.0 >> 12) as usize);
        for (page, entry) in (0..host.bytes >> 12).zip(entries) {
            entry.store(host.start.0 + (page << 12), Relaxed);
        }
        Ok(())
    }

    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        if self.refuses_to_unmap.load(Relaxed) {
            return Err(HostError::Refused(22));
        }
        let entries = self.hardware.iter().skip((ioba.0 >> 12) as usize);
        for (_, entry) in (0..bytes >> 12).zip(entries) {
            entry.store(0, Relaxed);
        }
        Ok(())
    }
}

/// A guest's machine in the default mode, before its first mapping.
struct Machine(Engine<FakeMemory, Kernel>);

impl Machine {
    fn new() -> Arc<Self> {
        let ram = vec![GuestRange {
            start: GuestPhysicalAddress(0),
            bytes: 0x10_0000,
        }];
        let memory = FakeMemory::new(ram.clone(), GuestPhysicalAddress(LIST), 1);
        let policy = Policy {
            tce: TcePolicy::Auto,
            lock: LockPolicy::FirstMap,
            region: None,
            block: None,
        };
        let bridge = HostBridge {
            number: 0,
            host: Kernel::new(),
            default_window: Geometry {
                bus_offset: Ioba(0),
                page_shift: PageShift::SIZE_4K,
                entries: ENTRIES as u64,
            },
        };
        let engine = Engine::new(memory, &ram, policy, vec![bridge]).unwrap();
        engine.prepare().unwrap();
        Arc::new(Self(engine))
    }

    fn kernel(&self) -> &Kernel {
        self.0.host(0).unwrap()
    }

    fn in_user_space(&self, number: u64, arguments: &[u64]) -> ReturnCode {
        loop {
            if let Answer::Code(code) = self.once_in_user_space(number, arguments) {
                return code;
            }
        }
    }

    fn once_in_user_space(&self, number: u64, arguments: &[u64]) -> Answer {
        let mut registers = [0; 9];
        registers[..arguments.len()].copy_from_slice(arguments);
        let answer = self.0.handle(number, &mut registers);
        answer.unwrap_or_else(|| panic!("{number:#x} is not answered"))
    }

    fn put(&self, index: usize, tce: u64) {
        let ioba = (index as u64) << 12;
        // Made again, it is the kernel's again.
        while !self.kernel().put(index, Tce(tce), &self.0.memory) {
            let answer = self.once_in_user_space(abi::H_PUT_TCE, &[LIOBN, ioba, tce]);
            if let Answer::Code(code) = answer {
                assert_eq!(code, SUCCESS);
                return;
            }
        }
    }

    fn put_list(&self, list: &[u64]) {
        self.0.memory.write_list(GuestPhysicalAddress(LIST), list);
        let arguments = [LIOBN, 0, LIST, list.len() as u64];
        assert_eq!(
            self.in_user_space(abi::H_PUT_TCE_INDIRECT, &arguments),
            SUCCESS
        );
    }

    fn stuff(&self, count: u64) -> ReturnCode {
        self.in_user_space(abi::H_STUFF_TCE, &[LIOBN, 0, 0, count])
    }

    fn view(&self, index: usize) -> u64 {
        let mut registers = [LIOBN, (index as u64) << 12, 0, 0, 0, 0, 0, 0, 0];
        self.0.handle(abi::H_GET_TCE, &mut registers);
        registers[0]
    }

    fn hardware(&self, index: usize) -> u64 {
        self.kernel().hardware[index].load(Relaxed)
    }

    /// What the hardware has when an entry with permission is in it.
    fn mapped_by(&self, tce: u64) -> u64 {
        let host = self.0.memory.host_range(Tce(tce).address());
        host.map_or(0, |host| host.start.0)
    }

    fn assert_what_is_mapped_is_shown(&self) {
        for index in 0..ENTRIES {
            let (live, shown) = (self.hardware(index), self.view(index));
            assert!(
                live == 0 || shown & 3 != 0,
                "entry {index}: {live:#x} {shown:#x}"
            );
        }
    }
}

/// Runs `processors` at once on a machine made by `ready`, then `check`, in many orders.
fn in_any_order(
    ready: impl Fn(&Machine) + Clone + Send + Sync + 'static,
    processors: [fn(&Machine); 2],
    check: impl Fn(&Machine) + Clone + Send + Sync + 'static,
) {
    let run = move || {
        let machine = Machine::new();
        ready(&machine);
        let threads = processors.map(|processor| {
            let machine = Arc::clone(&machine);
            thread::spawn(move || processor(&machine))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        check(&machine);
    };
    shuttle::check_random(run.clone(), ORDERS);
    shuttle::check_pct(run, ORDERS, DEPTH);
}

#[test]
fn an_entry_put_while_another_processor_makes_the_first_mapping_reaches_the_hardware() {
    in_any_order(
        |_| {},
        [
            |machine| machine.put(0, 0x1003),
            |machine| machine.put(1, 0x2003),
        ],
        |machine| {
            for (index, tce) in [(0, 0x1003), (1, 0x2003)] {
                assert_eq!(machine.view(index), tce);
                assert_eq!(machine.hardware(index), machine.mapped_by(tce));
            }
        },
    );
}

#[test]
fn an_entry_put_in_the_kernel_while_its_range_is_cleared_here_is_not_mapped_unseen() {
    in_any_order(
        |machine| machine.put(0, 0x1003),
        [
            |machine| assert_eq!(machine.stuff(2), SUCCESS),
            |machine| machine.put(0, 0x1003),
        ],
        |machine| {
            machine.assert_what_is_mapped_is_shown();
            assert_eq!(machine.stuff(2), SUCCESS);
            assert_eq!((machine.hardware(0), machine.view(0)), (0, 0));
        },
    );
}

#[test]
fn an_entry_put_in_the_kernel_while_the_host_refuses_to_clear_is_not_mapped_unseen() {
    in_any_order(
        |machine| {
            machine.put(0, 0x1003);
            machine.kernel().refuses_to_unmap.store(true, Relaxed);
        },
        [
            |machine| assert_eq!(machine.stuff(2), ReturnCode::HARDWARE),
            |machine| {
                machine.put(0, 0x2003);
                machine.put(1, 0x3003);
            },
        ],
        Machine::assert_what_is_mapped_is_shown,
    );
}

#[test]
fn what_two_processors_in_the_kernel_leave_mapped_unseen_goes_with_the_next_clear() {
    in_any_order(
        |machine| machine.put(0, 0x1003),
        [
            |machine| machine.put(0, 0),
            |machine| {
                machine.put(0, 0x2003);
            },
        ],
        |machine| {
            assert_eq!(machine.stuff(1), SUCCESS);
            assert_eq!((machine.hardware(0), machine.view(0)), (0, 0));
        },
    );
}

#[test]
fn what_a_list_and_the_kernel_map_at_once_is_shown_and_goes_with_the_next_clear() {
    in_any_order(
        |_| {},
        [
            |machine| machine.put_list(&[0x1003, 0x2003, 0, 0x4003]),
            |machine| {
                machine.put(1, 0x5003);
                machine.put(2, 0x6003);
            },
        ],
        |machine| {
            machine.assert_what_is_mapped_is_shown();
            assert_eq!(machine.stuff(ENTRIES as u64), SUCCESS);
            for index in 0..ENTRIES {
                assert_eq!((machine.hardware(index), machine.view(index)), (0, 0));
            }
        },
    );
}
