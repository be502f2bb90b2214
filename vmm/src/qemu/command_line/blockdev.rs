//! `-blockdev`: images, as nodes that stand on each other as libvirt has them. A file or block device, and perhaps
//! a node on it that says what it holds.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use spapr_devices::image::{Backing, Format, ImageOptions};
use spapr_devices::virtio::disk::DiskOptions;

use super::device::{DriveKind, drives};
use super::properties::Properties;
use super::{CommandLineError, Device};
use crate::qemu::fd_sets::set_of_path;
use crate::spec::{Aio, DiskDescription};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is.
    pub driver: Driver,
    read_only: bool,
    direct: bool,
    ignores_flush: bool,
    discards: bool,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A file, or a block device (`host_device`).
    File {
        /// Where it is.
        path: PathBuf,
        /// Whether it was called a block device.
        is_device: bool,
        /// Who reads and writes it.
        aio: Aio,
        /// Whether it is locked.
        locks: bool,
    },
    /// What the file of another node holds.
    Format {
        /// Which.
        format: Format,
        /// The name of that node.
        file: String,
        /// What the image stands on.
        backing: NodeBacking,
    },
}

/// What a node's image stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeBacking {
    /// What its header says.
    OfHeader,
    /// Nothing, whatever its header says.
    Nothing,
    /// The node of that name.
    Node(String),
}

impl Driver {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::File {
                is_device: false, ..
            } => "file",
            Self::File {
                is_device: true, ..
            } => "host_device",
            Self::Format { format, .. } => format.name(),
        }
    }
}

impl Driver {
    /// The name of the node that it stands on.
    pub fn below(&self) -> Option<&str> {
        match self {
            Self::File { .. } => None,
            Self::Format { file, .. } => Some(file),
        }
    }
}

/// The kinds of nodes that there are.
pub const NODE_DRIVERS: &[&str] = &["file", "host_device", "qcow2", "raw"];

/// All nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    pub(super) all: Vec<Node>,
    /// Descriptors that were passed in, by the numbers of their sets.
    pub(super) passed: Vec<(u32, RawFd)>,
}

impl Nodes {
    /// Reads a `-blockdev`.
    pub(super) fn read(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-blockdev", Some("driver"), value)?.flattened();
        let driver = properties.required("driver")?;
        properties.set_kind(&driver);
        let name = properties.required("node-name")?;
        let driver = match driver.as_str() {
            "file" | "host_device" => file(&mut properties, driver == "host_device")?,
            "raw" => Driver::Format {
                format: Format::Raw,
                file: properties.required("file")?,
                backing: NodeBacking::Nothing,
            },
            "qcow2" => qcow2(&mut properties)?,
            "throttle" => {
                return Err(CommandLineError::Instead {
                    option: "-blockdev throttle".to_owned(),
                    instead: "disks are not throttled; in a libvirt domain, remove <iotune>",
                });
            }
            _ => {
                return Err(CommandLineError::Kind {
                    option: "-blockdev",
                    name: driver,
                    supported: format!(
                        "{} (in a libvirt domain: <disk type='file'> or 'block', with <driver type='raw'/> or 'qcow2')",
                        NODE_DRIVERS.join(", ")
                    ),
                });
            }
        };
        properties.only("detect-zeroes", &["off"])?;
        properties.either("auto-read-only")?;
        properties.always("force-share", false)?;
        let node = Node {
            name,
            driver,
            read_only: properties.switch("read-only")?.unwrap_or(false),
            direct: properties.switch("cache.direct")?.unwrap_or(false),
            ignores_flush: properties.switch("cache.no-flush")?.unwrap_or(false),
            discards: discards(&mut properties)?,
        };
        properties.finish()?;
        if self.find(&node.name).is_some() {
            return Err(CommandLineError::Twice {
                option: "-blockdev node-name".to_owned(),
                id: node.name,
            });
        }
        self.all.push(node);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Node> {
        self.all.iter().find(|node| node.name == name)
    }

    /// The node that an option names.
    fn named(&self, option: &str, name: &str) -> Result<&Node, CommandLineError> {
        self.find(name).ok_or_else(|| CommandLineError::Unknown {
            option: option.to_owned(),
            what: "block node",
            id: name.to_owned(),
        })
    }

    /// The image of the node `name`, which `option` names; the nodes that it is made of go to `used`.
    fn image<'a>(
        &'a self,
        option: &str,
        name: &str,
        used: &mut Vec<&'a str>,
    ) -> Result<(ImageOptions, Aio), CommandLineError> {
        let own = format!("-blockdev node-name={name}");
        let node = self.take(option, name, used)?;
        let (below, format, backing) = match &node.driver {
            Driver::File { .. } => (node, Format::Raw, &NodeBacking::Nothing),
            Driver::Format {
                format,
                file,
                backing,
            } => (self.take(&own, file, used)?, *format, backing),
        };
        let Driver::File {
            path, aio, locks, ..
        } = &below.driver
        else {
            return Err(CommandLineError::Combination(format!(
                "{own}: {} is neither a file nor a host_device",
                below.name
            )));
        };
        let backing = match backing {
            NodeBacking::OfHeader => Backing::OfHeader,
            NodeBacking::Nothing => Backing::Given(None),
            NodeBacking::Node(name) => {
                let (mut image, _) = self.image(&own, name, used)?;
                image.read_only = true;
                Backing::Given(Some(Box::new(image)))
            }
        };
        let image = ImageOptions {
            path: path.clone(),
            descriptors: self.descriptors(&own, path)?,
            format: Some(format),
            read_only: node.read_only || below.read_only,
            direct: node.direct || below.direct,
            ignores_flush: node.ignores_flush || below.ignores_flush,
            discards: node.discards && below.discards,
            backing,
            locks: *locks,
        };
        Ok((image, *aio))
    }

