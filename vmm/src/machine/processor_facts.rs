//! What the guest is told of its processors, from the host's own device tree and from KVM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use spapr_devices::vfio::host_page_bytes;

use crate::boot::device_tree::{CacheGeometry, ProcessorFacts};
use crate::spec::ProcessorModel;
use crate::speculation::Known;
use log::Level;
use spapr_devices::error_chain::chain;
use spapr_devices::guest_message;
use spapr_kvm::host::Capabilities;
use spapr_kvm::vm::{Vm, VmError};

/// Bits of the large decrementer (LPCR[LD]) of POWER9 and POWER10, should the host not say.
const DECREMENTER_BITS: u32 = 56;

/// Why the processors cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The host's device tree cannot be read.
    #[error("cannot read the host's processors from {}", .path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The processor is older or newer than those known.
    #[error(
        "this host's processor (version {pvr:#010x}, in its device tree {level:#010x}) is unknown; POWER9, POWER10 \
         and Power11 are supported, and an LPAR in the compatibility mode of one of them"
    )]
    UnknownProcessor {
        /// Processor version register.
        pvr: u32,
        /// What the host's device tree says: the same, or an LPAR's compatibility mode.
        level: u32,
    },
    /// The host has another one than was asked for.
    #[error(
        "the guest cannot have a {}: KVM gives it the host's own processor, a {}; ask for that or for \
         host",
        model(wanted),
        model(has)
    )]
    OtherProcessor {
        /// As asked for, by the name of its node in the device tree.
        wanted: &'static str,
        /// As the host has it.
        has: &'static str,
    },
    /// KVM does not describe the radix MMU.
    #[error("KVM does not say what page sizes the radix MMU has")]
    RadixInfo(#[source] VmError),
}

/// What a user calls the processor of a node of the device tree.
fn model(node: &str) -> &str {
    node.strip_prefix("PowerPC,").unwrap_or(node)
}

/// Describes the processors of a guest on a host whose device tree describes its own in `cpus`, whose processor
/// version is `pvr` and which is to be a `wanted` one.
///
/// # Errors
/// When the processor is none that is known, or the host does not describe it.
pub(super) fn describe(
    cpus: &Path,
    vm: &Vm,
    pvr: u32,
    wanted: Option<ProcessorModel>,
) -> Result<ProcessorFacts, ProcessorError> {
    let host = host_processor(cpus)?;
    let host_version = cell(&host, "cpu-version").unwrap_or(pvr);
    let (node_name, cpu_version) =
        level(host_version, pvr).ok_or(ProcessorError::UnknownProcessor {
            pvr,
            level: host_version,
        })?;
    if let Some(wanted) = wanted.map(ProcessorModel::node_name)
        && wanted != node_name
    {
        return Err(ProcessorError::OtherProcessor {
            wanted,
            has: node_name,
        });
    }
    let radix_ap_encodings = vm.radix_ap_encodings().map_err(ProcessorError::RadixInfo)?;
    Ok(ProcessorFacts {
        node_name: node_name.to_owned(),
        cpu_version,
        timebase_hertz: cell(&host, "timebase-frequency")?,
        clock_hertz: cell(&host, "clock-frequency").unwrap_or(1_000_000_000),
        data_cache: cache(&host, "d", 32 << 10),
        instruction_cache: cache(&host, "i", 32 << 10),
        radix_ap_encodings,
        cache_inhibited_large_pages: host_page_bytes() >= 64 << 10,
        decrementer_bits: cell(&host, "ibm,dec-bits").unwrap_or(DECREMENTER_BITS),
    })
}

/// The level of the architecture that a guest has: the name of a processor's node, and the logical version (PAPR,
/// "cpu-version").
///
/// An LPAR's device tree has a logical version, which may be of an older processor than its own `pvr`: it has been
/// moved from there, or is to be moved there, and its guests can have no more than itself. A bare-metal host's has
/// the processor's version register.
fn level(host_version: u32, pvr: u32) -> Option<(&'static str, u32)> {
    const LEVELS: [(u32, u32, ProcessorModel); 3] = [
        (0x004e, 0x0f00_0005, ProcessorModel::Power9),
        (0x0080, 0x0f00_0006, ProcessorModel::Power10),
        (0x0082, 0x0f00_0007, ProcessorModel::Power11),
    ];
    let is_logical = host_version >> 24 == 0x0f;
    let mut levels = LEVELS.into_iter();
    let found = levels.find(|(family, version, _)| match is_logical {
        true => *version == host_version,
        false => *family == pvr >> 16,
    });
    found.map(|(_, version, model)| (model.node_name(), version))
}

/// What KVM knows of attacks that use speculation; nothing where it cannot say.
pub(super) fn known_of_speculation(vm: &Vm, capabilities: &Capabilities) -> Known {
    if !capabilities.get_cpu_char {
        return Known::default();
    }
    match vm.cpu_char() {
        Ok(facts) => facts.into(),
        Err(error) => {
            // No warning: a guest decides how often it reboots.
            guest_message!(
                Level::Info,
                "KVM does not say what attacks the processor is safe from ({}); the guest is told to \
                 defend itself",
                chain(&error)
            );
            Known::default()
        }
    }
}

/// The first processor's node.
fn host_processor(cpus: &Path) -> Result<PathBuf, ProcessorError> {
    let error = |source| ProcessorError::Read {
        path: cpus.to_owned(),
        source,
    };
    for entry in fs::read_dir(cpus).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.join("timebase-frequency").exists() {
            return Ok(path);
        }
    }
    Err(error(io::Error::new(
        io::ErrorKind::NotFound,
        "no node has a timebase-frequency",
    )))
}

fn cell(node: &Path, property: &str) -> Result<u32, ProcessorError> {
    let path = node.join(property);
    let error = |source| ProcessorError::Read {
        path: path.clone(),
        source,
    };
    let value = fs::read(&path).map_err(error)?;
    let value = value.try_into().map_err(|_| {
        error(io::Error::new(
            io::ErrorKind::InvalidData,
            "the property is not one cell",
        ))
    })?;
    Ok(u32::from_be_bytes(value))
}

/// Caches as the host has them; POWER9's and POWER10's lines have 128 bytes.
fn cache(node: &Path, kind: &str, default_bytes: u32) -> CacheGeometry {
    CacheGeometry {
        size_bytes: cell(node, &format!("{kind}-cache-size")).unwrap_or(default_bytes),
        line_bytes: cell(node, &format!("{kind}-cache-block-size")).unwrap_or(128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_in_an_lpar_has_the_lpars_level_and_on_bare_metal_the_processors() {
        let (power9, power10) = (0x004e_1202, 0x0080_0200);
        let power11 = 0x0082_0200;
        let version = |host_version, pvr| level(host_version, pvr).map(|(_, version)| version);
        assert_eq!(level(power9, power9), Some(("PowerPC,POWER9", 0x0f00_0005)));
        assert_eq!(version(power10, power10), Some(0x0f00_0006));
        assert_eq!(version(power11, power11), Some(0x0f00_0007));
        assert_eq!(
            level(0x0f00_0006, power11),
            Some(("PowerPC,POWER10", 0x0f00_0006))
        );
        assert_eq!(version(0x0f00_0005, power10), Some(0x0f00_0005));
        assert_eq!(version(0x0f00_0004, power9), None, "POWER8");
        assert_eq!(version(0x004d_0200, 0x004d_0200), None);
    }
}
