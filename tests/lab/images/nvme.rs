//! The contents of the NVMe that hosts pass through: known data to read, zeros to write to.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::progress::Step;
use crate::workspace::{Workspace, WorkspaceError, at, hex};

/// Bytes of pseudo-random data at the start of the disk.
pub(crate) const DATA_BYTES: u64 = 64 << 20;
/// Bytes of it that most tests read.
pub(crate) const HEAD_BYTES: u64 = 8 << 20;
/// Bytes of zeros behind the data, for tests that write.
pub(crate) const SCRATCH_BYTES: u64 = 8 << 20;

/// Changes when the contents change.
const RECIPE_VERSION: &[u8] = b"2";
const CHUNK: usize = 1 << 20;

/// The stock disk; hosts get copies.
#[derive(Debug)]
pub(crate) struct NvmeImage {
    /// The raw disk.
    pub(crate) disk: PathBuf,
    /// SHA-256 of the whole disk, in hex.
    pub(crate) sha256: String,
    /// SHA-256 of its first [`DATA_BYTES`], in hex.
    pub(crate) data_sha256: String,
    /// SHA-256 of its first [`HEAD_BYTES`], in hex.
    pub(crate) head_sha256: String,
}

/// The stock disk, made if it is not in the cache.
pub(crate) fn stock(workspace: &Workspace) -> Result<NvmeImage, WorkspaceError> {
    let sizes = format!("{DATA_BYTES} {HEAD_BYTES} {SCRATCH_BYTES}");
    let folder = workspace.provide(
        "images",
        "nvme",
        &[RECIPE_VERSION, sizes.as_bytes()],
        |into| {
            let step = Step::start("making the NVMe's contents");
            let disk = into.join("disk");
            write_disk(&disk).map_err(at("write", &disk))?;
            for (name, length) in [
                ("sha256", DATA_BYTES + SCRATCH_BYTES),
                ("data-sha256", DATA_BYTES),
                ("head-sha256", HEAD_BYTES),
            ] {
                let digest = digest_of(&disk, 0, length)?;
                let path = into.join(name);
                fs::write(&path, digest).map_err(at("write", &path))?;
            }
            step.done();
            Ok::<(), WorkspaceError>(())
        },
    )?;
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(at("read", &path))
    };
    Ok(NvmeImage {
        disk: folder.join("disk"),
        sha256: read("sha256")?,
        data_sha256: read("data-sha256")?,
        head_sha256: read("head-sha256")?,
    })
}

/// SHA-256, in hex, of a part of a disk.
pub(crate) fn digest_of(disk: &Path, offset: u64, length: u64) -> Result<String, WorkspaceError> {
    let mut file = File::open(disk).map_err(at("open", disk))?;
    file.seek(SeekFrom::Start(offset))
        .map_err(at("read", disk))?;
    let mut part = file.take(length);
    let mut hasher = Sha256::new();
    std::io::copy(&mut part, &mut hasher).map_err(at("read", disk))?;
    Ok(hex(&hasher.finalize()))
}

fn write_disk(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut random = SplitMix64(0x5eed);
    let mut chunk = vec![0; CHUNK];
    for _ in 0..DATA_BYTES / (1 << 20) {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        file.write_all(&chunk)?;
    }
    file.set_len(DATA_BYTES + SCRATCH_BYTES)?;
    file.sync_all()
}

/// Sebastiano Vigna's generator of that name: small, and the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
