//! How an image is to be used.

use std::os::fd::RawFd;
use std::path::PathBuf;

/// What an image's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes as they are, in a file or a block device.
    Raw,
    /// QEMU's own format, version 2 or 3.
    Qcow2,
}

impl Format {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What an image of the format qcow2 stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// What its header says.
    OfHeader,
    /// Another image, or none, whatever its header says.
    Given(Option<Box<ImageOptions>>),
}

/// An image as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Where it is.
    pub path: PathBuf,
    /// Descriptors of it that whoever started this process has left open, for reading, for writing or for both; with
    /// any, its path is a name alone.
    pub descriptors: Vec<RawFd>,
    /// What it holds; `None` if the user has not said: raw then, unless it begins as an image of another format.
    pub format: Option<Format>,
    /// Nothing of it may change.
    pub read_only: bool,
    /// Past the host's page cache (O_DIRECT).
    pub direct: bool,
    /// The guest's flushes do nothing: a host that crashes may leave anything.
    pub ignores_flush: bool,
    /// Blocks that the guest has no use for are given back to the host.
    pub discards: bool,
    /// What it stands on.
    pub backing: Backing,
    /// Refused if another program has it open so that one could get in the other's way, as QEMU does.
    pub locks: bool,
}

impl ImageOptions {
    /// An image at `path` that is written to by way of the host's page cache.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            descriptors: Vec::new(),
            format: None,
            read_only: false,
            direct: false,
            ignores_flush: false,
            discards: true,
            backing: Backing::OfHeader,
            locks: true,
        }
    }
}
