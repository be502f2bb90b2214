//! A device to teach with, by MSI and by its line, with both interrupt controllers.

use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, device};

/// The first line of the first host bridge.
const LINE: &str = "interrupt=line lisn=4608";
const MESSAGE: &str = "interrupt=msi";

#[test]
fn an_edu_reckons_copies_by_dma_and_interrupts_by_message_and_by_line() {
    for (controller, command_line) in [
        ("xive", MESSAGE),
        ("xive", LINE),
        ("xics", MESSAGE),
        ("xics", LINE),
    ] {
        let finished = Vmm::bare_metal("edu-guest", command_line)
            .option("--vfio", &device("edu"))
            .option("--interrupt-controller", controller)
            .run();
        let inverted = !0x1234_5678u32;
        let factorial: u32 = (1..=12).product();
        // Three that the device is waited for by, and twenty more.
        let expected = format!(
            "EDU controller={controller} identity=0x010000ed inverted={inverted:#010x} factorial={factorial} \
             copied=same interrupts=23 idle="
        );
        let mut lines = finished.console().lines();
        let said = lines.find_map(|line| Some(line.split_once(&expected)?.1.trim()));
        let said =
            said.unwrap_or_else(|| panic!("no {expected:?} with {command_line}: {finished}"));
        // With XICS, nobody sees where a line's interrupt ends.
        let may_be_idle = (controller, command_line) == ("xics", LINE);
        let is_right = said == "0 left=0" || may_be_idle && said.ends_with(" left=0");
        assert!(is_right, "{said} with {command_line}: {finished}");
        assert_nothing_is_left();
    }
}
