//! The expansion ROM that a guest is shown of a function (PCI Local Bus Specification 3.0, 6.2.5.2 and 6.3): the
//! device's own or a file's, read once before the guest starts. A guest's reads never reach the device, whose ROM
//! some answer in place of their registers.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Device, DeviceError, RegionIndex};

/// The smallest and the largest that a function's register can name, in bytes.
const LEAST_BYTES: usize = 2 << 10;
const MOST_BYTES: usize = 16 << 20;
/// What is read where a ROM chip holds nothing.
const ERASED: u8 = 0xff;

const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;

/// Why a file is no ROM.
#[derive(Debug, thiserror::Error)]
pub enum RomError {
    /// It cannot be read.
    #[error("cannot read the expansion ROM {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a pipe or the like.
    #[error("{} is no regular file; romfile= names an image of an expansion ROM", .0.display())]
    NotAFile(PathBuf),
    /// It is empty, or larger than PCI lets a ROM be.
    #[error("{} has {bytes} bytes; an expansion ROM has 1 to {MOST_BYTES}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// An expansion ROM's content: a power of two of bytes, from 2 KiB to 16 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rom(Arc<[u8]>);

impl Rom {
    /// The image in a file, with erased bytes behind it up to the next size that a ROM can have.
    ///
    /// # Errors
    /// When the file cannot be read, or is none of an image.
    pub fn of_file(path: &Path) -> Result<Self, RomError> {
        let unreadable = |source| RomError::Read {
            path: path.to_owned(),
            source,
        };
        // A pipe without a writer must not be waited for.
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(RomError::NotAFile(path.to_owned()));
        }
        let mut image = Vec::new();
        // One byte more shows that it is too large.
        let read = file.take(MOST_BYTES as u64 + 1).read_to_end(&mut image);
        read.map_err(unreadable)?;
        let is_right = (1..=MOST_BYTES).contains(&image.len());
        is_right.then(|| Self::padded(image)).ok_or(RomError::Size {
            path: path.to_owned(),
            bytes: metadata.len(),
        })
    }

    /// The device's own; `None` when the host has none to give, because there is none or because it has no address on
    /// the host. The device decodes its memory meanwhile, which the host's kernel wants.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn of_device(device: &Device) -> Result<Option<Self>, DeviceError> {
        let bytes = usize::try_from(device.region(RegionIndex::ROM).bytes).unwrap_or(usize::MAX);
        if !(1..=MOST_BYTES).contains(&bytes) {
            return Ok(None);
        }
        let mut command = [0; 2];
        device.read_config(COMMAND, &mut command)?;
        let decoding = u16::from_le_bytes(command) | COMMAND_MEMORY;
        device.write_config(COMMAND, &decoding.to_le_bytes())?;
        let mut image = vec![ERASED; bytes];
        let read = device.read_all(RegionIndex::ROM, &mut image);
        let restored = device.write_config(COMMAND, &command);
        read.and(restored)?;
        Ok(Some(Self::padded(image)))
    }

    fn padded(mut image: Vec<u8>) -> Self {
        let bytes = image.len().next_power_of_two().max(LEAST_BYTES);
        image.resize(bytes, ERASED);
        Self(image.into())
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Reads at `offset`; what is not in it is erased.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.0.get(start..).unwrap_or_default();
        data.fill(ERASED);
        for (to, from) in data.iter_mut().zip(found) {
            *to = *from;
        }
    }
}

#[cfg(test)]
#[path = "rom_tests.rs"]
mod tests;
