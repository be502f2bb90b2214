//! An image that is open.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::lock::{self, LockError};
use super::qcow2::{self, Qcow2};
use super::{Counters, Format, ImageOptions};

/// Bytes of a sector, by which a virtio disk counts.
pub(super) const SECTOR_BYTES: u64 = 512;

/// What images of other formats begin with.
const OTHER_FORMATS: &[(&[u8], &str)] = &[
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"conectix", "vpc"),
    (b"vhdxfile", "vhdx"),
    (b"QED\0", "qed"),
    (b"LUKS\xba\xbe", "luks"),
];

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    /// It cannot be opened past the page cache.
    #[error(
        "its file system may not do O_DIRECT: choose another cache mode than none and directsync"
    )]
    Direct(#[source] io::Error),
    /// It is no file or block device.
    #[error("it is neither a file nor a block device")]
    Kind,
    /// It begins as an image of another format, and the user has not said what it is.
    #[error("it begins as an image of the format {0}: say which format it has, this one or raw")]
    Ambiguous(&'static str),
    /// It is no image of the format that it is said to have, or one that cannot be used.
    #[error("it is not a qcow2 image that can be used")]
    Format(#[source] io::Error),
    /// Its data are in another file.
    #[error("its data are in a file of their own (data_file), which is not supported")]
    DataFile,
    /// What it stands on is not a file.
    #[error("it stands on {0:?}, which is not the path of a file")]
    BackingName(String),
    /// What it stands on has a format that is not known.
    #[error(
        "it stands on {name:?}, whose format should be raw or qcow2, and is {format}: qemu-img rebase -u -F \
         FORMAT -b {name} says which it is"
    )]
    BackingFormat {
        /// Its name.
        name: String,
        /// Its format as the header has it.
        format: String,
    },
    /// Too many images stand on each other.
    #[error("more than {0} images stand on each other")]
    TooMany(usize),
    /// What it stands on cannot be used.
    #[error("it stands on {}", path.display())]
    Backing {
        /// Where that is.
        path: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// It is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The host does not say what there is to know of it.
    #[error("what the host says of it cannot be read")]
    Facts(#[source] io::Error),
}

/// What O_DIRECT wants, each a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of memory.
    pub(super) memory: usize,
    /// Of offsets and lengths.
    pub(super) offset: usize,
}

/// An image that is open, and locked.
#[derive(Debug)]
pub struct Image {
    options: ImageOptions,
    file: File,
    /// The same through the page cache, where `file` goes past it: for what is not aligned.
    cached: Option<(File, Alignment)>,
    /// What is to be done by way of the format.
    qcow2: Option<Qcow2>,
    bytes: AtomicU64,
    /// The error of a flush that failed, by its number; 0 while none has.
    lost_writes: AtomicI32,
    /// Whether something was written through the page cache of a file that is open past it.
    cached_writes: AtomicBool,
    counters: Counters,
}

impl Image {
    /// Opens and locks the image.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(options: ImageOptions) -> Result<Self, OpenError> {
        let through_cache = open_file(&options, 0).map_err(OpenError::Open)?;
        let kind = through_cache
            .metadata()
            .map_err(OpenError::Facts)?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::Kind);
        }
        if options.format.is_none()
            && let Some(format) = other_format(&through_cache).map_err(OpenError::Facts)?
        {
            return Err(OpenError::Ambiguous(format));
        }
        let is_raw = options.format != Some(Format::Qcow2);
        if options.locks {
            let purpose = lock::Use {
                writes: !options.read_only,
                resizes: !is_raw,
            };
            lock::lock(&through_cache, purpose)?;
        }
        if !is_raw {
            let qcow2 = Qcow2::open(&options)?;
            let bytes = AtomicU64::new(whole_sectors(qcow2.bytes()));
            return Ok(Self {
                options,
                file: through_cache,
                cached: None,
                qcow2: Some(qcow2),
                bytes,
                lost_writes: AtomicI32::new(0),
                cached_writes: AtomicBool::new(false),
                counters: Counters::default(),
            });
        }
        let bytes = size(&through_cache).map_err(OpenError::Facts)?;
        let (file, cached) = match options.direct {
            false => (through_cache, None),
            true => {
                let direct = open_file(&options, libc::O_DIRECT).map_err(OpenError::Direct)?;
                let alignment = alignment(&direct);
                (direct, Some((through_cache, alignment)))
            }
        };
        Ok(Self {
            options,
            file,
            cached,
            qcow2: None,
            bytes: AtomicU64::new(bytes),
            lost_writes: AtomicI32::new(0),
            cached_writes: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// The paths of all files that the image has: its own, unless it is open by a descriptor, and those of the images that it stands on.
    pub fn paths(options: &ImageOptions) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        if options.descriptors.is_empty() {
            paths.push(options.path.clone());
        }
        paths.extend(qcow2::paths_below(options));
        paths
    }

    /// As it was asked for.
    pub const fn options(&self) -> &ImageOptions {
        &self.options
    }

    /// What it holds.
    pub fn format(&self) -> Format {
        self.options.format.unwrap_or(Format::Raw)
    }

    /// Bytes of the disk: whole sectors of 512.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What was done with it.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes note of a flush that has failed. Of what lies in the page cache the kernel then forgets that it is not
    /// written, and the next fdatasync(2) finds nothing wrong.
    pub(super) fn flush_failed(&self, error: &io::Error) {
        // A format's own writes may have failed, which are done again; of its file's flushes it takes note itself.
        let has_cache = !self.options.direct || self.cached_writes.load(Ordering::Relaxed);
        if self.qcow2.is_none() && has_cache {
            let number = error.raw_os_error().unwrap_or(libc::EIO);
            self.lost_writes.store(number, Ordering::Relaxed);
        }
    }

    /// Takes note of a write that goes through the page cache, whatever was asked for.
    pub(super) fn note_cached_write(&self) {
        self.cached_writes.store(true, Ordering::Relaxed);
    }

    /// Why writes are lost that were not flushed, if they are: no flush is true any more then.
    pub(super) fn lost_writes(&self) -> Option<io::Error> {
        let number = self.lost_writes.load(Ordering::Relaxed);
        (number != 0).then(|| io::Error::from_raw_os_error(number))
    }

    /// Its file.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Has its file be whole, before it is closed by a thread that may not write to it.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.qcow2.as_ref().map_or(Ok(()), Qcow2::settle)
    }

    /// What is done by way of its format, if it is not raw.
    pub(super) const fn qcow2(&self) -> Option<&Qcow2> {
        self.qcow2.as_ref()
    }

    /// Its file, for what has to go `through_cache` and what has not.
    pub(super) fn file_for(&self, through_cache: bool) -> &File {
        match &self.cached {
            Some((cached, _)) if through_cache => cached,
            _ => &self.file,
        }
    }

    /// What its file wants of memory and offsets, if anything.
    pub(super) fn alignment(&self) -> Option<Alignment> {
        self.cached.as_ref().map(|(_, alignment)| *alignment)
    }

    /// Bytes that the host has for it.
    ///
    /// # Errors
    /// The host does not say.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Looks at the size anew; true if it has changed.
    ///
    /// # Errors
    /// The host does not say.
    pub fn look_at_size(&self) -> io::Result<bool> {
        let bytes = match &self.qcow2 {
            Some(qcow2) => whole_sectors(qcow2.bytes()),
            None => size(&self.file)?,
        };
        Ok(self.bytes.swap(bytes, Ordering::Relaxed) != bytes)
    }

    /// Has the disk be of `bytes`, whole sectors. A block device cannot be.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn resize(&self, bytes: u64) -> io::Result<()> {
        if !bytes.is_multiple_of(SECTOR_BYTES) || self.options.read_only {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.qcow2 {
            Some(qcow2) => qcow2.grow(bytes)?,
            None => self.file.set_len(bytes)?,
        }
        self.look_at_size().map(drop)
    }
}

