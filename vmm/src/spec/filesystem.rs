//! File systems of the host's.

use std::path::PathBuf;
use std::str::FromStr;

use super::words::split;

/// A file system device as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsDescription {
    /// Where the program listens that serves it (virtiofsd).
    pub socket: PathBuf,
    /// By which the guest mounts it.
    pub tag: String,
    /// The most entries of each of its queues, a power of two from 2 to 1024.
    pub queue_size: u16,
}

/// Entries of a queue, unless the user says otherwise.
pub const USUAL_FS_ENTRIES: u16 = 128;

/// Why an option for a file system makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsWordError {
    /// It has no name.
    #[error("it should be SOCKET,tag=NAME, such as /run/virtiofsd.sock,tag=home")]
    NoTag,
    /// There is no such word.
    #[error("{0:?} is none of tag=NAME, queue-size=ENTRIES")]
    Unknown(String),
    /// No size.
    #[error("queue-size={0} should be a power of two from 2 to 1024")]
    QueueSize(String),
}

impl FromStr for FsDescription {
    type Err = FsWordError;

    fn from_str(text: &str) -> Result<Self, FsWordError> {
        let mut parts = split(text).into_iter();
        let socket = parts.next().filter(|socket| !socket.is_empty());
        let (mut tag, mut queue_size) = (None, USUAL_FS_ENTRIES);
        for part in parts {
            match part.split_once('=') {
                Some(("tag", value)) => tag = Some(value.to_owned()),
                Some(("queue-size", value)) => {
                    let size = value.parse().ok().filter(|size| is_queue_size(*size));
                    queue_size = size.ok_or_else(|| FsWordError::QueueSize(value.to_owned()))?;
                }
                _ => return Err(FsWordError::Unknown(part)),
            }
        }
        match (socket, tag) {
            (Some(socket), Some(tag)) => Ok(Self {
                socket: socket.into(),
                tag,
                queue_size,
            }),
            _ => Err(FsWordError::NoTag),
        }
    }
}

/// Whether queues may have so many entries.
pub fn is_queue_size(entries: u16) -> bool {
    (2..=1024).contains(&entries) && entries.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_a_socket_with_a_tag() {
        let read = |text: &str| text.parse::<FsDescription>();
        let plain = read("/run/a,,b.sock,tag=home").unwrap();
        assert_eq!(plain.socket, PathBuf::from("/run/a,b.sock"));
        assert_eq!((plain.tag.as_str(), plain.queue_size), ("home", 128));
        assert_eq!(read("s,queue-size=1024,tag=x").unwrap().queue_size, 1024);
        for text in ["", "s", ",tag=x", "tag=x"] {
            assert_eq!(read(text), Err(FsWordError::NoTag), "{text}");
        }
        assert_eq!(
            read("s,tag=x,cache=none").unwrap_err().to_string(),
            "\"cache=none\" is none of tag=NAME, queue-size=ENTRIES"
        );
        for size in ["0", "1", "100", "2048", "many"] {
            let refused = read(&format!("s,tag=x,queue-size={size}")).unwrap_err();
            assert_eq!(refused, FsWordError::QueueSize(size.to_owned()));
        }
    }
}
