//! Messages (MSI) of devices that have MSI-X, too.

/// Of an igb, which no other tests have.
mod long {
    use crate::harness::Vmm;
    use crate::harness::faults::{Answer, Fault};
    use crate::harness::host::{assert_nothing_is_left, device, nic};
    use crate::harness::jobs::JOIN_NETWORK;
    use crate::harness::refusal::request;

    /// Where the argument of VFIO_DEVICE_GET_IRQ_INFO has the kind of interrupt, and MSI-X.
    const MSIX: (u64, u32) = (8, 2);
    const ECHOED_BYTES: u64 = 256 << 10;

    /// Sends so many bytes to the echo server and says what came back, and by which kind of message the card interrupts.
    fn echo() -> String {
        format!(
            "
digest() {{ sha256sum | cut -d' ' -f1; }}
dd if=/dev/urandom of=/tmp/sent bs={ECHOED_BYTES} count=1 iflag=fullblock 2>/dev/null
nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
echo LAB-GUEST-BYTES $(stat -c %s /tmp/received)
[ $(digest </tmp/sent) = $(digest </tmp/received) ] && echo LAB-GUEST-ECHO same
echo LAB-GUEST-KIND $(cat /sys/class/net/eth0/device/msi_irqs/*)
"
        )
    }

    #[test]
    fn network_cards_whose_msi_x_the_host_does_not_offer_work_by_msi() {
        let job = [JOIN_NETWORK, &echo()].concat();
        for card in [nic(), device("igb")] {
            for controller in ["xive", "xics"] {
                let none = Fault::always(request::VFIO_DEVICE_GET_IRQ_INFO, Answer::Value(0));
                let vmm = Vmm::job(&job).with_fault(&none.with_field(MSIX));
                let vmm = vmm.option("--interrupt-controller", controller);
                let finished = vmm.option("--vfio", &card).run().assert_job_done();
                assert_eq!(finished.guest("KIND"), "msi", "{card}: {finished}");
                let bytes = ECHOED_BYTES.to_string();
                assert_eq!(finished.guest("BYTES"), bytes, "{card}: {finished}");
                assert_eq!(finished.guest("ECHO"), "same", "{card}: {finished}");
                assert_nothing_is_left();
            }
        }
    }
}
