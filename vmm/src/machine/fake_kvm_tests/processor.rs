//! What a processor does about its guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_kvm::fake::bindings::{
    KVM_EXIT_SHUTDOWN, KVM_REG_PPC_LPCR_64, KVM_REG_PPC_ONLINE, KVM_REG_PPC_TB_OFFSET,
    KVM_REG_PPC_VPA_ADDR, KVM_REG_PPC_VPA_SLB,
};
use spapr_kvm::fake::{Answer, Does};
use vm_memory::{Be32, Bytes, GuestAddress};

use super::{Bench, Run};
use crate::lifecycle::End;
use crate::partition::modes::LPCR_ILE;

const SUCCESS: i64 = 0;
/// The number of no hypercall.
const UNKNOWN: u64 = 0x7ffc;
/// Where arguments of RTAS calls and areas are put.
const SCRATCH: u64 = 0x200_0000;
/// H_REGISTER_VPA's functions, in its flags (PAPR).
const VPA: u64 = 1 << 45;
const SLB_SHADOW: u64 = 3 << 45;

fn code(code: ReturnCode) -> i64 {
    code.to_register().cast_signed()
}

fn write(run: &Run, address: u64, words: &[u32]) {
    let memory = run.partition().ram.mmap();
    for (place, word) in (address..).step_by(4).zip(words) {
        memory
            .write_obj(Be32::from(*word), GuestAddress(place))
            .expect("RAM");
    }
}

fn doubleword(run: &Run, server: u32, register: u64) -> Option<u64> {
    let value = run.guest(server).one_reg(register)?;
    Some(u64::from_ne_bytes(*value.first_chunk()?))
}

/// An RTAS call with one word returned.
fn rtas(run: &Run, server: u32, token: u32, arguments: &[u32]) {
    let count = u32::try_from(arguments.len()).expect("few");
    write(
        run,
        SCRATCH,
        &[&[token, count, 1][..], arguments, &[99]].concat(),
    );
    run.guest(server).make(Does::Hypercall {
        nr: abi::KVMPPC_H_RTAS,
        args: [SCRATCH, 0, 0, 0, 0, 0, 0, 0, 0],
    });
}

#[test]
fn a_hypercall_is_served_and_the_guest_has_its_code_and_its_results() {
    let run = Bench::new().start();
    let (ret, args) = run.call(0, abi::H_GET_CPU_CHARACTERISTICS, &[7, 7, 7]);
    let told = run.partition().speculation;
    assert_eq!(ret, SUCCESS);
    assert_eq!(args[..3], [told.characteristics, told.behaviour, 7]);
    assert_ne!(told.behaviour, 0);
    // The engine's, of no window; the table's; nobody's.
    let (ret, _) = run.call(0, abi::H_PUT_TCE, &[0x8000_0000, 0, 3]);
    assert_eq!(ret, code(ReturnCode::PARAMETER));
    let (ret, _) = run.call(0, abi::H_REGISTER_PROC_TBL, &[0x1d, 0x100_0000, 0, 12]);
    assert_eq!(ret, SUCCESS);
    assert!(
        run.host
            .process_table()
            .is_some_and(|table| table & 0x100_0000 != 0)
    );
    assert_eq!(run.call(0, UNKNOWN, &[]).0, code(ReturnCode::FUNCTION));
    let statistics = run.stop();
    assert_eq!(statistics.exits["papr_hcall"], 4);
    assert_eq!(statistics.hypercalls["H_PUT_TCE"], 1);
}

#[test]
fn modes_that_a_guest_sets_are_those_of_its_processor_at_once() {
    let run = Bench::new().start();
    let has = |run: &Run| doubleword(run, 0, KVM_REG_PPC_LPCR_64).map(|lpcr| lpcr & LPCR_ILE);
    assert_eq!(has(&run), Some(0));
    assert_eq!(run.call(0, abi::H_SET_MODE, &[1, 4, 0, 0]).0, SUCCESS);
    assert_eq!(has(&run), Some(LPCR_ILE));
    assert_eq!(run.call(0, abi::H_SET_SPRG0, &[0x1234]).0, SUCCESS);
    assert_eq!(run.guest(0).registers().sprg0, 0x1234);
}

