//! Addresses of network cards (EUI-48).

use std::fmt;
use std::str::FromStr;

/// Set in the first byte of an address that is for more than one.
const GROUP: u8 = 1;
/// Set in the first byte of an address that no maker of cards gave out.
const LOCAL: u8 = 2;

/// The address of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is no address of a card.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// It is none at all.
    #[error("should be six bytes such as 52:54:00:12:34:56")]
    Form,
    /// It is one of a group.
    #[error("is the address of a group; that of a card has an even first byte")]
    Group,
    /// It is all zero.
    #[error("is no card's address")]
    Zero,
}

impl Mac {
    /// Whether frames to it are for more than one card.
    pub const fn is_group(self) -> bool {
        self.0[0] & GROUP != 0
    }

    /// Whether it is the address for all.
    pub fn is_broadcast(self) -> bool {
        self.0 == [0xff; 6]
    }

    /// A locally administered address that is the same for the same `parts`, and hardly for others.
    pub fn made_of(parts: &[&[u8]]) -> Self {
        // FNV-1a: what it is for hides nothing, and it is the same with every compiler.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in parts {
            // A length before each, so that parts do not run into each other.
            let length = (part.len() as u64).to_le_bytes();
            for byte in length.iter().chain(*part) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
        Self([a & !GROUP | LOCAL, b, c ^ g, d ^ h, e, f])
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| matches!(part.len(), 1 | 2));
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            // from_str_radix takes a sign.
            let is_digits = part.is_some_and(|part| part.bytes().all(|it| it.is_ascii_hexdigit()));
            *byte = value.filter(|_| is_digits).ok_or(MacError::Form)?;
        }
        let mac = Self(bytes);
        match parts.next() {
            Some(_) => Err(MacError::Form),
            None if mac.is_group() => Err(MacError::Group),
            None if bytes == [0; 6] => Err(MacError::Zero),
            None => Ok(mac),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_bytes_of_one_card() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0xc, 1]);
        for text in ["52:54:00:ab:0c:01", "52-54-0-AB-c-1"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:ab:0c:01");
        let refused = |text: &str| text.parse::<Mac>().unwrap_err();
        for text in [
            "",
            "52:54:00:ab:0c",
            "52:54:00:ab:0c:01:02",
            "52:54:00:ab:0c:+1",
            "52:54:00:ab:0c:001",
        ] {
            assert_eq!(refused(text), MacError::Form, "{text}");
        }
        assert_eq!(refused("01:00:5e:00:00:01"), MacError::Group);
        assert_eq!(refused("0:0:0:0:0:0"), MacError::Zero);
    }

    #[test]
    fn an_address_that_is_made_is_local_stable_and_of_its_parts() {
        let mac = Mac::made_of(&[b"host", b"tap0"]);
        assert_eq!(mac, Mac::made_of(&[b"host", b"tap0"]));
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!(mac.0[0] & (GROUP | LOCAL), LOCAL);
        for other in [[&b"host"[..], b"tap1"], [b"hostt", b"ap0"]] {
            assert_ne!(mac, Mac::made_of(&other));
        }
        // Of a later build, too.
        assert_eq!(Mac::made_of(&[]), Mac([0x26, 0x23, 0xd0, 0x4f, 0xe4, 0x9c]));
    }
}
