//! The argument block of an RTAS call (PAPR 7.2.7, "RTAS argument call buffer"): big-endian words:
//! token, number of arguments, number of returns, the arguments, the returns.

use std::fmt;

use spapr_hypercalls::address::GuestPhysicalAddress;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::Status;

/// Arguments and returns that a call has at most (`struct rtas_args` in
/// arch/powerpc/include/asm/rtas-types.h has 16 words for both together).
const MAX_WORDS: usize = 16;
const HEADER_WORDS: usize = 3;
const WORD_BYTES: u64 = 4;

/// One call: its arguments, copied from guest memory once, and its returns so far.
pub(super) struct Call<'a> {
    memory: &'a GuestMemoryMmap,
    token: u32,
    arguments: Words,
    returns: Words,
    /// How many of the returns are set, from the first on.
    set: usize,
    returns_at: GuestAddress,
}

/// Up to [`MAX_WORDS`] words.
struct Words {
    words: [u32; MAX_WORDS],
    count: usize,
}

impl Words {
    fn used(&self) -> &[u32] {
        &self.words[..self.count]
    }
}

/// Arguments and returns, all of them words.
impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:x?} returns {:x?}",
            self.arguments.used(),
            &self.returns.words[..self.set]
        )
    }
}

impl<'a> Call<'a> {
    /// Reads a call, if its block is one and lies in guest memory with all of its words.
    pub(super) fn read(memory: &'a GuestMemoryMmap, block: GuestPhysicalAddress) -> Option<Self> {
        let mut header = [0; HEADER_WORDS];
        read_words(memory, GuestAddress(block.0), &mut header)?;
        let [token, arguments, returns] = header;
        let argument_count = usize::try_from(arguments)
            .ok()
            .filter(|&n| n <= MAX_WORDS)?;
        let return_count = usize::try_from(returns).ok().filter(|&n| n <= MAX_WORDS)?;

        let arguments_at = offset(GuestAddress(block.0), HEADER_WORDS)?;
        let returns_at = offset(arguments_at, argument_count)?;
        let mut words = [0; MAX_WORDS];
        read_words(memory, arguments_at, &mut words[..argument_count])?;
        let return_bytes = return_count * size_of::<u32>();
        if return_count > 0 && !memory.check_range(returns_at, return_bytes, Permissions::Write) {
            return None;
        }
        Some(Self {
            memory,
            token,
            arguments: Words {
                words,
                count: argument_count,
            },
            returns: Words {
                words: [0; MAX_WORDS],
                count: return_count,
            },
            set: 0,
            returns_at,
        })
    }

    pub(super) fn token(&self) -> u32 {
        self.token
    }

    pub(super) fn argument_count(&self) -> u32 {
        u32::try_from(self.arguments.count).unwrap_or(u32::MAX)
    }

    pub(super) fn return_count(&self) -> u32 {
        u32::try_from(self.returns.count).unwrap_or(u32::MAX)
    }

    pub(super) fn memory(&self) -> &GuestMemoryMmap {
        self.memory
    }

    /// The first arguments.
    pub(super) fn arguments<const N: usize>(&self) -> [u32; N] {
        let mut arguments = [0; N];
        for (to, from) in arguments.iter_mut().zip(self.arguments.words) {
            *to = from;
        }
        arguments
    }

    /// Sets the first return word.
    pub(super) fn status(&mut self, status: Status) {
        self.returns(status, &[]);
    }

    /// Sets the first return word and those that follow. Words for which the guest left no room
    /// are dropped.
    pub(super) fn returns(&mut self, status: Status, values: &[u32]) {
        let all = std::iter::once(status.word()).chain(values.iter().copied());
        self.set = 0;
        for (to, from) in self.returns.words[..self.returns.count].iter_mut().zip(all) {
            *to = from;
            self.set += 1;
        }
    }

    /// Sets a value and then the status, as ibm,open-errinjct alone returns them.
    pub(super) fn value_and_status(&mut self, value: u32, status: Status) {
        self.set = 0;
        let returns = &mut self.returns.words[..self.returns.count];
        for (to, from) in returns.iter_mut().zip([value, status.word()]) {
            *to = from;
            self.set += 1;
        }
    }

    /// Writes the returns that are set to guest memory.
    pub(super) fn write_returns(&self) -> Option<()> {
        let mut bytes = [0; MAX_WORDS * size_of::<u32>()];
        let words = &self.returns.words[..self.set];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        self.memory
            .write_slice(&bytes[..size_of_val(words)], self.returns_at)
            .ok()
    }
}

fn offset(address: GuestAddress, words: usize) -> Option<GuestAddress> {
    let bytes = u64::try_from(words).ok()?.checked_mul(WORD_BYTES)?;
    address.0.checked_add(bytes).map(GuestAddress)
}

/// Reads consecutive words, each once.
fn read_words(memory: &GuestMemoryMmap, address: GuestAddress, words: &mut [u32]) -> Option<()> {
    let mut bytes = [0; MAX_WORDS * size_of::<u32>()];
    let bytes = &mut bytes[..size_of_val(words)];
    memory.read_slice(bytes, address).ok()?;
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    Some(())
}
