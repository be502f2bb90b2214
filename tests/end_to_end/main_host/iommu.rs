//! `spapr-vmm iommu`: what it says is what comes to pass, and it leaves no trace.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde_json::Value;

use crate::harness::Vmm;
use crate::harness::documents::assert_shown;
use crate::harness::host::{self, assert_nothing_is_left, locked_bytes, open_group, pinned_pages};
use crate::harness::jobs::{READ_FOR_EVER, READ_HEAD, WAIT_FOR_NVME, head_sha256};

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

/// The page that shows answers.
const PAGE: &str = include_str!("../../../docs/iommu.md");

/// The answer as JSON.
#[track_caller]
fn ask(arguments: &[&str]) -> Value {
    let output = iommu(&[arguments, &["--json"]].concat());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(errors, "");
    serde_json::from_slice(&output.stdout).expect("no JSON")
}

/// What the answer for the NVMe says of a container and a mode, with the default window alone.
pub(super) fn prediction(memory: &str, version: u64, lock: &str, field: &str) -> u64 {
    let report = ask(&[&host::nvme(), "--memory", memory, "--ddw", "off"]);
    predicted(&report, version, lock, field)
}

fn predicted(report: &Value, version: u64, lock: &str, field: &str) -> u64 {
    let containers = report["groups"][0]["containers"].as_array();
    let container = containers
        .and_then(|all| all.iter().find(|it| it["version"] == version))
        .unwrap_or_else(|| panic!("no container v{version} in {report:#}"));
    let modes = container["locked"].as_array();
    let mode = modes.and_then(|all| all.iter().find(|it| it["lock"] == lock));
    mode.and_then(|mode| mode[field].as_u64())
        .unwrap_or_else(|| panic!("no {lock} {field} in {report:#}"))
}

/// What is locked at once of memory that the guest has not touched, on a host with pages of 64 KiB.
const BLOCK_BYTES: u64 = 32 << 20;

/// A page of the host that these tests run on, in which the kernel charges all that it locks.
const HOST_PAGE_BYTES: u64 = 65536;

#[track_caller]
fn assert_within_a_page(locked: u64, predicted: u64) {
    assert!(
        locked.abs_diff(predicted) <= HOST_PAGE_BYTES,
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
    assert_eq!(report["host_page_bytes"], HOST_PAGE_BYTES, "{report:#}");

    // The same by group, and among all groups.
    assert_eq!(ask(&[&group])["groups"][0], *answer);
    let all = ask(&[]);
    let all = all["groups"].as_array().expect("groups");
    assert!(all.contains(answer), "{all:#?}");
    drop(open_group().expect("the group is not free"));

    let finished = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat())
        .nvme()
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
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

/// Runs a guest that reads the NVMe through its default DMA window until `check` has seen how many
/// bytes are locked meanwhile.
fn while_it_reads(options: &[&str], check: impl FnOnce(u64)) {
    let vmm = Vmm::job(&[WAIT_FOR_NVME, READ_FOR_EVER].concat()).nvme();
    while_running(vmm, options, check);
}

fn while_running(vmm: Vmm, options: &[&str], check: impl FnOnce(u64)) {
    let mut running = options
        .iter()
        .fold(vmm, |vmm, option| vmm.argument(option))
        .start();
    running.wait_for_console("LAB-GUEST-LAP", 2);
    check(locked_bytes(running.id()));
    running.signal(Signal::TERM);
    running.finish().assert_status(1);
    assert_nothing_is_left();
}

#[test]
fn with_first_map_as_many_blocks_are_locked_as_the_guest_uses_and_the_tables() {
    let first = prediction("1G", 2, "first-map", "before_dma_bytes") + BLOCK_BYTES;
    let most = prediction("1G", 2, "first-map", "most_bytes");
    while_it_reads(&[], |locked| {
        let page = HOST_PAGE_BYTES;
        assert!(locked + page >= first, "{locked} bytes are locked");
        let more_blocks = (locked + page - first) / BLOCK_BYTES;
        assert_within_a_page(locked, first + more_blocks * BLOCK_BYTES);
        assert!(locked <= most + page, "{locked} bytes are locked");
    });
}

/// Runs a guest that opens a window for all of memory, and checks what is locked.
#[track_caller]
fn locks_all_of_memory_and_both_tables(options: &[&str]) {
    let memory = ["--memory", "512M"];
    // Its kernel opens the window for the NVMe's driver and maps all of memory there.
    let answer = ask(&[
        &[&host::nvme()[..]][..],
        &memory,
        if options.first() == Some(&"--ddw") {
            options
        } else {
            &[]
        },
    ]
    .concat());
    let most = predicted(&answer, 2, "first-map", "most_bytes");
    let window = &answer["groups"][0]["containers"][0]["dynamic_window"];
    assert_eq!(window["window_bytes"], 512 << 20, "{answer:#}");
    assert_eq!(window["page_bytes"], HOST_PAGE_BYTES, "{answer:#}");
    let kvm_tables = match options {
        ["--tce", "user"] => predicted(&answer, 2, "first-map", "kvm_table_bytes"),
        _ => 0,
    };
    let job = [WAIT_FOR_NVME, READ_FOR_EVER].concat();
    let vmm = Vmm::job(&job).nvme_with_windows();
    while_running(vmm, &[&memory[..], options].concat(), |locked| {
        assert_within_a_page(locked, most - kvm_tables);
    });
}

#[test]
fn with_a_dynamic_window_all_of_memory_and_both_tables_are_locked_as_predicted() {
    locks_all_of_memory_and_both_tables(&[]);
}

#[test]
fn a_group_that_a_guest_has_is_said_to_be_held() {
    let mut running = Vmm::linux().nvme().start();
    running.wait_for_console("LAB-GUEST-INIT", 1);
    let report = ask(&[&host::group()]);
    let answer = &report["groups"][0];
    assert_eq!(answer["state"], "held-by-another-process", "{report:#}");
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("in use by another process"), "{reason}");
    assert!(reason.contains("fuser -v /dev/vfio/"), "{reason}");
    let table = text(&iommu(&[]).stdout);
    assert!(table.contains("held by another process"), "{table}");
    running.signal(Signal::TERM);
    running.finish().assert_status(1);
    assert_nothing_is_left();
}

