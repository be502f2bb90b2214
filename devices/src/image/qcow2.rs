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
use log::Level;
use parking_lot::Mutex;

use crate::guest_message;

use super::lock::{self, Use};
use super::open::{OpenError, open_file};
use super::operation::{Job, Operation};
use super::options::{Backing, Format, ImageOptions};
use super::ordered::OrderedFile;

type Storage = OrderedFile;
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
    /// The image's file, as `access` has it.
    file: OrderedFile,
    /// Where guest memory is copied to and from, as aligned as a page.
    chunk: IoBuffer,
    /// Nothing is to be written that is not in the file.
    is_settled: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        // What the guest has not flushed may be lost, but the image is to be whole.
        if let Err(error) = settle(&self.access, &self.file, true) {
            guest_message!(
                Level::Error,
                "{}: what was written last is lost: {error}",
                self.file
            );
        }
    }
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
        let (access, file) = open_access(options, &mut locked, 0)?;
        let chunk = IoBuffer::new(CHUNK_BYTES, 4096);
        Ok(Self {
            inner: Mutex::new(Inner {
                access,
                file,
                chunk: chunk.map_err(OpenError::Facts)?,
                is_settled: true,
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
        inner.is_settled = false;
        let Inner { access, file, .. } = &mut *inner;
        access.resize_grow(bytes, PreallocateMode::None)?;
        settle(access, file, true)
    }

    /// Has the file be whole, before it is closed by a thread that may not write to it.
    pub(super) fn settle(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if !inner.is_settled {
            settle(&inner.access, &inner.file, true)?;
            inner.is_settled = true;
        }
        Ok(())
    }

    /// Does a whole job; blocks that are discarded go back to the host if it `discards`.
    pub(super) fn perform(&self, job: &mut Job, discards: bool) -> io::Result<()> {
        let Inner {
            access,
            file,
            chunk,
            is_settled,
        } = &mut *self.inner.lock();
        *is_settled &= job.operation == Operation::Read;
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
                settle(access, file, durable)
            }
            Operation::Flush => settle(access, file, true),
            Operation::Discard if !discards => Ok(()),
            Operation::Discard => match access.discard_to_any(job.offset, job.bytes) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
                result => result.and_then(|()| settle(access, file, false)),
            },
            Operation::Zero { durable, .. } => {
                access.write_zeroes(job.offset, job.bytes)?;
                settle(access, file, durable)
            }
        }
    }
}

/// Has what was written last, if it is to be `durable`. What is kept of it is written in any case, once all that it
/// leads to is on stable storage.
fn settle(access: &Access, file: &OrderedFile, durable: bool) -> io::Result<()> {
    let keeps_writes = file.keeps_writes();
    if durable || keeps_writes {
        access.flush()?;
        access.sync()?;
    }
    if file.keeps_writes() {
        file.write_kept()?;
        if durable {
            access.sync()?;
        }
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
) -> Result<(Access, OrderedFile), OpenError> {
    let file = storage(options)?;
    if options.format != Some(Format::Qcow2) {
        let raw = Raw::open_image(file.clone(), !options.read_only);
        return Ok((FormatAccess::new(raw.map_err(OpenError::Format)?), file));
    }
    let mut driver = open_driver(file.clone(), !options.read_only)?;
    if !options.read_only && !file.counts_header().map_err(OpenError::Facts)? {
        let error = io::Error::other(
            "its refcount table does not count its header; qemu-img check -r all FILE repairs it",
        );
        return Err(OpenError::Format(error));
    }
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
            Some(open_access(&backing, locked, depth + 1).map_err(within)?.0)
        }
    });
    Ok((FormatAccess::new(driver), file))
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
    let file = imago::file::File::from_open_file(file, how).map_err(OpenError::Facts)?;
    match options.format {
        Some(Format::Qcow2) if !options.read_only => {
            OrderedFile::of_image(file, !options.direct).map_err(OpenError::Facts)
        }
        _ => Ok(OrderedFile::plain(file, !options.direct)),
    }
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
        descriptors: Vec::new(),
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
    let mut images = 0;
    while let Some(image) = next.take().filter(|_| images <= MOST_IMAGES) {
        images += 1;
        let reads = ImageOptions {
            read_only: true,
            direct: false,
            ..image
        };
        if reads.format == Some(Format::Qcow2)
            && let Ok(driver) = storage(&reads).and_then(|storage| open_driver(storage, false))
            && let Ok(Some(backing)) = backing_of(&driver, &reads)
        {
            if backing.descriptors.is_empty() {
                paths.push(backing.path.clone());
            }
            next = Some(backing);
        }
    }
    paths
}
