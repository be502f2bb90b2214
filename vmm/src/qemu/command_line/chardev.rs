//! `-chardev`: character devices, and how they are reached.

use std::os::fd::RawFd;
use std::path::PathBuf;

use super::CommandLineError;
use super::properties::Properties;

/// A character device as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// Its name.
    pub id: String,
    /// What it is.
    pub backend: Backend,
    /// Where a copy of what it writes goes.
    pub log: Option<OutputFile>,
}

/// What a character device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Takes all and gives nothing.
    Null,
    /// Standard input and output.
    Stdio,
    /// A new pseudo-terminal.
    Pty,
    /// A file that is written; there is no input.
    File(OutputFile),
    /// A socket that clients connect to.
    Listen(SocketAddress),
    /// A socket that connects to a server.
    Connect(SocketAddress),
}

/// A file that output goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Its name; `/dev/fdset/N` is a descriptor of set N.
    pub path: PathBuf,
    /// Whether what it holds is kept.
    pub append: bool,
}

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// In the file system.
    Unix(PathBuf),
    /// An open descriptor, inherited from whoever started this process.
    Descriptor(RawFd),
    /// A host and a port of TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port, by number.
        port: u16,
    },
}

/// The kinds of back ends, as `-chardev` and `query-chardev-backends` name them.
pub const BACKENDS: &[&str] = &["file", "null", "pty", "socket", "stdio"];

