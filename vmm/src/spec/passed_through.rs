//! Devices of the host's.

use std::str::FromStr;

use spapr_devices::vfio::{ParsePciAddressError, PciAddress};
use uuid::Uuid;

use super::GuestPlace;

/// A PCI device to pass through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedThroughDevice {
    /// Where it is on the host.
    pub host: PciAddress,
    /// Where the guest finds it; `None` for the next place behind a host bridge of its IOMMU group.
    pub place: Option<GuestPlace>,
    /// What its user has in common with those of its physical function or its virtual functions, where the physical
    /// function is bound to vfio-pci.
    pub vf_token: Option<Uuid>,
}

/// Why there is no such device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassedThroughError {
    /// It has no address.
    #[error(transparent)]
    Address(#[from] ParsePciAddressError),
    /// There is no such option.
    #[error("there is no option {0:?}: after the address there can be vf-token=UUID")]
    Option(String),
    /// Its token is none.
    #[error("vf-token={0} is not a UUID such as bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3")]
    Token(String),
}

impl From<PciAddress> for PassedThroughDevice {
    fn from(host: PciAddress) -> Self {
        Self {
            host,
            place: None,
            vf_token: None,
        }
    }
}

impl FromStr for PassedThroughDevice {
    type Err = PassedThroughError;

    /// As `--vfio` has it: `DDDD:BB:DD.F[,vf-token=UUID]`.
    fn from_str(text: &str) -> Result<Self, PassedThroughError> {
        let mut parts = text.split(',');
        let host: PciAddress = parts.next().unwrap_or_default().parse()?;
        let mut device = Self::from(host);
        for option in parts {
            let token = option.strip_prefix("vf-token=");
            let token = token.ok_or_else(|| PassedThroughError::Option(option.to_owned()))?;
            let read = token.parse();
            device.vf_token = Some(read.map_err(|_| PassedThroughError::Token(token.to_owned()))?);
        }
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
    fn what_is_wrong_is_named() {
        let refusal = |text: &str| {
            let read: Result<PassedThroughDevice, _> = text.parse();
            read.expect_err("refused").to_string()
        };
        assert!(refusal("nvme,vf-token=1").contains("\"nvme\""));
        assert!(refusal("1:1:0,vf-token=1").contains("vf-token=1 is not a UUID"));
        assert!(refusal("1:1:0,token=1").contains("no option \"token=1\""));
        assert!(refusal("1:1:0,").contains("no option \"\""));
    }

    proptest! {
        #[test]
        fn any_text_is_a_device_or_is_refused(text in "(1:1:0)?[,a-z=0-9-]{0,60}|.*") {
            if let Ok(device) = text.parse::<PassedThroughDevice>() {
                prop_assert!(device.vf_token.is_some() || !text.contains(','));
            }
        }
    }
}
