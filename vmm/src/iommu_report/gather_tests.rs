use std::fs;
use std::os::unix::fs::symlink;

use spapr_devices::pci::{Bar, BarSpace};
use spapr_devices::vfio::{DeviceResources, InterruptKinds, IommuInfo, Platform, ResetMember};
use spapr_hypercalls::address::{Ioba, PageShift};
use tempfile::TempDir;

use super::super::report::{Interrupts, Verdict};
use super::*;
use crate::spec::{ByteSize, DdwMode};

const GIB: u64 = 1 << 30;

/// A host's device tree in a temporary folder.
struct FakeHost(TempDir);

impl FakeHost {
    /// No devices, and VFIO's node for containers.
    fn new() -> Self {
        let host = Self(TempDir::new().unwrap());
        for folder in ["sys/bus/pci/devices", "sys/kernel/iommu_groups", "dev/vfio"] {
            fs::create_dir_all(host.0.path().join(folder)).unwrap();
        }
        host.node("vfio");
        host
    }

    fn node(&self, name: &str) {
        fs::write(self.0.path().join("dev/vfio").join(name), []).unwrap();
    }

    fn device(&self, name: &str, group: u32, driver: Option<&str>) {
        let sys = self.0.path().join("sys");
        let device = sys.join("bus/pci/devices").join(name);
        let members = sys.join(format!("kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&members).unwrap();
        if let Some(driver) = driver {
            symlink(format!("drivers/{driver}"), device.join("driver")).unwrap();
        }
        symlink(members.parent().unwrap(), device.join("iommu_group")).unwrap();
        symlink(&device, members.join(name)).unwrap();
    }

    fn ask(&self, target: &str) -> Result<Report, IommuReportError> {
        let target = (target != "all").then(|| target.parse().unwrap());
        let root = self.0.path();
        gather(
            &HostPaths::new(root.join("sys"), root.join("dev/vfio")),
            &IommuArguments {
                target,
                memory: ByteSize(GIB),
                lock_region: None,
                ddw: DdwMode::Auto,
                dma_window: None,
                hugepages: None,
                json: false,
                short: false,
            },
        )
    }

    #[track_caller]
    fn refused(&self, target: &str, state: State, parts: &[&str]) {
        let report = self.ask(target).unwrap();
        let group = &report.groups[0];
        assert_eq!(group.state, state, "{group:?}");
        let reason = group.reason.as_deref().unwrap();
        for part in parts {
            assert!(reason.contains(part), "{part:?} in {reason}");
        }
        assert!(group.containers.is_empty());
    }
}

#[test]
fn a_device_of_the_hosts_comes_with_how_to_bind_it() {
    let host = FakeHost::new();
    host.device("0001:01:00.0", 3, Some("nvme"));
    for target in ["3", "0001:01:00.0", "all"] {
        host.refused(
            target,
            State::NotBound,
            &["driver nvme", "driver_override", "drivers_probe"],
        );
    }
    let members = &host.ask("3").unwrap().groups[0].members;
    assert_eq!(members[0].name, "0001:01:00.0");
    assert_eq!(members[0].driver.as_deref(), Some("nvme"));
    assert_eq!(members[0].interrupts, None);
    let config = host
        .0
        .path()
        .join("sys/bus/pci/devices/0001:01:00.0/config");
    let mut bytes = [0; 64];
    bytes[0x3d] = 1;
    fs::write(config, bytes).unwrap();
    let interrupts = host.ask("3").unwrap().groups[0].members[0].interrupts;
    let Interrupts { msi, msi_x, intx } = interrupts.unwrap();
    assert_eq!((msi, msi_x, intx), (0, 0, true));
}

#[test]
fn the_device_asked_for_counts_not_its_neighbour() {
    let host = FakeHost::new();
    host.device("0001:01:00.0", 3, Some("vfio-pci"));
    host.device("0001:01:00.1", 3, None);
    host.node("3");
    host.refused("0001:01:00.1", State::NotBound, &["0001:01:00.1"]);
    // The group itself can be taken, but a plain file is no group.
    host.refused("3", State::Refused, &["VFIO_GROUP_GET_STATUS"]);
}

#[test]
fn a_group_that_the_host_uses_too_names_the_device_in_the_way() {
    let host = FakeHost::new();
    host.device("0001:01:00.0", 3, Some("vfio-pci"));
    host.device("0001:01:00.1", 3, Some("tg3"));
    host.refused("3", State::UsedByHost, &["0001:01:00.1 (bound to tg3)"]);
}

#[test]
fn a_group_of_bridges_is_not_to_be_bound() {
    let host = FakeHost::new();
    host.device("0001:00:00.0", 0, Some("pcieport"));
    host.refused("all", State::NoDevice, &["bridges"]);
}

#[test]
fn a_group_without_a_node_says_which_kernels_make_none() {
    let host = FakeHost::new();
    host.device("0001:01:00.0", 3, Some("vfio-pci"));
    host.refused("3", State::Refused, &["dev/vfio/3 does not exist"]);
}

#[test]
fn what_is_not_there_is_an_error_with_status_2() {
    let host = FakeHost::new();
    let error = host.ask("all").unwrap_err();
    assert!(matches!(error, IommuReportError::NoGroups));
    host.device("0001:01:00.0", 3, Some("vfio-pci"));
    for (target, part) in [("7", "no IOMMU group 7"), ("0002:01:00.0", "0002:01:00.0")] {
        let error = host.ask(target).unwrap_err();
        assert_eq!(error.exit_status(), 2, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    fs::remove_file(host.0.path().join("dev/vfio/vfio")).unwrap();
    let error = host.ask("all").unwrap_err();
    assert_eq!(error.exit_status(), 2, "{error}");
    assert!(error.to_string().contains("modprobe vfio_iommu_spapr_tce"));
}

/// What a controller has to interrupt with.
const NVME: InterruptKinds = InterruptKinds {
    msi: 0,
    msi_x: 65,
    intx: true,
};

/// The device of a group that both containers took.
fn free(number: u32) -> Vec<Member> {
    let member = GroupMember {
        name: format!("000{number}:01:00.0"),
        driver: Some("vfio-pci".to_owned()),
    };
    let bar = Bar {
        bytes: 0x4000,
        space: BarSpace::Memory64,
        prefetchable: false,
        host_address: None,
        mappings: Vec::new(),
        doorbells: Vec::new(),
    };
    let resources = DeviceResources {
        bars: [Some(bar), None, None, None, None, None],
        resets: vec!["flr".to_owned()],
        bus: vec![ResetMember {
            address: member.name.parse().unwrap(),
            group: GroupNumber(number),
        }],
        ..DeviceResources::default()
    };
    vec![Member::new(&member, Some(NVME), Some(resources))]
}

fn found(number: u32, outcome: Outcome) -> Found {
    Found {
        number: GroupNumber(number),
        members: free(number),
        has_eeh: outcome.is_ok().then_some(true),
        outcome,
    }
}

fn info(version: IommuVersion) -> IommuInfo {
    let v2 = version == IommuVersion::V2;
    IommuInfo {
        version,
        platform: Platform::BareMetal,
        window_start: Ioba(0),
        window_bytes: 2 * GIB,
        page_sizes: if v2 { 0x4021_1000 } else { 0x1000 },
        dynamic_windows: if v2 { 2 } else { 0 },
        levels: if v2 { 5 } else { 1 },
    }
}

fn windows(version: IommuVersion) -> GroupWindows {
    GroupWindows::new(info(version), None).unwrap()
}

fn both() -> Outcome {
    let of = |version| (version, Ok(windows(version)));
    Ok(vec![of(IommuVersion::V2), of(IommuVersion::V1)])
}

/// A guest of 1 GiB on a host with pages of 64 KiB, with dynamic windows.
fn guest() -> Guest {
    Guest {
        ram_bytes: GIB,
        ram_end: GIB,
        region: RegionSize::for_ram(GIB),
        kernel_tables: true,
        host_page_bytes: 65536,
        ddw: DdwMode::Auto,
        largest_page: PageShift::SIZE_64K,
    }
}

/// A host with two free groups and one that is held, for the tests of what is made of it.
pub(in super::super) fn sample(limit: MemoryLimit) -> Report {
    let busy = GroupError::Busy {
        group: GroupNumber(2),
        path: "/dev/vfio/2".into(),
    };
    let held = Err((State::HeldByAnotherProcess, Some(busy.to_string())));
    let groups = vec![found(1, both()), found(2, held), found(5, both())];
    report(groups, &guest(), Some(true), limit)
}

/// An LPAR with a free group, whose default window has 256 MiB at 1 GiB, and which has `dynamic_windows`.
pub(in super::super) fn lpar_sample(dynamic_windows: u32) -> Report {
    let of = |version| {
        let info = IommuInfo {
            platform: Platform::Lpar,
            window_start: Ioba(GIB),
            window_bytes: 256 << 20,
            dynamic_windows: if version == IommuVersion::V2 {
                dynamic_windows
            } else {
                0
            },
            levels: 1,
            ..info(version)
        };
        (version, Ok(GroupWindows::new(info, None).unwrap()))
    };
    let both = Ok([IommuVersion::V2, IommuVersion::V1].map(of).to_vec());
    report(vec![found(1, both)], &guest(), Some(true), LIMIT)
}

/// A limit of 512 MiB.
pub(in super::super) const LIMIT: MemoryLimit = MemoryLimit {
    limit_bytes: Some(512 << 20),
    locked_bytes: 0,
    exempt: false,
};

#[test]
fn the_json_has_the_documented_shape() {
    let text = serde_json::to_string_pretty(&sample(LIMIT)).unwrap();
    assert_eq!(text, include_str!("sample.json").trim_end(), "{text}");
}

#[test]
fn a_group_without_a_window_so_large_says_so_and_the_others_are_told() {
    let too_large = GroupWindows::new(info(IommuVersion::V2), Some(4 * GIB));
    let reason = too_large.unwrap_err().to_string();
    let small = Ok(vec![(IommuVersion::V2, Err(reason.clone()))]);
    let report = report(
        vec![found(1, small), found(2, both())],
        &guest(),
        None,
        LIMIT,
    );
    let [first, second] = &report.groups[..] else {
        panic!("{report:?}")
    };
    assert_eq!(first.containers[0].reason, Some(reason));
    assert!(second.containers[0].iommu.is_some());
}

#[test]
fn groups_together_share_memory_and_only_free_ones_count() {
    let report = sample(LIMIT);
    let [v2, v1] = &report.together[..] else {
        panic!("{report:?}")
    };
    assert_eq!((v2.version, v2.groups), (2, 2));
    let alone = &report.groups[0].containers[0].locked[1];
    let tables = alone.most_bytes - GIB;
    assert_eq!(v2.locked[1].most_bytes, GIB + 2 * tables);
    assert_eq!(
        v1.locked[1].most_bytes,
        2 * report.groups[0].containers[1].locked[1].most_bytes
    );
    let host_bridges: Vec<_> = report.libvirt.iter().map(|it| it.host_bridges).collect();
    assert_eq!(host_bridges, [2, 3]);
}

#[test]
fn advice_is_for_the_most_and_only_when_the_limit_is_too_low() {
    let report = sample(LIMIT);
    // In two version 2 containers: memory, and for each the tables of both windows.
    let most = GIB + 2 * (6208 + 448) * 1024;
    assert_eq!(report.most_bytes(), Some(most));
    let advice = report.limit.advice.unwrap();
    assert!(advice.contains(&format!("needs {most} bytes")), "{advice}");
    assert!(advice.contains("ulimit -l 1061888"), "{advice}");
    let exempt = sample(MemoryLimit {
        exempt: true,
        ..LIMIT
    });
    assert_eq!(exempt.limit.advice, None);
    assert_eq!(exempt.limit.available_bytes, None);
    let verdicts = exempt.groups[0].containers[0].locked.iter();
    assert!(
        verdicts
            .map(|it| it.verdict)
            .all(|it| it == Verdict::Enough)
    );
}

#[test]
fn a_version_that_is_refused_for_one_group_is_not_offered_for_all() {
    let v2_alone = Ok(vec![
        (IommuVersion::V2, Ok(windows(IommuVersion::V2))),
        (
            IommuVersion::V1,
            Err(ContainerError::NotOffered {
                version: IommuVersion::V1,
            }
            .to_string()),
        ),
    ]);
    let guest = Guest {
        ram_bytes: GIB,
        ram_end: GIB,
        region: RegionSize::for_ram(GIB),
        kernel_tables: false,
        host_page_bytes: 4096,
        ddw: DdwMode::Off,
        largest_page: PageShift::SIZE_4K,
    };
    let groups = vec![found(1, both()), found(2, v2_alone)];
    let report = report(groups, &guest, None, LIMIT);
    let versions: Vec<_> = report.together.iter().map(|need| need.version).collect();
    assert_eq!(versions, [2]);
    let refused = &report.groups[1].containers[1];
    assert!(refused.reason.as_deref().unwrap().contains("v1"));
    assert_eq!((&refused.iommu, refused.locked.len()), (&None, 0));
}
