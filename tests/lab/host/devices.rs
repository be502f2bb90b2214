//! Devices that a host has when asked for, beside the NVMe and the network card.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use spapr_lab::expansion_rom;

use super::Platform;
use super::qemu::{ECHO, joined};
use crate::workspace::{WorkspaceError, at};

/// A kind of device, as `--device NAME` has it: QEMU's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceKind {
    /// A network card that has nothing but its interrupt line
    E1000,
    /// A network card with MSI and MSI-X
    E1000e,
    /// A network card with an interrupt line, of another make, with an expansion ROM
    Rtl8139,
    /// Two of these on one bus, functions of one device, which have no reset of their own
    #[value(name = "rtl8139-pair")]
    Rtl8139Pair,
    /// A device to teach with: MSI or its line, DMA of 28 bits
    Edu,
    /// An AHCI controller with a disk: MSI or its line
    Ich9Ahci,
    /// A USB controller with a disk behind it: its interrupt line
    UsbEhci,
    /// A USB controller with a disk behind it, of a newer kind: MSI-X or its line
    UsbXhci,
    /// A RAID controller with a SCSI disk: MSI-X, MSI or its line
    Megasas,
    /// A network card with SR-IOV: MSI-X, MSI or its line
    Igb,
    /// A virtual function of such a card, which itself has the host's driver: MSI-X
    IgbVf,
    /// An NVMe
    Nvme,
    /// One whose doorbells are registers and nothing else, as real ones have them: the plain one takes them in memory
    /// too (Doorbell Buffer Config)
    NvmeNoDbcs,
    /// One like that with a memory buffer of 16 MiB for queues, which it takes to be where its BAR is (before NVMe 1.4)
    NvmeBuffer,
    /// One like that with 2,048 vectors of MSI-X, which is the most
    #[value(name = "nvme-2048")]
    Nvme2048,
    /// A device whose registers count accesses, with a BAR of 32 GiB and no interrupt
    PciTestdev,
    /// Memory of 4 MiB as a BAR, and no interrupt
    IvshmemPlain,
    /// A switch with an e1000e and a megasas with a disk at its two ports
    Switch,
    /// A bridge to conventional PCI with an rtl8139 and an ich9-ahci with a disk behind it
    PciBridge,
}

impl DeviceKind {
    /// What the command line calls it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What the variables of a host call it, or what is behind it, in the order of addresses.
    pub(crate) fn names(self) -> Vec<String> {
        let name = self.name();
        match self.behind() {
            [] => vec![name],
            behind => behind
                .iter()
                .map(|device| format!("{name}-{}", device.name()))
                .collect(),
        }
    }

