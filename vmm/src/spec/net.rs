//! Network cards.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use spapr_devices::net::{Mac, MacError};

use super::words::split;

/// A network card as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDescription {
    /// What carries its frames.
    pub backend: NetBackend,
    /// Pairs of queues, one for each way in each; a descriptor for each, where those are given.
    pub pairs: u16,
    /// By which the host's kernel passes them, if it is to (vhost-net): one for each pair.
    pub vhosts: Vec<VhostSource>,
    /// Its address; one that is made of the backend's name when not given.
    pub mac: Option<Mac>,
    /// The longest packets that the guest is told to send, in bytes.
    pub mtu: Option<u16>,
    /// The most entries of the queue for received frames.
    pub receive_entries: u16,
    /// The most entries of the queue for frames to send.
    pub transmit_entries: u16,
}

/// What carries a card's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetBackend {
    /// The TAP interface of that name.
    Tap(String),
    /// The TAP interface that whoever started this process left open for it, once for each of its queues.
    Descriptors(Vec<RawFd>),
    /// The program that listens at this socket, such as passt.
    Stream(PathBuf),
}

/// Where a device of the kernel's comes from, by which that serves queues (vhost).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhostSource {
    /// It is opened by its path.
    Path,
    /// Whoever started this process left it open.
    Descriptor(RawFd),
}

/// What a packet may be told to be at least: what IPv4 wants every network to carry.
pub const LEAST_MTU: u16 = 68;
/// The pairs of queues that a card may have.
pub const MOST_NET_PAIRS: u16 = 64;
/// Entries of a queue, unless the user says otherwise.
pub const USUAL_NET_ENTRIES: u16 = 256;

impl NetDescription {
    /// A card whose frames `backend` carries.
    pub const fn new(backend: NetBackend) -> Self {
        Self {
            backend,
            pairs: 1,
            vhosts: Vec::new(),
            mac: None,
            mtu: None,
            receive_entries: USUAL_NET_ENTRIES,
            transmit_entries: USUAL_NET_ENTRIES,
        }
    }
}

impl fmt::Display for NetBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "tap={name}"),
            Self::Descriptors(fds) => {
                let fds: Vec<String> = fds.iter().map(RawFd::to_string).collect();
                write!(f, "fd={}", fds.join(":"))
            }
            Self::Stream(path) => write!(f, "passt={}", path.display()),
        }
    }
}

/// Why an option for a card makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// It does not say what carries its frames.
    #[error("it begins with tap=NAME, fd=NUMBER or passt=SOCKET")]
    NoBackend,
    /// There is no such word.
    #[error("{0:?} is none of mac=ADDRESS, mtu=BYTES, vhost=on, queues=COUNT")]
    Unknown(String),
    /// Only an interface that is opened by its name has queues to be opened.
    #[error(
        "queues=COUNT goes with tap=NAME alone; with descriptors there are as many as those: fd=NUMBER:NUMBER…"
    )]
    NoQueues,
    /// The host's kernel passes frames of interfaces alone.
    #[error("vhost=on goes with tap=NAME and fd=NUMBER alone")]
    NoInterface,
    /// A word that is given twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// No address.
    #[error("mac={0} {1}")]
    Mac(String, MacError),
    /// A value that is none.
    #[error("{name}={value} should be {expected}")]
    Value {
        /// What it is for.
        name: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl FromStr for NetDescription {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let mut parts = split(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let backend = match first.split_once('=') {
            Some((_, "")) | None => return Err(NetError::NoBackend),
            Some(("tap", name)) => NetBackend::Tap(name.to_owned()),
            Some(("passt", path)) => NetBackend::Stream(path.into()),
            Some(("fd", numbers)) => NetBackend::Descriptors(descriptors(numbers)?),
            Some(_) => return Err(NetError::NoBackend),
        };
        let pairs = match &backend {
            NetBackend::Descriptors(fds) => u16::try_from(fds.len()).unwrap_or(u16::MAX),
            NetBackend::Tap(_) | NetBackend::Stream(_) => 1,
        };
        let mut net = Self {
            pairs,
            ..Self::new(backend)
        };
        let (mut vhost, mut queues) = (None, None);
        for part in parts {
            let (taken, name) = match part.split_once('=') {
                Some(("mac", value)) => {
                    let mac = value.parse();
                    let mac = mac.map_err(|error| NetError::Mac(value.to_owned(), error))?;
                    (net.mac.replace(mac).is_some(), "mac")
                }
                Some(("mtu", value)) => (net.mtu.replace(mtu(value)?).is_some(), "mtu"),
                Some(("vhost", value)) => (vhost.replace(switch(value)?).is_some(), "vhost"),
                Some(("queues", value)) => (queues.replace(pairs_of(value)?).is_some(), "queues"),
                _ => return Err(NetError::Unknown(part)),
            };
            if taken {
                return Err(NetError::Twice(name.to_owned()));
            }
        }
        if let Some(queues) = queues {
            if !matches!(net.backend, NetBackend::Tap(_)) {
                return Err(NetError::NoQueues);
            }
            net.pairs = queues;
        }
        if vhost == Some(true) {
            if matches!(net.backend, NetBackend::Stream(_)) {
                return Err(NetError::NoInterface);
            }
            net.vhosts = vec![VhostSource::Path; net.pairs.into()];
        }
        Ok(net)
    }
}

fn descriptors(numbers: &str) -> Result<Vec<RawFd>, NetError> {
    let fds = numbers.split(':').map(|number| {
        let fd = number.parse().ok().filter(|fd| *fd >= 0);
        fd.ok_or_else(|| NetError::Value {
            name: "fd",
            value: number.to_owned(),
            expected: "the number of an open file descriptor",
        })
    });
    let fds: Vec<RawFd> = fds.collect::<Result<_, _>>()?;
    match fds.len() <= usize::from(MOST_NET_PAIRS) {
        true => Ok(fds),
        false => Err(NetError::Value {
            name: "fd",
            value: numbers.to_owned(),
            expected: "64 descriptors at the most",
        }),
    }
}

fn pairs_of(value: &str) -> Result<u16, NetError> {
    let pairs = value.parse().ok();
    let pairs = pairs.filter(|pairs| (1..=MOST_NET_PAIRS).contains(pairs));
    pairs.ok_or_else(|| NetError::Value {
        name: "queues",
        value: value.to_owned(),
        expected: "1 to 64",
    })
}

fn switch(value: &str) -> Result<bool, NetError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(NetError::Value {
            name: "vhost",
            value: value.to_owned(),
            expected: "on or off",
        }),
    }
}

