//! Archives in the "newc" cpio format, which Linux unpacks as an initial RAM disk
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Archives may be concatenated: the kernel unpacks them in order, and a later file replaces an
//! earlier one of the same name.

use thiserror::Error;

/// File type bits of a regular file, as in `st_mode`.
const REGULAR: u32 = 0o100_000;
/// File type bits of a directory.
const DIRECTORY: u32 = 0o040_000;
/// File type bits of a symbolic link.
const SYMLINK: u32 = 0o120_000;
/// File type bits of a character device.
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Why an entry cannot be put into an archive.
#[derive(Debug, Error)]
pub enum CpioError {
    /// The format holds sizes in 32 bits.
    #[error("{name}: {bytes} bytes are too many for a cpio archive, whose limit is 4 GiB - 1")]
    TooLarge {
        /// The entry's name in the archive.
        name: String,
        /// Its size in bytes.
        bytes: usize,
    },
}

/// An archive being written in memory.
///
/// ```
/// use spapr_lab::cpio::Archive;
///
/// let mut archive = Archive::new();
/// archive.directory("jobs", 0o755)?;
/// archive.file("jobs/hello", 0o755, b"echo hello\n")?;
/// let bytes = archive.finish()?;
/// assert!(bytes.starts_with(b"070701"));
/// assert_eq!(bytes.len() % 4, 0);
/// # Ok::<(), spapr_lab::cpio::CpioError>(())
/// ```
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// One entry's header fields that differ between kinds of entries.
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    data: &'a [u8],
    device: (u32, u32),
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; its parents must have been added before.
    ///
    /// # Errors
    /// When the name is too long for the format.
    pub fn directory(&mut self, name: &str, permissions: u32) -> Result<(), CpioError> {
        self.push(&Entry {
            name,
            mode: DIRECTORY | permissions,
            data: &[],
            device: (0, 0),
        })
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// When `data` is 4 GiB or larger.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<(), CpioError> {
        self.push(&Entry {
            name,
            mode: REGULAR | permissions,
            data,
            device: (0, 0),
        })
    }

    /// Adds a symbolic link that points to `target`.
    ///
    /// # Errors
    /// When the target is too long for the format.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<(), CpioError> {
        self.push(&Entry {
            name,
            mode: SYMLINK | 0o777,
            data: target.as_bytes(),
            device: (0, 0),
        })
    }

    /// Adds a character device node.
    ///
    /// # Errors
    /// When the name is too long for the format.
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), CpioError> {
        let mode = CHARACTER_DEVICE | permissions;
        self.push(&Entry {
            name,
            mode,
            data: &[],
            device: (major, minor),
        })
    }

    /// Ends the archive and returns its bytes, a multiple of four, ready to be concatenated.
    ///
    /// # Errors
    /// None in practice: the trailer is an entry like any other.
    pub fn finish(mut self) -> Result<Vec<u8>, CpioError> {
        self.push(&Entry {
            name: TRAILER,
            mode: 0,
            data: &[],
            device: (0, 0),
        })?;
        Ok(self.bytes)
    }

    fn push(&mut self, entry: &Entry<'_>) -> Result<(), CpioError> {
        let too_large = |bytes: usize| CpioError::TooLarge {
            name: entry.name.to_owned(),
            bytes,
        };
        let size = u32::try_from(entry.data.len()).map_err(|_| too_large(entry.data.len()))?;
        let name_size =
            u32::try_from(entry.name.len() + 1).map_err(|_| too_large(entry.name.len()))?;
        self.entries += 1;
        let links = 1;
        let fields = [
            self.entries, // inode
            entry.mode,
            0, // user
            0, // group
            links,
            0, // modification time
            size,
            0, // major and minor of the file's own device
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0, // checksum, unused in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.data);
        self.pad();
        Ok(())
    }

    /// Names and data start at multiples of four bytes.
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the archive back as the kernel does: name, mode and data of each entry.
    fn read_back(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let at = 6 + index * 8;
                let digits = std::str::from_utf8(&bytes[at..at + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let data_at = (110 + name_size).next_multiple_of(4);
            let data = bytes[data_at..data_at + size].to_vec();
            bytes = &bytes[(data_at + size).next_multiple_of(4)..];
            if name == TRAILER {
                assert!(bytes.is_empty(), "bytes after the trailer");
                return entries;
            }
            entries.push((name, u32::try_from(mode).unwrap(), data));
        }
    }

    #[test]
    fn entries_of_every_kind_read_back() {
        let mut archive = Archive::new();
        archive.directory("dev", 0o755).unwrap();
        archive
            .character_device("dev/console", 0o600, 5, 1)
            .unwrap();
        archive.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        assert_eq!(
            read_back(&archive.finish().unwrap()),
            [
                ("dev".into(), 0o040_755, Vec::new()),
                ("dev/console".into(), 0o020_600, Vec::new()),
                ("init".into(), 0o100_755, b"#!/bin/sh\n".to_vec()),
                ("bin".into(), 0o120_777, b"usr/bin".to_vec()),
            ]
        );
    }

    #[test]
    fn data_of_every_length_modulo_four_is_padded() {
        for length in 0..9 {
            let data = vec![0xa5; length];
            let mut archive = Archive::new();
            archive.file("data", 0o644, &data).unwrap();
            assert_eq!(read_back(&archive.finish().unwrap())[0].2, data);
        }
    }
}
