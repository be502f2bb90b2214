//! BARs at the addresses that they have on the host's bus.

/// Of a device that no other tests have.
mod long {
    use std::fs;

    use crate::harness::Vmm;
    use crate::harness::host::{assert_nothing_is_left, device};

    /// Where BAR 2, of 64 bits, is on the host's bus.
    fn second_bar(device: &str) -> u64 {
        let config = fs::read(format!("/sys/bus/pci/devices/{device}/config"));
        let config = config.expect("its configuration space");
        let register = config[0x18..0x20].try_into().expect("eight bytes");
        u64::from_le_bytes(register) & !0xf
    }

    #[test]
    fn an_nvme_finds_queues_in_its_memory_buffer_by_the_bus_addresses_of_the_host() {
        let device = device("nvme-buffer");
        let address = second_bar(&device);
        // With DMA through a window at limited addresses, too.
        for (window, start) in [("default", 0), ("limited", 1u64 << 32)] {
            let vmm = Vmm::bare_metal("nvme-buffer-guest", &format!("window={window}"));
            let finished = vmm.option("--vfio", &device).run().assert_powered_off();
            let said = format!("NVME-BUFFER bus={address:#x} window={start:#x} read=data");
            assert!(finished.console().contains(&said), "{said}\n{finished}");
            assert_nothing_is_left();
        }
    }
}
