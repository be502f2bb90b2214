//! Memory that devices read and write: RAM that Rust knows nothing of.

use core::ptr;

/// A range of RAM above the guest's image. It has the byte order of the processor, which is that of
/// PCI devices: little-endian.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    address: u64,
    bytes: u64,
}

impl DmaMemory {
    /// The `bytes` from guest physical address `address` on; both are multiples of 8.
    ///
    /// # Safety
    /// There must be RAM that Rust uses for nothing: neither the guest's image, with its stacks,
    /// nor the device tree.
    pub const unsafe fn new(address: u64, bytes: u64) -> Self {
        Self { address, bytes }
    }

    /// Part of it.
    ///
    /// # Panics
    /// When it does not lie in it, or is not aligned to 8 bytes.
    pub fn part(self, offset: u64, bytes: u64) -> Self {
        assert!(offset.is_multiple_of(8) && bytes.is_multiple_of(8));
        assert!(offset <= self.bytes && bytes <= self.bytes - offset);
        Self {
            address: self.address + offset,
            bytes,
        }
    }

    /// Guest physical address.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// How many words of 8 bytes it has.
    pub const fn words(self) -> u64 {
        self.bytes / 8
    }

    /// Word `index`.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read(self, index: u64) -> u64 {
        // SAFETY: aligned, in RAM, and outside of all that Rust knows, as who made it vouched.
        unsafe { self.place(index).read_volatile() }
    }

    /// Writes word `index`.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn write(self, index: u64, value: u64) {
        // SAFETY: as for reading.
        unsafe { self.place(index).write_volatile(value) };
    }

    /// Writes all words.
    pub fn fill(self, word: impl Fn(u64) -> u64) {
        for index in 0..self.words() {
            self.write(index, word(index));
        }
    }

    /// The first word that is not as said.
    pub fn first_difference(self, word: impl Fn(u64) -> u64) -> Option<u64> {
        (0..self.words()).find(|&index| self.read(index) != word(index))
    }

    fn place(self, index: u64) -> *mut u64 {
        assert!(index < self.words());
        let address = usize::try_from(self.address + index * 8).unwrap_or(0);
        ptr::with_exposed_provenance_mut(address)
    }
}
