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
    /// A RAID controller with a SCSI disk: MSI-X or its line
    Megasas,
    /// A network card with SR-IOV: MSI-X, MSI or its line
    Igb,
    /// An NVMe
    Nvme,
    /// A device whose registers count accesses, with a BAR of 32 GiB and no interrupt
    PciTestdev,
}

impl DeviceKind {
    /// What the command line, and the variables of a host, call it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The emulator's options for it, number `number` of its kind and all others, in its place on a bus. Disks have
    /// the content of the file `disk`, and what is written to them is lost.
    fn options(self, number: usize, bus: &str, Files { disk, rom }: &Files) -> Vec<String> {
        let id = format!("device{number}");
        let drive = || {
            let start = format!("if=none,id={id}-disk,format=raw,snapshot=on,file=");
            ["-drive".to_owned(), joined(&start, disk)]
        };
        let device = |text: String| ["-device".to_owned(), text];
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
            Self::Igb => card("igb"),
            Self::Nvme => [
                drive(),
                device(format!("nvme,bus={bus},drive={id}-disk,serial={id}")),
            ]
            .concat(),
            Self::PciTestdev => device(format!("pci-testdev,bus={bus},membar=32G")).to_vec(),
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

/// The emulator's options for devices, each in an IOMMU group of its own: on bare metal behind a switch at host bridge
/// `bridge`, in an LPAR behind host bridges of their own from that one on.
pub(super) fn options(
    platform: Platform,
    bridge: usize,
    kinds: &[DeviceKind],
    files: &Files,
) -> Vec<String> {
    let mut options = Vec::new();
    let mut device = |text: String| options.extend(["-device".to_owned(), text]);
    if platform == Platform::BareMetal && !kinds.is_empty() {
        device(format!("x3130-upstream,id=switch,bus=pcie.{bridge}"));
    }
    for number in 0..kinds.len() {
        device(match platform {
            Platform::BareMetal => {
                let chassis = number + 1;
                format!(
                    "xio3130-downstream,id=port{number},bus=switch,chassis={chassis},port={number}"
                )
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
        options.extend(kind.options(number, &bus, files));
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
            "xio3130-downstream,id=port1,bus=switch,chassis=2,port=1 ",
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
    fn devices_have_the_emulators_names() {
        let names: Vec<String> = DeviceKind::value_variants()
            .iter()
            .map(|kind| kind.name())
            .collect();
        let expected = "e1000 e1000e rtl8139 rtl8139-pair edu ich9-ahci usb-ehci usb-xhci \
                        megasas igb nvme pci-testdev";
        assert_eq!(names.join(" "), expected);
    }
}
