//! Showing how far a script in a host has come.

use crate::exec::Passed;
use crate::host::Output;
use crate::progress::Step;

/// Shows the script's progress: a line `LAB-STEP text` starts a step, `LAB-STEP end` ends the last.
#[derive(Default)]
pub(crate) struct Steps {
    step: Option<Step>,
    partial: Vec<u8>,
}

impl Output for Steps {
    fn stdout(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(title) = line.trim_end().strip_prefix("LAB-STEP ") else {
                continue;
            };
            if let Some(step) = self.step.take() {
                step.done();
            }
            if title != "end" {
                self.step = Some(Step::start(title));
            }
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        Passed.stderr(bytes);
    }

    fn reports_progress(&self) -> bool {
        true
    }
}
