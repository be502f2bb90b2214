//! A device to teach with, by MSI and by its line, with both interrupt controllers, before and after its guest's reboot.
//! Its DMA has 28 bits of address, so that it has the default window alone.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, device};

const GUEST: &str = "edu-guest";
/// The first line of the first host bridge.
const LINE: &str = "interrupt=line lisn=4608";
const MESSAGE: &str = "interrupt=msi";
/// Interrupt controllers, and how the guest is to have its interrupts.
const WAYS: [(&str, &str); 4] = [
    ("xive", MESSAGE),
    ("xive", LINE),
    ("xics", MESSAGE),
    ("xics", LINE),
];
/// What a guest's line of results begins with.
const DONE: &str = "EDU controller=";

/// What a guest says that has had its edu do everything right, each time.
#[track_caller]
fn assert_done(times: usize, (controller, command_line): (&str, &str), finished: &Finished) {
    let inverted = !0x1234_5678u32;
    let factorial: u32 = (1..=12).product();
    // Three that the device is waited for by, and twenty more.
    let expected = format!(
        "{controller} identity=0x010000ed inverted={inverted:#010x} factorial={factorial} copied=same \
         interrupts=23 idle="
    );
    // With XICS, nobody sees where a line's interrupt ends.
    let may_be_idle = (controller, command_line) == ("xics", LINE);
    let is_right = |said: &str| {
        let idle = said.trim().strip_prefix(&expected);
        idle.is_some_and(|idle| idle == "0 left=0" || may_be_idle && idle.ends_with(" left=0"))
    };
    let lines = finished.console().lines();
    let said: Vec<&str> = lines
        .filter_map(|line| Some(line.split_once(DONE)?.1))
        .take(times)
        .collect();
    assert!(
        said.len() == times && said.iter().all(|said| is_right(said)),
        "not {expected:?} with {command_line}: {said:?}\n{finished}"
    );
}

#[test]
fn an_edu_reckons_copies_by_dma_and_interrupts_by_message_and_by_line() {
    for way in WAYS {
        let (controller, command_line) = way;
        let finished = Vmm::bare_metal(GUEST, command_line)
            .option("--vfio", &device("edu"))
            .option("--interrupt-controller", controller)
            .run();
        finished.assert_status(0);
        assert_done(1, way, &finished);
        assert_nothing_is_left();
    }
}

mod long {
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn an_edu_works_after_its_guests_reboot_as_before() {
        for way in WAYS {
            let (controller, command_line) = way;
            let mut running = Vmm::bare_metal(GUEST, &format!("{command_line} then=reboot"))
                .option("--vfio", &device("edu"))
                .option("--interrupt-controller", controller)
                .start();
            running.wait_for_console(" left=0", 2);
            running.signal(Signal::TERM);
            let finished = running.finish();
            finished.assert_status(1);
            assert_eq!(finished.stat("/outcome"), "signal", "{finished}");
            assert_done(2, way, &finished);
            assert_nothing_is_left();
        }
    }
}
