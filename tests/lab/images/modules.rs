//! Kernel modules: found by name, decompressed, and put in an order in which they load.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use liblzma::read::XzDecoder;
use spapr_lab::cpio::{Archive, CpioError};
use thiserror::Error;

/// What is a module of some kernels, and part of others, not all of which say so.
const OFTEN_BUILT_IN: [&str; 3] = ["virtio_console", "virtiofs", "crc32c_generic"];

/// Why modules could not be collected.
#[derive(Debug, Error)]
pub(crate) enum ModuleError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the kernel package has no module {name} in {}", folder.display())]
    Missing { name: String, folder: PathBuf },
    #[error(transparent)]
    Pack(#[from] CpioError),
}

/// The modules of one kernel.
#[derive(Debug)]
pub(crate) struct KernelModules {
    folder: PathBuf,
    by_name: HashMap<String, PathBuf>,
    loaded: RefCell<HashMap<String, Vec<u8>>>,
}

impl KernelModules {
    /// Looks through the folder for modules.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModuleError> {
        let mut by_name = HashMap::new();
        walk(folder, &mut by_name)?;
        Ok(Self {
            folder: folder.to_owned(),
            by_name,
            loaded: RefCell::default(),
        })
    }

    /// Adds the modules and what they depend on to `lib/modules` in the archive, except for those
    /// in `present`; returns their names in loading order.
    pub(crate) fn add_to(
        &self,
        archive: &mut Archive,
        names: &[&str],
        present: &[String],
    ) -> Result<Vec<String>, ModuleError> {
        let mut order = present.to_vec();
        for name in names {
            self.order(name, &mut order)?;
        }
        let order = order.split_off(present.len());
        self.pack(archive, &order, &[])?;
        Ok(order)
    }

    /// The modules and what they depend on, in loading order.
    pub(crate) fn in_order(&self, names: &[&str]) -> Result<Vec<String>, ModuleError> {
        let mut order = Vec::new();
        for name in names {
            self.order(name, &mut order)?;
        }
        Ok(order)
    }

    /// Adds modules to `lib/modules` in the archive, except for those in `present`.
    pub(crate) fn pack(
        &self,
        archive: &mut Archive,
        names: &[String],
        present: &[String],
    ) -> Result<(), ModuleError> {
        for name in names.iter().filter(|name| !present.contains(name)) {
            archive.file(&format!("lib/modules/{name}.ko"), 0o644, &self.read(name)?)?;
        }
        Ok(())
    }

    /// Appends the module to `order`, after what it depends on. The kernel refuses modules that
    /// depend on each other in a circle, so the recursion ends.
    fn order(&self, name: &str, order: &mut Vec<String>) -> Result<(), ModuleError> {
        let is_built_in = OFTEN_BUILT_IN.contains(&name) && !self.by_name.contains_key(name);
        if is_built_in || order.iter().any(|known| known == name) {
            return Ok(());
        }
        for dependency in dependencies(&self.read(name)?) {
            self.order(&dependency, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }

    /// The module, decompressed and without its signature: these kernels load modules without one,
    /// and checking it costs an emulated processor a tenth of a second for each.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, ModuleError> {
        if let Some(bytes) = self.loaded.borrow().get(name) {
            return Ok(bytes.clone());
        }
        let path = self.by_name.get(name).ok_or_else(|| ModuleError::Missing {
            name: name.to_owned(),
            folder: self.folder.clone(),
        })?;
        let read_error = |source| ModuleError::Read {
            path: path.clone(),
            source,
        };
        let mut bytes = Vec::new();
        let mut file = File::open(path).map_err(read_error)?;
        if path.extension().is_some_and(|extension| extension == "xz") {
            XzDecoder::new(file)
                .read_to_end(&mut bytes)
                .map_err(read_error)?;
        } else {
            file.read_to_end(&mut bytes).map_err(read_error)?;
        }
        bytes.truncate(unsigned_length(&bytes));
        self.loaded
            .borrow_mut()
            .insert(name.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

/// Length of a module without the signature behind it, if it has one: before the mark at the end are
/// 12 bytes about it, the last four its length (`struct module_signature` in
/// include/linux/module_signature.h).
fn unsigned_length(module: &[u8]) -> usize {
    const MARK: &[u8] = b"~Module signature appended~\n";
    const ABOUT_BYTES: usize = 12;
    let unsigned = || {
        let signed = module.strip_suffix(MARK)?;
        let length = u32::from_be_bytes(*signed.last_chunk()?);
        let length = usize::try_from(length).ok()?;
        signed.len().checked_sub(ABOUT_BYTES + length)
    };
    unsigned().unwrap_or(module.len())
}

/// A module's name as the kernel spells it, if the file is a module.
fn module_name(file: &str) -> Option<String> {
    let stem = file
        .strip_suffix(".xz")
        .unwrap_or(file)
        .strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

fn walk(folder: &Path, found: &mut HashMap<String, PathBuf>) -> Result<(), ModuleError> {
    let read_error = |source| ModuleError::Read {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// The modules that this one needs, from the `depends=` string of its .modinfo section
/// (include/linux/module.h; strings there end with a zero byte).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_off_and_nothing_else() {
        let signed = |length: u32| {
            let mut module = b"module, signature".to_vec();
            module.extend([0; 8]);
            module.extend(length.to_be_bytes());
            module.extend(b"~Module signature appended~\n");
            module
        };
        assert_eq!(unsigned_length(&signed(11)), 6);
        let wrong = signed(100);
        assert_eq!(unsigned_length(&wrong), wrong.len());
        assert_eq!(unsigned_length(b"plain"), 5);
        assert_eq!(unsigned_length(b"~Module signature appended~\n"), 28);
    }

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(module_name("kvm-hv.ko.xz").as_deref(), Some("kvm_hv"));
        assert_eq!(module_name("nvme.ko").as_deref(), Some("nvme"));
        assert_eq!(module_name("modules.order"), None);
    }

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let module = b"ELF\0license=GPL\0depends=nvme-core,crc64\0name=nvme\0";
        assert_eq!(dependencies(module), ["nvme_core", "crc64"]);
        assert!(dependencies(b"\0depends=\0name=a\0").is_empty());
        assert!(dependencies(b"no such string").is_empty());
    }
}
