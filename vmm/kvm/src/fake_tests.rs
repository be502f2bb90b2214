//! What is asked of KVM, on the fake.

use std::sync::Arc;
use std::thread;

use spapr_devices::interrupts::xive::{
    OS_THREAD_MANAGEMENT, PAGE_BYTES, Priority, QueueName, SOURCE_BYTES, XiveDevice, trigger_page,
};
use spapr_devices::interrupts::{Lisn, LisnBlock, Trigger};
use spapr_hypercalls::abi;
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::world::Geometry;
use vmm_sys_util::eventfd::EventFd;

use crate::exit::Exit;
use crate::fake::{Answer, Does, Host};
use crate::host::{self, HostError};
use crate::kick::VcpuKick;
use crate::memory_slots::{MemorySlotError, MemorySlots};
use crate::registers;
use crate::shared_area::{Kind, SharedArea};
use crate::tce_table::TceTable;
use crate::vcpu::{EntryRegisters, Vcpu, msr};
use crate::vfio_device::VfioKvmDevice;
use crate::vm::Vm;
use crate::xics::{SourceState, Xics};
use crate::xive::XiveKvm;

const CALL: Does = Does::Hypercall {
    nr: 0x58,
    args: [1, 2, 3, 4, 5, 6, 7, 8, 9],
};

fn vm() -> (Host, Arc<Vm>) {
    let host = Host::new();
    let vm = host::create_vm(&host.kvm()).expect("a VM");
    (host, Arc::new(vm))
}

fn vcpu() -> (Host, Arc<Vm>, Vcpu) {
    let (host, vm) = vm();
    let vcpu = vm.create_vcpu(0).expect("a vCPU");
    (host, vm, vcpu)
}

fn entry(pc: u64) -> EntryRegisters {
    EntryRegisters {
        pc,
        msr: msr::SF,
        gpr: [5; 32],
    }
}

#[test]
fn this_machine_runs_no_guests_and_says_what_does() {
    let error = host::open().unwrap_err();
    assert!(matches!(error, HostError::WrongArchitecture), "{error:?}");
    assert!(error.to_string().contains("ppc64le hosts"));
}

#[test]
fn registers_set_for_an_entry_are_not_spoilt_by_what_the_vcpu_stopped_for_before() {
    let (host, _vm, mut vcpu) = vcpu();
    host.guest(0).make(CALL);
    assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall);
    let call = vcpu.papr_hcall().unwrap();
    assert_eq!((call.nr, call.args[8]), (0x58, 9));
    (*call.ret, call.args[0]) = (77, 88);
    vcpu.set_entry(&entry(0x100)).unwrap();
    assert!(matches!(
        host.guest(0).answers()[..],
        [Answer::Hypercall {
            ret: 77,
            args: [88, ..],
            ..
        }]
    ));
    let registers = host.guest(0).registers();
    assert_eq!((registers.pc, registers.gpr), (0x100, [5; 32]));
    // A kick that came meanwhile is not lost.
    host.guest(0).make(CALL);
    assert_eq!(vcpu.run_guest().unwrap_err().errno(), libc::EINTR);
    vcpu.clear_immediate_exit();
    assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall);
}

#[test]
fn a_call_is_made_again_from_its_own_instruction() {
    let (host, _vm, mut vcpu) = vcpu();
    vcpu.set_entry(&entry(0x100)).unwrap();
    host.guest(0).make(CALL);
    for _ in 0..2 {
        assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall);
        let call = vcpu.papr_hcall().unwrap();
        *call.ret = call.nr;
        vcpu.rewind_to_hypercall().unwrap();
    }
    assert_eq!(vcpu.pc().unwrap(), 0x100);
}

/// As with XICS, whose interrupts KVM delivers before KVM_RUN returns: a guest that was put back from the vector was
/// at no instruction of its own.
#[test]
fn a_call_is_made_again_after_the_interrupt_that_came_behind_it() {
    for vector in [0x500, 0x900, 0xc000_0000_0000_4500, 0xc000_0000_0000_4900] {
        let (host, _vm, mut vcpu) = vcpu();
        let mut entry = entry(0x100);
        entry.msr |= msr::EE;
        vcpu.set_entry(&entry).unwrap();
        host.guest(0).make(CALL);
        host.guest(0).interrupt(vector);
        // Behind the call, and where it is made again.
        for (left_at, again_at) in [(vector, vector), (0x104, 0x100)] {
            assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall, "{vector:#x}");
            assert_eq!(vcpu.pc().unwrap(), left_at);
            let call = vcpu.papr_hcall().unwrap();
            assert_eq!((call.nr, call.args[8]), (0x58, 9));
            *call.ret = call.nr;
            vcpu.rewind_to_hypercall().unwrap();
            let registers = host.guest(0).registers();
            assert_eq!((registers.pc, registers.srr0), (again_at, 0x100));
        }
    }
}

