//! What a guest finds in devices that somebody had before.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, device};
use crate::harness::refusal::{Refusal, request};
use crate::harness::registers::Registers;

/// The card's BAR that is memory, and the first byte of its station address, which a reset brings back.
const MEMORY_BAR: u8 = 1;
const STATION_ADDRESS: usize = 0;
/// Of no station address.
const DIRT: u8 = 0xa5;

/// Prints the first byte of the station address of the second card.
const READ_STATION: &str = "
card=/sys/bus/pci/devices/0000:00:00.1
printf '\\002' | dd of=$card/config bs=1 seek=4 count=1 conv=notrunc 2>/dev/null || exit 1
set -- $(sed -n 2p $card/resource)
echo LAB-GUEST-STATION $(busybox devmem $1 8)
";

/// A guest that has both cards of a pair, without a driver for them: Linux' own would reset them.
fn look(first: &str, second: &str, refused: Option<Refusal>) -> Finished {
    let vmm = Vmm::job(READ_STATION)
        .option("--append", "console=hvc0 module_blacklist=8139cp,8139too")
        .option("--vfio", first)
        .option("--vfio", second);
    let vmm = refused.into_iter().fold(vmm, Vmm::refusing);
    vmm.run().assert_job_done()
}

/// Writes what no reset leaves; what was there.
fn soil(device: &str) -> u8 {
    let mut registers = Registers::of_device(device, MEMORY_BAR);
    let clean = registers.read_u8(STATION_ADDRESS);
    registers.write_u8(STATION_ADDRESS, DIRT);
    assert_eq!(registers.read_u8(STATION_ADDRESS), DIRT);
    clean
}

#[test]
fn a_device_without_a_reset_of_its_own_is_reset_with_its_bus_before_a_guest_has_it() {
    let first = device("rtl8139-pair");
    let bus = first.strip_suffix('0').expect("function 0");
    let second = format!("{bus}1");
    let clean = soil(&second);
    let finished = look(&first, &second, None);
    assert_eq!(
        finished.guest("STATION"),
        format!("0x{clean:02X}"),
        "{finished}"
    );
    assert!(!finished.errors().contains("last user"), "{finished}");
    // Where the host refuses, the guest finds what was there, and that is told.
    soil(&second);
    let refused = Refusal {
        request: request::VFIO_DEVICE_PCI_HOT_RESET,
        argument: None,
        errno: u16::try_from(libc::EINVAL).expect("a small number"),
    };
    let finished = look(&first, &second, Some(refused));
    assert_eq!(
        finished.guest("STATION"),
        format!("0x{DIRT:02X}"),
        "{finished}"
    );
    assert!(
        finished.errors().contains("as its last user left it"),
        "{finished}"
    );
    assert_nothing_is_left();
}
