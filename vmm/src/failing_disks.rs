//! `spapr-vmm run` pauses its guest when the host fails a disk that is to wait for that, and has it go on at SIGCONT:
//! there is no monitor that could say so.

use std::sync::Arc;

use spapr_devices::virtio::disk::{Action, Disk, DiskFailures};

use crate::control::{Alarm, CaughtSignal, ControlError};
use crate::machine::MachineControls;

/// The machine's disks, where they tell of failures, and the signal.
pub struct FailingDisks {
    failures: Arc<DiskFailures>,
    disks: Arc<[Arc<Disk>]>,
    goes_on: CaughtSignal,
}

impl FailingDisks {
    /// Catches the signal.
    ///
    /// # Errors
    /// When it cannot be caught.
    pub fn new(failures: Arc<DiskFailures>, disks: &[Arc<Disk>]) -> Result<Self, ControlError> {
        Ok(Self {
            failures,
            disks: disks.into(),
            goes_on: CaughtSignal::new(libc::SIGCONT, "SIGCONT")?,
        })
    }

    /// What pauses a machine, and has it go on.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn alarms(&self, controls: &MachineControls) -> Result<[Alarm; 2], ControlError> {
        let (failures, disks, machine) = (
            Arc::clone(&self.failures),
            Arc::clone(&self.disks),
            controls.clone(),
        );
        let fails = Alarm::watching(self.failures.event(), move || {
            pause_for(&failures, &disks, &machine);
        });
        let (failures, machine) = (Arc::clone(&self.failures), controls.clone());
        let goes_on = self.goes_on.alarm(move || {
            // What is tried again now is past.
            drop(failures.take());
            machine.resume();
        })?;
        Ok([fails.map_err(ControlError::Event)?, goes_on])
    }
}

fn pause_for(failures: &DiskFailures, disks: &[Arc<Disk>], machine: &MachineControls) {
    for failure in failures.take() {
        let Some(disk) = disks.get(failure.disk) else {
            continue;
        };
        // A request of a life that is over waits no more.
        if failure.action == Action::Stop && disk.waits() {
            machine.pause();
            // Said whatever is logged: the guest stands still until somebody does something.
            crate::logging::tell(&format!(
                "--disk {}: {}: the guest is paused. Once that is mended, kill -CONT {} has it go on",
                disk.image().options().path.display(),
                failure.reason,
                std::process::id(),
            ));
        }
    }
}
