//! Bus addresses of functions, and how RTAS names a register of one.

use std::fmt;
use std::str::FromStr;

/// Device and function number on the root bus of a host bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceFunction(u8);

impl DeviceFunction {
    /// Device 0 to 31 and function 0 to 7; `None` for any other.
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self(device << 3 | function))
        } else {
            None
        }
    }

    /// From the byte that holds both, the device in its upper five bits.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte that holds both.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }
}

impl fmt::Display for DeviceFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.device(), self.function())
    }
}

/// A text that names no device and function of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected DD or DD.F in hexadecimal (device 00-1f, function 0-7)")]
pub struct ParseDeviceFunctionError;

impl FromStr for DeviceFunction {
    type Err = ParseDeviceFunctionError;

    /// Reads `DD.F` in hexadecimal, or `DD` for its function 0; leading zeroes and 0x may be there or not.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (device, function) = text.split_once('.').unwrap_or((text, "0"));
        let byte = |field| u8::try_from(hexadecimal(field)?).ok();
        let read = || Self::new(byte(device)?, byte(function)?);
        read().ok_or(ParseDeviceFunctionError)
    }
}

/// A number in hexadecimal and nothing else, with or without 0x: `from_str_radix` alone takes a sign.
pub(crate) fn hexadecimal(field: &str) -> Option<u32> {
    let prefixed = field
        .strip_prefix("0x")
        .or_else(|| field.strip_prefix("0X"));
    let digits = prefixed.unwrap_or(field);
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain
        .then(|| u32::from_str_radix(digits, 16).ok())
        .flatten()
}

impl fmt::Debug for DeviceFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A configuration address as RTAS calls give it: `0xRBBDDFRR`, with the register's upper four
/// bits at the top, then bus, device and function, then the register's lower eight bits
/// (`ibm,pci-config-space-type` 1; PAPR 7.3.4.1 and B.6.1.1, "config_addr").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress(pub u32);

impl ConfigAddress {
    /// Bus number.
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Device and function number.
    pub const fn device_function(self) -> DeviceFunction {
        DeviceFunction(self.0.to_be_bytes()[2])
    }

    /// Offset of the register in configuration space, 0 to 4095; `None` when the four bits that
    /// the format leaves unused are set.
    pub const fn register(self) -> Option<u16> {
        let [high, _, _, low] = self.0.to_be_bytes();
        if high & 0x0f == 0 {
            Some((high as u16) << 4 | low as u16)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_a_bus_are_hexadecimal() {
        let place = |text: &str| text.parse().map(|place: DeviceFunction| place.to_string());
        assert_eq!(place("0x1f.0x7").as_deref(), Ok("1f.7"));
        assert_eq!(place("1F.0").as_deref(), Ok("1f.0"));
        assert_eq!(place("2").as_deref(), Ok("02.0"));
        assert_eq!(place("0002.00").as_deref(), Ok("02.0"));
        for bad in [
            "0x20", "1.8", "", ".", "1.", ".1", "x", "0x", "+1", "1.+2", "-1", "1.2.3", "1:2",
            " 1", "é",
        ] {
            assert_eq!(place(bad), Err(ParseDeviceFunctionError), "{bad}");
        }
    }

    #[test]
    fn config_address_holds_bus_device_function_and_a_twelve_bit_register() {
        let address = ConfigAddress(0xf012_0bfc);
        assert_eq!(address.bus(), 0x12);
        assert_eq!(
            address.device_function(),
            DeviceFunction::new(1, 3).unwrap()
        );
        assert_eq!(address.register(), Some(0xffc));
        assert_eq!(ConfigAddress(0x0100_0000).register(), None);
    }
}
