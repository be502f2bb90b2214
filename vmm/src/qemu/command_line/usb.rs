//! USB controllers, which libvirt gives every domain that does not say `<controller type='usb' model='none'/>`.
//!
//! There is no USB. A controller to which nothing is connected is no use to a guest, so those are taken, keep their
//! places on their buses, and are not shown to the guest; a device on one is refused.

use spapr_devices::pci::DeviceFunction;

use super::CommandLineError;
use super::device::{PLACE, bus_and_place};
use super::properties::Properties;

/// A controller that is not shown to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsbController {
    /// The name of its type.
    pub type_name: &'static str,
    /// The bus it would be on: that of a host bridge.
    pub bus: String,
    /// Where on that bus; when not given, in the first place that is free.
    pub place: Option<DeviceFunction>,
}

/// Those that libvirt gives domains for ppc64: by itself, or as its tools ask for them.
const TYPES: [&str; 3] = ["pci-ohci", "qemu-xhci", "nec-usb-xhci"];

/// Their properties.
pub(super) const USB_PROPERTIES: &[(&str, &str, &str)] = &[
    PLACE,
    ("p2", "uint32", "Changes nothing: the guest is not shown it"),
    ("p3", "uint32", "Changes nothing: the guest is not shown it"),
];

impl UsbController {
    /// Reads the controller of that type; `None` for any other.
    pub(super) fn read(
        driver: &str,
        properties: &mut Properties,
    ) -> Result<Option<Self>, CommandLineError> {
        let Some(type_name) = TYPES.into_iter().find(|known| *known == driver) else {
            return Ok(None);
        };
        properties.ignore(&["p2", "p3", "num-ports"]);
        properties.either("multifunction")?;
        let (bus, place) = bus_and_place(properties)?;
        Ok(Some(Self {
            type_name,
            bus,
            place,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::{Device, DeviceKind};

    #[test]
    fn the_controllers_of_default_domains_are_taken_and_devices_on_them_are_not() {
        let json =
            r#"{"driver":"qemu-xhci","p2":15,"p3":15,"id":"usb","bus":"pci.0","addr":"0x2"}"#;
        for (text, type_name) in [
            (json, "qemu-xhci"),
            (
                r#"{"driver":"pci-ohci","id":"usb","bus":"pci.0","addr":"0x1"}"#,
                "pci-ohci",
            ),
        ] {
            let DeviceKind::Usb(controller) = Device::parse(text).unwrap().kind else {
                panic!("no controller");
            };
            assert_eq!(
                (controller.type_name, controller.bus.as_str()),
                (type_name, "pci.0")
            );
        }
        let refused = Device::parse("usb-tablet,bus=usb.0,port=1").unwrap_err();
        assert!(
            refused.to_string().contains("no graphics, sound or USB"),
            "{refused}"
        );
    }
}
