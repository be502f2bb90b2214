//! `-m` and `-object`: guest memory and what it is made of.

use std::path::PathBuf;

use super::parameters::OBJECT_TYPES;
use super::properties::Properties;
use super::{CommandLineError, instead};
use crate::spec::ByteSize;
use crate::spec::HugepageSize;

/// QEMU's memory when nothing is said.
const DEFAULT_BYTES: u64 = 512 << 20;

/// What is said of memory.
#[derive(Debug, Default)]
pub(super) struct MemoryOptions {
    bytes: Option<u64>,
    backends: Vec<Backend>,
}

#[derive(Debug)]
struct Backend {
    id: String,
    bytes: u64,
    pages: Pages,
    /// Other programs can have it.
    is_shared: bool,
}

/// What pages a back end is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pages {
    /// As the host has them.
    Plain,
    /// Huge pages; of the host's usual size when none is said.
    Huge(Option<u64>),
    /// Those of the file system that a path is in.
    FileSystem(PathBuf),
}

/// Guest memory as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) size: ByteSize,
    pub(super) hugepages: Option<HugepageSize>,
    /// Other programs may be given it.
    pub(super) is_shared: bool,
}

impl MemoryOptions {
    /// `-m`
    pub(super) fn read_size(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-m", Some("size"), value)?;
        self.bytes = properties.size("size", 1 << 20)?;
        properties.finish()
    }

    /// `-object`
    pub(super) fn read_object(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-object", Some("qom-type"), value)?;
        let kind = properties.required("qom-type")?;
        properties.set_kind(&kind);
        let id = properties.required("id")?;
        let pages = match kind.as_str() {
            // libvirt gives every domain a key for secrets; no secret is taken that it would open.
            "secret" => {
                properties.ignore(&["format", "file", "data", "iv", "keyid"]);
                return properties.finish();
            }
            "memory-backend-ram" => Pages::Plain,
            "memory-backend-memfd" => pages_of_memfd(&mut properties)?,
            "memory-backend-file" => {
                Pages::FileSystem(PathBuf::from(properties.required("mem-path")?))
            }
            _ => {
                if let Some(instead) = instead::of_object(&kind) {
                    let option = format!("-object {kind}");
                    return Err(CommandLineError::Instead { option, instead });
                }
                return Err(CommandLineError::Kind {
                    option: "-object",
                    name: kind,
                    supported: object_types(),
                });
            }
        };
        let bytes = properties.size("size", 1)?;
        let bytes = bytes.ok_or_else(|| CommandLineError::MissingProperty {
            option: properties.context().to_owned(),
            name: "size",
        })?;
        // Huge pages are there from the start; others come as the guest touches them.
        properties.ignore(&["prealloc-threads", "x-use-canonical-path-for-ramblock-id"]);
        match pages {
            Pages::Plain => properties.always("prealloc", false)?,
            _ => properties.either("prealloc")?,
        }
        // Of anonymous memory, sharing is with children alone.
        let is_shared = properties
            .switch("share")?
            .unwrap_or(kind == "memory-backend-memfd")
            && kind != "memory-backend-ram";
        // A core file never holds guest memory.
        properties.always("dump", false)?;
        properties.either("discard-data")?;
        properties.always("merge", false)?;
        properties.finish()?;
        if self.backends.iter().any(|backend| backend.id == id) {
            return Err(CommandLineError::Twice {
                option: "-object".to_owned(),
                id,
            });
        }
        self.backends.push(Backend {
            id,
            bytes,
            pages,
            is_shared,
        });
        Ok(())
    }

