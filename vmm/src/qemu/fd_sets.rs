//! File descriptors that were passed in: sets that are named as `/dev/fdset/N`, and single ones by
//! name.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use parking_lot::Mutex;

/// Descriptors that are kept at most, sets and names together.
const MOST: usize = 256;
/// Bytes of a name, or of what is said of a descriptor, at most.
const LONGEST: usize = 255;

/// Why a descriptor is not to be had or not taken.
#[derive(Debug, thiserror::Error)]
pub enum FdSetError {
    /// There are too many.
    #[error("no more than {MOST} file descriptors are kept")]
    TooMany,
    /// A name or a note is too long.
    #[error("a file descriptor's name or opaque text has at most {LONGEST} bytes")]
    TooLong,
    /// There is none of that name.
    #[error("File descriptor named '{0}' not found")]
    NoName(String),
    /// There is no such set, or not such a descriptor in it.
    #[error("File descriptor named 'fdset-id:{0}' not found")]
    NoSet(u32),
    /// It cannot be shared.
    #[error("cannot duplicate a file descriptor")]
    Duplicate(#[source] io::Error),
}

#[derive(Debug)]
struct Member {
    descriptor: OwnedFd,
    opaque: Option<String>,
}

/// A descriptor of a set: its number, and what was said of it.
pub type Described = (RawFd, Option<String>);

/// All of them.
#[derive(Debug, Default)]
pub struct FdSets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    sets: BTreeMap<u32, Vec<Member>>,
    named: BTreeMap<String, OwnedFd>,
}

impl Kept {
    fn check_room(&self) -> Result<(), FdSetError> {
        let kept = self.named.len() + self.sets.values().map(Vec::len).sum::<usize>();
        if kept < MOST {
            Ok(())
        } else {
            Err(FdSetError::TooMany)
        }
    }
}

impl FdSets {
    /// Puts a descriptor in set `set`, or in a new one. Returns the set's number and the
    /// descriptor's.
    ///
    /// # Errors
    /// [`FdSetError::TooMany`] or [`FdSetError::TooLong`].
    pub fn add(
        &self,
        set: Option<u32>,
        descriptor: OwnedFd,
        opaque: Option<String>,
    ) -> Result<(u32, RawFd), FdSetError> {
        check_length(opaque.as_deref().unwrap_or_default())?;
        let mut kept = self.0.lock();
        kept.check_room()?;
        let first_free = || (0..).find(|number| !kept.sets.contains_key(number));
        let set = set.or_else(first_free).ok_or(FdSetError::TooMany)?;
        let fd = descriptor.as_raw_fd();
        let members = kept.sets.entry(set).or_default();
        members.push(Member { descriptor, opaque });
        Ok((set, fd))
    }

    /// Takes a descriptor, or all, out of a set.
    ///
    /// # Errors
    /// [`FdSetError::NoSet`].
    pub fn remove(&self, set: u32, fd: Option<RawFd>) -> Result<(), FdSetError> {
        let mut kept = self.0.lock();
        let members = kept.sets.get_mut(&set).ok_or(FdSetError::NoSet(set))?;
        let before = members.len();
        members.retain(|member| fd.is_some_and(|fd| member.descriptor.as_raw_fd() != fd));
        if members.len() == before {
            return Err(FdSetError::NoSet(set));
        }
        if members.is_empty() {
            kept.sets.remove(&set);
        }
        Ok(())
    }

    /// Keeps a descriptor under a name, in place of one that had it.
    ///
    /// # Errors
    /// [`FdSetError::TooMany`] or [`FdSetError::TooLong`].
    pub fn name(&self, name: String, descriptor: OwnedFd) -> Result<(), FdSetError> {
        check_length(&name)?;
        let mut kept = self.0.lock();
        if !kept.named.contains_key(&name) {
            kept.check_room()?;
        }
        kept.named.insert(name, descriptor);
        Ok(())
    }

    /// Closes the descriptor with a name.
    ///
    /// # Errors
    /// [`FdSetError::NoName`].
    pub fn close_named(&self, name: &str) -> Result<(), FdSetError> {
        self.take_named(name).map(drop)
    }

    /// Gives up the descriptor with a name.
    ///
    /// # Errors
    /// [`FdSetError::NoName`].
    pub fn take_named(&self, name: &str) -> Result<OwnedFd, FdSetError> {
        let taken = self.0.lock().named.remove(name);
        taken.ok_or_else(|| FdSetError::NoName(name.to_owned()))
    }

