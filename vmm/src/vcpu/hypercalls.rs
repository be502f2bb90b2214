//! Which hypercall is whose.

use spapr_hypercalls::abi::{self, Arguments, ReturnCode};
use spapr_hypercalls::engine::Answer;

use super::{call_log, rtas, system_reset};
use crate::kvm::vcpu::PaprHcall;
use crate::machine::lifecycle::End;
use crate::machine::partition::Partition;

/// What is left to do for a processor whose hypercall was served.
pub(super) enum Served {
    /// Nothing: back into the guest.
    Resume,
    /// It has to make the call again, which the kernel handles now.
    MakeAgain,
    /// All processors have to take up the modes of the partition.
    ModesChanged,
    /// Its SPRG0 is to be set.
    Sprg0(u64),
    /// It stops itself.
    StopSelf,
    /// The machine's run is over.
    End(End),
}

/// Serves a hypercall of the processor with interrupt server number `server`; its results are in
/// `call` then. Calls that are not known here are answered H_FUNCTION, as PAPR has it.
#[inline]
pub(super) fn serve(partition: &Partition, server: u32, call: PaprHcall<'_>) -> Served {
    let PaprHcall { nr, ret, args } = call;
    let (code, served) = match partition.engine.handle(nr, args) {
        Some(Answer::Code(code)) => (code, Served::Resume),
        Some(Answer::MakeAgain) => {
            *ret = nr;
            return Served::MakeAgain;
        }
        None => {
            let given = call_log::is_wanted(nr).then_some(*args);
            let (code, served) = serve_other(partition, server, nr, args);
            if let Some(given) = given {
                call_log::follow(server, nr, &given, code);
            }
            (code, served)
        }
    };
    *ret = code.to_register();
    served
}

fn serve_other(
    partition: &Partition,
    server: u32,
    number: u64,
    args: &mut Arguments,
) -> (ReturnCode, Served) {
    let code = match number {
        abi::H_PUT_TERM_CHAR => partition.vty.put_term_char(args),
        abi::H_GET_TERM_CHAR => partition.vty.get_term_char(args),
        abi::KVMPPC_H_RTAS => return rtas::serve(partition, args),
        abi::H_SET_MODE => {
            let (code, changed) = partition.modes.set(args, partition.capabilities.ail_mode_3);
            return (
                code,
                if changed {
                    Served::ModesChanged
                } else {
                    Served::Resume
                },
            );
        }
        abi::H_REGISTER_PROC_TBL => partition.process_table.register(&partition.vm, args),
        abi::H_GET_CPU_CHARACTERISTICS => {
            args[0] = partition.speculation.characteristics;
            args[1] = partition.speculation.behaviour;
            ReturnCode::SUCCESS
        }
        abi::H_SIGNAL_SYS_RESET => system_reset::signal(&partition.processors, server, args),
        abi::H_SET_SPRG0 => return (ReturnCode::SUCCESS, Served::Sprg0(args[0])),
        _ => partition.interrupts.serve(number, args),
    };
    (code, Served::Resume)
}
