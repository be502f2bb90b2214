//! `-object rng-random` and `rng-builtin`: where a virtio entropy device's bytes come from.

use super::properties::Properties;
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
            DeviceKind::Rng { source, .. } => Some(source),
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
