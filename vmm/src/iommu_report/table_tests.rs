//! What the table has.

use spapr_devices::vfio::MemoryLimit;

use super::super::gather::tests::{LIMIT, lpar_sample, sample};
use super::super::report::Member;
use super::*;

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

/// The cells of the row whose cells start with `start`.
fn row(text: &str, start: &[&str]) -> Vec<String> {
    let rows = text.lines().map(|line| -> Vec<String> {
        let cells = line.split(['│', '┆']).map(|cell| cell.trim().to_owned());
        cells.filter(|cell| !cell.is_empty()).collect()
    });
    let mut matching = rows.filter(|cells| cells.starts_with(&start.map_owned()));
    matching
        .next()
        .unwrap_or_else(|| panic!("no row {start:?} in\n{text}"))[start.len()..]
        .to_vec()
}

trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for [&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|&text| text.to_owned()).collect()
    }
}

#[test]
fn the_table_has_all_facts() {
    let text = render(&sample(LIMIT), None);
    assert_eq!(
        row(&text, &["1", "0001:01:00.0 (vfio-pci)"]),
        ["MSI-X, INTx", "can be, now"]
    );
    assert_eq!(
        row(&text, &["2", "0002:01:00.0 (vfio-pci)"]),
        ["MSI-X, INTx", "held by another process"]
    );
    has(
        &text,
        &["in use by another process", "fuser -v /dev/vfio/2"],
    );
    assert_eq!(
        row(&text, &["DMA window of the host: start"]),
        ["0x0", "0x0"]
    );
    assert_eq!(row(&text, &["DMA window of the host: size"]), ["2G", "2G"]);
    assert_eq!(row(&text, &["IOMMU page sizes"]), ["4K, 64K, 2M, 1G", "4K"]);
    assert_eq!(
        row(&text, &["dynamic windows"]),
        ["yes, 2 windows at a time", "none, the host's window is all"]
    );
    assert_eq!(
        row(&text, &["dynamic window of this guest"]),
        ["1G in pages of 64K", "none"]
    );
    assert_eq!(row(&text, &["levels of a table, at most"]), ["5", "1"]);
    has(&text, &["a guest with 1G", "in regions of 256M"]);
    assert_eq!(
        row(&text, &["1", "v2", "first-map"]),
        ["6208", "268352", "1055232", "is enough to start"]
    );
    assert_eq!(
        row(&text, &["5", "v2", "attach"]),
        ["1054784", "1054784", "1055232", "is too low"]
    );
    assert_eq!(
        row(&text, &["5", "v1", "attach"]),
        ["2097152", "2105344", "2105344", "is too low"]
    );
    assert_eq!(
        row(&text, &["all 2", "v1", "first-map"]),
        ["0", "4210688", "4210688", "is too low"]
    );
    has(
        &text,
        &[
            "libvirt would allow 4218880 KiB for devices of one group (2 PCI host bridges)",
            "devices of 2 groups (3 PCI host bridges)",
            "(RLIMIT_MEMLOCK): 524288 KiB, 0 KiB in use here",
            "DMA needs 1087373312 bytes",
            "ulimit -l 1061888",
            "LimitMEMLOCK=1087373312",
        ],
    );
}

#[test]
fn a_window_that_is_smaller_and_elsewhere_is_followed_in_every_line() {
    for (count, words) in [
        (0, "none, the host's window is all"),
        (1, "one, in place of the default one"),
        (2, "yes, 2 windows at a time"),
    ] {
        let text = render(&lpar_sample(count), None);
        let both = |start: &str| row(&text, &[start]);
        assert_eq!(both("DMA window of the host: start"), ["0x40000000"; 2]);
        assert_eq!(both("DMA window of the host: size"), ["256M"; 2]);
        assert_eq!(both("levels of a table, at most"), ["1"; 2]);
        assert_eq!(both("default window of this guest"), ["256M"; 2]);
        assert_eq!(
            both("dynamic windows"),
            [words, "none, the host's window is all"]
        );
        let of_guest = if count == 0 {
            "none"
        } else {
            "1G in pages of 64K"
        };
        assert_eq!(both("dynamic window of this guest"), [of_guest, "none"]);
        has(&text, &["256M from 0x40000000 on"]);
        // 8 bytes an entry for the host's copy and 8 for KVM's table, whose record is a page; all of the window.
        assert_eq!(row(&text, &["1", "v2", "first-map"])[0], "1088");
        assert_eq!(row(&text, &["1", "v1", "attach"])[0], "262144");
    }
}

/// As an LPAR has it for SR-IOV functions.
#[test]
fn a_host_with_one_window_in_all_is_said_to_have_one() {
    let mut report = sample(LIMIT);
    let container = &mut report.groups[0].containers[0];
    container.iommu.as_mut().unwrap().dynamic_windows = 1;
    assert_eq!(
        row(&render(&report, None), &["dynamic windows"])[0],
        "one, in place of the default one"
    );
}

#[test]
fn a_process_that_the_limit_does_not_bind_is_told_so() {
    let text = render(
        &sample(MemoryLimit {
            exempt: true,
            ..LIMIT
        }),
        None,
    );
    has(
        &text,
        &[
            "does not bind this process, which has CAP_IPC_LOCK",
            "needs `ulimit -l 1061888`",
        ],
    );
    assert_eq!(
        row(&text, &["1", "v2", "attach"])[3],
        "does not bind",
        "{text}"
    );
    assert!(!text.contains("too low"), "{text}");
    let unlimited = MemoryLimit {
        limit_bytes: None,
        ..LIMIT
    };
    let text = render(&sample(unlimited), None);
    has(&text, &["(RLIMIT_MEMLOCK): none"]);
}

#[test]
fn a_device_without_msi_is_told_of() {
    let mut report = sample(LIMIT);
    assert!(!render(&report, None).contains("neither MSI"));
    for (intx, shown, part) in [
        (true, "INTx", "a guest gets its INTx"),
        (false, "none", "nor MSI-X nor INTx"),
    ] {
        report.groups[0].members[0].interrupts = Some(Interrupts {
            msi: 0,
            msi_x: 0,
            intx,
        });
        let text = render(&report, None);
        assert_eq!(
            row(&text, &["1", "0001:01:00.0 (vfio-pci)"]),
            [shown, "can be, now"]
        );
        has(&text, &["0001:01:00.0 has neither MSI nor MSI-X", part]);
    }
    report.groups[0].members[0].interrupts = None;
    has(&render(&report, None), &["only root can see"]);
}

#[test]
fn how_to_bind_is_told_for_one_group_and_pointed_to_for_many() {
    let unbound = GroupReport {
        group: 3,
        members: vec![Member {
            name: "0003:01:00.0".to_owned(),
            model: None,
            driver: None,
            interrupts: None,
            resources: None,
        }],
        state: State::NotBound,
        reason: Some("run these commands".to_owned()),
        containers: Vec::new(),
        eeh: None,
    };
    let mut report = sample(LIMIT);
    report.groups.push(unbound.clone());
    let text = render(&report, None);
    assert!(!text.contains("run these commands"), "{text}");
    has(
        &text,
        &["0003:01:00.0 (no driver)", "`spapr-vmm iommu DEVICE`"],
    );
    report.groups = vec![unbound];
    report.together.clear();
    let text = render(&report, None);
    has(
        &text,
        &["run these commands", "No IOMMU group here can be asked"],
    );
}