    /// Refuses back ends other than that of the machine.
    fn check_used(&self, machines: &str) -> Result<(), CommandLineError> {
        match self.backends.iter().find(|it| it.id != machines) {
            Some(unused) => Err(CommandLineError::Unused {
                option: "-object",
                id: unused.id.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The memory of a machine whose back end has the name `backend`.
    pub(super) fn of_machine(&self, backend: Option<&str>) -> Result<Memory, CommandLineError> {
        let Some(id) = backend else {
            self.check_used("")?;
            let bytes = self.bytes.unwrap_or(DEFAULT_BYTES);
            return Ok(Memory {
                size: ByteSize(bytes),
                hugepages: None,
                is_shared: false,
            });
        };
        let found = self.backends.iter().find(|backend| backend.id == id);
        let backend = found.ok_or_else(|| CommandLineError::Unknown {
            option: "-machine memory-backend".to_owned(),
            what: "object",
            id: id.to_owned(),
        })?;
        self.check_used(id)?;
        if let Some(bytes) = self.bytes.filter(|bytes| *bytes != backend.bytes) {
            return Err(CommandLineError::Combination(format!(
                "-m says {} and the object {id} has {}",
                ByteSize(bytes),
                ByteSize(backend.bytes)
            )));
        }
        Ok(Memory {
            size: ByteSize(backend.bytes),
            hugepages: hugepages(&backend.pages)?,
            is_shared: backend.is_shared,
        })
    }
}

fn pages_of_memfd(properties: &mut Properties) -> Result<Pages, CommandLineError> {
    let size = properties.size("hugetlbsize", 1)?;
    Ok(match properties.switch("hugetlb")? {
        Some(true) => Pages::Huge(size),
        _ => Pages::Plain,
    })
}

fn object_types() -> String {
    let names: Vec<_> = OBJECT_TYPES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

fn hugepages(pages: &Pages) -> Result<Option<HugepageSize>, CommandLineError> {
    let size = match pages {
        Pages::Plain => return Ok(None),
        Pages::Huge(Some(bytes)) => *bytes,
        Pages::Huge(None) => HugepageSize::Size2M.bytes().0,
        Pages::FileSystem(path) => {
            hugetlbfs_page_bytes(path).map_err(CommandLineError::Combination)?
        }
    };
    let known = [HugepageSize::Size2M, HugepageSize::Size1G];
    let found = known.into_iter().find(|known| known.bytes().0 == size);
    found.map(Some).ok_or_else(|| {
        CommandLineError::Combination(format!(
            "guest memory cannot be in huge pages of {}; there are 2M and 1G",
            ByteSize(size)
        ))
    })
}

/// The size of the pages of the hugetlbfs that `path` is in, or that its folder is in.
fn hugetlbfs_page_bytes(path: &std::path::Path) -> Result<u64, String> {
    let exists = path.exists();
    let place = match path.parent() {
        Some(parent) if !exists => parent,
        _ => path,
    };
    let told = |what: String| {
        format!(
            "-object memory-backend-file: mem-path={}: {what}",
            path.display()
        )
    };
    let found = crate::memory::hugepages::page_bytes_of_mount(place)
        .map_err(|error| told(error.to_string()))?;
    found.ok_or_else(|| {
        told("not in a hugetlbfs, the only files that guest memory can be in".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(objects: &[&str], size: &str, backend: &str) -> Result<Memory, CommandLineError> {
        let mut options = MemoryOptions::default();
        for object in objects {
            options.read_object(object)?;
        }
        options.read_size(size)?;
        options.of_machine(Some(backend))
    }

    #[test]
    fn memory_is_that_of_the_machines_back_end() {
        let secret = r#"{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/k"}"#;
        let ram = r#"{"qom-type":"memory-backend-ram","id":"ppc_spapr.ram","size":536870912}"#;
        let memory = machine(&[secret, ram], "size=524288k", "ppc_spapr.ram").expect("memory");
        assert_eq!(memory.size, ByteSize(512 << 20));
        assert_eq!(memory.hugepages, None);
        let huge = r#"{"qom-type":"memory-backend-memfd","id":"r","hugetlb":true,
            "hugetlbsize":1073741824,"prealloc":true,"size":2147483648}"#;
        let memory = machine(&[huge], "2G", "r").expect("memory");
        assert_eq!(memory.hugepages, Some(HugepageSize::Size1G));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refusal = |objects: &[&str], size, backend| {
            machine(objects, size, backend)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            refusal(&["frob,id=i"], "1G", "r"),
            "-object: frob is not supported; there are memory-backend-file, \
             memory-backend-memfd, memory-backend-ram, rng-builtin, rng-random, secret"
        );
        let bound = "memory-backend-ram,id=r,size=1G,host-nodes=0,policy=bind";
        let told = refusal(&[bound], "1G", "r");
        let start = "-object memory-backend-ram: the property host-nodes=0 is not supported: ";
        assert!(
            told.starts_with(start) && told.contains("<numatune>"),
            "{told}"
        );
        let ram = "memory-backend-ram,id=r,size=1G";
        assert_eq!(
            refusal(&[ram], "2G", "r"),
            "-m says 2G and the object r has 1G"
        );
        assert_eq!(
            refusal(&[ram], "1G", "other"),
            "-machine memory-backend: there is no object other"
        );
        let told = refusal(&[ram], "size=1G,slots=16,maxmem=4G", "r");
        let start = "-m: the property slots=16 is not supported: ";
        assert!(
            told.starts_with(start) && told.contains("<maxMemory>"),
            "{told}"
        );
        let file = "memory-backend-file,id=r,size=1G,mem-path=/proc/self";
        assert!(refusal(&[file], "1G", "r").contains("not in a hugetlbfs"));
    }
}