    /// The devices behind it, if it is a bridge or a switch.
    fn behind(self) -> &'static [Self] {
        match self {
            Self::Switch => &[Self::E1000e, Self::Megasas],
            Self::PciBridge => &[Self::Rtl8139, Self::Ich9Ahci],
            _ => &[],
        }
    }

    /// The emulator's options for it in its place. Disks have the content of the file `disk`, and what is written to
    /// them is lost.
    fn options(self, place: &Place, files: &Files) -> Vec<String> {
        let Place { id, bus, .. } = place;
        let Files { disk, rom } = files;
        let drive = || {
            let start = format!("if=none,id={id}-disk,format=raw,snapshot=on,file=");
            ["-drive".to_owned(), joined(&start, disk)]
        };
        let card_with = |model: &str, rom: &str| {
            let network = format!("user,id={id}-network,restrict=on,{ECHO}");
            let card = format!("{model},bus={bus},netdev={id}-network,romfile={rom}");
            [["-netdev".to_owned(), network], device(card)].concat()
        };
        let card = |model: &str| card_with(model, "");
        let usb_disk = |controller: &str| {
            let controller = device(format!("{controller},id={id},bus={bus}"));
            let disk = device(format!("usb-storage,bus={id}.0,drive={id}-disk"));
            [drive(), controller, disk].concat()
        };
        match self {
            Self::E1000 => card("e1000"),
            Self::E1000e => card("e1000e"),
            Self::Rtl8139 => card_with("rtl8139", &joined("", rom)),
            Self::Rtl8139Pair => [0, 1]
                .iter()
                .flat_map(|function| {
                    device(format!(
                        "rtl8139,bus={bus},addr=0.{function},multifunction=on,romfile="
                    ))
                })
                .collect(),
            Self::Edu => device(format!("edu,bus={bus}")).to_vec(),
            Self::Ich9Ahci => [
                drive(),
                device(format!("ich9-ahci,id={id},bus={bus}")),
                device(format!("ide-hd,bus={id}.0,drive={id}-disk")),
            ]
            .concat(),
            Self::UsbEhci => usb_disk("usb-ehci"),
            Self::UsbXhci => usb_disk("qemu-xhci"),
            Self::Megasas => [
                drive(),
                device(format!("megasas,id={id},bus={bus}")),
                device(format!("scsi-hd,bus={id}.0,drive={id}-disk")),
            ]
            .concat(),
            Self::Igb | Self::IgbVf => card("igb"),
            Self::Nvme => nvme(place, drive(), ""),
            Self::NvmeNoDbcs => nvme(place, drive(), ",dbcs=off"),
            Self::NvmeBuffer => nvme(place, drive(), ",dbcs=off,cmb_size_mb=16,legacy-cmb=on"),
            Self::Nvme2048 => nvme(place, drive(), ",dbcs=off,msix_qsize=2048"),
            Self::PciTestdev => device(format!("pci-testdev,bus={bus},membar=32G")).to_vec(),
            Self::IvshmemPlain => shared_memory(place),
            Self::Switch => self.switch(place, files),
            Self::PciBridge => self.pci_bridge(place, files),
        }
    }

    /// A switch with a device at each of its ports.
    fn switch(self, place: &Place, files: &Files) -> Vec<String> {
        let Place {
            id, bus, chassis, ..
        } = place;
        let switch = device(format!("x3130-upstream,id={id},bus={bus}"));
        let ports = self.behind().iter().enumerate().flat_map(|(number, kind)| {
            let port = place.of_part(number, format!("{id}-port{number}"));
            // No two ports have the same slot of a chassis; that of the switch itself is 0.
            let slot = format!("chassis={chassis},slot={},port={number}", number + 1);
            let options = format!("xio3130-downstream,id={},bus={id},{slot}", port.bus);
            [device(options).to_vec(), kind.options(&port, files)].concat()
        });
        switch.into_iter().chain(ports).collect()
    }

    /// A bridge with cards on its bus.
    fn pci_bridge(self, place: &Place, files: &Files) -> Vec<String> {
        let Place { id, bus, .. } = place;
        let bridge = device(match place.platform {
            Platform::BareMetal => format!("pcie-pci-bridge,id={id},bus={bus}"),
            // Its machine takes no other.
            Platform::Lpar => {
                let chassis = place.chassis;
                format!("pci-bridge,id={id},bus={bus},chassis_nr={chassis}")
            }
        });
        let cards = self.behind().iter().enumerate().flat_map(|(number, kind)| {
            let card = place.of_part(number, format!("{id},addr={}", number + 1));
            kind.options(&card, files)
        });
        bridge.into_iter().chain(cards).collect()
    }
}

/// An NVMe with more properties.
fn nvme(Place { id, bus, .. }: &Place, drive: [String; 2], more: &str) -> Vec<String> {
    let nvme = device(format!("nvme,bus={bus},drive={id}-disk,serial={id}{more}"));
    [drive, nvme].concat()
}

/// Memory that is a device's.
fn shared_memory(Place { id, bus, .. }: &Place) -> Vec<String> {
    let memory = format!("memory-backend-ram,id={id}-memory,size=4M,share=on");
    let shared = device(format!("ivshmem-plain,bus={bus},memdev={id}-memory"));
    [["-object".to_owned(), memory], shared].concat()
}

/// An option of the emulator's for a device.
fn device(options: String) -> [String; 2] {
    ["-device".to_owned(), options]
}

/// Where a device is, and what the emulator calls it.
#[derive(Debug)]
struct Place {
    id: String,
    /// Its bus, and its number there unless that is 0.
    bus: String,
    /// The chassis of the slot that it is in.
    chassis: usize,
    platform: Platform,
}

impl Place {
    /// The place of what is behind a device that is in this one.
    fn of_part(&self, number: usize, bus: String) -> Self {
        Self {
            id: format!("{}-{number}", self.id),
            bus,
            platform: self.platform,
            chassis: self.chassis,
        }
    }
}

/// The files of this machine that devices have.
#[derive(Debug)]
pub(crate) struct Files {
    /// What is on disks.
    disk: PathBuf,
    /// The image of the expansion ROM.
    rom: PathBuf,
}

impl Files {
    /// Disks have the content of `disk`; what else there is to be is put into `folder`.
    pub(crate) fn new(disk: &Path, folder: &Path) -> Result<Self, WorkspaceError> {
        let rom = folder.join("rom");
        fs::write(&rom, expansion_rom::of_rtl8139()).map_err(at("write", &rom))?;
        let disk = disk.to_owned();
        Ok(Self { disk, rom })
    }
}

/// Interrupt lines of a bus. What is behind a bridge or switch has its line where firmware says only if that is in a
/// slot whose number is a multiple of this: the maps of lines that skiboot makes (`interrupt-map`) count the slot that
/// the last bridge is in, and the emulator those of all bridges, as the PCI-to-PCI bridge specification has it.
const LINES: usize = 4;

/// The chassis that the slot of device number `number` is in.
fn chassis(number: usize) -> usize {
    number + 1
}

