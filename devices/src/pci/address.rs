//! Bus addresses of functions, and how RTAS names a register of one.

use std::fmt;

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