/// Nothing is delivered then, wherever the call is made.
#[test]
fn a_call_with_interrupts_disabled_is_made_again_from_its_own_instruction() {
    let (host, _vm, mut vcpu) = vcpu();
    vcpu.set_entry(&entry(0x4fc)).unwrap();
    host.guest(0).make(CALL);
    host.guest(0).interrupt(0x500);
    assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall);
    let call = vcpu.papr_hcall().unwrap();
    *call.ret = call.nr;
    vcpu.rewind_to_hypercall().unwrap();
    assert_eq!(vcpu.pc().unwrap(), 0x4fc);
}

#[test]
fn a_kick_ends_a_kvm_run_and_the_next_one_until_it_was_seen() {
    let (host, _vm, mut vcpu) = vcpu();
    let kick = VcpuKick::new(&vcpu).unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let running = kick.enter_thread().unwrap();
            let first = vcpu.run_guest().map(drop);
            let second = vcpu.run_guest().map(drop);
            kick.acknowledge();
            drop(running);
            [first, second].map(|outcome| outcome.unwrap_err().errno())
        });
        assert!(host.guest(0).is_done());
        kick.kick();
        assert_eq!(run.join().unwrap(), [libc::EINTR; 2]);
    });
    host.guest(0).make(CALL);
    assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall);
}

#[test]
fn registers_of_a_core_file_are_those_of_the_vcpu() {
    let (_host, _vm, mut vcpu) = vcpu();
    vcpu.set_entry(&entry(0x4000)).unwrap();
    let quadword = 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00_u128;
    let id = crate::fake::bindings::KVM_REG_PPC_VSR0 + 2;
    vcpu.0.set_one_reg(id, &quadword.to_ne_bytes()).unwrap();
    let read = registers::read(&vcpu).unwrap();
    assert_eq!((read.nip, read.gpr[31]), (0x4000, 5));
    let vectors = read.vectors.unwrap();
    assert_eq!(vectors.fpr[2], 0x1122_3344_5566_7788);
    assert_eq!(vectors.vsr_second[2], 0x99aa_bbcc_ddee_ff00);
}

#[test]
fn bits_of_the_lpcr_are_changed_and_the_others_stay() {
    let (_host, _vm, vcpu) = vcpu();
    vcpu.set_lpcr(0xf0).unwrap();
    vcpu.modify_lpcr(0x3c, 0xcc).unwrap();
    assert_eq!(vcpu.lpcr().unwrap(), 0xcc);
}

#[test]
fn a_shared_area_goes_where_kvm_looks_for_it() {
    let (_host, _vm, vcpu) = vcpu();
    let area = |kind, address| SharedArea {
        kind,
        address,
        bytes: 640,
    };
    let refused = vcpu.set_shared_area(&area(Kind::SlbShadow, 0x1000));
    assert_eq!(refused.unwrap_err().errno(), libc::EINVAL);
    vcpu.set_shared_area(&area(Kind::Vpa, 0x2000)).unwrap();
    vcpu.set_shared_area(&area(Kind::DispatchTraceLog, 0x1000))
        .unwrap();
    assert!(vcpu.set_shared_area(&area(Kind::Vpa, 0)).is_err());
}

#[test]
fn a_refused_slot_is_free_again_and_a_removed_one_is_no_memory() {
    let (host, vm) = vm();
    let slots = MemorySlots::new(vm, 2);
    let add = |gpa| {
        // SAFETY: nobody reads or writes it.
        unsafe {
            slots.add(
                GuestPhysicalAddress(gpa),
                HostVirtualAddress(0x1_0000),
                0x1_0000,
            )
        }
    };
    host.refuse("KVM_SET_USER_MEMORY_REGION", 1, libc::ENOMEM);
    assert_eq!(add(0).unwrap(), 0);
    assert!(matches!(
        add(0x1_0000),
        Err(MemorySlotError::Kvm { slot: 1, .. })
    ));
    assert_eq!(host.slots(), [(0, 0x1_0000)]);
    slots.remove(0).unwrap();
    assert_eq!(host.slots(), []);
    assert_eq!(add(0x1_0000).unwrap(), 0);
}

