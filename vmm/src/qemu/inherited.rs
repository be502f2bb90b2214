//! File descriptors that whoever started this process left open for it, and that the command line
//! names by their numbers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::command_line::CommandLine;
use super::fd_sets::{FdSetError, FdSets};
use crate::spec::{MachineDescription, NetBackend, VhostSource};

/// Why descriptors are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// One is not open.
    #[error("{option}: file descriptor {fd} is not open")]
    NotOpen {
        /// Who names it.
        option: String,
        /// Its number.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
    /// One cannot be put in its set.
    #[error("-add-fd")]
    Set(#[from] FdSetError),
}

/// All of them.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Those of `-add-fd`.
    pub sets: FdSets,
    sockets: BTreeMap<RawFd, OwnedFd>,
}

impl Inherited {
    /// Takes over what `line` names. To be called before this process opens anything: what it opened
    /// could have the number of a descriptor that was forgotten, and would be taken for that.
    ///
    /// # Errors
    /// When a descriptor is not open, or there are too many.
    pub fn take(line: &CommandLine) -> Result<Self, InheritedError> {
        let mut inherited = Self::default();
        for passed in &line.descriptors {
            let descriptor = take_over("-add-fd", passed.fd)?;
            let opaque = passed.opaque.clone();
            inherited.sets.add(Some(passed.set), descriptor, opaque)?;
        }
        for chardev in &line.chardevs {
            if let Some(fd) = chardev.descriptor() {
                let option = format!("-chardev id={}", chardev.id);
                inherited.sockets.insert(fd, take_over(&option, fd)?);
            }
        }
        // An interface's descriptor is duplicated when it is used, and stays.
        let nics = line.machine.iter().flat_map(MachineDescription::nics);
        for (device, net) in nics {
            let name = &device.name;
            if let NetBackend::Descriptors(fds) = &net.backend {
                let option = format!("-netdev of {name}");
                fds.iter()
                    .try_for_each(|fd| keep_from_programs(&option, *fd))?;
            }
            for vhost in &net.vhosts {
                if let VhostSource::Descriptor(fd) = vhost {
                    keep_from_programs(&format!("-netdev of {name}"), *fd)?;
                }
            }
        }
        let vsocks = line.machine.iter().flat_map(MachineDescription::vsocks);
        for (device, vsock) in vsocks {
            if let VhostSource::Descriptor(fd) = vsock.vhost {
                keep_from_programs(&format!("-device {}", device.name), fd)?;
            }
        }
        Ok(inherited)
    }

    /// The socket with this number, for the one that the command line gave it to.
    pub fn socket(&mut self, fd: RawFd) -> Option<OwnedFd> {
        self.sockets.remove(&fd)
    }
}

/// Keeps a descriptor from programs that this process might start.
fn keep_from_programs(option: &str, fd: RawFd) -> Result<(), InheritedError> {
    // SAFETY: fcntl with F_SETFD and flags touches no memory, and fails for what is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(not_open(option, fd, io::Error::last_os_error()));
    }
    Ok(())
}

fn not_open(option: &str, fd: RawFd, source: io::Error) -> InheritedError {
    InheritedError::NotOpen {
        option: option.to_owned(),
        fd,
        source,
    }
}

/// Takes over a descriptor, and keeps it from programs that this process might start.
fn take_over(option: &str, fd: RawFd) -> Result<OwnedFd, InheritedError> {
    keep_from_programs(option, fd)?;
    if (0..=2).contains(&fd) {
        // SAFETY: the descriptor is open, as was just seen, and stays so while it is borrowed.
        let standard = unsafe { BorrowedFd::borrow_raw(fd) };
        let owned = standard.try_clone_to_owned();
        return owned.map_err(|source| not_open(option, fd, source));
    }
    // SAFETY: the descriptor is open, and by the command line's word this process' to use: it
    // names each descriptor for one purpose.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn line(words: &str) -> CommandLine {
        let words = words.split_whitespace().map(str::to_owned);
        CommandLine::parse(words).expect("parses")
    }

    #[test]
    fn what_is_not_open_is_refused_by_whoever_names_it() {
        let forgotten = line("-machine none -add-fd set=1,fd=9999");
        let error = Inherited::take(&forgotten).expect_err("not open");
        assert_eq!(
            error.to_string(),
            "-add-fd: file descriptor 9999 is not open"
        );
        let forgotten = line(
            "-machine none -chardev socket,id=mon,fd=9998,server=on,wait=off -mon chardev=mon,mode=control",
        );
        let error = Inherited::take(&forgotten).expect_err("not open");
        assert_eq!(
            error.to_string(),
            "-chardev id=mon: file descriptor 9998 is not open"
        );
    }

    #[test]
    fn a_socket_is_given_once_and_a_set_has_its_descriptor() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (ours, theirs) = (ours.into_raw_fd(), theirs.into_raw_fd());
        let words = format!(
            "-machine none -add-fd set=3,fd={ours} -chardev socket,id=mon,fd={theirs} -mon chardev=mon,mode=control"
        );
        let mut inherited = Inherited::take(&line(&words)).expect("open");
        assert_eq!(inherited.sets.list(), [(3, vec![(ours, None)])]);
        let socket = inherited.socket(theirs).expect("the socket");
        assert_eq!(socket.as_raw_fd(), theirs);
        assert!(inherited.socket(theirs).is_none());
    }
}
