//! `-netdev`: what carries the frames of network cards, and `-device virtio-net-pci`: the cards.

use std::os::fd::RawFd;

use spapr_devices::net::Mac;

use super::properties::Properties;
use super::tap::{tap, vhosts};
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
    /// Its driver is offered several pairs of queues (`mq`).
    has_pairs: bool,
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
    pairs: u16,
    vhosts: Vec<VhostSource>,
}

impl Netdevs {
    /// Reads a `-netdev`.
    pub(super) fn read(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-netdev", Some("type"), value)?.flattened();
        let kind = properties.required("type")?;
        properties.set_kind(&kind);
        let id = properties.required("id")?;
        let (backend, pairs, vhosts) = match kind.as_str() {
            "tap" => {
                let (backend, pairs) = tap(&mut properties)?;
                (backend, pairs, vhosts(&mut properties, pairs)?)
            }
            "stream" => (stream(&mut properties)?, 1, Vec::new()),
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
        self.0.push(Netdev {
            id,
            backend,
            pairs,
            vhosts,
        });
        Ok(())
    }

    fn find(&self, id: &str) -> Option<&Netdev> {
        self.0.iter().find(|known| known.id == id)
    }

    /// The descriptors that are named.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().flat_map(|netdev| {
            let of_interface = match &netdev.backend {
                NetBackend::Descriptors(fds) => fds.as_slice(),
                NetBackend::Tap(_) | NetBackend::Stream(_) => &[],
            };
            let of_vhost = netdev.vhosts.iter().filter_map(|vhost| match vhost {
                VhostSource::Descriptor(fd) => Some(*fd),
                VhostSource::Path => None,
            });
            of_interface.iter().copied().chain(of_vhost)
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
            has_pairs,
        } = card.look;
        if netdev.pairs > 1 && !has_pairs {
            return Err(CommandLineError::Combination(format!(
                "-device virtio-net-pci: netdev {} has several queues, which takes mq=on",
                card.netdev
            )));
        }
        Ok(NetDescription {
            backend: netdev.backend.clone(),
            pairs: netdev.pairs,
            vhosts: netdev.vhosts.clone(),
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
const NEVER: &[&str] = &["rss", "failover", "guest_announce", "host_ufo", "guest_ufo"];
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
    let has_pairs = properties.switch("mq")?.unwrap_or(false);
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
            has_pairs,
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
        let vhosts = |text: &str| read_all(text).map(|netdev| netdev.vhosts);
        for (written, expected) in [
            ("tap,id=n,fd=3", vec![]),
            ("tap,id=n,fd=3,vhost=off", vec![]),
            ("tap,id=n,fd=3,vhost=on", vec![VhostSource::Path]),
            ("tap,id=n,fd=3,vhostforce=on", vec![VhostSource::Path]),
            (
                "tap,id=n,ifname=a,queues=2,vhost=on",
                vec![VhostSource::Path; 2],
            ),
            (
                r#"{"type":"tap","fds":"28:29","vhost":true,"vhostfds":"30:31","id":"n"}"#,
                vec![VhostSource::Descriptor(30), VhostSource::Descriptor(31)],
            ),
            (
                "tap,id=n,fd=3,vhost=on,vhostfd=4",
                vec![VhostSource::Descriptor(4)],
            ),
            (
                r#"{"type":"tap","fds":"28","vhost":true,"vhostfds":"30","id":"n"}"#,
                vec![VhostSource::Descriptor(30)],
            ),
        ] {
            assert_eq!(vhosts(written), Ok(expected), "{written}");
        }
        let refused = vhosts("tap,id=n,fd=3,vhostfd=4").unwrap_err();
        assert!(refused.contains("vhostfd= goes with vhost=on"), "{refused}");
        let several = "tap,id=n,fds=3:5,vhost=on,vhostfds=4:6";
        for (written, descriptors) in [
            ("tap,id=n,fd=3,vhost=on,vhostfd=4", &[3, 4][..]),
            (several, &[3, 5, 4, 6]),
        ] {
            let all = Netdevs(vec![read_all(written).unwrap()]);
            assert_eq!(all.descriptors().collect::<Vec<_>>(), descriptors);
        }
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
                NetBackend::Descriptors(vec![28]),
            ),
            (
                r#"{"type":"tap","fds":"28","id":"hostnet0"}"#,
                NetBackend::Descriptors(vec![28]),
            ),
            (
                r#"{"type":"tap","fds":"28:29:30","id":"hostnet0"}"#,
                NetBackend::Descriptors(vec![28, 29, 30]),
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
            ("tap,id=n,fds=3:x", "fds=3:x should be numbers"),
            ("tap,id=n,fds=3:4,queues=3", "there are 2 descriptors"),
            ("tap,id=n,fd=3,fds=4:5", "do not go together"),
            ("tap,id=n,ifname=a,queues=65", "queues=65 should be 1 to 64"),
            (
                "tap,id=n,fds=3:4,vhost=on,vhostfds=5",
                "vhostfds= has 1 descriptors for 2 pairs",
            ),
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
            wrong("virtio-net-pci,netdev=n,rss=on"),
            "-device virtio-net-pci: rss=on should be off"
        );
        let several = "tap,id=n,ifname=a,queues=2";
        let with_pairs = "virtio-net-pci,netdev=n,mq=on,vectors=6";
        assert_eq!(check(&[several], &[with_pairs]), Ok(()));
        assert_eq!(check(&[tap], &[with_pairs]), Ok(()));
        assert!(refusal(&[several], &[card]).ends_with("which takes mq=on"));
        assert_eq!(
            wrong("virtio-net-pci,netdev=n,host_mtu=10"),
            "-device virtio-net-pci: host_mtu=10 should be 68 to 65535"
        );
    }
}
