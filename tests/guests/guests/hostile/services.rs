//! RTAS calls with wrong arguments, and with argument blocks that are none.

use core::ops::RangeInclusive;

use spapr_test_guests::dma_window::DynamicWindows;
use spapr_test_guests::hypercall::{call, code, number};
use spapr_test_guests::machine::{Machine, Range};
use spapr_test_guests::random::Random;
use spapr_test_guests::rtas::{MOST_WORDS, token};

use crate::arena::{Arena, Block, MIDDLE};
use crate::report::Report;
use crate::values::Values;

const HEADER_WORDS: usize = 3;
const BLOCK_WORDS: usize = HEADER_WORDS + 2 * MOST_WORDS;
/// The first token that a service has, and one past the last.
const TOKENS: (u32, u32) = (0x2000, 0x2040);
/// ibm,set-xive, ibm,get-xive, ibm,int-off and ibm,int-on.
const KERNEL_TOKENS: RangeInclusive<u32> = 0x200a..=0x200d;
/// Memory that system parameters may be written to.
const BUFFER: u32 = 48 << 20;
/// Success, in the first return word.
const SUCCESS: u32 = 0;
/// What is in the return words before the call.
const UNTOUCHED: u32 = 0x5a5a_5a5a;

/// What a call is made with.
struct Request {
    address: u64,
    token: u32,
    argument_count: u32,
    return_count: u32,
    words: [u32; BLOCK_WORDS],
}

/// What came back.
struct Reply {
    code: i64,
    /// The first return word, if the block has one and lies where it can be read.
    status: Option<u32>,
}

impl Request {
    fn new(address: u64, token: u32, argument_count: u32, return_count: u32) -> Self {
        let mut words = [UNTOUCHED; BLOCK_WORDS];
        words[..HEADER_WORDS].copy_from_slice(&[token, argument_count, return_count]);
        Self {
            address,
            token,
            argument_count,
            return_count,
            words,
        }
    }

    fn arguments(&mut self) -> &mut [u32] {
        &mut self.words[HEADER_WORDS..][..MOST_WORDS]
    }

    /// Whether the block's counts are such that a call can be made with it.
    fn has_good_counts(&self) -> bool {
        let most = u32::try_from(MOST_WORDS).unwrap_or(0);
        self.argument_count <= most && self.return_count <= most
    }

    /// Whether the host's kernel may serve the call. It writes a status behind the arguments also
    /// when there is no room for returns, and takes any count of them (`kvmppc_rtas_hcall` in
    /// arch/powerpc/kvm/book3s_rtas.c).
    fn may_be_the_kernels(&self) -> bool {
        KERNEL_TOKENS.contains(&self.token)
    }

    fn returns(&self) -> Range {
        let count = match (self.has_good_counts(), self.may_be_the_kernels()) {
            (true, false) => self.return_count,
            (true, true) => self.return_count.max(1),
            (false, kernel) => u32::from(kernel),
        };
        let start = 12 + 4 * u64::from(self.argument_count);
        Range {
            start: self.address.saturating_add(start),
            bytes: 4 * u64::from(count),
        }
    }

    /// Whether this return code is right for the call, not knowing its arguments.
    fn allows(&self, code: i64) -> bool {
        let may_succeed = self.has_good_counts() || self.may_be_the_kernels();
        code == code::H_PARAMETER || code == code::H_SUCCESS && may_succeed
    }

    /// Makes the call and checks that it changed nothing but its returns.
    fn make(&self, arena: &mut Arena, report: &mut Report) -> Reply {
        let block = Block {
            address: self.address,
            words: &self.words,
            returns: self.returns(),
        };
        arena.put(&block);
        report.called();
        // SAFETY: the block, its returns and the one buffer that arguments name are memory that
        // holds no Rust object; no request is one that stops the processor or ends the machine.
        let code = unsafe { call(number::KVMPPC_H_RTAS, [self.address]) }.code;
        report.check(
            arena.is_kept(&block),
            format_args!(
                "RTAS {:#x} with {} arguments and {} returns at {:#x} changed memory around it",
                self.token, self.argument_count, self.return_count, self.address
            ),
        );
        let has_status = self.return_count > 0 && block.returns.bytes > 0;
        let status = has_status
            .then(|| arena.word(block.returns.start))
            .flatten();
        arena.take_back(&block);
        Reply { code, status }
    }
}

