//! What a user chooses about DMA: the size of windows, and of the regions in which memory is locked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use spapr_hypercalls::locking::RegionSize;

use super::ByteSize;
use super::byte_size::SizeError;

/// Size of the regions in which guest memory is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRegion(pub RegionSize);

impl LockRegion {
    /// The least that may be asked for: guest memory is a multiple of it.
    pub const LEAST: ByteSize = ByteSize(16 << 20);
}

impl FromStr for LockRegion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size: ByteSize = text.parse().map_err(|why: SizeError| why.to_string())?;
        RegionSize::new(size.0)
            .filter(|_| size >= Self::LEAST)
            .map(Self)
            .ok_or_else(|| format!("a region is a power of two, at least {}", Self::LEAST))
    }
}

/// Size of a default DMA window: that which a host bridge has from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaWindowSize(ByteSize);

impl DmaWindowSize {
    /// The least that may be asked for: drivers take some MiB for what they share with their devices.
    pub const LEAST: ByteSize = ByteSize(16 << 20);

    /// The most: hosts tell of no larger one (`dma32_window_size` of VFIO_IOMMU_SPAPR_TCE_GET_INFO has 32 bits).
    pub const MOST: ByteSize = ByteSize(2 << 30);

    /// A window of so many bytes.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let size = window_size(ByteSize(bytes), Self::LEAST)?;
        if size > Self::MOST {
            return Err(format!("a window has at most {}", Self::MOST));
        }
        Ok(Self(size))
    }

    /// It in bytes, a power of two.
    pub const fn bytes(self) -> u64 {
        self.0.0
    }
}

impl FromStr for DmaWindowSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size: ByteSize = text.parse().map_err(|why: SizeError| why.to_string())?;
        Self::new(size.0)
    }
}

/// A window's size, if it is one.
fn window_size(size: ByteSize, least: ByteSize) -> Result<ByteSize, String> {
    if size < least {
        return Err(format!("a window has at least {least}"));
    }
    if !size.0.is_power_of_two() {
        let below = ByteSize(1 << size.0.ilog2());
        return Err(format!(
            "a window's size is a power of two, such as {below}"
        ));
    }
    Ok(size)
}

/// The sizes of default DMA windows, as far as someone chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DmaWindowSizes {
    /// Behind all host bridges, but those of [`DmaWindowSizes::of_bridges`].
    pub of_all: Option<DmaWindowSize>,
    /// Behind some, by their numbers.
    pub of_bridges: BTreeMap<u8, DmaWindowSize>,
}

impl DmaWindowSizes {
    /// The bytes of the window of host bridge number `bridge`; `None` when nobody chose.
    pub fn bytes_of(&self, bridge: u8) -> Option<u64> {
        let size = self.of_bridges.get(&bridge).copied().or(self.of_all);
        size.map(DmaWindowSize::bytes)
    }
}

/// How large dynamic DMA windows may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DdwMode {
    /// As large as guest memory.
    Auto,
    /// The guest is offered none.
    Off,
    /// At most this, a power of two.
    AtMost(ByteSize),
}

impl DdwMode {
    /// The least that a window may be bounded to: one page of the largest size that QEMU offers.
    pub const LEAST: ByteSize = ByteSize(16 << 20);
}

impl fmt::Display for DdwMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Off => formatter.write_str("off"),
            Self::AtMost(size) => size.fmt(formatter),
        }
    }
}

impl FromStr for DdwMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let size: ByteSize = text.parse().map_err(|why| match why {
            SizeError::NoSize => "expected auto, off, or a size such as 512M".to_owned(),
            why => why.to_string(),
        })?;
        window_size(size, Self::LEAST).map(Self::AtMost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_windows_are_bounded_to_powers_of_two() {
        assert_eq!("auto".parse(), Ok(DdwMode::Auto));
        assert_eq!("off".parse(), Ok(DdwMode::Off));
        let bound = DdwMode::AtMost(ByteSize(512 << 20));
        assert_eq!("512M".parse(), Ok(bound));
        let refusal = |text: &str| text.parse::<DdwMode>().unwrap_err();
        assert!(refusal("3G").contains("such as 2G"));
        assert!(refusal("8M").contains("at least 16M"));
        assert!(refusal("0").contains("at least 16M"));
        assert!(refusal("on").contains("auto, off"));
    }

    #[test]
    fn a_default_window_is_what_was_said_of_its_bridge_or_else_of_all() {
        let size = |text: &str| text.parse::<DmaWindowSize>().unwrap();
        let sizes = DmaWindowSizes {
            of_all: Some(size("2G")),
            of_bridges: [(3, size("256M"))].into(),
        };
        let of = |bridge| sizes.bytes_of(bridge);
        assert_eq!([of(0), of(3)], [Some(2 << 30), Some(256 << 20)]);
        assert_eq!(DmaWindowSizes::default().bytes_of(0), None);
        let refusal = |text: &str| text.parse::<DmaWindowSize>().unwrap_err();
        assert!(refusal("4G").contains("at most 2G"));
        assert!(refusal("3G").contains("such as 2G"));
        assert!(refusal("8M").contains("at least 16M"));
    }

    #[test]
    fn regions_are_powers_of_two_from_16_mib() {
        let region = "64M".parse::<LockRegion>().unwrap();
        assert_eq!(region.0.bytes(), 64 << 20);
        for wrong in ["8M", "0", "24M", "region"] {
            assert!(wrong.parse::<LockRegion>().is_err(), "{wrong}");
        }
    }
}
