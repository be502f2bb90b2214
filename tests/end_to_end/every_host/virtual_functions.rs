//! Virtual functions (SR-IOV), on a host that has one: bare metal with pages of 4 KiB.

/// Of a device that no other tests have.
mod long {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use crate::harness::Vmm;
    use crate::harness::host::{assert_nothing_is_left, device};
    use crate::harness::jobs::{JOIN_NETWORK, WAIT_FOR_NVME, reboot_once};
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

    #[test]
    fn a_virtual_function_has_traffic_before_and_after_the_guests_reboot() {
        let function = device("igb-vf");
        let reboot = reboot_once(VIRTUAL_FUNCTION_MARK, "before-the-reboot");
        let job = [WAIT_FOR_NVME, JOIN_NETWORK, &echo(), &reboot].concat();
        let vmm = Vmm::job(&job).time_limit(Duration::from_secs(300));
        let vmm = vmm.nvme().option("--vfio", &function);
        let mut running = vmm.start();
        for life in [1, 2] {
            // Its reset is over by then, and its driver not there yet.
            running.wait_for_console("Linux version", life);
            restart_physical_function(&function);
        }
        let finished = running.finish().assert_job_done();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
        assert_eq!(finished.all("DRIVER"), ["igbvf"; 2], "{finished}");
        let bytes = ECHOED_BYTES.to_string();
        assert_eq!(finished.all("BYTES"), [&bytes, &bytes], "{finished}");
        assert_eq!(finished.all("ECHO"), ["same"; 2], "{finished}");
        assert_eq!(finished.all("VECTORS"), ["2"; 2], "{finished}");
        assert!(!finished.errors().contains("last user"), "{finished}");
        assert_nothing_is_left();
    }
}
