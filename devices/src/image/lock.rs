//! Locks that keep two programs from writing to one image.
//!
//! They are QEMU's, so that its programs and this one heed each other's: open file description locks on single
//! bytes of the image, 100 + n for something that the owner does with it and 200 + n for something that it bears
//! nobody else to do (docs/system/qemu-block-drivers.rst.inc, "Disk image file locking"). The n are those of QEMU's
//! block permissions.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the bytes of locks are about, by QEMU's numbers.
const PERMISSIONS: [(libc::off_t, &str); 4] = [
    (0, "consistent read"),
    (1, "write"),
    (2, "write unchanged"),
    (3, "resize"),
];
/// The byte of something that the owner does.
const DONE: libc::off_t = 100;
/// The byte of something that the owner bears nobody else to do.
const NOT_SHARED: libc::off_t = 200;

const CONSISTENT_READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// An image is in use.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// By a program that would get in the way.
    #[error(
        "another program has it open{owner}, and {}: end that program, or open the image for reading alone in both",
        match by_owner {
            true => format!("does not share it for \"{what}\""),
            false => format!("uses it for \"{what}\"")
        }
    )]
    InUse {
        /// What the two do not agree on.
        what: &'static str,
        /// Whether it is the other one that does not share it.
        by_owner: bool,
        /// ` (process …)`, where that can be told.
        owner: String,
    },
    /// The host refuses the lock itself.
    #[error("the host does not lock it")]
    Host(#[source] io::Error),
}

/// What an image is used for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// It is written to.
    pub(super) writes: bool,
    /// Its file grows or shrinks with what is written: not so for a raw one.
    pub(super) resizes: bool,
}

/// Locks `file` for that use, until it is closed.
///
/// # Errors
/// Another program does not bear it; nothing is locked then once `file` is closed.
pub(super) fn lock(file: &File, purpose: Use) -> Result<(), LockError> {
    let does = |what| match what {
        CONSISTENT_READ => true,
        WRITE => purpose.writes,
        RESIZE => purpose.resizes && purpose.writes,
        _ => false,
    };
    // Nobody else writes, whatever it is used for.
    let shares = |what| match what {
        WRITE => false,
        RESIZE => !purpose.resizes,
        _ => true,
    };
    for (what, _) in PERMISSIONS {
        for (is_wanted, start) in [(does(what), DONE), (!shares(what), NOT_SHARED)] {
            if is_wanted {
                set(file, start + what).map_err(LockError::Host)?;
            }
        }
    }
    for (what, name) in PERMISSIONS {
        for (matters, start) in [(does(what), NOT_SHARED), (!shares(what), DONE)] {
            if matters && is_locked(file, start + what).map_err(LockError::Host)? {
                return Err(LockError::InUse {
                    what: name,
                    by_owner: start == NOT_SHARED,
                    owner: owner(file).unwrap_or_default(),
                });
            }
        }
    }
    Ok(())
}

const fn one_byte(kind: libc::c_int, at: libc::off_t) -> libc::flock {
    // SAFETY: the structure is plain numbers, for which 0 is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "the kinds are 0 to 2")]
    {
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
    }
    lock.l_start = at;
    lock.l_len = 1;
    lock
}

fn call(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the pointer is good for the structure that these commands take.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Locks a byte along with others who do.
fn set(file: &File, at: libc::off_t) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut one_byte(libc::F_RDLCK, at))
}

/// Whether somebody else has locked a byte.
fn is_locked(file: &File, at: libc::off_t) -> io::Result<bool> {
    let mut lock = one_byte(libc::F_WRLCK, at);
    call(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// A process that has a lock on `file`, in words, as far as this one may know.
fn owner(file: &File) -> Option<String> {
    let inode = format!(":{} ", file.metadata().ok()?.ino());
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut numbers = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let found = numbers.find(|number| *number != own && has_lock(number, &inode))?;
    let name = fs::read_to_string(Path::new("/proc").join(&found).join("comm"));
    let name = name.map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned());
    Some(format!(" (process {found}, {name})"))
}

/// Whether a process has a lock by an open file description on the file whose `:INODE ` that is (proc(5)).
fn has_lock(process: &str, inode: &str) -> bool {
    if !process.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let Ok(descriptors) = fs::read_dir(Path::new("/proc").join(process).join("fdinfo")) else {
        return false;
    };
    let is_lock =
        |line: &str| line.starts_with("lock:") && line.contains("OFDLCK") && line.contains(inode);
    descriptors
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|text| text.lines().any(is_lock))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Debug;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;

    /// What works once an image that was closed is free: a program that another test starts has its descriptors,
    /// and with them its locks, until it has become that program.
    pub(in crate::image) fn once_free<T, E: Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match attempt() {
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(1)),
                done => return done.unwrap(),
            }
        }
    }

    const WRITER: Use = Use {
        writes: true,
        resizes: false,
    };
    const READER: Use = Use {
        writes: false,
        resizes: false,
    };

    #[test]
    fn one_writes_or_many_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        fs::write(&path, "x").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (first, second, third) = (open(), open(), open());
        lock(&first, READER).unwrap();
        lock(&second, READER).unwrap();
        let refused = lock(&third, WRITER).unwrap_err().to_string();
        assert!(
            refused.contains("does not share it for \"write\""),
            "{refused}"
        );
        drop((first, second, third));
        let (first, second) = (open(), open());
        once_free(|| lock(&first, WRITER));
        for purpose in [WRITER, READER] {
            assert!(matches!(
                lock(&second, purpose),
                Err(LockError::InUse { .. })
            ));
        }
        drop(first);
        drop(second);
        once_free(|| lock(&open(), WRITER));
    }
}
