//! Which hypercall is whose.

use spapr_devices::interrupts::xive::{QUEUE_BYTES, QUEUE_SHIFT};
use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::abi::{self, Arguments, ReturnCode};
use spapr_hypercalls::engine::Answer;
use spapr_kvm::exit::PaprHcall;
use spapr_kvm::shared_area::SharedArea;
use vm_memory::{Be32, Bytes, GuestAddress};

use super::{call_log, rtas, system_reset};
use crate::lifecycle::End;
use crate::partition::Partition;
use crate::shared_areas::{self, Request};

/// What is left to do for a processor whose hypercall was served.
pub(super) enum Served {
    /// Nothing: back into the guest.
    Resume,
    /// It has to make the call again: the kernel handles it now, or there is more memory to lock for it.
    MakeAgain,
    /// All processors have to take up the modes of the partition.
    ModesChanged,
    /// KVM is to be told of memory that it shares with the guest.
    SharedArea(SharedArea),
    /// Its SPRG0 is to be set.
    Sprg0(u64),
    /// It stops itself.
    StopSelf,
    /// The machine's run is over.
    End(End),
}

/// Serves a call of the engine's, and leaves others as they are: most exits are such calls. `Some(true)` if the
/// processor has to make it again, as [`Served::MakeAgain`] says.
#[inline]
pub(super) fn serve_tce(partition: &Partition, call: &mut PaprHcall<'_>) -> Option<bool> {
    match partition.engine.handle(call.nr, call.args)? {
        Answer::Code(code) => {
            *call.ret = code.to_register();
            Some(false)
        }
        Answer::MakeAgain => {
            *call.ret = call.nr;
            Some(true)
        }
    }
}

/// Serves any other hypercall of the processor with interrupt server number `server`; its results are in
/// `call` then. Calls that are not known here are answered H_FUNCTION, as PAPR has it.
// What is returned is written where it is wanted, not passed on: to pass on 16 bytes takes a vector register, and
// a thread that uses one has the kernel save and load all of them at each exit, some 500 instructions.
#[inline]
pub(super) fn serve(partition: &Partition, server: u32, call: PaprHcall<'_>) -> Served {
    let PaprHcall { nr, ret, args } = call;
    if call_log::is_wanted(nr) {
        serve_logged(partition, server, nr, args, ret)
    } else {
        serve_other(partition, server, nr, args, ret)
    }
}

/// [`serve_other`] for whoever wants to see it.
#[cold]
#[inline(never)]
fn serve_logged(
    partition: &Partition,
    server: u32,
    number: u64,
    args: &mut Arguments,
    ret: &mut u64,
) -> Served {
    let given = *args;
    let served = serve_other(partition, server, number, args, ret);
    call_log::follow(server, number, &given, *ret);
    served
}

// None of those that it calls is inlined, so that a call of one kind does not pay for the registers of the others.
fn serve_other(
    partition: &Partition,
    server: u32,
    number: u64,
    args: &mut Arguments,
    ret: &mut u64,
) -> Served {
    let code = match number {
        abi::H_PUT_TERM_CHAR => partition.vty.put_term_char(args),
        abi::H_GET_TERM_CHAR => partition.vty.get_term_char(args),
        abi::KVMPPC_H_RTAS => return rtas::serve(partition, args, ret),
        abi::H_SET_MODE => {
            let (code, changed) = partition.modes.set(args, partition.capabilities.ail_mode_3);
            *ret = code.to_register();
            return if changed {
                Served::ModesChanged
            } else {
                Served::Resume
            };
        }
        abi::H_REGISTER_VPA => return register_shared_area(partition, server, args, ret),
        abi::H_INT_SET_QUEUE_CONFIG => {
            settle_queue(partition, args);
            partition.interrupts.serve(number, args)
        }
        abi::H_REGISTER_PROC_TBL => partition.process_table.register(&partition.vm, args),
        abi::H_GET_CPU_CHARACTERISTICS => {
            args[0] = partition.speculation.characteristics;
            args[1] = partition.speculation.behaviour;
            ReturnCode::SUCCESS
        }
        abi::H_SIGNAL_SYS_RESET => system_reset::signal(&partition.processors, server, args),
        abi::H_SET_SPRG0 => {
            *ret = ReturnCode::SUCCESS.to_register();
            return Served::Sprg0(args[0]);
        }
        _ => partition.interrupts.serve(number, args),
    };
    *ret = code.to_register();
    Served::Resume
}

/// Serves H_REGISTER_VPA, where the kernel does not.
#[inline(never)]
fn register_shared_area(
    partition: &Partition,
    server: u32,
    args: &Arguments,
    ret: &mut u64,
) -> Served {
    let word = |address| {
        let word = partition.ram.mmap().read_obj::<Be32>(GuestAddress(address));
        word.ok().map(Be32::to_native)
    };
    let code = match shared_areas::request(args, server, host_page_bytes(), word) {
        Request::Own(area) => {
            partition.settle(area.address, area.bytes);
            *ret = ReturnCode::SUCCESS.to_register();
            return Served::SharedArea(area);
        }
        // Linux does that for a dispatch trace log that somebody reads (`dtl_start` in
        // arch/powerpc/platforms/pseries/dtl.c): the kernel serves it, and all from now on.
        Request::Others => {
            let own = [args[0], server.into(), args[2], 0, 0, 0, 0, 0, 0];
            if let Request::Own(area) = shared_areas::request(&own, server, host_page_bytes(), word)
            {
                partition.settle(area.address, area.bytes);
            }
            match partition.vm.enable_hcall(abi::H_REGISTER_VPA, true) {
                Ok(()) => {
                    *ret = abi::H_REGISTER_VPA;
                    return Served::MakeAgain;
                }
                Err(_) => ReturnCode::HARDWARE,
            }
        }
        Request::Wrong(code) => code,
    };
    *ret = code.to_register();
    Served::Resume
}

/// Settles the event queue that H_INT_SET_QUEUE_CONFIG (flags, server, priority, address, shift) is about to give
/// to KVM, which holds on to its page (`kvmppc_xive_native_set_queue_config` in
/// arch/powerpc/kvm/book3s_xive_native.c), if it can be one.
#[inline(never)]
fn settle_queue(partition: &Partition, args: &Arguments) {
    let [_, _, _, address, shift, ..] = *args;
    if shift == u64::from(QUEUE_SHIFT) && address.is_multiple_of(QUEUE_BYTES) {
        partition.settle(address, QUEUE_BYTES);
    }
}
