//! Devices of the host's.

use std::path::PathBuf;
use std::str::FromStr;

use spapr_devices::vfio::{ParsePciAddressError, PciAddress};
use uuid::Uuid;

use super::{GuestPlace, words};

/// A PCI device to pass through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedThroughDevice {
    /// Where it is on the host.
    pub host: PciAddress,
    /// Where the guest finds it; `None` for the next place behind a host bridge of its IOMMU group.
    pub place: Option<GuestPlace>,
    /// What its user has in common with those of its physical function or its virtual functions, where the physical
    /// function is bound to vfio-pci.
    pub vf_token: Option<Uuid>,
    /// Its expansion ROM.
    pub rom: ExpansionRom,
}

/// Which expansion ROM the guest finds in a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExpansionRom {
    /// None: no firmware here would run one, and few drivers look for it.
    #[default]
    Hidden,
    /// The device's own, if it has one.
    Own,
    /// The image in a file.
    File(PathBuf),
}

impl ExpansionRom {
    /// What `rombar=` and `romfile=` ask for, as QEMU has them: a file that is named is shown unless there is to be no
    /// ROM at all, and one without a name is none. `None` where they contradict each other.
    pub fn asked_for(rombar: Option<bool>, romfile: Option<&str>) -> Option<Self> {
        match (rombar, romfile) {
            (Some(false), Some(path)) if !path.is_empty() => None,
            (Some(true), None) => Some(Self::Own),
            (_, Some(path)) if !path.is_empty() => Some(Self::File(path.into())),
            _ => Some(Self::Hidden),
        }
    }
}

/// Why there is no such device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassedThroughError {
    /// It has no address.
    #[error(transparent)]
    Address(#[from] ParsePciAddressError),
    /// There is no such option.
    #[error(
        "there is no option {0:?}: after the address there can be vf-token=UUID, rombar=0 or 1, and romfile=FILE"
    )]
    Option(String),
    /// Its token is none.
    #[error("vf-token={0} is not a UUID such as bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3")]
    Token(String),
    /// It is to have a ROM or not.
    #[error("rombar={0} should be 1 (the guest finds the device's expansion ROM) or 0")]
    RomBar(String),
    /// A file for no ROM.
    #[error(
        "romfile={0} names an expansion ROM, and rombar=0 says that there is none; leave out one of them"
    )]
    NoRom(String),
}

impl From<PciAddress> for PassedThroughDevice {
    fn from(host: PciAddress) -> Self {
        Self {
            host,
            place: None,
            vf_token: None,
            rom: ExpansionRom::default(),
        }
    }
}

impl FromStr for PassedThroughDevice {
    type Err = PassedThroughError;

    /// As `--vfio` has it: `DDDD:BB:DD.F[,vf-token=UUID][,rombar=0|1][,romfile=FILE]`.
    fn from_str(text: &str) -> Result<Self, PassedThroughError> {
        let parts = words::split(text);
        let (host, options) = parts
            .split_first()
            .map_or(("", &[][..]), |(host, options)| (host.as_str(), options));
        let mut device = Self::from(host.parse::<PciAddress>()?);
        let (mut rombar, mut romfile) = (None, None);
        for option in options {
            match option.split_once('=') {
                Some(("vf-token", token)) => {
                    let read = token.parse();
                    device.vf_token =
                        Some(read.map_err(|_| PassedThroughError::Token(token.to_owned()))?);
                }
                Some(("rombar", "0")) => rombar = Some(false),
                Some(("rombar", "1")) => rombar = Some(true),
                Some(("rombar", other)) => {
                    return Err(PassedThroughError::RomBar(other.to_owned()));
                }
                Some(("romfile", path)) => romfile = Some(path),
                _ => return Err(PassedThroughError::Option(option.clone())),
            }
        }
        device.rom = ExpansionRom::asked_for(rombar, romfile)
            .ok_or_else(|| PassedThroughError::NoRom(romfile.unwrap_or_default().to_owned()))?;
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";

    #[test]
    fn a_device_may_have_a_token() {
        let device: PassedThroughDevice = "1:1:0".parse().expect("a device");
        assert_eq!(
            (device.host.to_string().as_str(), device.vf_token),
            ("0001:01:00.0", None)
        );
        let text = format!("0001:01:10.1,vf-token={TOKEN}");
        let device: PassedThroughDevice = text.parse().expect("a device");
        assert_eq!(device.host.to_string(), "0001:01:10.1");
        assert_eq!(device.vf_token, Some(TOKEN.parse().expect("a token")));
    }

    #[test]
    fn a_device_has_a_rom_where_one_is_asked_for() {
        let file = |path: &str| ExpansionRom::File(path.into());
        for (options, expected) in [
            ("", ExpansionRom::Hidden),
            (",rombar=0", ExpansionRom::Hidden),
            (",romfile=", ExpansionRom::Hidden),
            (",rombar=1,romfile=", ExpansionRom::Hidden),
            (",rombar=0,romfile=", ExpansionRom::Hidden),
            (",rombar=1", ExpansionRom::Own),
            (",romfile=/a,,b=c", file("/a,b=c")),
            (",romfile=rom,rombar=1", file("rom")),
        ] {
            let device: PassedThroughDevice = format!("1:1:0{options}").parse().expect("a device");
            assert_eq!(device.rom, expected, "{options}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refusal = |text: &str| {
            let read: Result<PassedThroughDevice, _> = text.parse();
            read.expect_err("refused").to_string()
        };
        assert!(refusal("nvme,vf-token=1").contains("\"nvme\""));
        assert!(refusal("1:1:0,vf-token=1").contains("vf-token=1 is not a UUID"));
        assert!(refusal("1:1:0,token=1").contains("no option \"token=1\""));
        assert!(refusal("1:1:0,").contains("no option \"\""));
        assert!(refusal("1:1:0,rombar=on").contains("rombar=on should be 1"));
        assert!(refusal("1:1:0,rombar=0,romfile=/r").starts_with("romfile=/r names"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_device_or_is_refused(text in "(1:1:0)?[,a-z=0-9-]{0,60}|.*") {
            if let Ok(device) = text.parse::<PassedThroughDevice>() {
                prop_assert!(device.vf_token.is_none() || text.contains("vf-token="));
            }
        }
    }
}
