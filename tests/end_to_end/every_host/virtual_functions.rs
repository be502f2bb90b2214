//! A virtual function of a network card (SR-IOV) whose physical function has the host's driver. The emulated card's
//! has BARs of 16 KiB, which kernels with pages of 64 KiB refuse (`sriov_init` in Linux' drivers/pci/iov.c): hosts with
//! pages of 4 KiB have it.

mod long {
    use std::fs;
    use std::time::Duration;

    use crate::harness::Vmm;
    use crate::harness::host::{self, assert_nothing_is_left, device};
    use crate::harness::jobs::JOIN_NETWORK;

    const ECHO: &str = "
dd if=/dev/urandom of=/tmp/sent bs=64k count=4 2>/dev/null
nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
digest() { sha256sum | cut -d' ' -f1; }
echo LAB-GUEST-BYTES $(stat -c %s /tmp/received)
echo LAB-GUEST-SENT $(digest </tmp/sent)
echo LAB-GUEST-RECEIVED $(digest </tmp/received)
echo LAB-GUEST-DRIVER $(basename $(readlink /sys/class/net/eth0/device/driver))
echo LAB-GUEST-MESSAGES $(grep -c 'MSI.*eth0' /proc/interrupts)
";

    #[test]
    fn a_virtual_function_has_traffic_while_its_physical_function_has_the_hosts_driver() {
        if host::page_bytes() != 4096 || host::is_lpar() {
            return;
        }
        let function = device("igb-vf");
        let physical = fs::read_link(format!("/sys/bus/pci/devices/{function}/physfn"));
        let physical = physical.expect("a virtual function has a physical one");
        let physical = physical.file_name().and_then(|name| name.to_str());
        let driver = host::driver_of(physical.expect("an address"));
        assert_eq!(driver.as_deref(), Some("igb"));
        // What the host's driver keeps of it comes after the guest's end, too.
        for _ in 0..2 {
            let job = [JOIN_NETWORK, ECHO].concat();
            let vmm = Vmm::job(&job).time_limit(Duration::from_secs(200));
            let vmm = vmm.option("--cpus", "2").option("--vfio", &function);
            let finished = vmm.run().assert_job_done();
            assert_eq!(finished.guest("BYTES"), "262144", "{finished}");
            assert_eq!(finished.guest("RECEIVED"), finished.guest("SENT"));
            assert_eq!(finished.guest("DRIVER"), "igbvf", "{finished}");
            // One for what is received, one for what is sent, and one for the mailbox.
            assert_eq!(finished.guest("MESSAGES"), "3", "{finished}");
            assert_nothing_is_left();
        }
    }
}