    /// The sets: their numbers, and the numbers and notes of their descriptors.
    pub fn list(&self) -> Vec<(u32, Vec<Described>)> {
        let describe = |member: &Member| (member.descriptor.as_raw_fd(), member.opaque.clone());
        let kept = self.0.lock();
        let sets = kept.sets.iter();
        sets.map(|(&set, members)| (set, members.iter().map(describe).collect()))
            .collect()
    }

    /// A copy of a descriptor of set `set` that can be written to.
    ///
    /// # Errors
    /// When there is none.
    pub fn open_for_writing(&self, set: u32) -> Result<OwnedFd, FdSetError> {
        let kept = self.0.lock();
        let members = kept.sets.get(&set).ok_or(FdSetError::NoSet(set))?;
        let member = members
            .iter()
            .find(|member| is_writable(&member.descriptor))
            .ok_or(FdSetError::NoSet(set))?;
        member.descriptor.try_clone().map_err(FdSetError::Duplicate)
    }
}

fn check_length(text: &str) -> Result<(), FdSetError> {
    if text.len() > LONGEST {
        return Err(FdSetError::TooLong);
    }
    Ok(())
}

/// The number of the set that `path` names as `/dev/fdset/N`.
pub fn set_of_path(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/dev/fdset/")?.parse().ok()
}

fn is_writable(descriptor: &OwnedFd) -> bool {
    // SAFETY: the descriptor is open; F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Keeps a descriptor from programs that this process might start.
pub(super) fn close_on_exec(descriptor: &OwnedFd) {
    // SAFETY: the descriptor is open; fcntl with F_SETFD and flags touches no memory.
    let set = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    debug_assert_eq!(set, 0, "F_SETFD of an open descriptor");
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().expect("pipe");
        (reader.into(), writer.into())
    }

    #[test]
    fn a_path_names_the_descriptor_of_a_set_that_can_be_written() {
        let sets = FdSets::default();
        let (reader, writer) = pipe();
        let reading = reader.try_clone().expect("clone");
        sets.add(Some(4), reader, None).expect("room");
        assert!(sets.open_for_writing(4).is_err(), "a reader alone");
        sets.add(Some(4), writer, Some("log".to_owned()))
            .expect("room");
        let set = set_of_path(Path::new("/dev/fdset/4")).expect("a set");
        let mut file = File::from(sets.open_for_writing(set).expect("a writer"));
        file.write_all(b"x").expect("write");
        let mut byte = [0];
        File::from(reading).read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
        assert_eq!(set_of_path(Path::new("/dev/fdset/-1")), None);
        assert_eq!(set_of_path(Path::new("/dev/null")), None);
    }

    #[test]
    fn sets_come_and_go() {
        let sets = FdSets::default();
        let (first, second) = pipe();
        let (set, fd) = sets.add(None, first, None).expect("room");
        assert_eq!(set, 0);
        assert_eq!(sets.add(None, second, None).expect("room").0, 1);
        assert_eq!(sets.list()[0], (0, vec![(fd, None)]));
        assert!(sets.remove(0, Some(fd + 1000)).is_err());
        sets.remove(0, Some(fd)).expect("there");
        sets.remove(1, None).expect("there");
        assert!(sets.list().is_empty() && sets.remove(1, None).is_err());
    }

    #[test]
    fn names_are_replaced_and_there_are_not_too_many() {
        let sets = FdSets::default();
        for number in 0..MOST {
            let (reader, _writer) = pipe();
            sets.name(format!("name-{number}"), reader).expect("room");
        }
        let (reader, writer) = pipe();
        assert!(matches!(
            sets.name("more".into(), reader),
            Err(FdSetError::TooMany)
        ));
        sets.name("name-0".into(), writer)
            .expect("in place of another");
        let long = "x".repeat(LONGEST + 1);
        let (reader, writer) = pipe();
        let refused = sets.name(long.clone(), reader);
        assert!(matches!(refused, Err(FdSetError::TooLong)));
        let refused = sets.add(None, writer, Some(long));
        assert!(matches!(refused, Err(FdSetError::TooLong)));
        sets.close_named("name-0").expect("there");
        assert!(sets.close_named("name-0").is_err());
    }
}
