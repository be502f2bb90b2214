//! A guest with a virtio disk beside a passed-through one.

use crate::every_host::disk::{assert_written, digest, image, job};
use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::vmm::Folder;

#[test]
fn a_disk_and_a_passed_through_nvme_work_side_by_side() {
    for tce in ["auto", "user"] {
        let folder = Folder::new();
        let path = image(&folder, "disk.img");
        let head = digest(&path, 0..1 << 20);
        let disk = format!("{},cache=none,queues=2", path.display());
        let job = [&job("vda"), WAIT_FOR_NVME, READ_HEAD].concat();
        let finished = Vmm::job(&job)
            .nvme_with_windows()
            .option("--disk", &disk)
            .option("--tce", tce)
            .option("--cpus", "2")
            .argument("--iommu-platform")
            .argument("--sandbox")
            .run()
            .assert_job_done();
        assert_written(&finished, &path, &head);
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
        assert_nothing_is_left();
    }
}
