//! Ports of virtio serial devices: `-device virtserialport` and `virtconsole`.

use spapr_devices::virtio::serial::HIGHEST_PORT;

use super::device::{Device, DeviceKind};
use super::properties::Properties;
use super::virtio::{VirtioDevice, VirtioKind};
use super::{Backend, Chardev, CommandLineError};
use crate::spec::{MOST_PORT_NAME_BYTES, PortDescription, PortOutlet, is_port_name};

/// A port as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The bus of its serial device; when not given, that of the first one.
    pub bus: Option<String>,
    /// Its number; when not given, the first that is free.
    pub number: Option<u32>,
    /// Its name in the guest; empty for none.
    pub name: String,
    /// The character device behind it.
    pub chardev: String,
    /// Whether it is a console.
    pub is_console: bool,
}

impl Port {
    /// The name of its type.
    pub const fn type_name(&self) -> &'static str {
        if self.is_console {
            "virtconsole"
        } else {
            "virtserialport"
        }
    }

    /// Reads the port of that type; `None` for any other.
    pub(super) fn read(
        driver: &str,
        properties: &mut Properties,
    ) -> Result<Option<Self>, CommandLineError> {
        let is_console = match driver {
            "virtserialport" => false,
            "virtconsole" => true,
            _ => return Ok(None),
        };
        let name = properties.text("name")?.unwrap_or_default();
        if !is_port_name(&name) {
            let expected = format!(
                "up to {MOST_PORT_NAME_BYTES} bytes without slashes and control characters"
            );
            return Err(properties.wrong("name", &name.escape_debug(), &expected));
        }
        Ok(Some(Self {
            bus: properties.text("bus")?,
            number: properties.number32("nr")?,
            name,
            chardev: properties.required("chardev")?,
            is_console,
        }))
    }

    /// Whether `chardev` may be behind it.
    pub(super) fn check(&self, chardev: &Chardev) -> Result<(), CommandLineError> {
        let is_stream = matches!(
            chardev.backend,
            Backend::Listen(_) | Backend::Connect(_) | Backend::Null
        );
        if !is_stream || chardev.log.is_some() {
            let kind = self.type_name();
            let id = &chardev.id;
            return Err(CommandLineError::Combination(format!(
                "-device {kind}: the chardev {id} should be a socket without logfile= (<channel type='unix'> in a \
                 libvirt domain)"
            )));
        }
        Ok(())
    }
}

/// The most ports of a serial device, without `max_ports`.
pub(super) const MOST_PORTS: u32 = HIGHEST_PORT + 1;

fn is_serial(device: &Device) -> bool {
    let DeviceKind::Virtio(VirtioDevice { kind, .. }) = &device.kind else {
        return false;
    };
    matches!(kind, VirtioKind::Serial { .. })
}

/// Whether a port's `bus` is that of `serial`, which is the first such device or not.
fn is_on(bus: Option<&str>, serial: &Device, is_first: bool) -> bool {
    match (bus, &serial.id) {
        (None, _) => is_first,
        (Some(bus), Some(id)) => bus.strip_suffix(".0") == Some(id),
        (Some(_), None) => false,
    }
}

