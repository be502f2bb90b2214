//! Memory with a known pattern, in which argument blocks lie: what a call changes there that is
//! none of its returns is seen.

use core::ptr;

use spapr_test_guests::machine::Range;

/// Above the guest's image and below what the machine puts at the top.
pub(crate) const MIDDLE: Range = Range {
    start: 32 << 20,
    bytes: 256 << 10,
};
/// What is at the end of RAM.
const END_BYTES: u64 = 16 << 10;
/// How far from a block changes are looked for after each call.
const NEIGHBOURHOOD: u64 = 256;

/// Two pieces of memory with the pattern: one in the middle of RAM, one at its end.
#[derive(Debug)]
pub(crate) struct Arena {
    pieces: [Range; 2],
}

/// An argument block that was put into the arena, and which of its bytes a call may change.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    /// Its address.
    pub(crate) address: u64,
    /// Its words.
    pub(crate) words: &'a [u32],
    /// Where returns go.
    pub(crate) returns: Range,
}

/// What is at an address when nothing has changed it. Never small when read as a word: no block of
/// few arguments is found in it.
fn pattern(address: u64) -> u8 {
    let mixed = address.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    mixed[5] | 0x80
}

fn place(address: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

impl Arena {
    /// Fills the memory with its pattern.
    pub(crate) fn new(ram_bytes: u64) -> Self {
        let end = Range {
            start: ram_bytes - END_BYTES,
            bytes: END_BYTES,
        };
        let mut arena = Self {
            pieces: [MIDDLE, end],
        };
        for piece in arena.pieces {
            arena.restore(piece.start, piece.start + piece.bytes);
        }
        arena
    }

    /// Puts a block there, as far as it is in the arena.
    pub(crate) fn put(&mut self, block: &Block<'_>) {
        for (address, byte) in (block.address..).zip(bytes(block.words)) {
            self.write(address, byte);
        }
    }

    /// Whether a call left everything but its returns as it was.
    pub(crate) fn is_kept(&self, block: &Block<'_>) -> bool {
        let returns = block.returns.start..block.returns.start.saturating_add(block.returns.bytes);
        let mut written = bytes(block.words);
        let mut address = block.address.saturating_sub(NEIGHBOURHOOD);
        let end = block.address.saturating_add(NEIGHBOURHOOD + 140);
        while address < end {
            let expected = match address >= block.address {
                true => written.next().unwrap_or(pattern(address)),
                false => pattern(address),
            };
            if self.has(address) && !returns.contains(&address) && self.read(address) != expected {
                return false;
            }
            address += 1;
        }
        true
    }

    /// The word at an address of the arena.
    pub(crate) fn word(&self, address: u64) -> Option<u32> {
        let mut word = 0;
        for at in address..address.checked_add(4)? {
            if !self.has(at) {
                return None;
            }
            word = word << 8 | u32::from(self.read(at));
        }
        Some(word)
    }

    /// Puts the pattern back where the block was.
    pub(crate) fn take_back(&mut self, block: &Block<'_>) {
        self.restore(block.address, block.address.saturating_add(140));
    }

    /// Whether all of it has its pattern.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.pieces.iter().all(|piece| {
            let mut addresses = piece.start..piece.start + piece.bytes;
            addresses.all(|address| self.read(address) == pattern(address))
        })
    }

    fn restore(&mut self, start: u64, end: u64) {
        for address in start..end {
            self.write(address, pattern(address));
        }
    }

    fn has(&self, address: u64) -> bool {
        self.pieces
            .iter()
            .any(|piece| (piece.start..piece.start + piece.bytes).contains(&address))
    }

    fn read(&self, address: u64) -> u8 {
        // SAFETY: the arena is RAM that nothing else of the guest uses.
        unsafe { place(address).read_volatile() }
    }

    fn write(&mut self, address: u64, byte: u8) {
        if self.has(address) {
            // SAFETY: the arena is RAM that nothing else of the guest uses.
            unsafe { place(address).write_volatile(byte) };
        }
    }
}

/// Words as they lie in memory: big-endian.
fn bytes(words: &[u32]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_be_bytes())
}
