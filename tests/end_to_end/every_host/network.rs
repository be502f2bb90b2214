//! Guests with virtio network cards.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::interface::{BYTES, Interface, Listener};

/// What a guest's setting the device up takes; frames come on top, if they do.
pub(crate) const SET_UP_EXITS: u64 = 900;
/// The fewest frames in which that much data comes and goes, the longest that there are.
const LEAST_FRAMES: u64 = (2 * BYTES / 65_536) as u64;

/// Fails unless a guest got an address, and what it fetched and sent is the same on both sides.
#[track_caller]
pub(crate) fn assert_passed(finished: &Finished, listener: Listener) {
    let address = finished.guest("ADDRESS");
    assert!(address.starts_with("10.77."), "{address}: {finished}");
    let digests = listener.digests();
    let seen = ["FETCHED", "SENT"].map(|key| finished.guest(key).to_owned());
    assert_eq!(seen, digests, "{finished}");
}

/// How many frames a guest received and sent.
#[track_caller]
pub(crate) fn frames(finished: &Finished) -> u64 {
    let counts = finished.guest("FRAMES").split(' ');
    counts
        .map(|count| count.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn a_guest_has_an_address_and_passes_data_without_an_exit_for_each_frame() {
    // Frames of the second guest are short, for nobody cuts them later on.
    for (words, by_bus_address) in [("", false), (",mac=52:54:00:12:34:56,mtu=576", true)] {
        let interface = Interface::new("vm0", 1);
        let listener = interface.listen();
        let mut vmm = Vmm::job(&interface.job()).option("--net", &format!("tap=vm0{words}"));
        if by_bus_address {
            vmm = vmm.argument("--iommu-platform").argument("--sandbox");
        }
        let finished = vmm.run().assert_job_done();
        assert_passed(&finished, listener);
        let mac = finished.guest("MAC");
        if by_bus_address {
            let seen = (mac, finished.guest("MTU"));
            assert_eq!(seen, ("52:54:00:12:34:56", "576"), "{finished}");
        } else {
            // Nobody gave it one: it is local.
            let first = mac.split(':').next().unwrap_or_default();
            let first = u8::from_str_radix(first, 16).expect("an address");
            assert_eq!(first & 3, 2, "{finished}");
        }
        let exits = finished.number("/exits/mmio");
        assert!(exits < SET_UP_EXITS, "{exits}: {finished}");
        // Several may come in one piece.
        let frames = frames(&finished);
        assert!(frames > LEAST_FRAMES, "{frames}: {finished}");
        finished.assert_no_complaint();
        assert_nothing_is_left();
    }
}

mod long {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_guest_passes_64_mib_each_way_and_again() {
        // A host's first guest with a network, and later ones; with one processor, and with several.
        for (cpus, by_bus_address) in [("1", false), ("1", true), ("2", false), ("4", true)] {
            let interface = Interface::new("vm0", 1).of_bytes(64 << 20);
            let listener = interface.listen();
            let mut vmm = Vmm::job(&interface.job())
                .option("--net", "tap=vm0")
                .option("--cpus", cpus)
                .argument("--sandbox")
                .time_limit(Duration::from_secs(450));
            if by_bus_address {
                vmm = vmm.argument("--iommu-platform");
            }
            let finished = vmm.run().assert_job_done();
            assert_passed(&finished, listener);
            let exits = finished.number("/exits/mmio");
            assert!(exits < SET_UP_EXITS, "{exits}: {finished}");
            finished.assert_no_complaint();
            assert_nothing_is_left();
        }
    }
}
