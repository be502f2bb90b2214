//! `-netdev`: what carries the frames of network cards, and `-device virtio-net-pci`: the cards.

use std::os::fd::RawFd;

use spapr_devices::net::Mac;

use super::properties::Properties;
use super::virtio::{VirtioDevice, VirtioKind};
use super::{CommandLineError, Device, DeviceKind};
use crate::spec::{LEAST_MTU, NetBackend, NetDescription, USUAL_NET_ENTRIES, VhostSource};

/// A card as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// The `-netdev` that carries its frames.
    pub netdev: String,
    /// How it is to look; what carries its frames is not known yet.
    pub look: Look,
}

/// How a card is to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    mac: Option<Mac>,
    mtu: Option<u16>,
    receive_entries: u16,
    transmit_entries: u16,
}

/// The kinds that there are.
pub(super) const NETDEV_TYPES: &[&str] = &["stream", "tap"];

/// All of `-netdev`.
#[derive(Clone, Debug, Default)]
pub(super) struct Netdevs(Vec<Netdev>);

/// A `-netdev`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Netdev {
    id: String,
    backend: NetBackend,
    vhost: Option<VhostSource>,
}

impl Netdevs {
    /// Reads a `-netdev`.
    pub(super) fn read(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-netdev", Some("type"), value)?.flattened();
        let kind = properties.required("type")?;
        properties.set_kind(&kind);
        let id = properties.required("id")?;
        let (backend, vhost) = match kind.as_str() {
            "tap" => (tap(&mut properties)?, vhost(&mut properties)?),
            "stream" => (stream(&mut properties)?, None),
            _ => {
                return Err(CommandLineError::Instead {
                    option: format!("-netdev {kind}"),
                    instead: instead(&kind),
                });
            }
        };
        properties.finish()?;
        if self.find(&id).is_some() {
            return Err(CommandLineError::Twice {
                option: "-netdev".to_owned(),
                id,
            });
        }
        self.0.push(Netdev { id, backend, vhost });
        Ok(())
    }

    fn find(&self, id: &str) -> Option<&Netdev> {
        self.0.iter().find(|known| known.id == id)
    }

