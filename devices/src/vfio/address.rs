//! Where a PCI function sits on the host.

use std::fmt;
use std::str::FromStr;

/// A PCI function of the host, written `DDDD:BB:DD.F` in hexadecimal: domain, bus, device and
/// function, as the kernel names it below /sys/bus/pci/devices.
///
/// ```
/// use spapr_devices::vfio::PciAddress;
/// let address: PciAddress = "0001:01:00.0".parse()?;
/// assert_eq!((address.domain(), address.bus()), (1, 1));
/// assert_eq!(address.to_string(), "0001:01:00.0");
/// # Ok::<(), spapr_devices::vfio::ParsePciAddressError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The address of a function; `None` when `device` is above 31 or `function` above 7.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self {
            domain,
            bus,
            device,
            function,
        })
    }

    /// PCI domain, the kernel's number of the host bridge. Four digits, or more where a bridge
    /// has a number above 0xffff.
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// Bus number within the domain.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device number on the bus, 0 to 31.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function number of the device, 0 to 7.
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// A text that is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no PCI address: expected DDDD:BB:DD.F in hexadecimal (domain, bus, device 00-1f, \
     function 0-7), for example 0001:01:00.0; `lspci -D` lists them"
)]
pub struct ParsePciAddressError(String);

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParsePciAddressError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.split_once('.')?;
    let mut fields = rest.split(':');
    let (domain, bus, device) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    PciAddress::new(
        hexadecimal(domain, 4..=8)?,
        u8::try_from(hexadecimal(bus, 2..=2)?).ok()?,
        u8::try_from(hexadecimal(device, 2..=2)?).ok()?,
        u8::try_from(hexadecimal(function, 1..=1)?).ok()?,
    )
}

/// A number of as many digits as allowed and nothing else: `from_str_radix` alone takes a sign.
fn hexadecimal(field: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = digits.contains(&field.len()) && field.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(field, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_address_round_trips_through_text(
            domain: u32, bus: u8, device in 0u8..32, function in 0u8..8,
        ) {
            let address = PciAddress::new(domain, bus, device, function).unwrap();
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(address.to_string().to_uppercase().parse(), Ok(address));
        }

        #[test]
        fn any_text_parses_to_itself_or_is_named_in_the_error(text in "[0-9a-fA-F:.+ x-]{0,14}|.*") {
            match text.parse::<PciAddress>() {
                Ok(address) => prop_assert_eq!(
                    address.to_string().trim_start_matches('0').to_owned(),
                    text.to_lowercase().trim_start_matches('0').to_owned()
                ),
                Err(error) => {
                    let message = error.to_string();
                    let quoted = format!("{text:?}");
                    prop_assert!(message.contains(&quoted));
                    prop_assert!(message.contains("DDDD:BB:DD.F"));
                }
            }
        }
    }

    #[test]
    fn nearly_right_addresses_are_refused() {
        for text in [
            "",
            "01:00.0",
            "0001:01:00",
            "0001:01:00.8",
            "0001:01:20.0",
            "001:01:00.0",
            "0001:1:00.0",
            "0001:01:00.0 ",
            "+001:01:00.0",
            "0001:01:00:0",
            "0001:01:00.0.0",
            "0001:00:01:00.0",
            "000000001:01:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
        assert_eq!(PciAddress::new(0, 0, 32, 0), None);
        assert_eq!(PciAddress::new(0, 0, 0, 8), None);
    }
}