/// The emulator's options for devices, each in an IOMMU group of its own: on bare metal behind a switch at host bridge
/// `bridge`, in an LPAR behind host bridges of their own from that one on.
pub(super) fn options(
    platform: Platform,
    bridge: usize,
    kinds: &[DeviceKind],
    files: &Files,
) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |text: String| options.extend(device(text));
    if platform == Platform::BareMetal && !kinds.is_empty() {
        add(format!("x3130-upstream,id=switch,bus=pcie.{bridge}"));
    }
    let mut slot = 0_usize;
    for (number, kind) in kinds.iter().enumerate() {
        add(match platform {
            Platform::BareMetal => {
                let chassis = chassis(number);
                if !kind.behind().is_empty() {
                    slot = slot.next_multiple_of(LINES);
                }
                let place = format!("bus=switch,addr={slot:#x},chassis={chassis},port={number}");
                slot += 1;
                format!("xio3130-downstream,id=port{number},{place}")
            }
            Platform::Lpar => {
                let index = bridge + number;
                format!("spapr-pci-host-bridge,index={index},id=phb{index}")
            }
        });
    }
    for (number, kind) in kinds.iter().enumerate() {
        let bus = match platform {
            Platform::BareMetal => format!("port{number}"),
            Platform::Lpar => format!("phb{}.0", bridge + number),
        };
        let place = Place {
            id: format!("device{number}"),
            bus,
            chassis: chassis(number),
            platform,
        };
        options.extend(kind.options(&place, files));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_a_group_of_its_own() {
        let kinds = [DeviceKind::E1000, DeviceKind::Ich9Ahci, DeviceKind::Rtl8139];
        let files = Files {
            disk: "/d,k".into(),
            rom: "/r,m".into(),
        };
        let text = |platform, bridge| options(platform, bridge, &kinds, &files).join(" ");
        let bare_metal = text(Platform::BareMetal, 5);
        for part in [
            "-device x3130-upstream,id=switch,bus=pcie.5 ",
            "xio3130-downstream,id=port1,bus=switch,addr=0x1,chassis=2,port=1 ",
            "-device e1000,bus=port0,netdev=device0-network,romfile= ",
            "snapshot=on,file=/d,,k -device ich9-ahci,id=device1,bus=port1 ",
            "-device ide-hd,bus=device1.0,drive=device1-disk",
            "-device rtl8139,bus=port2,netdev=device2-network,romfile=/r,,m",
        ] {
            assert!(bare_metal.contains(part), "{part:?} in {bare_metal}");
        }
        let lpar = text(Platform::Lpar, 6);
        for part in ["spapr-pci-host-bridge,index=7,id=phb7", "e1000,bus=phb6.0,"] {
            assert!(lpar.contains(part), "{part:?} in {lpar}");
        }
        assert!(options(Platform::BareMetal, 5, &[], &files).is_empty());
    }

    #[test]
    fn what_is_behind_a_switch_or_a_bridge_has_a_place_of_its_own_there() {
        let kinds = [DeviceKind::Switch, DeviceKind::PciBridge, DeviceKind::Edu];
        let files = Files {
            disk: "/disk".into(),
            rom: "/rom".into(),
        };
        let text = options(Platform::BareMetal, 5, &kinds, &files).join(" ");
        for part in [
            "x3130-upstream,id=device0,bus=port0 ",
            "xio3130-downstream,id=device0-port1,bus=device0,chassis=1,slot=2,port=1 ",
            "e1000e,bus=device0-port0,netdev=device0-0-network,",
            "megasas,id=device0-1,bus=device0-port1 ",
            "id=port1,bus=switch,addr=0x4,chassis=2,port=1 ",
            "id=port2,bus=switch,addr=0x5,chassis=3,port=2 ",
            "pcie-pci-bridge,id=device1,bus=port1 ",
            "rtl8139,bus=device1,addr=1,netdev=device1-0-network,",
            "ich9-ahci,id=device1-1,bus=device1,addr=2 ",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let text = options(Platform::Lpar, 6, &kinds[1..2], &files).join(" ");
        for part in [
            "pci-bridge,id=device0,bus=phb6.0,chassis_nr=1 ",
            "rtl8139,bus=device0,addr=1,netdev=device0-0-network,",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert_eq!(
            DeviceKind::PciBridge.names(),
            ["pci-bridge-rtl8139", "pci-bridge-ich9-ahci"]
        );
        assert_eq!(DeviceKind::Igb.names(), ["igb"]);
    }

    #[test]
    fn devices_have_the_emulators_names() {
        let names: Vec<String> = DeviceKind::value_variants()
            .iter()
            .map(|kind| kind.name())
            .collect();
        let expected = "e1000 e1000e rtl8139 rtl8139-pair edu ich9-ahci usb-ehci usb-xhci \
                        megasas igb igb-vf nvme nvme-no-dbcs nvme-buffer nvme-2048 pci-testdev \
                        ivshmem-plain switch pci-bridge";
        assert_eq!(names.join(" "), expected);
    }
}
