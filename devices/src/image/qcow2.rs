//! Images in the format qcow2, with the images that they stand on, by the crate imago.
//!
//! What a guest writes goes by way of memory of this process: imago looks at what it is given more than once, and a
//! guest could change it in between.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use imago::format::PreallocateMode;
use imago::io_buffers::IoBuffer;
use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};
use parking_lot::Mutex;

use super::lock::{self, Use};
use super::open::{OpenError, open_file};
use super::operation::{Job, Operation};
use super::options::{Backing, Format, ImageOptions};

type Storage = imago::file::File;
type Access = FormatAccess<Storage>;

/// How many images may stand on each other.
const MOST_IMAGES: usize = 64;

/// What is read or written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// An image that is open, and those that it stands on.
pub(super) struct Qcow2 {
    inner: Mutex<Inner>,
    /// Files whose locks are those of the images below.
    _locked: Vec<File>,
}

struct Inner {
    access: Access,
    /// Where guest memory is copied to and from, as aligned as a page.
    chunk: IoBuffer,
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2").finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Opens the image; the file at its path is locked already.
    pub(super) fn open(options: &ImageOptions) -> Result<Self, OpenError> {
        let mut locked = Vec::new();
        let access = open_access(options, &mut locked, 0)?;
        let chunk = IoBuffer::new(CHUNK_BYTES, 4096);
        Ok(Self {
            inner: Mutex::new(Inner {
                access,
                chunk: chunk.map_err(OpenError::Facts)?,
            }),
            _locked: locked,
        })
    }

    /// Bytes of the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.inner.lock().access.size()
    }

    /// Has the disk be of `bytes`; it does not shrink.
    pub(super) fn grow(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if bytes < inner.access.size() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a qcow2 image does not shrink",
            ));
        }
        let access = &mut inner.access;
        access.resize_grow(bytes, PreallocateMode::None)?;
        access.flush()?;
        access.sync()
    }

    /// Does a whole job; blocks that are discarded go back to the host if it `discards`.
    pub(super) fn perform(&self, job: &mut Job, discards: bool) -> io::Result<()> {
        let Inner { access, chunk } = &mut *self.inner.lock();
        match job.operation {
            Operation::Read => {
                while job.bytes != 0 {
                    let bytes = chunk_bytes(job);
                    access.read(chunk.as_mut_range(0..bytes).into_slice(), job.offset)?;
                    job.pieces.write(chunk.as_ref_range(0..bytes).into_slice());
                    job.advance(bytes);
                }
                Ok(())
            }
            Operation::Write { durable } => {
                while job.bytes != 0 {
                    let bytes = chunk_bytes(job);
                    job.pieces.read(chunk.as_mut_range(0..bytes).into_slice());
                    access.write(chunk.as_ref_range(0..bytes).into_slice(), job.offset)?;
                    job.advance(bytes);
                }
                settle(access, durable)
            }
            Operation::Flush => settle(access, true),
            Operation::Discard if !discards => Ok(()),
            Operation::Discard => match access.discard_to_any(job.offset, job.bytes) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
                result => result,
            },
            Operation::Zero { durable, .. } => {
                access.write_zeroes(job.offset, job.bytes)?;
                settle(access, durable)
            }
        }
    }
}

/// Has what was written last, if it is to.
fn settle(access: &Access, durable: bool) -> io::Result<()> {
    if durable {
        access.flush()?;
        access.sync()?;
    }
    Ok(())
}

fn chunk_bytes(job: &Job) -> usize {
    usize::try_from(job.bytes).map_or(CHUNK_BYTES, |bytes| bytes.min(CHUNK_BYTES))
}

