//! Disks.

use std::path::PathBuf;
use std::str::FromStr;

use spapr_devices::image::ImageOptions;
use spapr_devices::virtio::block::MOST_SERIAL_BYTES;
use spapr_devices::virtio::disk::DiskOptions;

use super::choice::{self, Choice};
use super::words::split;

/// A disk as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskDescription {
    /// Its image.
    pub image: ImageOptions,
    /// How it is to look.
    pub options: DiskOptions,
    /// Who does what is asked of it.
    pub aio: Aio,
}

/// Who does what is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aio {
    /// The host's kernel by itself, where it has io_uring and lets this process have it; else a thread.
    IoUring,
    /// A thread.
    Threads,
}

/// What a guest finds a disk on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// It is a virtio device of its own.
    Virtio,
    /// It is a target of a SCSI controller.
    Scsi,
}

/// A disk as `--disk` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArgument {
    /// The disk.
    pub disk: DiskDescription,
    /// What it is on.
    pub bus: DiskBus,
}

/// What becomes of what a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Past the page cache.
    None,
    /// Through the page cache.
    Writeback,
    /// Through the page cache, on stable storage before the guest hears of it.
    Writethrough,
    /// Past the page cache, on stable storage before the guest hears of it.
    Directsync,
    /// Through the page cache, and never flushed.
    Unsafe,
}

/// The queues that a disk may have.
pub const MOST_DISK_QUEUES: u16 = 64;

impl DiskDescription {
    /// A disk of the image at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self {
            image: ImageOptions::new(path),
            options: DiskOptions::default(),
            aio: Aio::IoUring,
        }
    }

    /// Sets all that a cache mode is about.
    pub const fn set_cache(&mut self, mode: CacheMode) {
        self.image.direct = matches!(mode, CacheMode::None | CacheMode::Directsync);
        self.image.ignores_flush = matches!(mode, CacheMode::Unsafe);
        self.options.write_cache = !matches!(mode, CacheMode::Writethrough | CacheMode::Directsync);
    }
}

/// Why an option for a disk makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// It names no file.
    #[error("it begins with the path of a file or block device (a comma in it is written twice)")]
    NoFile,
    /// There is no such word.
    #[error(
        "{0:?} is none of format=raw|qcow2, cache=none|writeback|writethrough|directsync|unsafe, readonly, serial=TEXT, \
         queues=COUNT, discard=unmap|ignore, aio=io_uring|threads, werror=report|stop|enospc|ignore, \
         rerror=report|stop|enospc|ignore, bus=virtio|scsi"
    )]
    Unknown(String),
    /// A word that is given twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// A SCSI controller has queues, its disks have none.
    #[error("queues= is for disks with bus=virtio")]
    QueuesOfScsi,
    /// A value that is none.
    #[error("{name}={value} should be {expected}")]
    Value {
        /// What it is for.
        name: String,
        /// As given.
        value: String,
        /// What it may be.
        expected: String,
    },
}

impl FromStr for DiskArgument {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, DiskError> {
        let mut parts = split(text).into_iter();
        let path = parts.next().filter(|path| !path.is_empty());
        let mut disk = DiskDescription::new(path.ok_or(DiskError::NoFile)?.into());
        let mut bus = DiskBus::Virtio;
        let mut seen: Vec<String> = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (part.as_str(), None),
            };
            match (name, value) {
                ("bus", Some(value)) => bus = one_of(&choice::DISK_BUS, name, value)?,
                _ => disk.set(name, value, &part)?,
            }
            if seen.iter().any(|known| known == name) {
                return Err(DiskError::Twice(name.to_owned()));
            }
            seen.push(name.to_owned());
        }
        if bus == DiskBus::Scsi && seen.iter().any(|name| name == "queues") {
            return Err(DiskError::QueuesOfScsi);
        }
        Ok(Self { disk, bus })
    }
}