/// Whether each port among `devices` has a serial device that it is on.
pub(super) fn check(devices: &[Device]) -> Result<(), CommandLineError> {
    for device in devices {
        let DeviceKind::Port(port) = &device.kind else {
            continue;
        };
        let mut serials = devices
            .iter()
            .filter(|device| is_serial(device))
            .enumerate();
        let bus = port.bus.as_deref();
        if !serials.any(|(place, serial)| is_on(bus, serial, place == 0)) {
            return Err(CommandLineError::Unknown {
                option: format!("-device {}", port.type_name()),
                what: "bus of a virtio-serial-pci device",
                id: port.bus.clone().unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// The ports of `serial`, one of `devices`, which has `most` at most.
pub(super) fn ports(
    devices: &[Device],
    serial: &Device,
    most: u32,
) -> Result<Vec<PortDescription>, CommandLineError> {
    let first = devices.iter().find(|device| is_serial(device));
    let is_first = first == Some(serial);
    let mut found: Vec<PortDescription> = Vec::new();
    let own = devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::Port(port) if is_on(port.bus.as_deref(), serial, is_first) => {
            Some((device.id.clone(), port))
        }
        _ => None,
    });
    let own: Vec<(Option<String>, &Port)> = own.collect();
    let named: Vec<u32> = own.iter().filter_map(|(_, port)| port.number).collect();
    for (id, port) in own {
        let is_free = |number: &u32| {
            !named.contains(number) && !found.iter().any(|known| known.number == *number)
        };
        // Number 0 is for a console.
        let mut numbers = u32::from(!port.is_console)..most;
        let number = port.number.or_else(|| numbers.find(is_free));
        let wrong = |value: &str, expected: &str| CommandLineError::Value {
            option: format!("-device {}", port.type_name()),
            name: "nr".to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        let number = match number {
            Some(number) if number >= most => {
                return Err(wrong(&number.to_string(), &format!("less than {most}")));
            }
            Some(0) if !port.is_console => {
                return Err(wrong("0", "1 or more: 0 is for a virtconsole"));
            }
            Some(number) if found.iter().any(|known| known.number == number) => {
                return Err(wrong(&number.to_string(), "another port's number no more"));
            }
            Some(number) => number,
            None => return Err(wrong("", &format!("less than {most}, and all are taken"))),
        };
        found.push(PortDescription {
            id,
            number,
            name: port.name.clone(),
            is_console: port.is_console,
            outlet: PortOutlet::Chardev(port.chardev.clone()),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(texts: &[&str]) -> Vec<Device> {
        texts
            .iter()
            .map(|text| Device::parse(text).unwrap())
            .collect()
    }

    fn numbers(texts: &[&str], most: u32) -> Result<Vec<u32>, String> {
        let devices = devices(texts);
        check(&devices).map_err(|error| error.to_string())?;
        let ports = ports(&devices, &devices[0], most).map_err(|error| error.to_string())?;
        Ok(ports.iter().map(|port| port.number).collect())
    }

    const SERIAL: &str =
        r#"{"driver":"virtio-serial-pci","id":"virtio-serial0","bus":"pci.0","addr":"0x3"}"#;

    #[test]
    fn ports_are_numbered_as_they_say_or_as_there_is_room() {
        let libvirts = r#"{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0","id":"channel0","name":"org.qemu.guest_agent.0"}"#;
        let all = devices(&[SERIAL, libvirts]);
        let ports = super::ports(&all, &all[0], MOST_PORTS).unwrap();
        assert_eq!(
            ports,
            [PortDescription {
                id: Some("channel0".to_owned()),
                number: 1,
                name: "org.qemu.guest_agent.0".to_owned(),
                is_console: false,
                outlet: PortOutlet::Chardev("charchannel0".to_owned()),
            }]
        );
        let plain = [
            SERIAL,
            "virtserialport,chardev=a,name=x",
            "virtserialport,chardev=b,nr=1",
            "virtconsole,chardev=c",
            "virtserialport,chardev=d",
        ];
        assert_eq!(numbers(&plain, MOST_PORTS), Ok(vec![2, 1, 0, 3]));
        assert!(numbers(&plain, 3).unwrap_err().contains("all are taken"));
    }

    #[test]
    fn what_makes_no_sense_of_a_port_is_named() {
        let refusal = |text: &str| numbers(&[SERIAL, "virtserialport,chardev=a,nr=2", text], 4);
        for (text, expected) in [
            (
                "virtserialport,chardev=b,nr=4",
                "nr=4 should be less than 4",
            ),
            (
                "virtserialport,chardev=b,nr=0",
                "nr=0 should be 1 or more: 0 is for a virtconsole",
            ),
            (
                "virtserialport,chardev=b,nr=2",
                "nr=2 should be another port's number no more",
            ),
        ] {
            let refused = refusal(text).unwrap_err();
            assert_eq!(refused, format!("-device virtserialport: {expected}"));
        }
        let elsewhere = refusal("virtserialport,chardev=b,bus=other.0").unwrap_err();
        assert!(elsewhere.contains("there is no bus of a virtio-serial-pci device other.0"));
        let name = Device::parse("virtserialport,chardev=b,name=a/b").unwrap_err();
        assert!(
            name.to_string().contains("name=a/b should be up to"),
            "{name}"
        );
        assert!(Device::parse("virtserialport,name=b").is_err());
    }
}