impl Chardev {
    /// The inherited descriptor that it is on, if it is on one.
    pub fn descriptor(&self) -> Option<RawFd> {
        match self.backend {
            Backend::Listen(SocketAddress::Descriptor(fd))
            | Backend::Connect(SocketAddress::Descriptor(fd)) => Some(fd),
            _ => None,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, CommandLineError> {
        let mut properties = Properties::parse("-chardev", Some("backend"), text)?;
        let kind = properties.required("backend")?;
        properties.set_kind(&kind);
        let id = properties.required("id")?;
        let backend = match kind.as_str() {
            "null" => Backend::Null,
            "stdio" => {
                properties.only("signal", &["on"])?;
                Backend::Stdio
            }
            // A name for the pseudo-terminal, as later versions of QEMU take, would be "path".
            "pty" => Backend::Pty,
            "file" => Backend::File(OutputFile {
                path: properties.required("path")?.into(),
                append: properties.switch("append")?.unwrap_or(false),
            }),
            "socket" => socket(&mut properties)?,
            _ => {
                return Err(CommandLineError::Kind {
                    option: "-chardev",
                    name: kind,
                    supported: BACKENDS.join(", "),
                });
            }
        };
        let log = properties.path("logfile")?;
        let append = properties.switch("logappend")?.unwrap_or(false);
        properties.only("mux", &["off"])?;
        properties.finish()?;
        Ok(Self {
            id,
            backend,
            log: log.map(|path| OutputFile { path, append }),
        })
    }

    /// The monitor that `-qmp unix:PATH,server=on,wait=off` or `-qmp tcp:HOST:PORT,…` asks for.
    pub(super) fn of_monitor(id: String, text: &str) -> Result<Self, CommandLineError> {
        let backend = match text.split_once(':') {
            Some(("unix", rest)) => {
                let mut properties = Properties::parse("-qmp", Some("path"), rest)?;
                let backend = socket(&mut properties)?;
                properties.finish()?;
                backend
            }
            Some(("tcp", rest)) => {
                let mut properties = Properties::parse("-qmp", Some("address"), rest)?;
                let address = properties.required("address")?;
                let backend = tcp(&mut properties, &address)?;
                properties.finish()?;
                backend
            }
            _ => {
                return Err(CommandLineError::Kind {
                    option: "-qmp",
                    name: text.to_owned(),
                    supported: "unix:PATH and tcp:HOST:PORT".to_owned(),
                });
            }
        };
        Ok(Self {
            id,
            backend,
            log: None,
        })
    }
}

fn tcp(properties: &mut Properties, address: &str) -> Result<Backend, CommandLineError> {
    let wrong = |properties: &Properties| properties.wrong("address", &address, "HOST:PORT");
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(wrong(properties));
    };
    let port = port.parse().map_err(|_| wrong(properties))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = SocketAddress::Tcp {
        host: host.to_owned(),
        port,
    };
    direction(properties, address)
}

fn socket(properties: &mut Properties) -> Result<Backend, CommandLineError> {
    let path = properties.path("path")?;
    let host = properties.text("host")?;
    let fd = properties.text("fd")?;
    let address = match (path, host, fd) {
        (Some(path), None, None) => SocketAddress::Unix(path),
        (None, None, Some(fd)) => {
            let number = fd.parse().ok().filter(|number| *number >= 0);
            let number = number.ok_or_else(|| {
                properties.wrong("fd", &fd, "the number of an open file descriptor")
            })?;
            SocketAddress::Descriptor(number)
        }
        (None, Some(host), None) => {
            let port = properties.required("port")?;
            let number = port
                .parse()
                .map_err(|_| properties.wrong("port", &port, "a number up to 65535"))?;
            SocketAddress::Tcp { host, port: number }
        }
        _ => {
            return Err(CommandLineError::Combination(format!(
                "{} needs one of the properties path, host and fd",
                properties.context()
            )));
        }
    };
    direction(properties, address)
}

/// Server or client; a server has to be one that is not waited for.
fn direction(
    properties: &mut Properties,
    address: SocketAddress,
) -> Result<Backend, CommandLineError> {
    properties.only("telnet", &["off"])?;
    properties.only("websocket", &["off"])?;
    properties.only("reconnect", &["0"])?;
    properties.only("reconnect-ms", &["0"])?;
    properties.only("nodelay", &["on", "off"])?;
    if !properties.switch("server")?.unwrap_or(false) {
        properties.only("wait", &["off", "on"])?;
        return Ok(Backend::Connect(address));
    }
    match properties.switch("wait")? {
        Some(false) => Ok(Backend::Listen(address)),
        _ => Err(CommandLineError::Combination(format!(
            "{} with server=on needs wait=off: nobody is waited for",
            properties.context()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> Backend {
        Chardev::parse(text).expect("parses").backend
    }

    fn refusal(text: &str) -> String {
        Chardev::parse(text).expect_err("refused").to_string()
    }

    #[test]
    fn back_ends_are_those_that_libvirt_wires() {
        assert_eq!(backend("pty,id=charserial0"), Backend::Pty);
        let file = backend("file,id=c,path=/dev/fdset/0,append=on");
        let output = OutputFile {
            path: "/dev/fdset/0".into(),
            append: true,
        };
        assert_eq!(file, Backend::File(output));
        assert_eq!(
            backend("socket,id=charmonitor,fd=29,server=on,wait=off"),
            Backend::Listen(SocketAddress::Descriptor(29))
        );
        assert_eq!(
            backend("socket,id=c,path=/run/a,,b"),
            Backend::Connect(SocketAddress::Unix("/run/a,b".into()))
        );
        let tcp = SocketAddress::Tcp {
            host: "::1".into(),
            port: 5555,
        };
        assert_eq!(
            backend("socket,id=c,host=::1,port=5555,server=on,wait=off,telnet=off"),
            Backend::Listen(tcp.clone())
        );
        let monitor = Chardev::of_monitor("m".into(), "tcp:[::1]:5555,server=on,wait=off");
        assert_eq!(monitor.expect("parses").backend, Backend::Listen(tcp));
    }

    #[test]
    fn a_log_is_beside_the_back_end() {
        let chardev = Chardev::parse("pty,id=c,logfile=/dev/fdset/1,logappend=on");
        let log = chardev.expect("parses").log.expect("a log");
        assert_eq!((log.path, log.append), ("/dev/fdset/1".into(), true));
    }

    #[test]
    fn what_is_missing_or_not_supported_is_named() {
        assert_eq!(
            refusal("spicevmc,id=c,name=x"),
            "-chardev: spicevmc is not supported; there are file, null, pty, socket, stdio"
        );
        assert_eq!(
            refusal("socket,id=c,path=/x,server=on,wait=off,telnet=on"),
            "-chardev socket: telnet=on should be off"
        );
        assert_eq!(
            refusal("socket,id=c,path=/x,server=on"),
            "-chardev socket with server=on needs wait=off: nobody is waited for"
        );
        assert_eq!(
            refusal("socket,id=c"),
            "-chardev socket needs one of the properties path, host and fd"
        );
        assert_eq!(refusal("pty"), "-chardev pty needs the property id");
        assert_eq!(
            refusal("socket,id=c,fd=-1"),
            "-chardev socket: fd=-1 should be the number of an open file descriptor"
        );
    }
}
