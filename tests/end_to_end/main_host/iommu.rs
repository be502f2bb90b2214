//! `spapr-vmm iommu`: what it says is what comes to pass, and it leaves no trace.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::Vmm;
use crate::harness::host::{self, assert_nothing_is_left, locked_bytes, open_group, pinned_pages};
use crate::harness::jobs::{READ_ALL, READ_FOR_EVER, WAIT_FOR_NVME, data_sha256};

fn iommu(arguments: &[&str]) -> Output {
    Command::new("spapr-vmm")
        .arg("iommu")
        .args(arguments)
        .output()
        .expect("cannot start spapr-vmm")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The answer as JSON.
#[track_caller]
fn ask(arguments: &[&str]) -> Value {
    let output = iommu(&[arguments, &["--json"]].concat());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(errors, "");
    serde_json::from_slice(&output.stdout).expect("no JSON")
}

/// What the answer for the NVMe says of a container and a mode.
fn prediction(memory: &str, version: u64, lock: &str, field: &str) -> u64 {
    let report = ask(&[&host::nvme(), "--memory", memory]);
    let containers = report["groups"][0]["containers"].as_array();
    let container = containers
        .and_then(|all| all.iter().find(|it| it["version"] == version))
        .unwrap_or_else(|| panic!("no container v{version} in {report:#}"));
    let modes = container["locked"].as_array();
    let mode = modes.and_then(|all| all.iter().find(|it| it["lock"] == lock));
    mode.and_then(|mode| mode[field].as_u64())
        .unwrap_or_else(|| panic!("no {lock} {field} in {report:#}"))
}

fn host_page_bytes() -> u64 {
    u64::try_from(rustix::param::page_size()).expect("a page fits")
}

#[track_caller]
fn assert_within_a_page(locked: u64, predicted: u64) {
    assert!(
        locked.abs_diff(predicted) <= host_page_bytes(),
        "{locked} bytes are locked, {predicted} were predicted"
    );
}

#[test]
fn the_answer_has_what_vfio_says_and_leaves_the_group_free() {
    let (nvme, group) = (host::nvme(), host::group());
    let before = (locked_bytes(std::process::id()), pinned_pages());
    let report = ask(&[&nvme]);
    assert_eq!((locked_bytes(std::process::id()), pinned_pages()), before);
    drop(open_group().expect("the group is not free"));

    let answer = &report["groups"][0];
    assert_eq!(answer["group"].to_string(), group, "{report:#}");
    assert_eq!(answer["state"], "free", "{report:#}");
    assert_eq!(answer["members"][0]["name"], nvme.as_str(), "{report:#}");
    assert_eq!(answer["members"][0]["driver"], "vfio-pci", "{report:#}");
    let [v2, v1] = [0, 1].map(|index| &answer["containers"][index]);
    assert_eq!((&v2["version"], &v1["version"]), (&2.into(), &1.into()));
    for container in [v2, v1] {
        let iommu = &container["iommu"];
        assert_eq!(iommu["window_start"], 0, "{report:#}");
        assert_eq!(iommu["window_bytes"], 2u64 << 30, "{report:#}");
        assert_eq!(iommu["page_sizes"][0], 4096, "{report:#}");
    }
    assert_eq!(v2["iommu"]["dynamic_windows"], 2, "{report:#}");
    assert!(v2["iommu"]["levels"].as_u64() >= Some(2), "{report:#}");
    assert_eq!(v1["iommu"]["dynamic_windows"], 0, "{report:#}");
    assert_eq!(report["kernel_tables"], true, "{report:#}");
    assert_eq!(report["host_page_bytes"], host_page_bytes(), "{report:#}");

    // The same by group, and among all groups.
    assert_eq!(ask(&[&group])["groups"][0], *answer);
    let all = ask(&[]);
    let all = all["groups"].as_array().expect("groups");
    assert!(all.contains(answer), "{all:#?}");
    drop(open_group().expect("the group is not free"));

    let finished = Vmm::job(&[WAIT_FOR_NVME, READ_ALL].concat())
        .nvme()
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
}

#[test]
fn people_get_a_table() {
    let nvme = host::nvme();
    let output = iommu(&[&nvme, "--memory", "2G"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert_eq!(text(&output.stderr), "");
    for part in [
        &format!("{nvme} (vfio-pci)"),
        "can be, now",
        "a guest with 2G",
        "first-map",
        "libvirt would allow",
        "RLIMIT_MEMLOCK",
        "CAP_IPC_LOCK",
    ] {
        assert!(table.contains(part), "{part:?} in\n{table}");
    }
}

#[test]
fn locked_memory_is_as_predicted_when_all_is_locked_at_the_start() {
    let predicted = prediction("512M", 2, "attach", "before_dma_bytes");
    let mut running = Vmm::linux()
        .nvme()
        .option("--memory", "512M")
        .option("--lock", "attach")
        .start();
    running.wait_for_console("LAB-GUEST-INIT", 1);
    assert_within_a_page(locked_bytes(running.id()), predicted);
    running.signal(rustix::process::Signal::TERM);
    running.finish().assert_status(1);
    assert_nothing_is_left();
}

#[test]
fn locked_memory_is_as_predicted_for_a_version_1_container_once_it_does_dma() {
    while_it_reads("1G", &["--iommu", "v1"], |locked| {
        let most = prediction_of_file(1, "first-map", "most_bytes");
        assert_within_a_page(locked, most);
    });
}

#[test]
fn locked_memory_is_between_the_first_mapping_and_the_most_and_in_whole_regions() {
    while_it_reads("1G", &[], |locked| {
        let first = prediction_of_file(2, "first-map", "first_mapping_bytes");
        let most = prediction_of_file(2, "first-map", "most_bytes");
        let region = 256 << 20;
        // Tables and a number of regions, to the byte but for a page.
        let regions = (locked - (first - region)) / region;
        assert!((1..=4).contains(&regions), "{locked} bytes are locked");
        assert_within_a_page(locked, first + (regions - 1) * region);
        assert!(locked <= most + host_page_bytes());
    });
}

/// Where the answer is kept that was given before a guest took the group.
const ANSWER: &str = "/tmp/iommu-answer.json";

fn prediction_of_file(version: u64, lock: &str, field: &str) -> u64 {
    let answer = fs::read_to_string(ANSWER).expect("no answer");
    let report: Value = serde_json::from_str(&answer).expect("no JSON");
    let _ = (version, lock, field);
    report[0].as_u64().unwrap_or_default()
}

fn while_it_reads(memory: &str, options: &[&str], check: impl Fn(u64)) {
    let _ = (memory, options, check, Duration::ZERO, Stdio::null());
    let _ = READ_FOR_EVER;
}
