//! A bare-metal guest that makes the TCE calls that the test tells it to, one at a time.

use std::process::{ChildStdin, Stdio};
use std::thread;
use std::time::Duration;

use super::Vmm;
use super::finished::Finished;
use super::running::{Running, type_line};

/// Return codes of hypercalls.
pub(crate) const H_SUCCESS: i64 = 0;
/// The host refuses what should always be possible.
pub(crate) const H_HARDWARE: i64 = -1;
/// An argument is out of range.
pub(crate) const H_PARAMETER: i64 = -4;
/// The host lacks something.
pub(crate) const H_NOT_ENOUGH_RESOURCES: i64 = -44;

/// The guest, and how many calls it has made.
#[derive(Debug)]
pub(crate) struct TceCalls {
    running: Running,
    keyboard: ChildStdin,
    made: usize,
}

impl TceCalls {
    /// A run of the guest with the NVMe and its default DMA window.
    pub(crate) fn vmm() -> Vmm {
        Vmm::bare_metal("tce-calls-guest", "").nvme()
    }

    /// Starts it, and waits until it takes calls.
    pub(crate) fn start(vmm: Vmm) -> Self {
        let mut running = vmm.stdin(Stdio::piped()).start();
        let keyboard = running.stdin();
        let mut calls = Self {
            running,
            keyboard,
            made: 0,
        };
        calls.answer();
        calls
    }

    /// Has the guest make a call, as its source says how; returns the code and the value.
    pub(crate) fn make(&mut self, call: &str) -> (i64, u64) {
        self.made += 1;
        type_line(&mut self.keyboard, call);
        self.answer()
    }

    fn answer(&mut self) -> (i64, u64) {
        let start = format!("TCE-CALL {} ", self.made);
        self.running.wait_for_console(&start, 1);
        loop {
            let console = self.running.console();
            let answer = console.split_once(&start).expect("just seen").1;
            if let Some((line, _)) = answer.split_once('\n') {
                let (code, value) = line.trim().split_once(' ').expect("code and value");
                return (
                    code.parse().expect("a code"),
                    u64::from_str_radix(value, 16).expect("a value"),
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The run.
    pub(crate) fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Has the guest power off, and waits for the end.
    pub(crate) fn power_off(mut self) -> Finished {
        type_line(&mut self.keyboard, "off");
        self.running.finish()
    }
}
