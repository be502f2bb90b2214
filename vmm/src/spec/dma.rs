//! What a user chooses about DMA: the size of dynamic windows, and of the regions in which memory is locked.

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
        if size < Self::LEAST {
            return Err(format!("a window has at least {}", Self::LEAST));
        }
        if !size.0.is_power_of_two() {
            let below = ByteSize(1 << size.0.ilog2());
            return Err(format!(
                "a window's size is a power of two, such as {below}"
            ));
        }
        Ok(Self::AtMost(size))
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
    fn regions_are_powers_of_two_from_16_mib() {
        let region = "64M".parse::<LockRegion>().unwrap();
        assert_eq!(region.0.bytes(), 64 << 20);
        for wrong in ["8M", "0", "24M", "region"] {
            assert!(wrong.parse::<LockRegion>().is_err(), "{wrong}");
        }
    }
}