/// Mistakes that have one right answer each.
pub(crate) fn mistakes(values: &Values, arena: &mut Arena, report: &mut Report) {
    let good = MIDDLE.start + 4096;
    for counts in [
        (17, 1),
        (1, 17),
        (u32::MAX, 1),
        (1, u32::MAX),
        (u32::MAX, u32::MAX),
    ] {
        for token in TOKENS.0..TOKENS.1 {
            let request = Request::new(good, token, counts.0, counts.1);
            let reply = request.make(arena, report);
            report.check(
                request.allows(reply.code),
                format_args!("RTAS {token:#x} with counts {counts:x?}: {}", reply.code),
            );
        }
    }
    for token in [0, 1, 0x1fff, 0x2040, 0x2100, 0xffff_ffff] {
        let reply = Request::new(good, token, 1, 1).make(arena, report);
        report.check(
            reply.code != code::H_SUCCESS && reply.status != Some(SUCCESS),
            format_args!("RTAS {token:#x}: {} {:x?}", reply.code, reply.status),
        );
    }
    // Blocks of which a part is behind the end of RAM.
    for bytes in [4, 8, 12, 13, 16, 19] {
        let address = values.ram_bytes - bytes;
        let reply = Request::new(address, 0x2000, 1, 2).make(arena, report);
        report.check(
            reply.code == code::H_PARAMETER,
            format_args!(
                "RTAS block of which only {bytes} bytes are RAM: {}",
                reply.code
            ),
        );
    }
    // Too few arguments, or no room for the status, for what would stop all this.
    for token in [
        token::POWER_OFF,
        token::SYSTEM_REBOOT,
        token::STOP_SELF,
        token::OS_TERM,
    ] {
        Request::new(good, token, 2, 0).make(arena, report);
    }
    let reply = Request::new(good, token::POWER_OFF, 1, 1).make(arena, report);
    report.check(
        !matches!(reply.status, Some(SUCCESS | UNTOUCHED)),
        format_args!("RTAS power-off without its arguments: {:x?}", reply.status),
    );
    error_handling(values, arena, report);
}

/// Calls about frozen devices (EEH) with an endpoint, a bridge or an option that there is not.
fn error_handling(values: &Values, arena: &mut Arena, report: &mut Report) {
    /// Each with its arguments, and its options that there are.
    const SERVICES: [(u32, u32, &[u32]); 7] = [
        (0x2020, 4, &[0, 1, 2, 3]),
        (0x2021, 4, &[0, 1]),
        (0x2022, 3, &[]),
        (0x2023, 4, &[0, 1, 3]),
        (0x2024, 3, &[]),
        (0x2025, 8, &[]),
        (0x2030, 3, &[]),
    ];
    let good = MIDDLE.start + 4096;
    let buid = values.first_buid();
    let words = |buid: u64| [low_word(buid >> 32), low_word(buid)];
    for (token, arguments, options) in SERVICES {
        let mut wrong = |address: u32, buid: u64, option: u32| {
            let mut request = Request::new(good, token, arguments, 5);
            let [high, low] = words(buid);
            request.arguments()[..4].copy_from_slice(&[address, high, low, option]);
            let reply = request.make(arena, report);
            report.check(
                reply.code == code::H_SUCCESS && !matches!(reply.status, Some(SUCCESS | UNTOUCHED)),
                format_args!(
                    "RTAS {token:#x} of {address:#x} at {buid:#x} with {option:#x}: {:x?}",
                    reply.status
                ),
            );
        };
        for option in [0, 1, 3, u32::MAX] {
            wrong(1, 0, option);
            wrong(1, !buid, option);
            for address in [0xff00, 0x1_0001, 0x1000_0000, u32::MAX] {
                wrong(address, buid, option);
            }
        }
        if !options.is_empty() {
            let unknown = [2, 4, 5, 0x100, u32::MAX];
            for option in unknown.iter().filter(|option| !options.contains(option)) {
                wrong(1, buid, *option);
            }
        }
    }
}

