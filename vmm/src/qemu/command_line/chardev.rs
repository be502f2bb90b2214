//! `-chardev`: character devices, and how they are reached.

use std::os::fd::RawFd;
use std::path::PathBuf;

use super::properties::Properties;
use super::{CommandLineError, values};

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
                properties.either("signal")?;
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
        let log = take_log(&mut properties)?;
        properties.always("mux", false)?;
        properties.finish()?;
        Ok(Self { id, backend, log })
    }

    /// The terminal that `-serial` asks for; `None` for `none`. Its name is `id` unless the value names a
    /// `-chardev`.
    pub(super) fn of_serial(id: String, text: &str) -> Result<Option<Serial>, CommandLineError> {
        // There is no monitor that could share it.
        let device = text.strip_prefix("mon:").unwrap_or(text);
        let (kind, rest) = device.split_once(':').unwrap_or((device, ""));
        let backend = match (kind, rest) {
            ("none", "") => return Ok(None),
            ("chardev", id) if !id.is_empty() => {
                return Ok(Some(Serial::Named(id.to_owned())));
            }
            ("null", "") => Backend::Null,
            ("stdio", "") => Backend::Stdio,
            ("pty", "") => Backend::Pty,
            ("file", rest) if !rest.is_empty() => {
                let mut properties = Properties::parse("-serial", Some("path"), rest)?;
                let file = OutputFile {
                    path: properties.required("path")?.into(),
                    append: properties.switch("append")?.unwrap_or(false),
                };
                properties.finish()?;
                Backend::File(file)
            }
            _ => match compatible("-serial", device)? {
                Some(backend) => backend,
                None => {
                    return Err(CommandLineError::Kind {
                        option: "-serial",
                        name: text.to_owned(),
                        supported: "none, null, stdio, mon:stdio, pty, file:PATH, unix:PATH, \
                                    tcp:HOST:PORT and chardev:ID"
                            .to_owned(),
                    });
                }
            },
        };
        Ok(Some(Serial::New(Self {
            id,
            backend,
            log: None,
        })))
    }

    /// The monitor that `-qmp unix:PATH,server=on,wait=off` or `-qmp tcp:HOST:PORT,…` asks for.
    pub(super) fn of_monitor(id: String, text: &str) -> Result<Self, CommandLineError> {
        let backend = compatible("-qmp", text)?;
        let backend = backend.ok_or_else(|| CommandLineError::Kind {
            option: "-qmp",
            name: text.to_owned(),
            supported: "unix:PATH and tcp:HOST:PORT".to_owned(),
        })?;
        Ok(Self {
            id,
            backend,
            log: None,
        })
    }
}

/// What a guest's terminal is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Serial {
    /// A character device of its own.
    New(Chardev),
    /// The one with this name.
    Named(String),
}

/// A socket in QEMU's older way of writing, `unix:PATH,…` or `tcp:HOST:PORT,…`; `None` for anything else.
fn compatible(option: &'static str, text: &str) -> Result<Option<Backend>, CommandLineError> {
    let Some((kind, rest)) = text.split_once(':') else {
        return Ok(None);
    };
    let mut properties = match kind {
        "unix" => Properties::parse(option, Some("path"), rest)?,
        "tcp" => Properties::parse(option, Some("address"), rest)?,
        _ => return Ok(None),
    };
    properties.set_kind(kind);
    let backend = if kind == "unix" {
        socket(&mut properties)?
    } else {
        let address = properties.required("address")?;
        tcp(&mut properties, &address)?
    };
    properties.finish()?;
    Ok(Some(backend))
}

fn take_log(properties: &mut Properties) -> Result<Option<OutputFile>, CommandLineError> {
    let path = properties.path("logfile")?;
    let append = properties.switch("logappend")?.unwrap_or(false);
    Ok(path.map(|path| OutputFile { path, append }))
}

fn tcp(properties: &mut Properties, address: &str) -> Result<Backend, CommandLineError> {
    let wrong = |properties: &Properties| properties.wrong("address", &address, "HOST:PORT");
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(wrong(properties));
    };
    let port = values::number(port).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| wrong(properties))?;
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
    let fd = properties.descriptor("fd")?;
    let address = match (path, host, fd) {
        (Some(path), None, None) => SocketAddress::Unix(path),
        (None, None, Some(fd)) => SocketAddress::Descriptor(fd),
        (None, Some(host), None) => {
            let port = properties.port("port")?;
            let port = port.ok_or_else(|| CommandLineError::MissingProperty {
                option: properties.context().to_owned(),
                name: "port",
            })?;
            SocketAddress::Tcp { host, port }
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
    properties.always("telnet", false)?;
    properties.always("websocket", false)?;
    properties.only("reconnect", &["0"])?;
    properties.only("reconnect-ms", &["0"])?;
    // As a word alone, `nodelay` turns `delay` off.
    properties.either("nodelay")?;
    properties.either("delay")?;
    if !properties.switch("server")?.unwrap_or(false) {
        properties.either("wait")?;
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
    fn a_server_may_be_written_in_any_way_that_qemu_takes() {
        let expected = backend("socket,id=c,path=/x,server=on,wait=off");
        for text in [
            "socket,id=c,path=/x,server,nowait",
            "socket,id=c,path=/x,server=yes,wait=no,nodelay",
            "socket,id=c,path=/x,server=y,wait=n,telnet=no,delay=off",
            "socket,id=c,path=/x,server=true,wait=false,notelnet",
        ] {
            assert_eq!(backend(text), expected, "{text}");
        }
        let monitor = Chardev::of_monitor("m".into(), "unix:/x,server,nowait");
        assert_eq!(monitor.expect("parses").backend, expected);
        assert_eq!(
            backend("socket,id=c,path=/x,noserver"),
            backend("socket,id=c,path=/x")
        );
    }

    #[test]
    fn serial_ports_are_written_as_for_qemu() {
        let serial = |text: &str| Chardev::of_serial("serial0".into(), text).expect("parses");
        for (text, expected) in [
            ("stdio", Backend::Stdio),
            ("mon:stdio", Backend::Stdio),
            ("pty", Backend::Pty),
            ("null", Backend::Null),
            (
                "unix:/x,server,nowait",
                Backend::Listen(SocketAddress::Unix("/x".into())),
            ),
            (
                "file:/x",
                Backend::File(OutputFile {
                    path: "/x".into(),
                    append: false,
                }),
            ),
        ] {
            let Some(Serial::New(chardev)) = serial(text) else {
                panic!("{text}")
            };
            assert_eq!(
                (chardev.id.as_str(), chardev.backend),
                ("serial0", expected)
            );
        }
        assert_eq!(serial("none"), None);
        assert_eq!(serial("chardev:c"), Some(Serial::Named("c".into())));
        for text in [
            "vc",
            "vc:80Cx24C",
            "stdio:x",
            "chardev:",
            "file:",
            "/dev/ttyS0",
            "",
            "mon:",
        ] {
            let refused = Chardev::of_serial("s".into(), text).expect_err("refused");
            let refused = refused.to_string();
            assert!(
                refused.contains("stdio, mon:stdio, pty"),
                "{text}: {refused}"
            );
        }
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