pub(super) fn open_file(options: &ImageOptions, flags: libc::c_int) -> io::Result<File> {
    if !options.descriptors.is_empty() {
        return open_descriptor(options, flags);
    }
    File::options()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags)
        .open(&options.path)
}

/// The image by a descriptor that is open: a copy of it, or, where `flags` change how its file is used, another one,
/// for which its user has to be allowed to open the file.
fn open_descriptor(options: &ImageOptions, flags: libc::c_int) -> io::Result<File> {
    let access = |descriptor: &&RawFd| {
        // SAFETY: F_GETFL takes no argument, and fails for what is not open.
        let its_flags = unsafe { libc::fcntl(**descriptor, libc::F_GETFL) };
        let wanted = match options.read_only {
            true => its_flags & libc::O_ACCMODE != libc::O_WRONLY,
            false => its_flags & libc::O_ACCMODE == libc::O_RDWR,
        };
        its_flags >= 0 && wanted
    };
    let found = options.descriptors.iter().find(access);
    let descriptor = *found.ok_or(io::Error::from_raw_os_error(libc::EACCES))?;
    if flags == 0 {
        // SAFETY: it is open, as its flags were read.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        return Ok(descriptor.try_clone_to_owned()?.into());
    }
    File::options()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{descriptor}"))
}

/// Bytes of whole sectors; the end of a block device is where it ends, as of a file.
fn size(mut file: &File) -> io::Result<u64> {
    let bytes = file.seek(SeekFrom::End(0))?;
    Ok(whole_sectors(bytes))
}

const fn whole_sectors(bytes: u64) -> u64 {
    bytes - bytes % SECTOR_BYTES
}

/// The format that a file begins as, if it is one that is no raw image.
fn other_format(file: &File) -> io::Result<Option<&'static str>> {
    let mut head = [0; 16];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let found = OTHER_FORMATS
        .iter()
        .find(|(start, _)| head.starts_with(start));
    Ok(found.map(|(_, format)| *format))
}

/// What the kernel says that O_DIRECT wants of this file (STATX_DIOALIGN, from Linux 6.1 on); without, what does on
/// any disk.
fn alignment(file: &File) -> Alignment {
    let usual = Alignment {
        memory: 4096,
        offset: 4096,
    };
    // SAFETY: the structure is plain numbers, for which 0 is a value.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is empty and ends, and the pointer is good for the structure.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut facts,
        )
    };
    let told = result == 0 && facts.stx_mask & libc::STATX_DIOALIGN != 0;
    let number = |bytes: u32| {
        let bytes = usize::try_from(bytes).ok()?;
        bytes.is_power_of_two().then_some(bytes)
    };
    match (
        number(facts.stx_dio_mem_align),
        number(facts.stx_dio_offset_align),
    ) {
        (Some(memory), Some(offset)) if told => Alignment { memory, offset },
        _ => usual,
    }
}