#[test]
fn a_device_of_the_hosts_comes_with_how_to_bind_it() {
    let nvme = host::nvme();
    let (report, short) = {
        let _rebound = host::rebind(&nvme, Some("nvme"));
        (ask(&[&nvme]), iommu(&[&nvme, "--memory", "32G", "--short"]))
    };
    assert_eq!(short.status.code(), Some(3), "{short:?}");
    let typed = "spapr-vmm iommu 0001:01:00.0 --memory 32G --short";
    assert_shown(PAGE, typed, &text(&short.stdout));
    let answer = &report["groups"][0];
    assert_eq!(answer["state"], "not-bound", "{report:#}");
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("driver nvme") && reason.contains("driver_override"));
}

#[test]
fn what_is_not_there_ends_with_status_2() {
    for (arguments, part) in [
        (&["9999"][..], "no IOMMU group 9999"),
        (&["0001:07:00.0"], "no PCI device 0001:07:00.0"),
        (&["nvme0"], "DDDD:BB:DD.F"),
        (&["--memory", "1"], "1 without a unit is a number of bytes"),
        (
            &["--memory", "64M"],
            "--memory: guest memory of 64M is too small",
        ),
    ] {
        let output = iommu(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(part), "{part:?} in {errors}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_limit_of_an_ordinary_user_is_judged() {
    let _group = host::give_to_user(&host::group_node());
    // Root may raise its own limit; the user below may only lower what it inherits.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Memlock, unlimited).expect("root may lift the limit");
    let as_user = |more: &[&str]| {
        let mut command = Command::new("spapr-vmm");
        command.args(["iommu", &host::nvme()]).args(more);
        command.uid(host::USER).gid(host::USER);
        let limit = Rlimit {
            current: Some(300_000 << 10),
            maximum: Some(300_000 << 10),
        };
        // SAFETY: the closure makes one system call with a value made before; it neither allocates nor
        // takes locks.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Memlock, limit)?)) };
        let output = command.output().expect("cannot start spapr-vmm");
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        output.stdout
    };
    assert_shown(PAGE, "spapr-vmm iommu 0001:01:00.0", &text(&as_user(&[])));
    let report: Value = serde_json::from_slice(&as_user(&["--json"])).expect("no JSON");
    assert_eq!(report["limit"]["limit_bytes"], 300_000 << 10, "{report:#}");
    assert_eq!(report["limit"]["exempt"], false, "{report:#}");
    let advice = report["limit"]["advice"].as_str().unwrap_or_default();
    assert!(advice.contains("ulimit -l"), "{report:#}");
    let locked = &report["groups"][0]["containers"][0]["locked"];
    assert_eq!(locked[0]["verdict"], "enough-to-start", "{report:#}");
    assert_eq!(locked[1]["verdict"], "too-low", "{report:#}");
    assert_nothing_is_left();
}

/// Other ways to lock, and less to lock.
mod long {
    use super::*;

    #[test]
    fn with_a_dynamic_window_in_user_mode_or_bounded_as_much_is_locked_as_predicted() {
        locks_all_of_memory_and_both_tables(&["--tce", "user"]);
        locks_all_of_memory_and_both_tables(&["--ddw", "512M"]);
    }

    /// Fails unless a guest of 512 MiB with `--lock attach` has so much locked when its init starts.
    #[track_caller]
    fn locks_at_the_start(vmm: Vmm, predicted: u64) {
        let vmm = vmm.option("--memory", "512M");
        let mut running = vmm.option("--lock", "attach").start();
        running.wait_for_console("LAB-GUEST-INIT", 1);
        assert_within_a_page(locked_bytes(running.id()), predicted);
        running.signal(Signal::TERM);
        running.finish().assert_status(1);
        assert_nothing_is_left();
    }

    #[test]
    fn with_attach_as_much_is_locked_before_dma_as_predicted() {
        let predicted = prediction("512M", 2, "attach", "before_dma_bytes");
        locks_at_the_start(Vmm::linux().nvme(), predicted);
    }

    #[test]
    fn with_two_groups_memory_is_locked_once_as_predicted() {
        let report = ask(&["--memory", "512M", "--ddw", "off"]);
        let both = report["together"].as_array().expect("two groups are free");
        assert_eq!(
            (&both[0]["version"], &both[0]["groups"]),
            (&2.into(), &2.into())
        );
        let attach = &both[0]["locked"][1];
        assert_eq!(attach["lock"], "attach", "{report:#}");
        let predicted = attach["before_dma_bytes"].as_u64().expect("a number");
        assert!(predicted < 2 * (512 << 20), "{report:#}");
        locks_at_the_start(Vmm::linux().nic().nvme(), predicted);
    }

    #[test]
    fn with_user_mode_kvms_tables_are_what_is_not_locked() {
        let most = prediction("512M", 2, "attach", "most_bytes");
        let kvm_tables = prediction("512M", 2, "attach", "kvm_table_bytes");
        let options = ["--memory", "512M", "--lock", "attach", "--tce", "user"];
        while_it_reads(&options, |locked| {
            assert_within_a_page(locked, most - kvm_tables);
        });
    }

    #[test]
    fn with_a_version_1_container_as_much_is_locked_as_predicted() {
        for lock in ["first-map", "attach"] {
            let predicted = prediction("1G", 1, lock, "first_mapping_bytes");
            while_it_reads(&["--iommu", "v1", "--lock", lock], |locked| {
                assert_within_a_page(locked, predicted);
            });
        }
    }

    #[test]
    fn an_nvme_with_2048_vectors_is_said_to_have_them() {
        let report = ask(&[&host::device("nvme-2048")]);
        let interrupts = &report["groups"][0]["members"][0]["interrupts"];
        assert_eq!(interrupts["msi_x"], 2048, "{report:#}");
    }

    #[test]
    fn with_smaller_regions_less_is_locked_as_predicted() {
        let report = ask(&[&host::nvme(), "--ddw", "off", "--lock-region", "64M"]);
        assert_eq!(report["region_bytes"], 64 << 20, "{report:#}");
        let first = predicted(&report, 2, "first-map", "before_dma_bytes") + BLOCK_BYTES;
        while_it_reads(&["--lock-region", "64M"], |locked| {
            let more_blocks = (locked + HOST_PAGE_BYTES - first) / BLOCK_BYTES;
            assert_within_a_page(locked, first + more_blocks * BLOCK_BYTES);
        });
    }
}