    /// The descriptors of the set that `path` names as `/dev/fdset/N`; none if it is another path.
    fn descriptors(&self, option: &str, path: &Path) -> Result<Vec<RawFd>, CommandLineError> {
        let Some(set) = set_of_path(path) else {
            return Ok(Vec::new());
        };
        let passed = self.passed.iter().filter(|(its_set, _)| *its_set == set);
        let descriptors: Vec<RawFd> = passed.map(|(_, fd)| *fd).collect();
        if descriptors.is_empty() {
            return Err(CommandLineError::Unknown {
                option: format!("{option} filename"),
                what: "-add-fd set",
                id: set.to_string(),
            });
        }
        Ok(descriptors)
    }

    /// The node that an option names, which nothing else has.
    fn take<'a>(
        &'a self,
        option: &str,
        name: &str,
        used: &mut Vec<&'a str>,
    ) -> Result<&'a Node, CommandLineError> {
        let node = self.named(option, name)?;
        if used.contains(&node.name.as_str()) {
            return Err(CommandLineError::Combination(format!(
                "-blockdev: the node {name} is used twice"
            )));
        }
        used.push(&node.name);
        Ok(node)
    }

    /// The disk with the node `drive`, which `option` names and which looks like that; others may write to its image if
    /// it `shares`.
    pub(super) fn disk(
        &self,
        option: &str,
        drive: &str,
        options: &DiskOptions,
        shares: bool,
    ) -> Result<DiskDescription, CommandLineError> {
        let (mut image, aio) = self.image(option, drive, &mut Vec::new())?;
        image.locks &= !shares;
        Ok(DiskDescription {
            image,
            options: options.clone(),
            aio,
        })
    }

    /// Whether each node is used, once.
    pub(super) fn check(&self, devices: &[Device]) -> Result<(), CommandLineError> {
        let mut used: Vec<&str> = Vec::new();
        for drive in drives(devices) {
            let option = match drive.kind {
                DriveKind::Virtio => "-device virtio-blk-pci",
                DriveKind::ScsiDisk => "-device scsi-hd",
                DriveKind::ScsiCd => "-device scsi-cd",
            };
            if let Some(node) = drive.node {
                self.image(option, node, &mut used)?;
            }
        }
        match self
            .all
            .iter()
            .find(|node| !used.contains(&node.name.as_str()))
        {
            Some(unused) => Err(CommandLineError::Unused {
                option: "-blockdev",
                id: unused.name.clone(),
            }),
            None => Ok(()),
        }
    }
}

fn file(properties: &mut Properties, is_device: bool) -> Result<Driver, CommandLineError> {
    let path = super::absolute("-blockdev filename", &properties.required("filename")?)?;
    // `native` is Linux' older way; the host's kernel does it here.
    let aio = match properties.text("aio")?.as_deref() {
        None | Some("io_uring" | "native") => Aio::IoUring,
        Some("threads") => Aio::Threads,
        Some(other) => {
            return Err(properties.wrong("aio", &other, "io_uring, native or threads"));
        }
    };
    let locks = match properties.text_or_switch("locking")?.as_deref() {
        None | Some("auto" | "on") => true,
        Some("off") => false,
        Some(other) => return Err(properties.wrong("locking", &other, "auto, on or off")),
    };
    Ok(Driver::File {
        path,
        is_device,
        aio,
        locks,
    })
}

fn qcow2(properties: &mut Properties) -> Result<Driver, CommandLineError> {
    // How much of an image's tables is kept is this program's to choose.
    properties.ignore(&[
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
        "cache-size",
        "cache-clean-interval",
    ]);
    properties.either("lazy-refcounts")?;
    properties.either("pass-discard-request")?;
    properties.either("pass-discard-snapshot")?;
    properties.either("pass-discard-other")?;
    properties.either("discard-no-unref")?;
    Ok(Driver::Format {
        format: Format::Qcow2,
        file: properties.required("file")?,
        backing: match properties.text_or_null("backing")? {
            None => NodeBacking::OfHeader,
            Some(None) => NodeBacking::Nothing,
            Some(Some(node)) => NodeBacking::Node(node),
        },
    })
}

fn discards(properties: &mut Properties) -> Result<bool, CommandLineError> {
    match properties.text("discard")?.as_deref() {
        None | Some("ignore" | "off") => Ok(false),
        Some("unmap" | "on") => Ok(true),
        Some(other) => Err(properties.wrong("discard", &other, "ignore or unmap")),
    }
}

#[cfg(test)]
#[path = "blockdev_tests.rs"]
mod tests;
