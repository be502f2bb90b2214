//! All kinds of device at once in one Linux guest, by each kind of interrupt, with both interrupt controllers and with
//! both kinds of DMA window, before and after their reset and the guest's reboot; and QEMU's guest beside, with the same.
//! The hosts are one of bare metal and an LPAR that have them.

mod long {
    use std::time::Duration;

    use crate::harness::Vmm;
    use crate::harness::finished::Finished;
    use crate::harness::host::{assert_nothing_is_left, device, group_of, is_lpar, nic};
    use crate::harness::interrupts::{CONTROLLERS, MSI_X, NAME_CONTROLLER, NO_MSI, without};
    use crate::harness::jobs::{COUNT_WINDOWS, assert_windows, head_sha256, reboot_once_by_disk};
    use crate::harness::peer::Qemu;

    const LIMIT: Duration = Duration::from_secs(900);
    const PROCESSORS: &str = "2";
    /// A device by the name that the lab gives it, with the guest's driver of it and what that has interrupts by if it
    /// may choose.
    type Device = (&'static str, &'static str, &'static str);

    /// Those of one group follow each other.
    ///
    /// The NVMes have no doorbells in memory: of those that have, the emulator loses count of the line in a guest with two
    /// processors (docs/devices.md).
    const DEVICES: [Device; 12] = [
        ("nvme-no-dbcs", "nvme", "msix"),
        ("nvme-2048", "nvme", "msix"),
        ("nvme-buffer", "nvme", "msix"),
        ("nic", "e1000e", "msix"),
        ("rtl8139", "8139cp", "line"),
        ("ich9-ahci", "ahci", "msi"),
        ("usb-ehci", "ehci-pci", "line"),
        ("usb-xhci", "xhci_hcd", "msix"),
        ("megasas", "megaraid_sas", "msix"),
        ("igb", "igb", "msix"),
        ("pci-bridge-rtl8139", "8139cp", "line"),
        ("pci-bridge-ich9-ahci", "ahci", "msi"),
    ];
    /// What is on bare metal alone: LPARs have no bridge of PCI Express.
    const ON_BARE_METAL: [Device; 2] = [
        ("switch-e1000e", "e1000e", "msix"),
        ("switch-megasas", "megaraid_sas", "msix"),
    ];
    /// What is in LPARs alone: its driver wants I/O ports.
    const IN_LPARS: [Device; 1] = [("e1000", "e1000", "line")];

    /// All that this host has.
    fn devices() -> Vec<Device> {
        let more: &[Device] = match is_lpar() {
            true => &IN_LPARS,
            false => &ON_BARE_METAL,
        };
        [&DEVICES, more].concat()
    }

    /// How many of them have a disk.
    fn disks(devices: &[Device]) -> usize {
        let cards = ["8139cp", "e1000", "e1000e", "igb"];
        devices.iter().filter(|it| !cards.contains(&it.1)).count()
    }

    /// Waits for the disks, and says what each is: `behind NAME` prints the PCI function that a block device or a
    /// network interface is behind, `report FUNCTION RESULT` what its driver is and what interrupts have come by.
    fn prepare(disks: usize) -> String {
        format!(
            "
# What the kernel says does not come between.
dmesg -n 1
disks() {{ ls /sys/block | grep -E '^(sd|nvme.n)'; }}
for _ in $(seq 240); do
    [ $(disks | wc -l) -ge {disks} ] && break
    sleep 0.25
done
digest() {{ sha256sum | cut -d' ' -f1; }}
behind() {{
    readlink -f /sys/$1 | grep -o '[0-9a-f]*:[0-9a-f]*:[0-9a-f]*\\.[0-7]' | tail -n 1
}}
report() {{
    driver=$(basename $(readlink /sys/bus/pci/devices/$1/driver))
    kind=$(cat /sys/bus/pci/devices/$1/msi_irqs/* 2>/dev/null | sort -u)
    irqs=$(ls /sys/bus/pci/devices/$1/msi_irqs 2>/dev/null || cat /sys/bus/pci/devices/$1/irq)
    came=$(awk -v cpus=$(nproc) -v irqs=\"$(echo $irqs)\" '
        BEGIN {{ split(irqs, wanted); for (i in wanted) named[wanted[i] \":\"] }}
        $1 in named {{ for (i = 2; i < 2 + cpus; i++) sum += $i }}
        END {{ print sum + 0 }}' /proc/interrupts)
    kind=${{kind:-line}}
    [ $came -gt 0 ] || kind=none
    echo LAB-GUEST-WORKED $driver $kind $2
}}
"
        )
    }

    /// Reads the head of all disks at once (of a USB disk, which is slow, the 16th part), and has each network card in
    /// turn send 64 KiB to its echo server meanwhile, and get them back.
    const USE_ALL: &str = "
start() { dd if=/dev/$1 bs=64k count=$2 iflag=direct,fullblock 2>/dev/null | digest; }
part=
for disk in $(disks); do
    case $(readlink -f /sys/block/$disk) in
    */usb*) ;;
    *) part=$(start $disk 8) && break ;;
    esac
done
read_disk() {
    case $(readlink -f /sys/block/$1) in
    */usb*)
        result=$(start $1 8)
        [ $result = $part ] && result=HEAD
        ;;
    *) result=$(start $1 128) ;;
    esac
    echo $(behind block/$1) $result >/tmp/read.$1
}
for disk in $(disks); do
    read_disk $disk &
done
dd if=/dev/urandom of=/tmp/sent bs=64k count=1 iflag=fullblock 2>/dev/null
for card in $(ls /sys/class/net | grep eth); do
    ifconfig $card 10.0.2.15 netmask 255.255.255.0 up
    for _ in $(seq 20); do
        ping -c 1 -W 1 10.0.2.2 >/dev/null && break
    done
    nc -w 60 10.0.2.100 7 </tmp/sent >/tmp/received
    cmp -s /tmp/sent /tmp/received && result=echoed || result=silent
    report $(behind class/net/$card) $result
    ifconfig $card 0.0.0.0 down
done
wait
for disk in $(disks); do
    report $(cat /tmp/read.$disk)
done
echo LAB-GUEST-TROUBLE $(dmesg | grep -c -i -e 'nobody cared' -e 'nvme.*timeout' -e 'NETDEV WATCHDOG' \
    -e 'ata[0-9.]*: .*frozen' -e 'megaraid_sas.*timed out')
";

    /// The disk that says whether the guest has been here before: the AHCI one with the lowest address.
    const FIND_MARKED: &str = "
marked=$(for disk in $(disks); do readlink -f /sys/block/$disk; done | grep /ata | sort | head -n 1)
marked=${marked##*/}
";

    /// Takes each device from its driver, resets it where that can be, and gives it back; says how many it has reset, and
    /// which refused.
    const RESET_ALL: &str = "
resets=0
for device in /sys/bus/pci/devices/*; do
    driver=$(readlink -f $device/driver)
    echo ${device##*/} >$driver/unbind
    if [ -e $device/reset ]; then
        echo 1 >$device/reset && resets=$((resets + 1)) || echo LAB-GUEST-REFUSED $device
    fi
    echo ${device##*/} >$driver/bind
done
echo LAB-GUEST-RESETS $resets
";
    /// How often a guest uses all: before and after their reset, in two lives.
    const TIMES: usize = 4;

    /// Of a guest with these devices; `mark` is what its first life leaves.
    fn job(devices: &[Device], mark: &str) -> String {
        let prepare = prepare(disks(devices));
        let reboot = reboot_once_by_disk("/dev/$marked", mark);
        let twice = [
            &prepare,
            USE_ALL,
            COUNT_WINDOWS,
            NAME_CONTROLLER,
            RESET_ALL,
            &prepare,
            USE_ALL,
            COUNT_WINDOWS,
            NAME_CONTROLLER,
        ]
        .concat();
        [&twice, FIND_MARKED, &reboot].concat()
    }

    fn address(name: &str) -> String {
        match name {
            "nic" => nic(),
            name => device(name),
        }
    }

    /// How a guest has its devices.
    #[derive(Clone, Copy, Debug)]
    struct Way {
        /// The interrupt controller, and Linux' name for it.
        controller: (&'static str, &'static str),
        /// Whether drivers may use messages.
        has_messages: bool,
        /// Whether dynamic windows are offered.
        has_windows: bool,
    }

    impl Way {
        /// All of them with messages, or with lines.
        fn all(has_messages: bool) -> Vec<Self> {
            // KVM in an LPAR has no XIVE for guests.
            let controllers = CONTROLLERS
                .into_iter()
                .filter(|(name, _)| !is_lpar() || *name == "xics");
            let ways = controllers.map(|controller| {
                [true, false].map(|has_windows| Self {
                    controller,
                    has_messages,
                    has_windows,
                })
            });
            ways.flatten().collect()
        }

        fn command_line(self) -> &'static str {
            match self.has_messages {
                true => "console=hvc0",
                false => NO_MSI.1,
            }
        }

        /// What a guest of `whose` leaves on a disk in its first life: nothing that another one's second life could be
        /// taken for, if one of them dies.
        fn mark(self, whose: &str) -> String {
            let Self {
                controller: (controller, _),
                has_messages,
                has_windows,
            } = self;
            format!("{whose}-{controller}-{has_messages}-{has_windows}")
        }

        fn ours(self, devices: &[Device]) -> Vmm {
            let windows = if self.has_windows { "auto" } else { "off" };
            let vmm = Vmm::job(&job(devices, &self.mark("ours"))).time_limit(LIMIT);
            let vmm = vmm
                .option("--cpus", PROCESSORS)
                .option("--append", self.command_line())
                .option("--interrupt-controller", self.controller.0)
                .option("--ddw", windows);
            devices
                .iter()
                .fold(vmm, |vmm, it| vmm.option("--vfio", &address(it.0)))
        }

        fn qemus(self, devices: &[Device]) -> Qemu {
            let windows = if self.has_windows { "on" } else { "off" };
            let qemu = Qemu::job(&job(devices, &self.mark("qemus")), LIMIT)
                .machine(&format!("ic-mode={}", self.controller.0))
                .option("-smp", PROCESSORS)
                .option("-append", self.command_line())
                .option("-global", &format!("spapr-pci-host-bridge.ddw={windows}"));
            let mut groups: Vec<String> = Vec::new();
            devices.iter().fold(qemu, |qemu, it| {
                let address = address(it.0);
                let group = group_of(&address);
                if groups.last() != Some(&group) {
                    groups.push(group);
                }
                qemu.device(&address, groups.len() - 1)
            })
        }

        /// What a guest is to say of its devices each time, given what those have interrupts by that may use messages.
        fn assert_worked(self, finished: &Finished, devices: &[Device]) {
            let head = head_sha256();
            let worked = |(_, driver, kind): &Device| {
                let kind = if self.has_messages { kind } else { "line" };
                let result = match *driver {
                    "8139cp" | "e1000" | "e1000e" | "igb" => "echoed",
                    "ehci-pci" | "xhci_hcd" => "HEAD",
                    _ => &head,
                };
                format!("{driver} {kind} {result}")
            };
            let mut expected: Vec<String> = devices.iter().map(worked).collect();
            expected = vec![expected; TIMES].concat();
            expected.sort_unstable();
            let mut said = finished.all("WORKED");
            said.sort_unstable();
            assert_eq!(said, expected, "{self:?}\n{finished}");
            let controller = self.controller.1;
            assert_eq!(
                finished.all("CONTROLLER"),
                [controller; TIMES],
                "{finished}"
            );
            assert_eq!(finished.all("REFUSED"), [""; 0], "{self:?}\n{finished}");
            // Those of PCI Express, at least, have a reset of their own.
            let resets = finished.all("RESETS");
            assert_eq!(resets.len(), TIMES / 2, "{finished}");
            for resets in resets {
                let resets: usize = resets.parse().expect("a number");
                assert!(resets >= 2, "{self:?}\n{finished}");
            }
            assert_windows(finished, TIMES, self.has_windows);
            assert_eq!(
                finished.all("TROUBLE"),
                ["0"; TIMES],
                "{self:?}\n{finished}"
            );
        }
    }

    mod ours {
        use super::*;

        fn use_every_device(has_messages: bool) {
            let devices = devices();
            for way in Way::all(has_messages) {
                let finished = way.ours(&devices).run().assert_job_done();
                assert_eq!(finished.number("/reboots"), 1, "{finished}");
                way.assert_worked(&finished, &devices);
                assert_nothing_is_left();
            }
        }

        #[test]
        fn every_device_works_by_messages() {
            use_every_device(true);
        }

        #[test]
        fn every_device_works_by_its_line() {
            use_every_device(false);
        }

        /// Devices that are said to have no MSI-X; without those that the emulator has no MSI for (docs/devices.md), the
        /// e1000e.
        #[test]
        fn every_device_works_by_msi_alone_or_by_its_line() {
            let devices: Vec<_> = devices()
                .into_iter()
                .filter(|(_, driver, _)| *driver != "e1000e")
                .map(|(name, driver, kind)| match driver {
                    "igb" | "megaraid_sas" => (name, driver, "msi"),
                    _ if kind == "msix" => (name, driver, "line"),
                    _ => (name, driver, kind),
                })
                .collect();
            for way in Way::all(true) {
                let vmm = without(way.ours(&devices), &[MSI_X]);
                let finished = vmm.run().assert_job_done();
                assert_eq!(finished.number("/reboots"), 1, "{finished}");
                way.assert_worked(&finished, &devices);
                assert_nothing_is_left();
            }
        }
    }

    mod qemus {
        use super::*;

        /// By their lines, QEMU's guests do not get that far (docs/devices.md).
        #[test]
        fn every_device_works_by_messages() {
            let devices = devices();
            for way in Way::all(true) {
                let finished = way.qemus(&devices).run();
                finished.assert_status(0);
                assert_eq!(finished.guest("STATUS"), "0", "{way:?}\n{finished}");
                way.assert_worked(&finished, &devices);
            }
        }
    }
}
