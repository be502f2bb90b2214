//! All that one run of the benchmark found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::row::Row;

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// spapr-vmm, `--tce auto`.
    Auto,
    /// spapr-vmm, `--tce kernel`.
    Kernel,
    /// spapr-vmm, `--tce user`.
    User,
    /// spapr-vmm, `--iommu v1`, where the kernel cannot help.
    UserV1,
    /// QEMU, with its TCE tables in the kernel.
    QemuKernel,
    /// The same, but it serves H_PUT_TCE_INDIRECT and H_STUFF_TCE itself, as `--tce auto` does where the
    /// kernel does not check them.
    QemuSafe,
    /// QEMU, made to believe that the kernel cannot bind them (KVM_CAP_SPAPR_TCE_VFIO hidden).
    QemuUser,
    /// QEMU as in [`Peer::QemuKernel`], with the small firmware that it has besides SLOF (`x-vof=on`).
    QemuVof,
    /// The next Debian's QEMU, with its TCE tables in the kernel.
    QemuNext,
    /// The same with the small firmware.
    QemuNextVof,
    /// KVM_RUN and a return value, and nothing else.
    FloorExit,
    /// That, and the VFIO calls that the hypercall takes.
    FloorMap,
    /// The same in a version 1 container.
    FloorMapV1,
    /// A table in the kernel, bound, in a VM that does nothing else.
    FloorKernel,
    /// The host itself, without a guest.
    Host,
}

impl Peer {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 15] = [
        Self::Auto,
        Self::Kernel,
        Self::User,
        Self::UserV1,
        Self::QemuKernel,
        Self::QemuSafe,
        Self::QemuUser,
        Self::QemuVof,
        Self::QemuNext,
        Self::QemuNextVof,
        Self::FloorExit,
        Self::FloorMap,
        Self::FloorMapV1,
        Self::FloorKernel,
        Self::Host,
    ];

    /// The VMMs: spapr-vmm's ways to serve a guest and QEMU's.
    pub const VMMS: [Self; 8] = [
        Self::Auto,
        Self::Kernel,
        Self::User,
        Self::UserV1,
        Self::QemuKernel,
        Self::QemuSafe,
        Self::QemuUser,
        Self::QemuNext,
    ];

    /// Those of which it is measured how they start: once for each way to do it.
    pub const STARTERS: [Self; 5] = [
        Self::Auto,
        Self::QemuKernel,
        Self::QemuVof,
        Self::QemuNext,
        Self::QemuNextVof,
    ];

    /// Its name, as it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::User => "user",
            Self::UserV1 => "user, v1",
            Self::QemuKernel => "QEMU, in kernel",
            Self::QemuSafe => "QEMU, lists in user space",
            Self::QemuUser => "QEMU, capability hidden",
            Self::QemuVof => "QEMU, with VOF",
            Self::QemuNext => "next QEMU, in kernel",
            Self::QemuNextVof => "next QEMU, with VOF",
            Self::FloorExit => "floor: exit",
            Self::FloorMap => "floor: exit and VFIO",
            Self::FloorMapV1 => "floor: exit and VFIO, v1",
            Self::FloorKernel => "floor: in kernel",
            Self::Host => "host",
        }
    }

    /// Whether it is one of spapr-vmm's ways.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Auto | Self::Kernel | Self::User | Self::UserV1)
    }

    /// The way of QEMU that does the same.
    pub const fn qemu(self) -> Option<Self> {
        match self {
            Self::Auto | Self::Kernel => Some(Self::QemuKernel),
            Self::User | Self::UserV1 => Some(Self::QemuUser),
            _ => None,
        }
    }
}

/// One measurement of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Who.
    pub peer: Peer,
    /// What.
    #[serde(flatten)]
    pub row: Row,
}

/// Something that was to be measured and could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omission {
    /// What was to be measured.
    pub what: String,
    /// Why it was not.
    pub why: String,
}

/// What machine it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Processor.
    pub cpu: String,
    /// Kernel.
    pub kernel: String,
    /// Kernel of Linux guests, if that is another one.
    #[serde(default)]
    pub guest_kernel: Option<String>,
    /// How the Debian packages that hosts and guests are made of stand to those last tested.
    #[serde(default)]
    pub packages: Option<String>,
    /// Size of a page in bytes.
    pub page_bytes: u64,
    /// Version of QEMU; none when there is none.
    pub qemu: Option<String>,
    /// Version of the next Debian's QEMU; none when there is none.
    #[serde(default)]
    pub next_qemu: Option<String>,
    /// Whether the clock counts instructions.
    pub counts_instructions: bool,
    /// Bytes of guest memory.
    pub guest_bytes: u64,
}

/// What a Linux guest says of its defences: the files in /sys/devices/system/cpu/vulnerabilities, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defences(pub BTreeMap<String, String>);

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// The machine.
    pub facts: Facts,
    /// What was measured.
    pub measured: Vec<Measured>,
    /// What was not.
    pub omitted: Vec<Omission>,
    /// What Linux guests said of their defences, each different answer once; rows name it by its number.
    #[serde(default)]
    pub defences: Vec<Defences>,
}

impl Results {
    /// The number of what a guest said of its defences; none if it said nothing.
    pub fn number_of(&mut self, defences: &Defences) -> Option<usize> {
        if defences.0.is_empty() {
            return None;
        }
        let known = self.defences.iter().position(|known| known == defences);
        known.or_else(|| {
            self.defences.push(defences.clone());
            Some(self.defences.len() - 1)
        })
    }

    /// One measurement of a peer.
    pub fn row(&self, peer: Peer, name: &str, n: u64) -> Option<&Row> {
        self.measured
            .iter()
            .find(|measured| {
                measured.peer == peer && measured.row.name == name && measured.row.n == n
            })
            .map(|measured| &measured.row)
    }

    /// All measurements of one kind of a peer, by growing n.
    pub fn series(&self, peer: Peer, name: &str) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self
            .measured
            .iter()
            .filter(|measured| measured.peer == peer && measured.row.name == name)
            .map(|measured| &measured.row)
            .collect();
        rows.sort_by_key(|row| row.n);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Unit;
    use super::*;

    #[test]
    fn rows_are_found_by_peer_name_and_number() {
        let measured = [(Peer::Auto, 2), (Peer::Auto, 1), (Peer::User, 1)]
            .into_iter()
            .map(|(peer, n)| Measured {
                peer,
                row: Row::of_samples("put", n, Unit::Nanoseconds, &[n]).unwrap(),
            })
            .collect();
        let results = Results {
            measured,
            ..Results::default()
        };
        assert_eq!(results.row(Peer::User, "put", 1).unwrap().median(), 1);
        assert_eq!(results.row(Peer::User, "put", 2), None);
        let series = results.series(Peer::Auto, "put");
        assert_eq!(series.iter().map(|row| row.n).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn equal_defences_have_one_number_and_silence_has_none() {
        let defences = |text: &str| {
            let file = ("meltdown".to_owned(), text.to_owned());
            Defences(BTreeMap::from([file]))
        };
        let mut results = Results::default();
        let numbers = ["Vulnerable", "Mitigation: RFI Flush", "Vulnerable"]
            .map(|text| results.number_of(&defences(text)));
        assert_eq!(numbers, [Some(0), Some(1), Some(0)]);
        assert_eq!(results.number_of(&Defences::default()), None);
        assert_eq!(results.defences.len(), 2);
    }

    #[test]
    fn each_of_our_ways_has_its_way_of_qemu() {
        for peer in Peer::ALL {
            assert_eq!(peer.is_ours(), peer.qemu().is_some());
        }
    }
}