    /// The descriptors that are named.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().flat_map(|netdev| {
            let of_interface = match netdev.backend {
                NetBackend::Descriptor(fd) => Some(fd),
                NetBackend::Tap(_) | NetBackend::Stream(_) => None,
            };
            let of_vhost = match netdev.vhost {
                Some(VhostSource::Descriptor(fd)) => Some(fd),
                Some(VhostSource::Path) | None => None,
            };
            [of_interface, of_vhost].into_iter().flatten()
        })
    }

    /// A card with what carries its frames.
    pub(super) fn card(&self, card: &Card) -> Result<NetDescription, CommandLineError> {
        let netdev = self.find(&card.netdev);
        let netdev = netdev.ok_or_else(|| CommandLineError::Unknown {
            option: "-device virtio-net-pci".to_owned(),
            what: "netdev",
            id: card.netdev.clone(),
        })?;
        let Look {
            mac,
            mtu,
            receive_entries,
            transmit_entries,
        } = card.look;
        Ok(NetDescription {
            backend: netdev.backend.clone(),
            vhost: netdev.vhost,
            mac,
            mtu,
            receive_entries,
            transmit_entries,
        })
    }

    /// Whether each has one card, and each card one of them.
    pub(super) fn check(&self, devices: &[Device]) -> Result<(), CommandLineError> {
        let mut used: Vec<&str> = Vec::new();
        for device in devices {
            let DeviceKind::Virtio(VirtioDevice {
                kind: VirtioKind::Net(card),
                ..
            }) = &device.kind
            else {
                continue;
            };
            self.card(card)?;
            if used.contains(&card.netdev.as_str()) {
                return Err(CommandLineError::Combination(format!(
                    "-netdev: {} is used twice",
                    card.netdev
                )));
            }
            used.push(&card.netdev);
        }
        let mut all = self.0.iter();
        match all.find(|netdev| !used.contains(&netdev.id.as_str())) {
            Some(unused) => Err(CommandLineError::Unused {
                option: "-netdev",
                id: unused.id.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// What to do in place of a kind that is not there.
fn instead(kind: &str) -> &'static str {
    match kind {
        "user" => {
            "networks without privileges are passt's: -netdev stream,addr.type=unix,addr.path=SOCKET,server=off \
             (<backend type='passt'/> in an <interface type='user'> of a libvirt domain)"
        }
        "bridge" => {
            "a TAP interface in the bridge is made before: -netdev tap,ifname=NAME or fd=NUMBER (libvirt makes it \
             for <interface type='bridge'>)"
        }
        "vhost-user" => "frames come by -netdev tap or stream (for passt: <interface type='user'>)",
        _ => {
            "frames come by -netdev tap or stream (<interface type='bridge'>, 'network', 'ethernet' or 'user' in a \
              libvirt domain)"
        }
    }
}

fn tap(properties: &mut Properties) -> Result<NetBackend, CommandLineError> {
    one_queue(properties)?;
    properties.ignore(&["poll-us", "sndbuf"]);
    for script in ["script", "downscript"] {
        properties.only(script, &["no", ""])?;
    }
    properties.either("vnet_hdr")?;
    let (fd, fds) = (properties.descriptor("fd")?, properties.descriptor("fds")?);
    let name = properties.text("ifname")?;
    match (fd.or(fds), name) {
        (Some(fd), None) => Ok(NetBackend::Descriptor(fd)),
        (None, Some(name)) => Ok(NetBackend::Tap(name)),
        _ => Err(CommandLineError::Combination(format!(
            "{} needs fd= or ifname=, one of them",
            properties.context()
        ))),
    }
}

/// By what the kernel is to pass frames, if it is.
fn vhost(properties: &mut Properties) -> Result<Option<VhostSource>, CommandLineError> {
    let forced = properties.switch("vhostforce")?.unwrap_or(false);
    let is_on = properties.switch("vhost")?.unwrap_or(forced);
    let fd = properties.descriptor("vhostfd")?;
    let fd = fd.or(properties.descriptor("vhostfds")?);
    match (is_on, fd) {
        (true, Some(fd)) => Ok(Some(VhostSource::Descriptor(fd))),
        (true, None) => Ok(Some(VhostSource::Path)),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(CommandLineError::Combination(format!(
            "{}: vhostfd= goes with vhost=on",
            properties.context()
        ))),
    }
}

/// There is one queue for each way.
fn one_queue(properties: &mut Properties) -> Result<(), CommandLineError> {
    for name in ["queues", "fds", "vhostfds"] {
        let Some(text) = properties.peek(name) else {
            continue;
        };
        let is_one = if name == "queues" {
            text == "1"
        } else {
            !text.contains(':')
        };
        if !is_one {
            let expected =
                "one: a card has one pair of queues (no queues= in <driver> of a libvirt domain)";
            return Err(properties.wrong(name, &text, expected));
        }
    }
    properties.ignore(&["queues"]);
    Ok(())
}

fn stream(properties: &mut Properties) -> Result<NetBackend, CommandLineError> {
    properties.always("server", false)?;
    // A program that has ended is not waited for.
    properties.ignore(&["reconnect", "reconnect-ms"]);
    properties.only("addr.type", &["unix"])?;
    properties.either("addr.abstract")?;
    let path = properties.required("addr.path")?;
    let path = super::absolute("-netdev stream addr.path", &path)?;
    Ok(NetBackend::Stream(path))
}

/// What a card never offers its driver, and what it always does, by QEMU's names of features.
const NEVER: &[&str] = &[
    "mq",
    "rss",
    "failover",
    "guest_announce",
    "host_ufo",
    "guest_ufo",
];
const ALWAYS: &[&str] = &[
    "csum",
    "gso",
    "host_tso4",
    "host_tso6",
    "host_ecn",
    "guest_csum",
    "guest_tso4",
    "guest_tso6",
    "guest_ecn",
    "mrg_rxbuf",
    "status",
    "ctrl_vq",
    "ctrl_rx",
    "ctrl_rx_extra",
    "ctrl_mac_addr",
];

/// The properties of a card.
pub(super) fn card(properties: &mut Properties) -> Result<VirtioKind, CommandLineError> {
    let netdev = properties.required("netdev")?;
    let mac = match properties.text("mac")? {
        None => None,
        Some(text) => match text.parse::<Mac>() {
            Ok(mac) => Some(mac),
            Err(error) => return Err(properties.bad("mac", &text, error.to_string())),
        },
    };
    let mtu = properties.number16("host_mtu", "68 to 65535", |mtu| mtu >= LEAST_MTU)?;
    let mut entries = |name| {
        let is_size = |size: u16| size.is_power_of_two() && (64..=1024).contains(&size);
        let given = properties.number16(name, "a power of two, 64 to 1024", is_size);
        Ok(given?.unwrap_or(USUAL_NET_ENTRIES))
    };
    let (receive_entries, transmit_entries) =
        (entries("rx_queue_size")?, entries("tx_queue_size")?);
    // There is no firmware that would boot from it.
    properties.ignore(&["bootindex", "vectors"]);
    if let Some(path) = properties.text("romfile")?
        && !path.is_empty()
    {
        return Err(properties.wrong("romfile", &path, "left empty: the guest is shown no ROM"));
    }
    properties.only("rombar", &["0"])?;
    for (names, are_on) in [(NEVER, false), (ALWAYS, true)] {
        for name in names {
            properties.always(name, are_on)?;
        }
    }
    // When what was sent is looked at is the same in any case: at once, on a thread of the card's.
    properties.only("tx", &["bh", "timer"])?;
    properties.either("ioeventfd")?;
    Ok(VirtioKind::Net(Card {
        netdev,
        look: Look {
            mac,
            mtu,
            receive_entries,
            transmit_entries,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(netdev: &str) -> Result<Netdev, String> {
        let mut all = Netdevs::default();
        all.read(netdev).map_err(|error| error.to_string())?;
        Ok(all.0.remove(0))
    }

    fn read(netdev: &str) -> Result<NetBackend, String> {
        read_all(netdev).map(|netdev| netdev.backend)
    }

    #[test]
    fn vhost_is_by_a_descriptor_or_by_its_path_or_not() {
        let vhost = |text: &str| read_all(text).map(|netdev| netdev.vhost);
        for (written, expected) in [
            ("tap,id=n,fd=3", None),
            ("tap,id=n,fd=3,vhost=off", None),
            ("tap,id=n,fd=3,vhost=on", Some(VhostSource::Path)),
            ("tap,id=n,fd=3,vhostforce=on", Some(VhostSource::Path)),
            (
                "tap,id=n,fd=3,vhost=on,vhostfd=4",
                Some(VhostSource::Descriptor(4)),
            ),
            (
                r#"{"type":"tap","fds":"28","vhost":true,"vhostfds":"30","id":"n"}"#,
                Some(VhostSource::Descriptor(30)),
            ),
        ] {
            assert_eq!(vhost(written), Ok(expected), "{written}");
        }
        let refused = vhost("tap,id=n,fd=3,vhostfd=4").unwrap_err();
        assert!(refused.contains("vhostfd= goes with vhost=on"), "{refused}");
        let both = Netdevs(vec![read_all("tap,id=n,fd=3,vhost=on,vhostfd=4").unwrap()]);
        assert_eq!(both.descriptors().collect::<Vec<_>>(), [3, 4]);
    }

    fn check(netdevs: &[&str], devices: &[&str]) -> Result<(), String> {
        let mut all = Netdevs::default();
        for netdev in netdevs {
            all.read(netdev).map_err(|error| error.to_string())?;
        }
        let devices: Vec<Device> = devices
            .iter()
            .map(|it| Device::parse(it).unwrap())
            .collect();
        all.check(&devices).map_err(|error| error.to_string())
    }

    #[test]
    fn interfaces_and_sockets_are_read_as_libvirt_writes_them() {
        for (written, backend) in [
            (
                r#"{"type":"tap","fd":"28","vhost":true,"vhostfd":"30","id":"hostnet0"}"#,
                NetBackend::Descriptor(28),
            ),
            (
                r#"{"type":"tap","fds":"28","id":"hostnet0"}"#,
                NetBackend::Descriptor(28),
            ),
            (
                "tap,id=n,ifname=vm0,script=no,downscript=no",
                NetBackend::Tap("vm0".to_owned()),
            ),
            (
                r#"{"type":"stream","addr":{"type":"unix","path":"/run/passt.socket"},"server":false,"reconnect-ms":5000,"id":"hostnet0"}"#,
                NetBackend::Stream("/run/passt.socket".into()),
            ),
            (
                "stream,id=n,server=off,addr.type=unix,addr.path=/s",
                NetBackend::Stream("/s".into()),
            ),
        ] {
            assert_eq!(read(written), Ok(backend), "{written}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_in_the_words_of_a_domain() {
        for (written, part) in [
            ("user,id=n", "<backend type='passt'/>"),
            ("bridge,id=n,br=br0", "<interface type='bridge'>"),
            ("socket,id=n,listen=:1", "<interface type='bridge'>"),
            ("tap,id=n,fds=3:4", "no queues= in <driver>"),
            ("tap,id=n,ifname=a,queues=2", "no queues= in <driver>"),
            ("tap,id=n", "needs fd= or ifname="),
            ("tap,id=n,fd=3,ifname=a", "needs fd= or ifname="),
            (
                "tap,id=n,ifname=a,script=/etc/up",
                "script=/etc/up should be no",
            ),
            ("tap,id=n,ifname=a,helper=/h", "helper=/h is not supported"),
            (
                "stream,id=n,server=on,addr.path=/s",
                "server=on should be off",
            ),
            (
                "stream,id=n,addr.type=inet,addr.path=/s",
                "addr.type=inet should be unix",
            ),
        ] {
            let refused = read(written).unwrap_err();
            assert!(refused.contains(part), "{written}: {refused}");
        }
    }

    #[test]
    fn each_card_has_a_netdev_and_each_netdev_a_card() {
        let tap = "tap,id=n,ifname=a";
        let card = "virtio-net-pci,netdev=n,mac=52:54:00:00:00:01,host_mtu=1500,rx_queue_size=512";
        assert_eq!(check(&[tap], &[card]), Ok(()));
        let refusal = |netdevs: &[&str], devices: &[&str]| check(netdevs, devices).unwrap_err();
        assert_eq!(refusal(&[tap], &[]), "-netdev: n is used by nothing");
        assert_eq!(
            refusal(&[], &[card]),
            "-device virtio-net-pci: there is no netdev n"
        );
        assert_eq!(
            refusal(&[tap, tap], &[card]),
            "-netdev: the id n is given twice"
        );
        assert_eq!(refusal(&[tap], &[card, card]), "-netdev: n is used twice");
        let wrong = |text: &str| Device::parse(text).unwrap_err().to_string();
        assert_eq!(
            wrong("virtio-net-pci,netdev=n,mac=01:00:00:00:00:01"),
            "-device virtio-net-pci: mac=01:00:00:00:00:01: is the address of a group; that of a card has an even \
             first byte"
        );
        assert_eq!(
            wrong("virtio-net-pci,netdev=n,mq=on"),
            "-device virtio-net-pci: mq=on should be off"
        );
        assert_eq!(
            wrong("virtio-net-pci,netdev=n,host_mtu=10"),
            "-device virtio-net-pci: host_mtu=10 should be 68 to 65535"
        );
    }
}
