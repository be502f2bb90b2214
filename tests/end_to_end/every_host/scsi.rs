//! SCSI disks and CDs of guests, for tests whose guests have other disks, too.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::digest;
use crate::harness::finished::Finished;
use crate::harness::vmm::Folder;

/// Bytes of the disk and of the CD.
const DISK_BYTES: u64 = 16 << 20;
const CD_BYTES: u64 = 4 << 20;
/// Where the guest writes.
const WRITTEN: Range<u64> = 4 << 20..6 << 20;

/// The images of a disk and of a CD.
pub(crate) struct Media {
    pub(crate) disk: PathBuf,
    pub(crate) cd: PathBuf,
    head: String,
    disc: String,
}

impl Media {
    /// Makes them, with bytes of which no two blocks have the same.
    pub(crate) fn new(folder: &Folder) -> Self {
        let make = |name: &str, bytes: u64, filled: u64| {
            let path = folder.file(name);
            let file = File::create_new(&path).expect("cannot make an image");
            file.set_len(bytes).expect("cannot size an image");
            let filling: Vec<u8> = (0..filled / 8).flat_map(u64::to_le_bytes).collect();
            file.write_all_at(&filling, 0)
                .expect("cannot fill an image");
            path
        };
        let disk = make("scsi.img", DISK_BYTES, 1 << 20);
        let cd = make("disc.iso", CD_BYTES, CD_BYTES);
        Self {
            head: digest(&disk, 0..1 << 20),
            disc: digest(&cd, 0..CD_BYTES),
            disk,
            cd,
        }
    }

    /// What the guest does: reads the disk's head, writes, flushes and reads that past its cache, has some of it
    /// unmapped and zeroed, and reads the CD.
    pub(crate) fn job() -> String {
        let (start, count) = (WRITTEN.start >> 20, (WRITTEN.end - WRITTEN.start) >> 20);
        format!(
            "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/sda ] && [ -b /dev/sr0 ] && break; sleep 0.25; done
scsi_digest() {{ sha256sum | cut -d' ' -f1; }}
echo LAB-GUEST-SCSI-CACHE $(cat /sys/block/sda/queue/write_cache)
echo LAB-GUEST-SCSI-HEAD $(dd if=/dev/sda bs=64k count=16 iflag=direct 2>/dev/null | scsi_digest)
dd if=/dev/urandom of=/tmp/scsi bs=1M count={count} 2>/dev/null || exit 1
echo LAB-GUEST-SCSI-WRITTEN $(scsi_digest </tmp/scsi)
dd if=/tmp/scsi of=/dev/sda bs=256k seek=$(({start} * 4)) conv=fsync 2>/dev/null || exit 1
echo 3 >/proc/sys/vm/drop_caches
echo LAB-GUEST-SCSI-READ $(dd if=/dev/sda bs=1M skip={start} count={count} iflag=direct 2>/dev/null | scsi_digest)
blkdiscard -o $(({start} + {count} << 20)) -l $((1 << 20)) /dev/sda || exit 1
echo LAB-GUEST-SCSI-DISC $(dd if=/dev/sr0 bs=64k iflag=direct 2>/dev/null | scsi_digest)
echo LAB-GUEST-SCSI-SECTORS $(cat /sys/block/sda/size) $(cat /sys/block/sr0/size)
dd if=/dev/zero of=/dev/sr0 bs=2k count=1 oflag=direct 2>/dev/null && exit 1
true
"
        )
    }

    /// Fails unless the guest read what there was and what it wrote, and the image has it.
    #[track_caller]
    pub(crate) fn assert_used(&self, finished: &Finished) {
        self.assert_read(|name| finished.guest(name).to_owned());
    }

    /// The same, of what the guest has `said` behind each name.
    #[track_caller]
    pub(crate) fn assert_read(&self, said: impl Fn(&str) -> String) {
        let sectors = format!("{} {}", DISK_BYTES / 512, CD_BYTES / 512);
        assert_eq!(said("SCSI-SECTORS"), sectors);
        assert_eq!(said("SCSI-CACHE"), "write back");
        assert_eq!(said("SCSI-HEAD"), self.head);
        let written = said("SCSI-WRITTEN");
        assert_eq!(said("SCSI-READ"), written);
        assert_eq!(digest(&self.disk, WRITTEN), written);
        assert_eq!(said("SCSI-DISC"), self.disc);
        let bytes = fs::metadata(&self.cd).expect("an image").len();
        assert_eq!(
            (bytes, digest(&self.cd, 0..CD_BYTES)),
            (CD_BYTES, self.disc.clone())
        );
    }

    /// As `--disk` and `--cdrom` have them.
    pub(crate) fn options(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [
            (
                "--disk",
                format!("{},bus=scsi,cache=none", text(&self.disk)),
            ),
            ("--cdrom", text(&self.cd)),
        ]
    }
}