/// Every token, with random counts and arguments, at random places.
pub(crate) fn at_random(
    values: &Values,
    random: &mut Random,
    arena: &mut Arena,
    rounds: u64,
    report: &mut Report,
) {
    for _ in 0..rounds {
        let request = random_request(values, random);
        let reply = request.make(arena, report);
        report.check(
            request.allows(reply.code),
            format_args!(
                "RTAS {:#x} with {} arguments and {} returns at {:#x}: {}",
                request.token,
                request.argument_count,
                request.return_count,
                request.address,
                reply.code
            ),
        );
        report.check(
            reply.code != code::H_SUCCESS || reply.status != Some(UNTOUCHED),
            format_args!("RTAS {:#x} succeeded without a status", request.token),
        );
    }
}

/// Puts every bridge's default window back, whatever was removed at random: what follows is to have a window to err in.
pub(crate) fn default_windows(machine: &Machine<'_>, report: &mut Report) {
    for bridge in machine.host_bridges() {
        let reset = DynamicWindows::of(machine, &bridge).map_or(Ok(()), |windows| windows.reset());
        report.check(
            reset.is_ok(),
            format_args!("ibm,reset-pe-dma-window: {reset:?}"),
        );
    }
}

fn random_request(values: &Values, random: &mut Random) -> Request {
    let span = u64::from(TOKENS.1 - TOKENS.0);
    let token = TOKENS.0 + u32::try_from(random.below(span)).unwrap_or(0);
    let count = |random: &mut Random| match random.below(8) {
        0 => random.one_of(&[15, 16, 17, 255, 0x8000_0000, u32::MAX]),
        _ => u32::try_from(random.below(10)).unwrap_or(0),
    };
    let (arguments, mut returns) = (count(random), count(random));
    if [
        token::POWER_OFF,
        token::SYSTEM_REBOOT,
        token::STOP_SELF,
        token::OS_TERM,
    ]
    .contains(&token)
    {
        // Without room for the status these fail, and the test goes on.
        returns = 0;
    }
    let address = match random.below(8) {
        0 => values.outside_ram(random),
        1 => values.ram_bytes - random.below(80),
        2 => MIDDLE.start + 4096 + random.below(4096),
        _ => MIDDLE.start + 4096 + 4 * random.below(1024),
    };
    let mut request = Request::new(address, token, arguments, returns);
    let buid = values.buid(random);
    for argument in request.arguments() {
        *argument = low_word(values.any(random));
    }
    // Configuration space and interrupts: often of a bridge that exists.
    if buid != 0 && random.below(4) != 0 {
        let function = random.one_of(&[0, 0x1_0000, 0x1_0100, 0x100, u32::MAX]);
        request.arguments()[0] =
            function | random.one_of(&[0, 1, 4, 0x10, 0x44, 0xff, 0x1000_0000]);
        request.arguments()[1] = low_word(buid >> 32);
        request.arguments()[2] = low_word(buid);
        request.arguments()[3] = random.one_of(&[0, 1, 2, 3, 4, 5, 6, 8, u32::MAX]);
    }
    if token == token::GET_SYSTEM_PARAMETER {
        request.arguments()[0] = random.one_of(&[0, 20, 42, 48, u32::MAX]);
        let outside = low_word(values.outside_ram(random)) | 0xc000_0000;
        request.arguments()[1] = random.one_of(&[BUFFER, BUFFER + 1, outside]);
        request.arguments()[2] = random.one_of(&[0, 1, 2, 3, 64, 4000, u32::MAX]);
    }
    request
}

fn low_word(number: u64) -> u32 {
    u32::try_from(number & 0xffff_ffff).unwrap_or(0)
}
