//! A digest of numbers: what two runs did can be compared without printing all of it.

/// The 64-bit FNV-1a hash (Glenn Fowler, Landon Curt Noll, Kiem-Phong Vo) of a row of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x100_0000_01b3;

impl Default for Digest {
    fn default() -> Self {
        Self(OFFSET_BASIS)
    }
}

impl Digest {
    /// Adds a number, lowest byte first.
    pub fn add(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// The digest of what was added so far.
    pub const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(numbers: &[u64]) -> u64 {
        let mut digest = Digest::default();
        for number in numbers {
            digest.add(*number);
        }
        digest.value()
    }

    #[test]
    fn it_is_the_published_hash() {
        assert_eq!(digest(&[]), 0xcbf2_9ce4_8422_2325);
        // The hash of eight bytes, each step by hand.
        let bytes = b"foobar\0\0";
        let by_hand = bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
        });
        assert_eq!(digest(&[u64::from_le_bytes(*bytes)]), by_hand);
        // The published hash of the first six of them.
        let six = bytes[..6].iter().fold(OFFSET_BASIS, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
        });
        assert_eq!(six, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn one_number_or_their_order_changes_it() {
        let numbers: Vec<u64> = (0..1000).map(|number| number * 4096 + 3).collect();
        let whole = digest(&numbers);
        for index in 0..numbers.len() {
            let mut changed = numbers.clone();
            changed[index] ^= 1;
            assert_ne!(digest(&changed), whole);
        }
        let mut swapped = numbers.clone();
        swapped.swap(3, 4);
        assert_ne!(digest(&swapped), whole);
        assert_ne!(digest(&numbers[1..]), whole);
    }
}
