//! The file system device (virtio 5.11), by which a guest mounts a folder of the host's. Another program, such as virtiofsd,
//! serves it (vhost-user).

use std::io;
use std::path::Path;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Device, Identity, ServeError, Served, read_config};
use super::vhost_queues::VhostQueues;
use crate::dma::DmaMemory;
use crate::vhost::user::UserBackEnd;
use crate::vhost::{VhostUser, VhostUserError};

/// Bytes of the name by which the guest finds a file system (virtio 5.11.4).
pub const TAG_BYTES: usize = 36;
/// One for what cannot wait, and one for requests.
const QUEUES: u8 = 2;
/// How many queues for requests there are, as the configuration has it.
const REQUEST_QUEUES: u32 = 1;
const CONFIG_BYTES: usize = TAG_BYTES + size_of::<u32>();

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum FsRefusal {
    /// A name that does not fit.
    #[error("the tag {0:?} should have 1 to 36 bytes, none of them zero")]
    Tag(String),
    /// A size that no queue has.
    #[error("a queue of {0} entries cannot be; powers of two from 2 to 1024 can")]
    QueueSize(u16),
    /// The program that is to serve it.
    #[error(transparent)]
    BackEnd(#[from] VhostUserError),
}

/// A file system with the program that serves it. It outlasts a machine's life.
pub struct FsHost {
    back_end: Arc<VhostUser>,
    config: [u8; CONFIG_BYTES],
    queue_sizes: [u16; QUEUES as usize],
}

impl FsHost {
    /// The one that the program serves which listens at `socket`, called `tag`, with queues of so many entries.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn connect(socket: &Path, tag: &str, queue_size: u16) -> Result<Self, FsRefusal> {
        let config = config(tag)?;
        if !(2..=1024).contains(&queue_size) || !queue_size.is_power_of_two() {
            return Err(FsRefusal::QueueSize(queue_size));
        }
        let back_end = VhostUser::connect(socket, QUEUES.into())?;
        Ok(Self::new(back_end, config, queue_size))
    }

    fn new(back_end: VhostUser, config: [u8; CONFIG_BYTES], queue_size: u16) -> Self {
        Self {
            back_end: Arc::new(back_end),
            config,
            queue_sizes: [queue_size; QUEUES as usize],
        }
    }

    /// Its name.
    pub fn tag(&self) -> String {
        let (name, _) = self.config.split_at(TAG_BYTES);
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(TAG_BYTES);
        String::from_utf8_lossy(&name[..end]).into_owned()
    }

    /// Whether the program that serves it may touch guest memory although no device is there any more: it has not said that
    /// it has stopped, and has not ended.
    pub fn may_touch_memory(&self) -> bool {
        self.back_end.may_touch_memory()
    }

    /// One of that back end's.
    #[cfg(test)]
    pub(super) fn of_back_end(back_end: VhostUser, tag: &str) -> Self {
        Self::new(back_end, config(tag).expect("a tag"), 8)
    }
}

/// The configuration of a device with that name.
fn config(tag: &str) -> Result<[u8; CONFIG_BYTES], FsRefusal> {
    let mut config = [0; CONFIG_BYTES];
    let (name, queues) = config.split_at_mut(TAG_BYTES);
    let is_name = !tag.is_empty() && !tag.contains('\0');
    let place = name.get_mut(..tag.len()).filter(|_| is_name);
    let place = place.ok_or_else(|| FsRefusal::Tag(tag.to_owned()))?;
    place.copy_from_slice(tag.as_bytes());
    queues.copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
    Ok(config)
}

/// A file system device.
pub struct FileSystem {
    host: Arc<FsHost>,
    queues: VhostQueues,
    event: Arc<EventFd>,
}

impl FileSystem {
    /// That of a machine with that memory, all of which has descriptors.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(host: Arc<FsHost>, ram: &GuestMemoryMmap) -> io::Result<Self> {
        let back_end = Arc::clone(&host.back_end);
        let back_end = UserBackEnd::new(back_end, ram.clone(), QUEUES.into());
        Ok(Self {
            queues: VhostQueues::new(Box::new(back_end))?,
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            host,
        })
    }
}

impl Device for FileSystem {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-fs",
            device_id: 26,
            // Mass storage, of another kind.
            class_code: 0x01_8000,
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.host.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_config(&self.host.config, offset, data);
    }

    /// There are no others than its back end's.
    fn serve(&mut self, _: usize, _: &mut Queue, _: &DmaMemory) -> Result<Served, ServeError> {
        Ok(Served::Full)
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.event))
    }

    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        Some(&mut self.queues)
    }
}