impl DiskDescription {
    fn set(&mut self, name: &str, value: Option<&str>, part: &str) -> Result<(), DiskError> {
        let wrong = |value: &str, expected: &str| DiskError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        match (name, value) {
            ("format", Some(value)) => {
                self.image.format = Some(one_of(&choice::DISK_FORMAT, name, value)?);
            }
            ("cache", Some(value)) => self.set_cache(one_of(&choice::DISK_CACHE, name, value)?),
            ("aio", Some(value)) => self.aio = one_of(&choice::DISK_AIO, name, value)?,
            ("werror", Some(value)) => {
                self.options.on_error.write = one_of(&choice::DISK_ERROR, name, value)?;
            }
            ("rerror", Some(value)) => {
                self.options.on_error.read = one_of(&choice::DISK_ERROR, name, value)?;
            }
            ("discard", Some(value)) => {
                self.image.discards = one_of(&choice::DISK_DISCARD, name, value)?;
            }
            ("readonly", None | Some("on")) => self.image.read_only = true,
            ("readonly", Some("off")) => self.image.read_only = false,
            ("readonly", Some(value)) => return Err(wrong(value, "on or off")),
            ("serial", Some(value)) => {
                if value.len() > MOST_SERIAL_BYTES {
                    return Err(wrong(value, "20 bytes at most"));
                }
                value.clone_into(&mut self.options.serial);
            }
            ("queues", Some(value)) => {
                let count = value.parse().ok();
                let count = count.filter(|count| (1..=MOST_DISK_QUEUES).contains(count));
                self.options.queues = count.ok_or_else(|| wrong(value, "1 to 64"))?;
            }
            _ => return Err(DiskError::Unknown(part.to_owned())),
        }
        Ok(())
    }
}

fn one_of<T: Copy>(choices: &'static [Choice<T>], name: &str, value: &str) -> Result<T, DiskError> {
    choice::find(choices, value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|choice| choice.name).collect();
        DiskError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected: names.join(" or "),
        }
    })
}

#[cfg(test)]
mod tests {
    use spapr_devices::image::{Backing, Format};
    use spapr_devices::virtio::disk::{ErrorPolicy, OnError};

    use super::*;

    #[test]
    fn a_disk_is_a_path_with_words_behind_it() {
        let DiskArgument { disk, bus } =
            "/a,,b.img,format=raw,cache=directsync,readonly,serial=x1,queues=4,discard=ignore,aio=threads,\
             werror=report,rerror=stop"
                .parse()
                .unwrap();
        let expected = DiskDescription {
            image: ImageOptions {
                path: "/a,b.img".into(),
                descriptors: Vec::new(),
                format: Some(Format::Raw),
                read_only: true,
                direct: true,
                ignores_flush: false,
                discards: false,
                backing: Backing::OfHeader,
                locks: true,
            },
            options: DiskOptions {
                serial: "x1".to_owned(),
                queues: 4,
                write_cache: false,
                on_error: ErrorPolicy {
                    read: OnError::Stop,
                    write: OnError::Report,
                },
                ..DiskOptions::default()
            },
            aio: Aio::Threads,
        };
        assert_eq!(disk, expected);
        assert_eq!(bus, DiskBus::Virtio);
        let plain: DiskArgument = "disk.img".parse().unwrap();
        assert_eq!(plain.disk, DiskDescription::new("disk.img".into()));
        let scsi: DiskArgument = "disk.img,bus=scsi".parse().unwrap();
        assert_eq!((scsi.disk, scsi.bus), (plain.disk, DiskBus::Scsi));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refusal = |text: &str| text.parse::<DiskArgument>().unwrap_err().to_string();
        assert!(refusal("").contains("path of a file"));
        assert!(refusal("a,format").contains("\"format\" is none of"));
        assert!(refusal("a,size=3").contains("\"size=3\" is none of"));
        assert_eq!(
            refusal("a,werror=wait"),
            "werror=wait should be report or stop or enospc or ignore"
        );
        assert!(refusal("a,cache=fast").contains("none or writeback"));
        assert_eq!(refusal("a,queues=65"), "queues=65 should be 1 to 64");
        assert_eq!(
            refusal("a,readonly,readonly=off"),
            "readonly is given twice"
        );
        assert!(refusal("a,queues=2,bus=scsi").contains("bus=virtio"));
        assert_eq!(refusal("a,bus=ide"), "bus=ide should be virtio or scsi");
        assert!(refusal("a,serial=123456789012345678901").contains("20 bytes"));
    }
}
