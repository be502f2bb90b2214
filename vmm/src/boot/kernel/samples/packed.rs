//! Compressed files for tests.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::super::format::Packing;

/// Each way to compress.
pub(crate) const ALL: [Packing; 3] = [Packing::Gzip, Packing::Xz, Packing::Zstd];

/// `bytes`, compressed.
pub(crate) fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Gzip => {
            let mut writer = GzEncoder::new(Vec::new(), Compression::default());
            writer.write_all(bytes).expect("memory");
            writer.finish().expect("memory")
        }
        Packing::Xz => {
            let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).expect("options");
            writer.write_all(bytes).expect("memory");
            writer.finish().expect("memory")
        }
        Packing::Zstd => compress_to_vec(bytes, CompressionLevel::Fastest),
    }
}

/// 1 MiB of zeros, compressed.
pub(crate) fn bomb(packing: Packing) -> Vec<u8> {
    pack(packing, &vec![0; 1 << 20])
}
