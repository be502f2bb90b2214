//! What monitors know of the machine and may do with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use spapr_devices::virtio::balloon::BalloonControl;
use spapr_devices::virtio::net::Nic;
use spapr_devices::virtio::serial::Ports;

use super::disks::{DiskFacts, EmptyDrive};
use super::dumps::Dumps;
use super::fd_sets::FdSets;
use super::state::GuestState;

/// What does not change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The guest's name.
    pub name: Option<String>,
    /// The machine's UUID.
    pub uuid: String,
    /// Thread ids of the processors; none for `-machine none`.
    pub processors: Vec<u32>,
    /// How many processors are threads of one core.
    pub threads_per_core: u32,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Whether guests can be run by KVM here.
    pub kvm: bool,
    /// The host's processor by its name, such as `POWER9`.
    pub host_processor: Option<String>,
    /// The character devices.
    pub chardevs: Vec<ChardevFacts>,
    /// Devices that have a name: it, and their type.
    pub devices: Vec<(String, &'static str)>,
    /// The disks, in the order of the machine's.
    pub disks: Vec<DiskFacts>,
    /// The CD drives without a medium.
    pub empty_drives: Vec<EmptyDrive>,
    /// The network cards, in the order of the machine's.
    pub nics: Vec<NicFacts>,
    /// The memory balloon.
    pub balloon: Option<BalloonFacts>,
}

/// A network card.
#[derive(Clone)]
pub struct NicFacts {
    /// The name of its device, if it has one.
    pub device: Option<String>,
    /// That of what carries its frames.
    pub netdev: String,
    /// The card itself.
    pub nic: Arc<Nic>,
}

impl fmt::Debug for NicFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NicFacts")
            .field("device", &self.device)
            .field("netdev", &self.netdev)
            .finish_non_exhaustive()
    }
}

/// A memory balloon.
#[derive(Clone)]
pub struct BalloonFacts {
    /// The name of its device, if it has one.
    pub device: Option<String>,
    /// The balloon itself.
    pub control: Arc<BalloonControl>,
}

impl fmt::Debug for BalloonFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalloonFacts")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// A character device.
#[derive(Clone)]
pub struct ChardevFacts {
    /// Its name.
    pub label: String,
    /// Where it is: `pty:/dev/pts/3`, say.
    pub filename: String,
    /// The port that it is behind, if it is behind one: the ports of its device, and its place among them.
    pub port: Option<(Arc<Ports>, usize)>,
}

impl ChardevFacts {
    /// Whether its device is there to take what comes: a port that the guest has opened, or any other.
    pub fn is_open(&self) -> bool {
        self.port
            .as_ref()
            .is_none_or(|(ports, place)| ports.is_open(*place))
    }
}

impl fmt::Debug for ChardevFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChardevFacts")
            .field("label", &self.label)
            .field("filename", &self.filename)
            .finish_non_exhaustive()
    }
}

/// All that monitors work on.
pub struct Monitor {
    /// What does not change.
    pub facts: Facts,
    /// What the guest does.
    pub guest: Arc<GuestState>,
    /// The way to dump it.
    pub dumps: Dumps,
    /// Descriptors that were passed in.
    pub fd_sets: FdSets,
    /// Whether events about migrations are wanted; there are no migrations.
    pub migration_events: AtomicBool,
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod sample {
    use spapr_devices::dma::DmaMemory;
    use spapr_devices::image::{Image, ImageOptions};
    use spapr_devices::net::{Backend, Mac};
    use spapr_devices::virtio::disk::{Disk, DiskHost, DiskOptions};
    use spapr_devices::virtio::net::NicOptions;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::super::command_line::DriveKind;
    use super::super::events::{EventSource, channel};
    use super::super::state::Policy;
    use super::*;

    /// A disk of 4 KiB as libvirt names it.
    fn disk() -> DiskFacts {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(4096).expect("a size");
        let image = Image::open(ImageOptions::new(file.path().to_owned())).expect("an image");
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        let memory = DmaMemory::by_guest_address(ram);
        let host = DiskHost::new(false, || Ok(())).expect("a descriptor");
        let disk = Disk::new(image, DiskOptions::default(), memory, host);
        let nodes = [("libvirt-1-format", "raw"), ("libvirt-1-storage", "file")];
        DiskFacts {
            device: Some("virtio-disk0".to_owned()),
            kind: DriveKind::Virtio,
            nodes: nodes
                .map(|(name, driver)| (name.to_owned(), driver))
                .to_vec(),
            disk: Some(Arc::new(disk.expect("a thread"))),
        }
    }

    fn balloon() -> BalloonFacts {
        let control = BalloonControl::new(1 << 30, |_| {}).expect("an eventfd");
        BalloonFacts {
            device: Some("balloon0".to_owned()),
            control: Arc::new(control),
        }
    }

    /// A card as libvirt names it.
    fn nic() -> NicFacts {
        let (own, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let stream = spapr_devices::net::Stream::over(own.into()).expect("a socket");
        let options = NicOptions {
            name: "net0".to_owned(),
            mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
            mtu: None,
            receive_entries: 256,
            transmit_entries: 256,
        };
        let nic = Nic::new(Backend::Stream(stream), options).expect("descriptors");
        NicFacts {
            device: Some("net0".to_owned()),
            netdev: "hostnet0".to_owned(),
            nic: Arc::new(nic),
        }
    }

    /// A monitor of a machine that is about to start, with all kinds of things.
    pub(crate) fn monitor() -> (Monitor, EventSource) {
        let (events, source) = channel().expect("eventfd");
        let policy = Policy {
            no_shutdown: true,
            no_reboot: false,
        };
        let fd_sets = FdSets::default();
        let (reader, _) = std::io::pipe().expect("pipe");
        fd_sets
            .add(Some(7), reader.into(), Some("log".to_owned()))
            .expect("room");
        let chardev = |label: &str, filename: &str| ChardevFacts {
            label: label.to_owned(),
            filename: filename.to_owned(),
            port: None,
        };
        let guest = Arc::new(GuestState::new(policy, true, events.clone()));
        let monitor = Monitor {
            facts: Facts {
                name: Some("g1".to_owned()),
                uuid: "1ccfd97d-5eb4-478a-bbe6-88d254c16db7".to_owned(),
                processors: vec![101, 102, 103, 104],
                threads_per_core: 2,
                memory_bytes: 1 << 30,
                kvm: true,
                host_processor: Some("POWER9".to_owned()),
                chardevs: vec![chardev("charserial0", "pty:/dev/pts/3")],
                devices: vec![
                    ("pci.1".to_owned(), "spapr-pci-host-bridge"),
                    ("serial0".to_owned(), "spapr-vty"),
                    ("balloon0".to_owned(), "virtio-balloon-pci"),
                ],
                disks: vec![disk()],
                empty_drives: Vec::new(),
                nics: vec![nic()],
                balloon: Some(balloon()),
            },
            guest: Arc::clone(&guest),
            dumps: Dumps::start(guest, events).expect("a thread"),
            fd_sets,
            migration_events: AtomicBool::new(false),
        };
        (monitor, source)
    }
}
