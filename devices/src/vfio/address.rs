//! Where a PCI function sits on the host.

use std::fmt;
use std::str::FromStr;

use crate::pci::DeviceFunction;
use crate::pci::address::hexadecimal;

/// A PCI function of the host, written `DDDD:BB:DD.F` in hexadecimal: domain, bus, device and
/// function, as the kernel names it below /sys/bus/pci/devices.
///
/// It is read as `lspci` and QEMU take it, too: without a domain it is in domain 0, without a function it
/// is function 0, and leading zeroes and 0x may be there or not.
///
/// ```
/// use spapr_devices::vfio::PciAddress;
/// let address: PciAddress = "0001:01:00.0".parse()?;
/// assert_eq!((address.domain(), address.bus()), (1, 1));
/// assert_eq!(address.to_string(), "0001:01:00.0");
/// assert_eq!("1:1:0".parse(), Ok(address));
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
    "{0:?} is not a PCI address: expected DDDD:BB:DD.F in hexadecimal (domain, bus, device 00-1f, \
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
    let (bus, place) = text.rsplit_once(':')?;
    let (domain, bus) = bus.split_once(':').unwrap_or(("0", bus));
    let place: DeviceFunction = place.parse().ok()?;
    PciAddress::new(
        hexadecimal(domain)?,
        u8::try_from(hexadecimal(bus)?).ok()?,
        place.device(),
        place.function(),
    )
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
        fn any_text_is_an_address_or_is_named_in_the_error(text in "[0-9a-fA-FxX:.+ -]{0,14}|.*") {
            match text.parse::<PciAddress>() {
                Ok(address) => prop_assert_eq!(address.to_string().parse(), Ok(address)),
                Err(error) => {
                    let message = error.to_string();
                    let quoted = format!("{text:?}");
                    prop_assert!(message.contains(&quoted));
                    prop_assert!(message.contains("DDDD:BB:DD.F"));
                }
            }
        }

        /// Every way that QEMU and lspci write one: with or without domain, zeroes, 0x, capitals.
        #[test]
        fn an_address_is_read_however_it_is_written(
            domain: u16, bus: u8, device in 0u8..32, function in 0u8..8,
            zeroes: bool, prefix: bool, capitals: bool, short: bool,
        ) {
            let field = |value: u32, width: usize| {
                let digits = if zeroes { format!("{value:0width$x}") } else { format!("{value:x}") };
                let digits = if capitals { digits.to_uppercase() } else { digits };
                if prefix { format!("0x{digits}") } else { digits }
            };
            let domain = if short { 0 } else { domain };
            let place = format!("{}.{function}", field(device.into(), 2));
            let tail = format!("{}:{place}", field(bus.into(), 2));
            let text = if short { tail } else { format!("{}:{tail}", field(domain.into(), 4)) };
            prop_assert_eq!(text.parse(), Ok(PciAddress::new(domain.into(), bus, device, function).unwrap()));
        }
    }

    #[test]
    fn addresses_are_read_as_lspci_sysfs_and_qemu_write_them() {
        for (text, address) in [
            ("0001:01:00.0", "0001:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("1:1:0.0", "0001:01:00.0"),
            ("0033:A1:1F.7", "0033:a1:1f.7"),
            ("10000:01:00.0", "10000:01:00.0"),
            ("0001:01:00", "0001:01:00.0"),
            ("01:00", "0000:01:00.0"),
            ("0x1:0x1:0x0.0", "0001:01:00.0"),
        ] {
            let read = text
                .parse::<PciAddress>()
                .map(|address| address.to_string());
            assert_eq!(read.as_deref(), Ok(address), "{text}");
        }
    }

    #[test]
    fn nearly_right_addresses_are_refused() {
        for text in [
            "",
            ":",
            "1",
            "00.0",
            ":00.0",
            "01:",
            "01:.0",
            "01:00.",
            "0001:01:00.8",
            "0001:01:20.0",
            "0001:100:00.0",
            "0001:01:00.0 ",
            " 0001:01:00.0",
            "+001:01:00.0",
            "0001:-1:00.0",
            "0001:01:00:0",
            "0001:01:00.0.0",
            "0001:00:01:00.0",
            "100000000:01:00.0",
            "0x:01:00.0",
            "0001:01:g0.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
        assert_eq!(PciAddress::new(0, 0, 32, 0), None);
        assert_eq!(PciAddress::new(0, 0, 0, 8), None);
    }
}