#[test]
fn a_table_is_there_until_it_is_dropped_and_a_group_is_added_when_one_is_bound_to_it() {
    let (host, vm) = vm();
    let geometry = Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries: 512,
    };
    let liobn = Liobn::of_pci_window(0, 0);
    let table = TceTable::new(&vm, liobn, geometry).unwrap();
    assert_eq!(
        TceTable::new(&vm, liobn, geometry).unwrap_err().errno(),
        libc::EBUSY
    );
    let device = VfioKvmDevice::new(&vm).unwrap();
    let group = EventFd::new(0).unwrap();
    device.set_spapr_tce(&group, &table).unwrap();
    let again = device.add_group(&group).unwrap_err();
    assert_eq!(again.errno(), libc::EEXIST);
    assert_eq!(host.alive().len(), 3);
    drop(table);
    assert!(!host.alive().contains(&("TCE table", liobn.0.into())));
}

#[test]
fn a_call_about_a_window_is_the_kernels_as_long_as_it_has_a_table() {
    let (host, vm, mut vcpu) = vcpu();
    let put = Does::Hypercall {
        nr: abi::H_PUT_TCE,
        args: [Liobn::of_pci_window(0, 0).0.into(), 0, 0, 0, 0, 0, 0, 0, 0],
    };
    let geometry = Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries: 512,
    };
    let table = TceTable::new(&vm, Liobn::of_pci_window(0, 0), geometry).unwrap();
    for _ in 0..2 {
        host.guest(0).make(put.clone());
    }
    host.guest(0).make(Does::Exit(4711));
    assert!(matches!(vcpu.run_guest().unwrap(), Exit::Other(_)));
    assert_eq!(host.guest(0).answers().len(), 2);
    drop(table);
    host.guest(0).make(put);
    assert_eq!(vcpu.run_guest().unwrap(), Exit::Hypercall);
}

#[test]
fn sources_of_xics_are_silent_at_first_and_keep_what_is_set() {
    let (_host, vm) = vm();
    let xics = Xics::new(&vm, 1).unwrap();
    assert!(xics.source(0x1200).is_err());
    xics.create_source(0x1200, Trigger::Edge).unwrap();
    assert_eq!(
        xics.source(0x1200).unwrap(),
        SourceState::reset(Trigger::Edge)
    );
    let vcpu = vm.create_vcpu(0).unwrap();
    xics.connect_vcpu(&vcpu, 0).unwrap();
    assert!(xics.connect_vcpu(&vcpu, 0).is_err(), "twice");
}

#[test]
fn an_eventfd_is_connected_once_and_level_interrupts_need_a_host_that_tells_their_end() {
    let (host, vm) = vm();
    let event = EventFd::new(0).unwrap();
    vm.assign_irqfd(0x1300, &event, None).unwrap();
    assert!(vm.assign_irqfd(0x1300, &event, None).is_err());
    assert!(vm.assign_irqfd(0x1301, &event, Some(&event)).is_err());
    assert_eq!(host.irqfds(), [0x1300]);
    vm.deassign_irqfd(0x1300, &event).unwrap();
    assert!(host.irqfds().is_empty());
}

#[test]
fn pages_of_xive_are_the_guests_in_one_slot_each_neighbourhood_and_go_with_it() {
    let (host, vm) = vm();
    let slots = Arc::new(MemorySlots::new(Arc::clone(&vm), 16));
    let xive = XiveKvm::new(&vm, &slots, 1).unwrap();
    let management = (OS_THREAD_MANAGEMENT.0, PAGE_BYTES);
    assert_eq!(host.slots(), [management]);
    let first = Lisn(0x1000);
    let block = LisnBlock::new(first, 3).unwrap();
    for _ in 0..2 {
        xive.make_sources(block, Trigger::Edge).unwrap();
    }
    let sources = (trigger_page(first).0, 3 * SOURCE_BYTES);
    assert_eq!(host.slots(), [management, sources]);
    // Their end is to be seen, so their pages are not the guest's.
    xive.make_sources(LisnBlock::of_one(Lisn(0x2000)), Trigger::Level)
        .unwrap();
    assert_eq!(host.slots().len(), 2);
    // An access where the kernel has no page would end this process.
    let has_register = [0xfff, 0x1000, 0x1002, 0x1003, 0x2000]
        .map(|lisn| xive.trigger_register(Lisn(lisn)).is_some());
    assert_eq!(has_register, [false, true, true, false, false]);
    let queue = QueueName {
        server: 0,
        priority: Priority::new(6).unwrap(),
    };
    assert!(xive.queue_fill(queue).is_err());
    xive.place_queue(queue, GuestPhysicalAddress(0x1_0000))
        .unwrap();
    assert_eq!(xive.queue_fill(queue).unwrap().toggle, 1);
    assert!(xive.mask_source(Lisn(0x3000)).is_err(), "it was not made");
    xive.mask_source(first).unwrap();
    xive.reset().unwrap();
    assert!(xive.queue_fill(queue).is_err());
    drop(xive);
    assert_eq!(host.slots(), []);
}
