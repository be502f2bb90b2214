//! Unpacking a compressed kernel, piece by piece: never more of it is in memory than the compression's
//! own window, whatever the file says it unpacks to.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::format::Packing;

/// The most that is kept of what was unpacked, for references back to it: what zstd itself allows when
/// it is not told otherwise, twice what xz has at its highest level. gzip has 32 KiB.
const MOST_WINDOW_BYTES: u32 = 128 << 20;

/// Bytes that are read from the file at once.
const PIECE_BYTES: usize = 64 << 10;

/// Why a file cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It ends in the middle.
    #[error("it ends too early: it was not copied whole")]
    Truncated,
    /// It is more than there is room for.
    #[error(
        "it is more than {most} bytes, all that the guest has room for; strip it, or give the guest \
         more memory"
    )]
    TooMuch {
        /// The most that it may be.
        most: u64,
    },
    /// What was written does not say what follows, or its checksum is wrong.
    #[error("{0}")]
    Damaged(String),
    /// The file cannot be read.
    #[error(transparent)]
    Read(io::Error),
}

/// What a compressed file unpacks to.
pub(super) struct Unpacker {
    reader: Box<dyn Read + Send>,
    most: u64,
    left: u64,
}

impl Unpacker {
    /// What `file` unpacks to, of which there may be `most` bytes.
    pub(super) fn new(packing: Packing, file: File, most: u64) -> Self {
        Self::of(packing, BufReader::with_capacity(PIECE_BYTES, file), most)
    }

    fn of(packing: Packing, packed: impl BufRead + Send + 'static, most: u64) -> Self {
        let reader: Box<dyn Read + Send> = match packing {
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Xz => {
                let limit = MOST_WINDOW_BYTES >> 10;
                Box::new(XzReader::new_mem_limit(packed, true, limit))
            }
            Packing::Zstd => Box::new(ZstdFrames::new(packed)),
        };
        Self {
            reader,
            most,
            left: most,
        }
    }

    /// Fills as much of `buffer` as there is; less than all is the end, and what was packed was whole.
    /// To be called no more after an error.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(explain(error)),
            }
        }
        let most = self.most;
        self.left = self
            .left
            .checked_sub(filled as u64)
            .ok_or(UnpackError::TooMuch { most })?;
        Ok(filled)
    }
}

/// Sorts what a decoder says: it wraps what the file said.
fn explain(error: io::Error) -> UnpackError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => UnpackError::Truncated,
        _ if error.raw_os_error().is_some() => UnpackError::Read(error),
        _ => UnpackError::Damaged(error.to_string()),
    }
}

/// The frames of a zstd file, one after the other (RFC 8878, 3.1). The decoder knows single ones.
struct ZstdFrames<R> {
    packed: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(packed: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MOST_WINDOW_BYTES.into());
        Self {
            packed,
            decoder,
            inside: false,
        }
    }

    /// Begins the next frame; false when there is none.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.packed.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.packed) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(length.into())?,
                Err(error) => return Err(sort(&error)),
            }
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let mut skipped = (&mut self.packed).take(length);
        match io::copy(&mut skipped, &mut io::sink())? {
            all if all == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.inside = false;
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(io::Error::other("wrong checksum"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.inside || self.next_frame()? {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| sort(&error))?;
            }
            match self.decoder.read(buffer)? {
                0 => self.end_frame()?,
                length => return Ok(length),
            }
        }
        Ok(0)
    }
}

