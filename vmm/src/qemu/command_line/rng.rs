//! `-object rng-random` and `rng-builtin`: where a virtio entropy device's bytes come from.

use super::properties::Properties;
use super::virtio::{VirtioDevice, VirtioKind};
use super::{CommandLineError, Device, DeviceKind};

/// The sources that there are: all are the host's kernel, asked by getrandom(2).
#[derive(Debug, Default)]
pub(super) struct RngSources(Vec<String>);

impl RngSources {
    /// Reads an `-object`, if it is one of these.
    pub(super) fn read(&mut self, value: &str) -> Result<bool, CommandLineError> {
        let mut properties = Properties::parse("-object", Some("qom-type"), value)?;
        let kind = properties.required("qom-type")?;
        match kind.as_str() {
            "rng-random" => {
                properties.set_kind(&kind);
                properties.only("filename", &["/dev/urandom", "/dev/random"])?;
            }
            "rng-builtin" => properties.set_kind(&kind),
            _ => return Ok(false),
        }
        let id = properties.required("id")?;
        properties.finish()?;
        if self.0.contains(&id) {
            return Err(CommandLineError::Twice {
                option: "-object".to_owned(),
                id,
            });
        }
        self.0.push(id);
        Ok(true)
    }

    /// Whether each of `devices` that needs one names a source, and each source has a device.
    pub(super) fn check(&self, devices: &[Device]) -> Result<(), CommandLineError> {
        let named = devices.iter().filter_map(|device| match &device.kind {
            DeviceKind::Virtio(VirtioDevice {
                kind: VirtioKind::Rng { source },
                ..
            }) => Some(source),
            _ => None,
        });
        let named: Vec<&String> = named.collect();
        if let Some(unknown) = named.iter().find(|id| !self.0.contains(id)) {
            return Err(CommandLineError::Unknown {
                option: "-device virtio-rng-pci".to_owned(),
                what: "object",
                id: (*unknown).clone(),
            });
        }
        match self.0.iter().find(|id| !named.contains(id)) {
            Some(unused) => Err(CommandLineError::Unused {
                option: "-object",
                id: unused.clone(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with these objects and devices, if anything.
    fn check(objects: &[&str], devices: &[&str]) -> Result<(), String> {
        let mut sources = RngSources::default();
        for object in objects {
            sources.read(object).map_err(|error| error.to_string())?;
        }
        let devices: Vec<Device> = devices
            .iter()
            .map(|device| Device::parse(device).unwrap())
            .collect();
        sources.check(&devices).map_err(|error| error.to_string())
    }

    #[test]
    fn each_device_has_a_source_and_each_source_a_device() {
        let device = "virtio-rng-pci,rng=r";
        let json = r#"{"qom-type":"rng-random","id":"r","filename":"/dev/urandom"}"#;
        for object in [
            json,
            "rng-builtin,id=r",
            "rng-random,id=r,filename=/dev/random",
        ] {
            assert_eq!(check(&[object], &[device]), Ok(()));
        }
        let refusal = |objects: &[&str], devices: &[&str]| check(objects, devices).unwrap_err();
        assert_eq!(
            refusal(&[], &[device]),
            "-device virtio-rng-pci: there is no object r"
        );
        assert_eq!(refusal(&[json], &[]), "-object: r is used by nothing");
        assert_eq!(
            refusal(&["rng-random,id=r,filename=/dev/hwrng"], &[]),
            "-object rng-random: filename=/dev/hwrng should be /dev/urandom or /dev/random"
        );
        assert_eq!(
            refusal(&[json, json], &[device]),
            "-object: the id r is given twice"
        );
    }

    #[test]
    fn other_objects_are_left_to_others() {
        let mut sources = RngSources::default();
        let memory = "memory-backend-ram,id=pc.ram,size=1G";
        assert!(!sources.read(memory).unwrap());
    }
}