/// Opens an image and those that it stands on; `depth` are above it. Their locks go to `locked`.
fn open_access(
    options: &ImageOptions,
    locked: &mut Vec<File>,
    depth: usize,
) -> Result<Access, OpenError> {
    let storage = storage(options)?;
    if options.format != Some(Format::Qcow2) {
        let raw = Raw::open_image(storage, !options.read_only);
        return Ok(FormatAccess::new(raw.map_err(OpenError::Format)?));
    }
    let mut driver = open_driver(storage, !options.read_only)?;
    let backing = backing_of(&driver, options)?;
    driver.set_backing(match backing {
        None => None,
        Some(_) if depth == MOST_IMAGES => return Err(OpenError::TooMany(MOST_IMAGES)),
        Some(backing) => {
            let within = |source: OpenError| OpenError::Backing {
                path: backing.path.clone(),
                source: Box::new(source),
            };
            lock_backing(&backing, locked).map_err(within)?;
            Some(open_access(&backing, locked, depth + 1).map_err(within)?)
        }
    });
    Ok(FormatAccess::new(driver))
}

/// Nobody else writes to an image that another one stands on.
fn lock_backing(options: &ImageOptions, locked: &mut Vec<File>) -> Result<(), OpenError> {
    if options.locks {
        let file = open_file(options, 0).map_err(OpenError::Open)?;
        let purpose = Use {
            writes: false,
            resizes: true,
        };
        lock::lock(&file, purpose)?;
        locked.push(file);
    }
    Ok(())
}

fn storage(options: &ImageOptions) -> Result<Storage, OpenError> {
    let file = match options.direct {
        false => open_file(options, 0).map_err(OpenError::Open)?,
        true => open_file(options, libc::O_DIRECT).map_err(OpenError::Direct)?,
    };
    let how = StorageOpenOptions::new()
        .filename(&options.path)
        .write(!options.read_only)
        .direct(options.direct);
    Storage::from_open_file(file, how).map_err(OpenError::Facts)
}

fn open_driver(storage: Storage, writable: bool) -> Result<Driver<Storage>, OpenError> {
    let mut driver = Driver::open_image(storage, writable).map_err(OpenError::Format)?;
    if driver.requires_external_data_file() {
        return Err(OpenError::DataFile);
    }
    driver.set_data_file(None);
    Ok(driver)
}

/// What an image stands on: what the user has said, or else its header.
fn backing_of(
    driver: &Driver<Storage>,
    options: &ImageOptions,
) -> Result<Option<ImageOptions>, OpenError> {
    if let Backing::Given(given) = &options.backing {
        return Ok(given.as_deref().cloned());
    }
    let Some(name) = driver.implicit_backing_file() else {
        return Ok(None);
    };
    // A URL or JSON, not a path.
    if name
        .split('/')
        .next()
        .is_some_and(|first| first.contains(':'))
    {
        return Err(OpenError::BackingName(name.clone()));
    }
    // What is not said is not guessed: a guest may have written it.
    let format = match driver.implicit_backing_format().map(String::as_str) {
        Some("raw") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        other => {
            return Err(OpenError::BackingFormat {
                name: name.clone(),
                format: other.unwrap_or("none").to_owned(),
            });
        }
    };
    let folder = options.path.parent().unwrap_or(Path::new(""));
    Ok(Some(ImageOptions {
        path: folder.join(name),
        format: Some(format),
        read_only: true,
        discards: false,
        backing: Backing::OfHeader,
        ..options.clone()
    }))
}

/// The paths of the images that an image stands on, as its user or their headers say; what cannot be read has none.
pub(super) fn paths_below(options: &ImageOptions) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut next = Some(options.clone());
    while let Some(image) = next.take().filter(|_| paths.len() <= MOST_IMAGES) {
        let reads = ImageOptions {
            read_only: true,
            direct: false,
            ..image
        };
        if reads.format == Some(Format::Qcow2)
            && let Ok(driver) = storage(&reads).and_then(|storage| open_driver(storage, false))
            && let Ok(Some(backing)) = backing_of(&driver, &reads)
        {
            paths.push(backing.path.clone());
            next = Some(backing);
        }
    }
    paths
}