/// The decoder's error as one of input: that of the file itself, if one is behind it.
fn sort(error: &(dyn Error + 'static)) -> io::Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(of_file) = error.downcast_ref::<io::Error>() {
            return match of_file.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => of_file.kind().into(),
            };
        }
        cause = error.source();
    }
    io::Error::other(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::samples::packed::{ALL, bomb, pack};
    use super::*;

    /// What comes of `packed`, of which there may be `most` bytes.
    fn unpack(packing: Packing, packed: &[u8], most: u64) -> Result<Vec<u8>, UnpackError> {
        let mut unpacker = Unpacker::of(packing, Cursor::new(packed.to_vec()), most);
        let mut all = Vec::new();
        let mut piece = [0; 1000];
        loop {
            let length = unpacker.fill(&mut piece)?;
            all.extend_from_slice(&piece[..length]);
            if length < piece.len() {
                return Ok(all);
            }
        }
    }

    /// Text that compresses, and is longer than any piece.
    fn text() -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|number| format!("line {}\n", number % 977).into_bytes())
            .collect()
    }

    #[test]
    fn what_was_packed_comes_out_again() {
        for packing in ALL {
            for text in [text(), Vec::new(), b"x".to_vec()] {
                let packed = pack(packing, &text);
                let unpacked = unpack(packing, &packed, 1 << 20).expect("unpacks");
                assert_eq!(unpacked, text, "{packing}");
            }
        }
    }

    #[test]
    fn pieces_that_were_packed_apart_and_put_together_are_one() {
        for packing in ALL {
            let mut packed = pack(packing, b"one, ");
            if packing == Packing::Zstd {
                // A frame to be skipped.
                packed.extend(b"\x57\x2a\x4d\x18\x03\0\0\0abc");
            }
            packed.extend(pack(packing, b"two"));
            let unpacked = unpack(packing, &packed, 1 << 20).expect("unpacks");
            assert_eq!(unpacked, b"one, two", "{packing}");
        }
    }

    #[test]
    fn a_file_that_ends_in_the_middle_was_not_copied_whole() {
        for packing in ALL {
            let packed = pack(packing, &text());
            for length in [packed.len() - 1, packed.len() / 2, 7] {
                let error = unpack(packing, &packed[..length], 1 << 20).expect_err("too short");
                let text = error.to_string();
                assert!(
                    text.contains("not copied whole"),
                    "{packing} {length}: {text}"
                );
            }
        }
    }

    #[test]
    fn a_byte_that_was_changed_is_noticed() {
        for packing in ALL {
            let mut packed = pack(packing, &text());
            let middle = packed.len() / 2;
            packed[middle] ^= 0x10;
            unpack(packing, &packed, 1 << 20).expect_err("damaged");
        }
    }

    #[test]
    fn what_unpacks_to_more_than_there_is_room_for_is_given_up() {
        for packing in ALL {
            let packed = bomb(packing);
            let error = unpack(packing, &packed, 100_000).expect_err("too much");
            assert!(
                matches!(error, UnpackError::TooMuch { most: 100_000 }),
                "{error}"
            );
        }
    }

    #[test]
    fn a_window_larger_than_any_kernel_needs_is_refused_before_it_is_made() {
        // A window of 2 GiB (RFC 8878, 3.1.1.1.2).
        let zstd = b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0";
        let error = unpack(Packing::Zstd, zstd, 1 << 20).expect_err("refused");
        assert!(error.to_string().contains("window"), "{error}");
        // A dictionary of 4 GiB - 1, the largest (xz-file-format.txt, 5.3.1): the block's header with
        // its size, its only filter and that one's size, and its checksum.
        let mut xz = pack(Packing::Xz, b"x");
        let header = 12..20;
        assert_eq!(xz[header.clone()][..4], [2, 0, 0x21, 1]);
        xz[16] = 40;
        let mut checksum = flate2::Crc::new();
        checksum.update(&xz[header]);
        xz[20..24].copy_from_slice(&checksum.sum().to_le_bytes());
        let error = unpack(Packing::Xz, &xz, 1 << 20).expect_err("refused");
        assert!(error.to_string().contains("memory"), "{error}");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic_or_give_more_than_it_may(
            which in 0..ALL.len(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            is_cut: bool,
        ) {
            static PACKED: LazyLock<[Vec<u8>; 3]> =
                LazyLock::new(|| ALL.map(|packing| pack(packing, &text()[..40_000])));
            let packing = ALL[which];
            let mut packed = PACKED[which].clone();
            for (place, value) in flips {
                let place = place.index(packed.len());
                packed[place] = value;
            }
            if is_cut {
                packed.truncate(cut.index(packed.len()));
            }
            if let Ok(unpacked) = unpack(packing, &packed, 50_000) {
                prop_assert!(unpacked.len() <= 50_000);
            }
        }

        #[test]
        fn what_no_packer_wrote_does_not_make_it_panic(
            which in 0..ALL.len(),
            bytes in prop::collection::vec(0u8.., 0..2000),
        ) {
            let packing = ALL[which];
            let magic = match packing {
                Packing::Gzip => &b"\x1f\x8b\x08\0"[..],
                Packing::Xz => b"\xfd7zXZ\0",
                Packing::Zstd => b"\x28\xb5\x2f\xfd",
            };
            let mut packed = magic.to_vec();
            packed.extend(bytes);
            let _any = unpack(packing, &packed, 50_000);
        }
    }
}