#[test]
fn a_call_that_the_kernel_is_to_serve_is_made_again() {
    let run = Bench::new().start();
    let switched = run.partition().vm.enable_hcall(abi::H_REGISTER_VPA, false);
    switched.expect("the kernel has it");
    let before = run.guest(0).registers().pc;
    let args = [VPA, 1, SCRATCH, 0, 0, 0, 0, 0, 0];
    // For another processor.
    run.guest(0).make(Does::Hypercall {
        nr: abi::H_REGISTER_VPA,
        args,
    });
    assert!(run.guest(0).is_done());
    let answer = |ret, in_kernel| Answer::Hypercall {
        nr: abi::H_REGISTER_VPA,
        ret,
        args,
        in_kernel,
    };
    let answers = [answer(abi::H_REGISTER_VPA, false), answer(0, true)];
    assert_eq!(run.guest(0).answers(), answers);
    assert_eq!(run.guest(0).registers().pc, before + 4);
    assert!(run.host.is_in_kernel(abi::H_REGISTER_VPA));
}

#[test]
fn areas_that_a_processor_shares_become_kvms_and_one_that_it_refuses_is_h_resource() {
    let run = Bench::new().start();
    let switched = run.partition().vm.enable_hcall(abi::H_REGISTER_VPA, false);
    switched.expect("the kernel has it");
    let register = |function, address| run.call(0, abi::H_REGISTER_VPA, &[function, 0, address]).0;
    let shadow = SCRATCH + 0x1000;
    write(&run, SCRATCH, &[0, 1024 << 16]);
    write(&run, shadow, &[0, 64]);
    // Without a virtual processor area.
    assert_eq!(register(SLB_SHADOW, shadow), code(ReturnCode::RESOURCE));
    assert_eq!(register(VPA, SCRATCH), SUCCESS);
    assert_eq!(doubleword(&run, 0, KVM_REG_PPC_VPA_ADDR), Some(SCRATCH));
    assert_eq!(register(SLB_SHADOW, shadow), SUCCESS);
    let kept = run
        .guest(0)
        .one_reg(KVM_REG_PPC_VPA_SLB)
        .expect("it is set");
    assert_eq!(kept, [shadow.to_ne_bytes(), 64u64.to_ne_bytes()].concat());
    // One too short.
    write(&run, SCRATCH, &[0, 8 << 16]);
    assert_eq!(register(VPA, SCRATCH), code(ReturnCode::PARAMETER));
    assert!(!run.host.is_in_kernel(abi::H_REGISTER_VPA));
}

