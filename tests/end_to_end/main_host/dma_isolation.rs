//! What a device cannot reach: memory that is not mapped, or not mapped for that.

use std::fs;

use rustix::process::Signal;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, nvme};
use crate::harness::jobs::{READ_ALL, WAIT_FOR_NVME, data_sha256};

/// A trial of the guest, as it told of it.
#[derive(Debug)]
struct Trial<'a> {
    name: &'a str,
    device: &'a str,
    memory: &'a str,
    disk: &'a str,
    again: &'a str,
}

/// What the device says of a trial, and what the disk then holds: what was there, zeros, or what
/// is in memory.
struct Expected {
    device: &'static str,
    disk: &'static str,
    trials: &'static [&'static str],
}

/// Trials in the default window.
const EXPECTED: &[Expected] = &[
    // All that is needed is mapped.
    Expected {
        device: "done",
        disk: "same",
        trials: &["read-after-remap", "read-with-page-list"],
    },
    // The emulated controller does not notice that data went nowhere.
    Expected {
        device: "done",
        disk: "same",
        trials: &[
            "read-after-unmap",
            "read-after-stuff",
            "read-never-mapped",
            "read-guest-address",
            "read-window-end",
            "read-beyond-window",
            "read-above-4g",
            "read-second-window",
            "read-second-window-guest-address",
            "read-next-page-unmapped",
            "read-across-window-end",
            "read-without-permission",
        ],
    },
    // Nor that it came from nowhere, which it takes for zeros.
    Expected {
        device: "done",
        disk: "zeros",
        trials: &[
            "write-after-unmap",
            "write-never-mapped",
            "write-guest-address",
            "write-window-end",
            "write-second-window",
            "write-second-window-guest-address",
        ],
    },
    // The host lets devices read what they may write (`pnv_tce_build` in
    // arch/powerpc/platforms/powernv/pci-ioda-tce.c).
    Expected {
        device: "done",
        disk: "memory",
        trials: &["write-from-write-only-page"],
    },
    // Data Transfer Error.
    Expected {
        device: "status=0x4",
        disk: "same",
        trials: &["page-list-unmapped"],
    },
    // The controller cannot fetch commands, or not tell that it is done, and stops.
    Expected {
        device: "fatal",
        disk: "same",
        trials: &[
            "admin-queues-unmapped",
            "submission-queue-unmapped",
            "completion-queue-unmapped",
            "completion-queue-without-permission",
            "read-without-bus-mastering",
        ],
    },
    // Before anything is mapped, nothing can be written that could then be looked at.
    Expected {
        device: "fatal",
        disk: "unknown",
        trials: &["admin-before-any-mapping"],
    },
];

/// Trials in a dynamic DMA window.
const EXPECTED_IN_DYNAMIC_WINDOW: &[Expected] = &[
    Expected {
        device: "done",
        disk: "same",
        trials: &[
            "read-after-unmap-in-dynamic-window",
            "read-dynamic-window-end",
            "read-after-dynamic-window",
        ],
    },
    Expected {
        device: "done",
        disk: "zeros",
        trials: &[
            "write-after-unmap-in-dynamic-window",
            "write-after-dynamic-window",
        ],
    },
];

/// Runs the guest, and checks all that it saw.
fn isolated(vmm: Vmm, more: &[Expected]) -> Finished {
    let finished = vmm.run().assert_powered_off();
    let trials = trials(&finished);
    let mut total = 0;
    for expected in EXPECTED.iter().chain(more) {
        for name in expected.trials {
            let trial = trials.iter().find(|trial| trial.name == *name);
            let trial = trial.unwrap_or_else(|| panic!("no {name}\n{finished}"));
            assert_eq!(trial.memory, "same", "{trial:?}\n{finished}");
            assert_eq!(trial.disk, expected.disk, "{trial:?}\n{finished}");
            assert_eq!(trial.device, expected.device, "{trial:?}\n{finished}");
            assert_eq!(trial.again, "works", "{trial:?}\n{finished}");
            total += 1;
        }
    }
    assert_eq!(trials.len(), total, "{finished}");
    let done = format!("DMA-ISOLATION-DONE trials={total}");
    assert!(finished.console().contains(&done), "{finished}");
    assert_device_is_off();
    assert_nothing_is_left();
    finished
}

fn trials(finished: &Finished) -> Vec<Trial<'_>> {
    let lines = finished.console().lines();
    let trials = lines.filter_map(|line| line.split_once("DMA-ISOLATION ")?.1.trim().into());
    trials
        .map(|line: &str| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let mut after = |key| {
                let word = words.next().and_then(|word| word.strip_prefix(key));
                word.unwrap_or_else(|| panic!("no {key} in {line:?}"))
            };
            Trial {
                name,
                device: after("device="),
                memory: after("memory="),
                disk: after("disk="),
                again: after("again="),
            }
        })
        .collect()
}

/// Fails unless the device, which the guest left running, can do no DMA.
fn assert_device_is_off() {
    const COMMAND: usize = 4;
    const BUS_MASTER: u8 = 1 << 2;
    let path = format!("/sys/bus/pci/devices/{}/config", nvme());
    let config = fs::read(path).expect("configuration space");
    assert_eq!(config[COMMAND] & BUS_MASTER, 0, "{:02x?}", &config[..8]);
}

fn guest(command_line: &str) -> Vmm {
    Vmm::bare_metal("dma-isolation-guest", command_line)
}

#[test]
fn the_device_reaches_mapped_memory_alone_in_auto_mode() {
    let finished = isolated(guest("").nvme().option("--tce", "auto"), &[]);
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
}

#[test]
fn the_device_reaches_mapped_memory_alone_in_kernel_mode() {
    let finished = isolated(guest("").nvme().option("--tce", "kernel"), &[]);
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    // The lists were the kernel's.
    assert!(finished.tce_calls("H_STUFF_TCE") <= 1, "{finished}");
}

#[test]
fn the_device_reaches_mapped_memory_alone_in_user_mode() {
    let finished = isolated(guest("").nvme().option("--tce", "user"), &[]);
    assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
    assert_eq!(finished.number("/windows/0/container"), 2, "{finished}");
}

#[test]
fn the_device_reaches_mapped_memory_alone_with_a_version_1_container() {
    let finished = isolated(guest("").nvme().option("--iommu", "v1"), &[]);
    assert_eq!(finished.number("/windows/0/container"), 1, "{finished}");
}

#[test]
fn the_device_reaches_a_dynamic_window_only_while_it_is_there() {
    for mode in ["auto", "user"] {
        let vmm = guest("windows=1").nvme_with_windows().option("--tce", mode);
        isolated(vmm, EXPECTED_IN_DYNAMIC_WINDOW);
    }
}

#[test]
fn a_device_that_was_refused_dma_works_in_the_next_guest() {
    let mut running = guest("").nvme().start();
    running.wait_for_console("DMA-ISOLATION read-never-mapped ", 1);
    running.signal(Signal::KILL);
    let finished = running.finish();
    assert_eq!(finished.signal(), Some(9), "{finished}");
    assert_device_is_off();
    assert_nothing_is_left();
    let finished = Vmm::job(&[WAIT_FOR_NVME, READ_ALL].concat())
        .nvme()
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
}
