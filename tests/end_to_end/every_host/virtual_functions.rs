//! Virtual functions (SR-IOV), on a host that has one: bare metal with pages of 4 KiB.

/// Of a device that no other tests have.
mod long {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use crate::harness::Vmm;
    use crate::harness::finished::Finished;
    use crate::harness::host::{assert_nothing_is_left, device, nvme};
    use crate::harness::interrupts::NAME_CONTROLLER;
    use crate::harness::jobs::{
        COUNT_WINDOWS, JOIN_NETWORK, WAIT_FOR_NVME, assert_windows, reboot_once,
    };
    use crate::harness::peer::Qemu;
    use crate::harness::running::Running;
    use crate::harness::scratch::VIRTUAL_FUNCTION_MARK;

    const ECHOED_BYTES: u64 = 256 << 10;

    /// Sends so many bytes to the echo server and says what came back, and by how many of the vectors for
    /// sending and receiving interrupts came.
    fn echo() -> String {
        format!(
            "
digest() {{ sha256sum | cut -d' ' -f1; }}
echo LAB-GUEST-DRIVER $(basename $(readlink /sys/class/net/eth0/device/driver))
dd if=/dev/urandom of=/tmp/sent bs={ECHOED_BYTES} count=1 iflag=fullblock 2>/dev/null
nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
echo LAB-GUEST-BYTES $(stat -c %s /tmp/received)
[ $(digest </tmp/sent) = $(digest </tmp/received) ] && echo LAB-GUEST-ECHO same
echo LAB-GUEST-VECTORS $(awk '/ eth0-[rt]x/ {{ for (i = 2; i < NF - 3; i++) if ($i > 0) {{ n++; break }} }} END {{ print n + 0 }}' \
    /proc/interrupts)
"
        )
    }

    /// Takes the physical function of `function` down and up again, so that its driver learns of a reset of `function`.
    ///
    /// A real card's is told by an interrupt. The emulator drops that one ("Blocked re-entrant IO on MemoryRegion:
    /// msi64"): the card sends the message while the host's write of the reset, to a register of the host bridge, is
    /// still under way, and what takes messages is the same bridge. The driver then waits for the next one for ever,
    /// as each comes when the one before has been read.
    fn restart_physical_function(function: &str) {
        let networks = Path::new("/sys/bus/pci/devices").join(function);
        let networks = fs::read_dir(networks.join("physfn/net")).expect("the host's driver");
        for network in networks {
            let name = network.expect("a name").file_name();
            for state in ["down", "up"] {
                let mut command = Command::new("ip");
                let command = command.args(["link", "set"]).arg(&name).arg(state);
                let status = command.status().expect("cannot run ip");
                assert!(status.success(), "{command:?}: {status}");
            }
        }
    }

    /// Resets the function while it has no driver, and gives it back to that until it has traffic again, for its physical
    /// function is to be told meanwhile.
    const RESET: &str = "
function=$(basename $(readlink -f /sys/class/net/eth0/device))
driver=$(readlink -f /sys/bus/pci/devices/$function/driver)
echo $function >$driver/unbind
echo 1 >/sys/bus/pci/devices/$function/reset || exit 1
echo LAB-GUEST-IS-RESET yes
for _ in 1 2 3 4 5 6; do
    sleep 5
    echo $function >$driver/bind
    sleep 1
    ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
    ping -c 5 -W 1 10.0.2.2 >/dev/null && break
    echo $function >$driver/unbind
done
";
    /// What a guest's kernel says as it starts; before that, it names itself to firmware that is QEMU's (SLOF) as well.
    const STARTED: &str = "] Linux version";
    /// How often a guest uses the function: before and after its reset, in two lives.
    const TIMES: usize = 4;
    const LIMIT: Duration = Duration::from_secs(300);

    /// What a guest does that has it; `mark` says that this guest has been here before.
    fn job(mark: &str) -> String {
        let reboot = reboot_once(VIRTUAL_FUNCTION_MARK, mark);
        let echo = [JOIN_NETWORK, &echo()].concat();
        [
            WAIT_FOR_NVME,
            &echo,
            RESET,
            &echo,
            NAME_CONTROLLER,
            COUNT_WINDOWS,
            &reboot,
        ]
        .concat()
    }

    /// Has its physical function learn of each reset, of the machine's and of the guest's, and ends when that does.
    fn finish(mut running: Running, function: &str) -> Finished {
        for life in [1, 2] {
            // The machine's is over by then, and the driver not there yet.
            running.wait_for_console(STARTED, life);
            restart_physical_function(function);
            running.wait_for_console("LAB-GUEST-IS-RESET", life);
            restart_physical_function(function);
        }
        running.finish()
    }

    fn assert_worked(finished: &Finished, has_windows: bool) {
        assert_eq!(finished.all("DRIVER"), ["igbvf"; TIMES], "{finished}");
        let bytes = ECHOED_BYTES.to_string();
        assert_eq!(finished.all("BYTES"), [&bytes; TIMES], "{finished}");
        assert_eq!(finished.all("ECHO"), ["same"; TIMES], "{finished}");
        assert_eq!(finished.all("VECTORS"), ["2"; TIMES], "{finished}");
        // Hosts with pages of 4 KiB have no XIVE for guests.
        assert_eq!(finished.all("CONTROLLER"), ["XICS"; 2], "{finished}");
        assert_windows(finished, 2, has_windows);
    }

    #[test]
    fn a_virtual_function_has_traffic_before_and_after_its_reset_and_the_guests_reboot() {
        let function = device("igb-vf");
        for windows in ["auto", "off"] {
            let vmm = Vmm::job(&job(&format!("ours-{windows}")))
                .nvme_with_windows()
                .option("--ddw", windows)
                .option("--vfio", &function)
                .time_limit(LIMIT);
            let finished = finish(vmm.start(), &function).assert_job_done();
            assert_eq!(finished.number("/reboots"), 1, "{finished}");
            assert_worked(&finished, windows == "auto");
            assert!(!finished.errors().contains("last user"), "{finished}");
            assert_nothing_is_left();
        }
    }

    #[test]
    fn qemus_guest_has_traffic_by_a_virtual_function_too() {
        let function = device("igb-vf");
        for windows in ["on", "off"] {
            let qemu = Qemu::job(&job(&format!("qemus-{windows}")), LIMIT)
                // What it has on a host with such pages.
                .machine("ic-mode=xics,cap-hpt-max-page-size=4k")
                .option("-append", "console=hvc0")
                .option("-global", &format!("spapr-pci-host-bridge.ddw={windows}"))
                .device(&nvme(), 0)
                .device(&function, 1);
            let finished = finish(qemu.start(), &function);
            finished.assert_status(0);
            assert_eq!(finished.guest("STATUS"), "0", "{finished}");
            assert_worked(&finished, windows == "on");
        }
    }
}