fn mtu(value: &str) -> Result<u16, NetError> {
    let bytes = value.parse().ok().filter(|bytes| *bytes >= LEAST_MTU);
    bytes.ok_or_else(|| NetError::Value {
        name: "mtu",
        value: value.to_owned(),
        expected: "68 to 65535",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_a_backend_with_words_behind_it() {
        let net: NetDescription = "tap=vm0,mac=52:54:00:01:02:03,mtu=9000".parse().unwrap();
        let expected = NetDescription {
            mac: Some(Mac([0x52, 0x54, 0, 1, 2, 3])),
            mtu: Some(9000),
            ..NetDescription::new(NetBackend::Tap("vm0".to_owned()))
        };
        assert_eq!(net, expected);
        for (text, backend) in [
            ("fd=3", NetBackend::Descriptors(vec![3])),
            ("passt=/run/a,,b", NetBackend::Stream("/run/a,b".into())),
        ] {
            let net: NetDescription = text.parse().unwrap();
            assert_eq!(net, NetDescription::new(backend));
            assert_eq!(net.backend.to_string(), text.replace(",,", ","));
        }
        for (text, pairs, vhosts) in [
            ("tap=a,vhost=on", 1, 1),
            ("fd=3,vhost=on", 1, 1),
            ("tap=a,vhost=off", 1, 0),
            ("passt=/s,vhost=off", 1, 0),
            ("tap=a,queues=64", 64, 0),
            ("tap=a,vhost=on,queues=3", 3, 3),
            ("fd=3:4:7,vhost=on", 3, 3),
        ] {
            let net: NetDescription = text.parse().unwrap();
            let expected = vec![VhostSource::Path; vhosts];
            assert_eq!((net.pairs, net.vhosts), (pairs, expected), "{text}");
        }
        let several: NetDescription = "fd=3:4".parse().unwrap();
        assert_eq!(several.backend, NetBackend::Descriptors(vec![3, 4]));
        assert_eq!(several.backend.to_string(), "fd=3:4");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refusal = |text: &str| text.parse::<NetDescription>().unwrap_err().to_string();
        for text in [
            "",
            "tap",
            "tap=",
            "user",
            "bridge=br0",
            "mac=52:54:00:01:02:03",
        ] {
            assert_eq!(refusal(text), NetError::NoBackend.to_string(), "{text}");
        }
        assert_eq!(
            refusal("fd=-1"),
            "fd=-1 should be the number of an open file descriptor"
        );
        assert_eq!(refusal("tap=a,mtu=67"), "mtu=67 should be 68 to 65535");
        assert_eq!(refusal("tap=a,mtu=100,mtu=200"), "mtu is given twice");
        assert!(refusal("tap=a,mac=1").starts_with("mac=1 should be six bytes"));
        assert!(refusal("tap=a,rss=on").contains("\"rss=on\" is none of mac="));
        for wrong in ["0", "65", "two"] {
            let expected = format!("queues={wrong} should be 1 to 64");
            assert_eq!(refusal(&format!("tap=a,queues={wrong}")), expected);
        }
        for wrong in ["fd=3,queues=2", "passt=/s,queues=1"] {
            assert_eq!(refusal(wrong), NetError::NoQueues.to_string());
        }
        assert_eq!(
            refusal("fd=3:"),
            "fd= should be the number of an open file descriptor"
        );
        let many = vec!["3"; 65].join(":");
        assert!(refusal(&format!("fd={many}")).ends_with("64 descriptors at the most"));
        assert_eq!(refusal("tap=a,vhost=1"), "vhost=1 should be on or off");
        assert_eq!(refusal("tap=a,vhost=on,vhost=off"), "vhost is given twice");
        assert_eq!(
            refusal("passt=/s,vhost=on"),
            "vhost=on goes with tap=NAME and fd=NUMBER alone"
        );
    }
}