#[test]
fn what_kvm_stops_for_and_no_guest_should_bring_about_ends_the_run_with_its_place() {
    let run = Bench::new().start();
    let pc = run.guest(0).registers().pc;
    run.guest(0).make(Does::Exit(KVM_EXIT_SHUTDOWN));
    let End::Failed(text) = run.end() else {
        panic!("{:?}", run.end());
    };
    for part in ["processor 0", &format!("{pc:#x}"), "KVM_EXIT_SHUTDOWN"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    run.stop();
}

#[test]
fn a_failed_kvm_run_is_the_end_but_for_an_rtas_call_with_a_bad_block() {
    let run = Bench::new().start();
    let fails = |nr| Does::Fails {
        nr,
        args: [u64::MAX; 9],
        errno: libc::EFAULT,
    };
    run.guest(0).make(fails(abi::KVMPPC_H_RTAS));
    assert!(run.guest(0).is_done());
    let answers = run.guest(0).answers();
    let parameter = ReturnCode::PARAMETER.to_register();
    assert!(matches!(answers[..], [Answer::Hypercall { ret, .. }] if ret == parameter));
    assert_eq!(run.running.lifecycle().ended(), None);
    run.guest(0).make(fails(UNKNOWN));
    let End::Failed(text) = run.end() else {
        panic!("{:?}", run.end());
    };
    assert!(text.contains("KVM_RUN failed at guest address"), "{text}");
}

#[test]
fn loads_where_nothing_is_give_ones_and_stores_are_lost() {
    let run = Bench::new().start();
    let address = 0x2000_0000_0000;
    run.guest(0).make(Does::Write { address, data: 7 });
    run.guest(0).make(Does::Read { address, bytes: 4 });
    assert!(run.guest(0).is_done());
    let ones = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(run.guest(0).answers(), [Answer::Read(ones)]);
    assert_eq!(run.stop().exits["mmio"], 2);
}

#[test]
fn a_processor_starts_where_it_is_told_and_stops_itself() {
    let run = Bench::new().start();
    let online = |run: &Run| run.guest(1).one_reg(KVM_REG_PPC_ONLINE);
    assert_eq!(online(&run), None);
    rtas(&run, 0, 0x2006, &[1, 0x8000, 77]);
    assert!(run.guest(0).is_done() && run.guest(1).is_done());
    let registers = run.guest(1).registers();
    assert_eq!((registers.pc, registers.gpr[3]), (0x8000, 77));
    assert_eq!(online(&run), Some(1u32.to_ne_bytes().to_vec()));
    rtas(&run, 1, 0x2007, &[]);
    assert!(run.guest(1).is_out());
    while run.partition().processors.is_stopped(1) != Some(true) {
        thread::yield_now();
    }
    assert_eq!(online(&run), Some(0u32.to_ne_bytes().to_vec()));
    // And again, with what its last call returned completed first.
    rtas(&run, 0, 0x2006, &[1, 0x9000, 78]);
    assert!(run.guest(0).is_done() && run.guest(1).is_done());
    let registers = run.guest(1).registers();
    assert_eq!((registers.pc, registers.gpr[3]), (0x9000, 78));
}

#[test]
fn a_paused_processor_is_out_of_the_guest_with_its_registers_known() {
    let run = Bench::new().start();
    let controls = run.running.controls();
    let pc = run.guest(0).registers().pc;
    assert!(controls.pause());
    assert!(run.guest(0).is_out());
    let saved = controls.snapshot().expect("it is there").processors;
    assert_eq!(saved[0].as_ref().map(|registers| registers.nip), Some(pc));
    assert_eq!(saved[1], None);
    run.guest(0).make(Does::Hypercall {
        nr: UNKNOWN,
        args: [0; 9],
    });
    thread::sleep(Duration::from_millis(20));
    assert_eq!(run.guest(0).answers(), []);
    assert_eq!(doubleword(&run, 0, KVM_REG_PPC_TB_OFFSET), None);
    assert!(controls.resume());
    assert!(run.guest(0).is_done());
    assert_eq!(run.guest(0).answers().len(), 1);
    // It did not see the time pass.
    let behind = doubleword(&run, 0, KVM_REG_PPC_TB_OFFSET).expect("it is set");
    assert!(behind.wrapping_neg() >= 512 * 20_000, "{behind:#x}");
}

#[test]
fn a_processor_steps_aside_for_another_and_keeps_its_registers_to_itself() {
    let run = Bench::new().start();
    let partition = run.partition();
    let was_alone = AtomicBool::new(false);
    // This thread is another processor.
    assert!(partition.pause.enter().is_some());
    partition.alone(|| {
        run.guest(0).make(Does::Hypercall {
            nr: UNKNOWN,
            args: [0; 9],
        });
        thread::sleep(Duration::from_millis(20));
        was_alone.store(run.guest(0).answers().is_empty(), Ordering::SeqCst);
    });
    partition.pause.leave();
    assert!(was_alone.load(Ordering::SeqCst));
    assert!(run.guest(0).is_done());
    assert_eq!(run.guest(0).answers().len(), 1);
    assert_eq!(partition.registers.all(), [None, None]);
}

#[test]
fn a_system_reset_begins_at_its_vector_and_knows_where_the_guest_was() {
    let run = Bench::new().start();
    let pc = run.guest(0).registers().pc;
    run.running.controls().system_reset();
    while run.guest(0).registers().pc == pc {
        thread::yield_now();
    }
    let registers = run.guest(0).registers();
    assert_eq!((registers.pc, registers.srr0), (0x100, pc));
    // The other one has not been started.
    assert_eq!(run.guest(1).registers().pc, 0);
}

#[test]
fn a_guest_that_powers_off_ends_the_run_and_all_its_processors() {
    let run = Bench::new().start();
    rtas(&run, 0, 0x2006, &[1, 0x8000, 0]);
    assert!(run.guest(1).is_done());
    rtas(&run, 0, 0x2003, &[u32::MAX, u32::MAX]);
    assert_eq!(run.end(), End::PowerOff);
    let statistics = run.stop();
    assert_eq!(statistics.exits["papr_hcall"], 2);
    assert_eq!(statistics.exits["interrupted"], 1);
}

#[test]
fn a_machine_that_starts_paused_runs_when_it_is_told() {
    let run = Bench::new().start_paused(true);
    run.guest(0).make(Does::Hypercall {
        nr: UNKNOWN,
        args: [0; 9],
    });
    thread::sleep(Duration::from_millis(20));
    assert_eq!(run.guest(0).answers(), []);
    assert!(run.running.controls().resume());
    assert!(run.guest(0).is_done());
    assert_eq!(run.guest(0).answers().len(), 1);
}
