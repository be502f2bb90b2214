//! Guests in LPARs, whose platform decides what DMA windows there are.

use std::process::{Command, Stdio};

use serde_json::Value;

/// A guest that is killed while it reads its NVMe, then one that reads all that is known.
const SCRIPT: &str = r#"
run() {
    exec spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd \
        --append 'console=hvc0 job=nvme-digest' --vfio $LAB_NVME --cpus 2 $options "$@" </dev/null
}
run >/run/killed 2>&1 &
until grep -q LAB-GUEST-CPUS /run/killed; do
    kill -0 $! || exit 1
    sleep 0.1
done
kill -KILL $!
wait
(run --stats /run/stats.json) || exit 1
echo
echo LAB-EXPECTED-SHA256 $LAB_NVME_DATA_SHA256
echo LAB-WINDOWS $(jq -c .windows /run/stats.json)
echo LAB-IOMMU $(spapr-vmm iommu $LAB_NVME --json | jq -c '.groups[0].containers[0]')
dmesg | grep -e 'in failed DDW device list' -e 'Create ddw failed' && exit 1
exit 0
"#;

/// What a host of these options is to show.
struct Expected {
    options: &'static [&'static str],
    /// More options of the guests'.
    guest_options: &'static str,
    /// Where the default window starts.
    start: u64,
    /// Its bytes.
    bytes: u64,
    /// How many the guest has: beside the default one one of its own, after another guest was killed with it, too.
    windows: usize,
}

/// What stands behind `word` in a line of `text`.
#[track_caller]
fn told<'a>(text: &'a str, word: &str) -> &'a str {
    let start = format!("{word} ");
    let mut lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&start));
    lines
        .next_back()
        .unwrap_or_else(|| panic!("no {word} in\n{text}"))
}

#[track_caller]
fn check(expected: &Expected) {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args(["exec", "--host", "lpar9-64k", "--timeout", "240"]);
    for option in expected.options {
        lab.args(["--lpar", option]);
    }
    let output = lab
        .args([
            "--",
            &format!("options='{}'\n{SCRIPT}", expected.guest_options),
        ])
        .stdin(Stdio::null())
        .output()
        .expect("the lab does not start");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let all = format!(
        "{}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{all}");
    let digest = told(&stdout, "LAB-GUEST-SHA256");
    assert_eq!(digest, told(&stdout, "LAB-EXPECTED-SHA256"), "{all}");

    let windows: Vec<Value> = serde_json::from_str(told(&stdout, "LAB-WINDOWS")).expect("windows");
    let number = |window: usize, name: &str| windows[window][name].as_u64().expect("a number");
    assert_eq!(number(0, "bus_offset"), expected.start, "{all}");
    assert_eq!(
        number(0, "entries") * number(0, "page_size"),
        expected.bytes,
        "{all}"
    );
    assert_eq!(windows[0]["path"], "bound", "{all}");
    assert_eq!(windows.len(), expected.windows, "{all}");
    let used = windows.len() - 1;
    assert!(number(used, "map_ioctls") > 0, "{all}");

    let iommu: Value = serde_json::from_str(told(&stdout, "LAB-IOMMU")).expect("a container");
    assert_eq!(iommu["version"], 2, "{all}");
    assert_eq!(iommu["iommu"]["window_start"], expected.start, "{all}");
    assert_eq!(iommu["default_window_bytes"], expected.bytes, "{all}");
    assert_eq!(iommu["iommu"]["dynamic_windows"], 2, "{all}");
}

/// A guest whose device can do no DMA, and what the host says of its windows.
const WITHOUT_WINDOWS: &str = r#"
spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd --append 'console=hvc0 job=nvme-digest' \
    --vfio $LAB_NVME </dev/null 2>&1
echo LAB-IOMMU $(spapr-vmm iommu $LAB_NVME --json | jq -c '.groups[0].containers[0]')
"#;

/// Linux 6.12 makes VFIO no window there; the platform's is told as it is.
#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_without_dynamic_windows_a_guest_starts_and_is_told_why_its_device_does_nothing() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args(["exec", "--host", "lpar9-64k", "--timeout", "240"]);
    for option in ["ddw=off", "window-size=256M", "window-start=0x40000000"] {
        lab.args(["--lpar", option]);
    }
    let output = lab
        .args(["--", WITHOUT_WINDOWS])
        .stdin(Stdio::null())
        .output();
    let output = output.expect("the lab does not start");
    let all = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{all}");
    for part in [
        "no DMA window at bus address 0x40000000",
        "in an LPAR whose platform makes no dynamic DMA windows",
        "LAB-GUEST-STATUS 1",
    ] {
        assert!(all.contains(part), "{part:?} in\n{all}");
    }
    let iommu: Value = serde_json::from_str(told(&all, "LAB-IOMMU")).expect("a container");
    assert_eq!(iommu["iommu"]["window_start"], 0x4000_0000u64, "{all}");
    assert_eq!(iommu["default_window_bytes"], 256 << 20, "{all}");
    assert_eq!(iommu["iommu"]["dynamic_windows"], 0, "{all}");
}

#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn a_guest_in_an_lpar_with_a_small_window_makes_its_own_though_another_was_killed() {
    check(&Expected {
        options: &["window-size=256M"],
        guest_options: "",
        start: 0,
        bytes: 256 << 20,
        windows: 2,
    });
}

#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn a_guest_in_an_lpar_with_a_small_window_reads_its_nvme_in_it() {
    check(&Expected {
        options: &["window-size=256M"],
        guest_options: "--ddw off",
        start: 0,
        bytes: 256 << 20,
        windows: 1,
    });
}

