//! The messages of the host's kernel.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The least urgent level that is a complaint: a warning (`KERN_WARNING`).
const WARNING: u32 = 4;
/// As much as one record of the kernel's takes (`PRINTK_MESSAGE_MAX`).
const RECORD_BYTES: usize = 2048;

/// Whether a message only tells what the guest did to itself, or what is done with its device at each start
/// and end. A guest accesses pages of the interrupt controller in ways that the hardware does not know; the
/// kernel says so, within limits, and has the guest take it.
fn is_expected(text: &str) -> bool {
    // The third is said once, when the first machine check taints the kernel.
    let of_machine_checks = [
        "MCE: CPU",
        "kvmppc_handle_exit_hv: ",
        "Disabling lock debugging due to kernel taint",
    ];
    // An LPAR's kernel tells of each DMA window that it asks its platform for.
    let of_windows = text.starts_with("spapr_tce_create_table: Calling query ");
    // From Linux 7 on.
    let of_resets = text.starts_with("vfio-pci ") && text.contains(": reset");
    // Once in a boot, where the machine that emulates this one was busy.
    let of_late_timers = text.starts_with("hrtimer: interrupt took ");
    of_resets
        || of_late_timers
        || of_windows
        || of_machine_checks
            .iter()
            .any(|start| text.starts_with(start))
}

/// What the host's kernel says from a moment on.
#[derive(Debug)]
pub(crate) struct KernelLog(File);

impl KernelLog {
    /// From now on.
    pub(crate) fn from_now() -> Self {
        let mut options = OpenOptions::new();
        options.read(true);
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut file = options
            .custom_flags(flags)
            .open("/dev/kmsg")
            .expect("cannot read the kernel's messages");
        file.seek(SeekFrom::End(0)).expect("a log has an end");
        Self(file)
    }

    /// Fails if there was a warning or something worse.
    #[track_caller]
    pub(crate) fn assert_no_complaint(mut self) {
        let complaints = self.complaints();
        assert!(
            complaints.is_empty(),
            "the host's kernel says\n{}",
            complaints.join("\n")
        );
    }

    fn complaints(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut record = [0; RECORD_BYTES];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    // "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT": facility and level in the first.
                    let priority = record
                        .split_once(',')
                        .and_then(|it| it.0.parse::<u32>().ok());
                    let text = record.split_once(';').map_or("", |it| it.1.trim_end());
                    if priority.expect("a priority") & 7 <= WARNING && !is_expected(text) {
                        complaints.push(text.to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return complaints,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    complaints.push("so much that some of it is lost".to_owned());
                }
                Err(error) => panic!("cannot read the kernel's messages: {error}"),
            }
        }
    }
}
