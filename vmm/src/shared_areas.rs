//! H_REGISTER_VPA: memory of a processor that the hypervisor reads and writes while it runs: its virtual
//! processor area, SLB shadow buffer and dispatch trace log (PAPR, "H_REGISTER_VPA").
//!
//! KVM serves the call, and holds on to the pages. Where they lie in an area that the host keeps for contiguous
//! allocations (CMA), they cannot be locked for DMA then, as the kernel would have to move them
//! (`check_and_migrate_movable_pages` in mm/gup.c), and neither can the block round them. So on such hosts
//! the call comes here: the pages are moved first ([`Engine::settle`](spapr_hypercalls::engine::Engine::settle)),
//! and KVM is told of them by registers of the vCPU.

use spapr_hypercalls::abi::{Arguments, ReturnCode};
use spapr_kvm::shared_area::{Kind, SharedArea};

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An area of the caller's.
    Own(SharedArea),
    /// One of another processor's.
    Others,
    /// Nothing that there is.
    Wrong(ReturnCode),
}

/// The function of a call, in its flags.
const FUNCTION_SHIFT: u32 = 63 - 18;
const FUNCTION_MASK: u64 = 7;
/// Without it, the function registers; with it, it takes away.
const DEREGISTER: u64 = 4;

/// What an area's address is a multiple of (L1_CACHE_BYTES in `do_h_register_vpa`,
/// arch/powerpc/kvm/book3s_hv.c).
const ALIGNMENT_BYTES: u64 = 128;
/// An area's length stands here in it: of the VPA in 2 bytes, of the others in 4.
const LENGTH_OFFSET: u64 = 4;
/// The least length of any (`struct reg_vpa`).
const LEAST_BYTES: u64 = 8;
/// What a VPA has at least (`struct lppaca`).
const VPA_BYTES: u64 = 640;
/// An entry of the dispatch trace log (`struct dtl_entry`).
const TRACE_ENTRY_BYTES: u64 = 48;

/// What the call with these arguments (flags, processor, address) of processor `caller` asks for, by the rules
/// of KVM's own handler. `word` reads 4 bytes of guest RAM, big-endian; an area ends with its page of the host's.
pub fn request(
    arguments: &Arguments,
    caller: u32,
    host_page_bytes: u64,
    word: impl FnOnce(u64) -> Option<u32>,
) -> Request {
    let [flags, processor, address, ..] = *arguments;
    if processor != u64::from(caller) {
        return Request::Others;
    }
    let function = flags >> FUNCTION_SHIFT & FUNCTION_MASK;
    let kind = match function & !DEREGISTER {
        1 => Kind::Vpa,
        2 => Kind::DispatchTraceLog,
        3 => Kind::SlbShadow,
        _ => return Request::Wrong(ReturnCode::PARAMETER),
    };
    if function & DEREGISTER != 0 {
        let (address, bytes) = (0, 0);
        return Request::Own(SharedArea {
            kind,
            address,
            bytes,
        });
    }
    match length(kind, address, host_page_bytes, word) {
        Some(bytes) => Request::Own(SharedArea {
            kind,
            address,
            bytes,
        }),
        None => Request::Wrong(ReturnCode::PARAMETER),
    }
}

/// The length of an area; none if it cannot be there.
fn length(
    kind: Kind,
    address: u64,
    host_page_bytes: u64,
    word: impl FnOnce(u64) -> Option<u32>,
) -> Option<u64> {
    if address == 0 || !address.is_multiple_of(ALIGNMENT_BYTES) {
        return None;
    }
    let word = u64::from(word(address.checked_add(LENGTH_OFFSET)?)?);
    let bytes = match kind {
        Kind::Vpa => word >> 16,
        Kind::SlbShadow | Kind::DispatchTraceLog => word,
    };
    let least = match kind {
        Kind::Vpa => VPA_BYTES,
        Kind::SlbShadow => LEAST_BYTES,
        Kind::DispatchTraceLog => TRACE_ENTRY_BYTES,
    };
    let room = host_page_bytes - address % host_page_bytes;
    let whole = match kind {
        Kind::DispatchTraceLog => bytes - bytes % TRACE_ENTRY_BYTES,
        Kind::Vpa | Kind::SlbShadow => bytes,
    };
    (least..=room).contains(&bytes).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1_0000;

    fn asked(function: u64, processor: u64, address: u64, word: Option<u32>) -> Request {
        let flags = function << FUNCTION_SHIFT;
        let arguments = [flags, processor, address, 0, 0, 0, 0, 0, 0];
        request(&arguments, 3, PAGE, |at| {
            word.filter(|_| at == address + LENGTH_OFFSET)
        })
    }

    fn area(kind: Kind, address: u64, bytes: u64) -> Request {
        Request::Own(SharedArea {
            kind,
            address,
            bytes,
        })
    }

    #[test]
    fn areas_have_the_length_that_stands_in_them() {
        // As Linux has it: lppaca_of(cpu).size is 1024 (arch/powerpc/include/asm/lppaca.h).
        let vpa = asked(1, 3, 0x7_fc00, Some(1024 << 16 | 0x1234));
        assert_eq!(vpa, area(Kind::Vpa, 0x7_fc00, 1024));
        let log = asked(2, 3, 0x8_0000, Some(4096));
        assert_eq!(log, area(Kind::DispatchTraceLog, 0x8_0000, 4080));
        let shadow = asked(3, 3, 0x8_0080, Some(8));
        assert_eq!(shadow, area(Kind::SlbShadow, 0x8_0080, 8));
        assert_eq!(asked(5, 3, 1, None), area(Kind::Vpa, 0, 0));
        assert_eq!(asked(7, 3, 1, None), area(Kind::SlbShadow, 0, 0));
        assert_eq!(asked(1, 2, 0x8_0000, None), Request::Others);
    }

    #[test]
    fn areas_that_cannot_be_are_parameter_errors() {
        let vpa = |bytes: u32| Some(bytes << 16);
        for (function, address, word) in [
            (0, 0x8_0000, vpa(1024)),
            (4, 0x8_0000, vpa(1024)),
            (1, 0, vpa(1024)),
            (1, 0x8_0040, vpa(1024)),
            (1, 0x8_0000, vpa(639)),
            (1, 0x8_fd80, vpa(641)),
            (1, 0x8_0000, None),
            (2, 0x8_0000, Some(47)),
            (2, 0x8_0000, Some(0x1_0001)),
            (3, 0x8_0000, Some(7)),
        ] {
            let answer = asked(function, 3, address, word);
            let wrong = Request::Wrong(ReturnCode::PARAMETER);
            assert_eq!(answer, wrong, "{function} {address:#x} {word:?}");
        }
        assert_eq!(
            asked(1, 3, 0x8_fd80, vpa(640)),
            area(Kind::Vpa, 0x8_fd80, 640)
        );
    }
}
