//! Commands (NVMe 1.4, chapters 4 to 6).

use super::queue::ENTRIES;

/// Bytes of a block of the lab's NVMe.
pub const BLOCK_BYTES: u64 = 512;

const CREATE_SUBMISSION_QUEUE: u64 = 0x01;
const CREATE_COMPLETION_QUEUE: u64 = 0x05;
const IDENTIFY: u64 = 0x06;
const WRITE: u64 = 0x01;
const READ: u64 = 0x02;

/// The one namespace.
const NAMESPACE: u64 = 1;
/// CDW11 of the creation of a queue: it is contiguous in memory.
const CONTIGUOUS: u64 = 1;

/// A submission, without its identifier.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    opcode: u64,
    namespace: u64,
    /// PRP entries 1 and 2: the bus addresses of the first page of data, and of the second or of a
    /// list of all others.
    pages: [u64; 2],
    /// Command words 10 and 11, and 12 and 13.
    words: [u64; 2],
}

impl Command {
    /// Reads so many blocks from block `first` on.
    pub const fn read(first: u64, blocks: u64, pages: [u64; 2]) -> Self {
        Self::transfer(READ, first, blocks, pages)
    }

    /// Writes so many blocks from block `first` on.
    pub const fn write(first: u64, blocks: u64, pages: [u64; 2]) -> Self {
        Self::transfer(WRITE, first, blocks, pages)
    }

    /// Describes the controller in a page.
    pub const fn identify_controller(page: u64) -> Self {
        Self {
            opcode: IDENTIFY,
            namespace: 0,
            pages: [page, 0],
            words: [1, 0],
        }
    }

    /// Describes the namespace in a page.
    pub const fn identify_namespace(page: u64) -> Self {
        Self {
            opcode: IDENTIFY,
            namespace: NAMESPACE,
            pages: [page, 0],
            words: [0, 0],
        }
    }

    pub(super) fn create_completion_queue(queue: u16, page: u64) -> Self {
        Self::create(CREATE_COMPLETION_QUEUE, queue, page, CONTIGUOUS)
    }

    /// One whose completions go to the queue of the same number.
    pub(super) fn create_submission_queue(queue: u16, page: u64) -> Self {
        let attributes = CONTIGUOUS | u64::from(queue) << 16;
        Self::create(CREATE_SUBMISSION_QUEUE, queue, page, attributes)
    }

    fn create(opcode: u64, queue: u16, page: u64, attributes: u64) -> Self {
        Self {
            opcode,
            namespace: 0,
            pages: [page, 0],
            words: [attributes << 32 | (ENTRIES - 1) << 16 | u64::from(queue), 0],
        }
    }

    const fn transfer(opcode: u64, first: u64, blocks: u64, pages: [u64; 2]) -> Self {
        Self {
            opcode,
            namespace: NAMESPACE,
            pages,
            words: [first, blocks.saturating_sub(1)],
        }
    }

    /// The eight words of 8 bytes of a submission with this identifier.
    pub(super) fn submission(self, identifier: u16) -> [u64; 8] {
        let [first, second] = self.pages;
        let [words_10_11, words_12_13] = self.words;
        [
            self.namespace << 32 | u64::from(identifier) << 16 | self.opcode,
            0,
            0,
            first,
            second,
            words_10_11,
            words_12_13,
            0,
        ]
    }
}
