//! Compressing kernels, with little effort: the host is an emulated one.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::vmm::Folder;

/// A way to compress.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
}

/// A compressed file, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Packed {
    folder: Folder,
}

impl Packed {
    /// Compresses a file.
    pub(crate) fn new(packing: Packing, path: &str) -> Self {
        let content = fs::read(path).expect("no such file");
        let packed = match packing {
            Packing::Gzip => {
                let mut writer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(&content).expect("memory");
                writer.finish().expect("memory")
            }
            Packing::Xz => {
                let options = XzOptions::with_preset(0);
                let mut writer = XzWriter::new(Vec::new(), options).expect("options");
                writer.write_all(&content).expect("memory");
                writer.finish().expect("memory")
            }
            Packing::Zstd => compress_to_vec(content.as_slice(), CompressionLevel::Fastest),
        };
        assert!(packed.len() < content.len() / 2, "{packing:?} of {path}");
        let folder = Folder::new();
        fs::write(folder.file("packed"), packed).expect("cannot write it");
        Self { folder }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> String {
        let path = self.folder.file("packed");
        let path: &Path = &path;
        path.to_str().expect("a path of ours").to_owned()
    }
}
