//! Filters of system calls as programs of classic BPF (Documentation/userspace-api/seccomp_filter.rst
//! and Documentation/networking/filter.rst in the kernel).
//!
//! A program sees a `struct seccomp_data`: the call's number, the architecture, and the arguments
//! as they are in registers. There is no crate that makes such programs for powerpc64.

use libc::sock_filter;

/// What becomes of a call.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The architecture of this program's calls (AUDIT_ARCH_* in linux/audit.h).
#[cfg(all(target_arch = "powerpc64", target_endian = "little"))]
pub(super) const THIS_ARCHITECTURE: u32 = 0xc000_0015;
/// The architecture of this program's calls (AUDIT_ARCH_* in linux/audit.h).
#[cfg(target_arch = "x86_64")]
pub(super) const THIS_ARCHITECTURE: u32 = 0xc000_003e;

/// The lower half of a 64-bit argument is its first four bytes.
const _: () = assert!(cfg!(target_endian = "little"));

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A call, whatever its arguments.
    Call(i64),
    /// A call whose argument (by its place) has one of these values in its lower half.
    OneOf {
        call: i64,
        argument: u32,
        values: &'static [u32],
    },
    /// A call whose arguments (by their places) have these values in their lower halves.
    Exactly {
        call: i64,
        arguments: &'static [(u32, u32)],
    },
    /// A call whose argument has all of these bits in its lower half.
    WithBits { call: i64, argument: u32, bits: u32 },
    /// A call whose argument is this process, and no other.
    OfThisProcess { call: i64, argument: u32 },
    /// A call that is answered with an error, and the process goes on.
    Refused { call: i64, errno: i32 },
}

const fn statement(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "opcodes are 16 bits wide")]
const fn jump(code: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: if_true,
        jf: if_false,
        k,
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// The program that allows what `rules` say and nothing else. The first rule of a call counts, and
/// the first rules are the cheapest.
pub(super) fn assemble(rules: &[Rule]) -> Vec<sock_filter> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        jump(IF_EQUAL, THIS_ARCHITECTURE, 1, 0),
        statement(RETURN, KILL),
        statement(LOAD, NUMBER),
    ];
    for rule in rules {
        let (call, body) = match *rule {
            Rule::Call(call) => (call, vec![statement(RETURN, ALLOW)]),
            Rule::OneOf {
                call,
                argument,
                values,
            } => (call, one_of(argument, values)),
            Rule::OfThisProcess { call, argument } => {
                (call, one_of(argument, &[std::process::id()]))
            }
            Rule::Exactly { call, arguments } => (call, exactly(arguments)),
            Rule::WithBits {
                call,
                argument,
                bits,
            } => (call, with_bits(argument, bits)),
            Rule::Refused { call, errno } => {
                let errno = errno.unsigned_abs() & libc::SECCOMP_RET_DATA;
                (call, vec![statement(RETURN, ERRNO | errno)])
            }
        };
        let Ok(number) = u32::try_from(call) else {
            continue;
        };
        // Bodies are short: jumps are over 255 instructions at most.
        let Ok(length) = u8::try_from(body.len()) else {
            continue;
        };
        program.push(jump(IF_EQUAL, number, 0, length));
        program.extend(body);
    }
    program.push(statement(RETURN, KILL));
    program
}

fn one_of(argument: u32, values: &[u32]) -> Vec<sock_filter> {
    let mut body = vec![statement(LOAD, ARGUMENTS + 8 * argument)];
    for &value in values {
        body.push(jump(IF_EQUAL, value, 0, 1));
        body.push(statement(RETURN, ALLOW));
    }
    body.push(statement(RETURN, KILL));
    body
}

fn exactly(arguments: &[(u32, u32)]) -> Vec<sock_filter> {
    let mut body = Vec::new();
    for &(argument, value) in arguments {
        body.push(statement(LOAD, ARGUMENTS + 8 * argument));
        body.push(jump(IF_EQUAL, value, 1, 0));
        body.push(statement(RETURN, KILL));
    }
    body.push(statement(RETURN, ALLOW));
    body
}

fn with_bits(argument: u32, bits: u32) -> Vec<sock_filter> {
    vec![
        statement(LOAD, ARGUMENTS + 8 * argument),
        statement(AND, bits),
        jump(IF_EQUAL, bits, 0, 1),
        statement(RETURN, ALLOW),
        statement(RETURN, KILL),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel would, for a call of `architecture` with a number and arguments.
    pub(in super::super) fn run(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.into_iter().flat_map(u64::to_le_bytes));
        let (mut at, mut register) = (0, 0u32);
        for _ in 0..program.len() {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                LOAD => {
                    let offset = usize::try_from(step.k).expect("small");
                    let word = data[offset..offset + 4].try_into().expect("four bytes");
                    register = u32::from_le_bytes(word);
                }
                AND => register &= step.k,
                IF_EQUAL if register == step.k => at += usize::from(step.jt),
                IF_EQUAL => at += usize::from(step.jf),
                RETURN => return step.k,
                other => panic!("opcode {other:#x}"),
            }
        }
        panic!("no end");
    }

    const RULES: &[Rule] = &[
        Rule::OneOf {
            call: 54,
            argument: 1,
            values: &[0x2000_ae80, 0x2000_3b71],
        },
        Rule::Call(3),
        Rule::WithBits {
            call: 120,
            argument: 0,
            bits: 0x1_0100,
        },
        Rule::Refused {
            call: 435,
            errno: 38,
        },
        Rule::Exactly {
            call: 97,
            arguments: &[(0, 0), (1, 0), (2, 19)],
        },
    ];

    fn verdict(number: u32, arguments: [u64; 6]) -> u32 {
        run(&assemble(RULES), THIS_ARCHITECTURE, number, arguments)
    }

    #[test]
    fn calls_are_allowed_by_number_and_argument() {
        assert_eq!(verdict(3, [9; 6]), ALLOW);
        assert_eq!(verdict(54, [5, 0x2000_ae80, 0, 0, 0, 0]), ALLOW);
        // The kernel looks at 32 bits of an ioctl's number.
        assert_eq!(verdict(54, [5, 0x7_2000_3b71, 0, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(54, [0x2000_ae80, 0xae80, 0, 0, 0, 0]), KILL);
        assert_eq!(verdict(120, [0x3d_0f00, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(verdict(120, [0x100, 0, 0, 0, 0, 0]), KILL);
        assert_eq!(verdict(435, [0; 6]), ERRNO | 38);
        assert_eq!(verdict(97, [0, 0, 19, 7, 7, 7]), ALLOW);
        for wrong in [[2, 0, 19], [0, 301, 19], [0, 0, 0]] {
            let [which, who, value] = wrong;
            assert_eq!(verdict(97, [which, who, value, 0, 0, 0]), KILL);
        }
        assert_eq!(verdict(4, [0; 6]), KILL);
    }

    #[test]
    fn calls_of_another_architecture_are_never_allowed() {
        for number in [3, 54, 120, 435] {
            let verdict = run(&assemble(RULES), 0x4000_0003, number, [u64::MAX; 6]);
            assert_eq!(verdict, KILL);
        }
    }

    proptest! {
        #[test]
        fn what_is_not_named_kills(number: u32, arguments: [u64; 6]) {
            let named = [3, 54, 120, 435].contains(&number);
            prop_assert!(named || verdict(number, arguments) == KILL);
        }
    }
}