#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn a_guest_in_an_lpar_whose_window_starts_elsewhere_reads_its_nvme_in_it() {
    check(&Expected {
        options: &["window-start=0x40000000", "window-size=512M"],
        guest_options: "--ddw off",
        start: 0x4000_0000,
        bytes: 512 << 20,
        windows: 1,
    });
}

/// Each QEMU in turn, with and without dynamic DMA windows, for the guest that reads all that is known.
const PEERS: &str = r#"
speculation=cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off
for qemu in qemu-system-ppc64 qemu-system-ppc64-next; do
    for ddw in on off; do
        timeout 120 $qemu -cpu host -m 1G -smp 2 -nodefaults -no-user-config -display none -serial stdio \
            -M pseries,accel=kvm,ic-mode=xics,x-vof=on,$speculation,cap-hpt-max-page-size=$pages \
            -global spapr-pci-host-bridge.ddw=$ddw -device vfio-pci,host=$LAB_NVME,bus=pci.0 \
            -kernel /boot/vmlinux -initrd /boot/initrd -append 'console=hvc0 job=nvme-digest' \
            </dev/null >/run/console 2>/run/errors
        status=$?
        read=no
        grep -q "LAB-GUEST-SHA256 $LAB_NVME_DATA_SHA256" /run/console && read=yes
        echo "LAB-PEER-$qemu-$ddw status=$status read=$read"
        head -n 5 /run/errors
    done
done
"#;

/// Fails unless QEMU and the next QEMU, told of the host's pages, end so: the table in docs/lpar.md has it.
#[track_caller]
fn check_peers(host: &[&str], pages: &str, expected: [&str; 2]) {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args(["exec", "--timeout", "520", "--host"]).args(host);
    lab.args(["--with", "qemu", "--with", "next-qemu", "--"]);
    let output = lab.arg(format!("pages={pages}\n{PEERS}"));
    let output = output.stdin(Stdio::null()).output();
    let output = output.expect("the lab does not start");
    let all = String::from_utf8_lossy(&output.stdout);
    let qemus = ["qemu-system-ppc64", "qemu-system-ppc64-next"];
    for (qemu, expected) in qemus.into_iter().zip(expected) {
        for ddw in ["on", "off"] {
            let outcome = told(&all, &format!("LAB-PEER-{qemu}-{ddw}"));
            assert_eq!(outcome, expected, "{qemu}, ddw={ddw}\n{all}");
        }
    }
}

const READS: &str = "status=0 read=yes";

#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_with_large_pages_qemu_reads_its_device() {
    check_peers(&["lpar9-64k"], "64k", [READS, READS]);
}

/// QEMU 10.0 aborts there: `Failed to create SPAPR window: Invalid argument`.
#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_with_small_pages_the_next_qemu_reads_its_device() {
    check_peers(&["lpar9-4k"], "4k", ["status=134 read=no", READS]);
}

/// Both abort: `Host doesn't support DMA window at 0, must be 800000000000000`.
#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_with_a_small_window_no_qemu_reads_its_device() {
    let host = ["lpar9-64k", "--lpar", "window-size=256M"];
    check_peers(&host, "64k", ["status=134 read=no"; 2]);
}

/// Both end: `Failed to remove window at 40000000`. The default one that is not made yet goes by start 0.
#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_whose_window_starts_elsewhere_no_qemu_starts() {
    let start = "window-start=0x40000000";
    let host = ["lpar9-64k", "--lpar", start, "--lpar", "window-size=512M"];
    check_peers(&host, "64k", ["status=1 read=no"; 2]);
}

/// Both abort: `Failed to create a window`.
#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_without_dynamic_windows_no_qemu_reads_its_device() {
    let host = ["lpar9-64k", "--lpar", "ddw=off"];
    check_peers(&host, "64k", ["status=134 read=no"; 2]);
}

/// Guests without a device, of one processor and of two: what they print, and how they end.
const WITHOUT_DEVICES: &str = r#"
mkdir /run/job
cat >/run/job/job <<'JOB'
echo "LAB-GUEST-CPUS $(grep -c ^processor /proc/cpuinfo) $(grep -m1 ^cpu /proc/cpuinfo | tr -d '\t')"
JOB
(cd /run/job && echo job | cpio -o -H newc >/run/archive) && cat /boot/initrd /run/archive >/run/initrd
for cpus in 1 2; do
    timeout 120 spapr-vmm run --kernel /boot/vmlinux --initrd /run/initrd --cpus $cpus </dev/null >/run/console
    echo "LAB-ENDED-$cpus $? $(grep -e LAB-GUEST-CPUS -e LAB-GUEST-STATUS /run/console | tr -d '\r' | tr '\n' ' ')"
done
"#;

/// Nested API version 2, as PowerVM has it: under QEMU 10.0 and 11.1 no interrupt of a device reaches a guest's guest,
/// whatever VMM runs it (docs/lpar.md).
#[test]
#[ignore = "boots a host of its own: cargo lab test long:: runs it"]
fn in_an_lpar_of_a_power10_guests_without_devices_run() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args(["exec", "--host", "lpar10-64k", "--timeout", "300", "--"]);
    let output = lab.arg(WITHOUT_DEVICES).stdin(Stdio::null()).output();
    let output = output.expect("the lab does not start");
    let all = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{all}");
    for cpus in ["1", "2"] {
        let told = told(&all, &format!("LAB-ENDED-{cpus}"));
        let expected = format!("0 LAB-GUEST-CPUS {cpus} cpu: POWER10");
        assert!(told.starts_with(&expected), "{all}");
        assert!(told.trim_end().ends_with("LAB-GUEST-STATUS 0"), "{all}");
    }
}
