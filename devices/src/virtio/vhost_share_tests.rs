//! A device of which a vhost back end serves two queues or one, as its driver comes to terms with it: the device's thread
//! has the others.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::driver::{ACKNOWLEDGE_AND_DRIVER, DRIVER_OK, Driver, EVENT_IDX, FEATURES_OK};
use super::{Device, Identity, ServeError, Served, VhostQueues};
use crate::dma::DmaMemory;
use crate::vhost::{BackEnd, Ring};

/// With which the driver leaves both queues to the back end.
const BOTH: u64 = 1 << 3;

/// Which queues the back end serves at present, and how often the thread was to serve which.
#[derive(Debug, Default)]
struct Seen {
    placed: Vec<usize>,
    served: [u32; 2],
}

struct Fake(Arc<Mutex<Seen>>);

impl BackEnd for Fake {
    fn queues(&self) -> usize {
        2
    }

    fn begin(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn place(&mut self, _ring: &Ring<'_>) -> io::Result<()> {
        Ok(())
    }

    fn set_call(&mut self, _index: usize, _call: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn run(&mut self, placed: &[usize]) -> io::Result<()> {
        self.0.lock().placed = placed.to_vec();
        Ok(())
    }

    fn halt(&mut self, placed: &[usize]) -> io::Result<()> {
        let before = std::mem::take(&mut self.0.lock().placed);
        assert_eq!(before, placed);
        Ok(())
    }

    fn next_avail(&mut self, _index: usize) -> io::Result<u16> {
        Ok(0)
    }
}

struct Parted {
    queues: VhostQueues,
    event: Arc<EventFd>,
    seen: Arc<Mutex<Seen>>,
}

impl Device for Parted {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-parted",
            device_id: 4,
            class_code: 0,
        }
    }

    fn features(&self) -> u64 {
        BOTH
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 8]
    }

    fn start(&mut self, features: u64) {
        self.queues
            .serve_first(1 + usize::from(features & BOTH != 0));
    }

    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        _: &DmaMemory,
    ) -> Result<Served, ServeError> {
        assert!(queue.ready());
        self.seen.lock().served[index] += 1;
        Ok(Served::All)
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.event))
    }

    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        Some(&mut self.queues)
    }
}

#[test]
fn the_thread_hears_the_doorbells_of_those_queues_alone_that_the_back_end_does_not_serve() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let device = Parted {
        queues: VhostQueues::new(Box::new(Fake(Arc::clone(&seen)))).unwrap(),
        event: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        seen: Arc::clone(&seen),
    };
    let driver = Driver::of(Box::new(device), false);
    for leaves_both in [false, true, false, true, true, false, false] {
        driver.write(0x14, &[0]);
        let mut wanted = driver.offered() & !EVENT_IDX;
        if !leaves_both {
            wanted &= !BOTH;
        }
        assert!(driver.accept(wanted));
        driver.place_queue_number(0);
        driver.place_queue_number(1);
        seen.lock().served = [0; 2];
        driver.write(0x14, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK]);
        let placed = if leaves_both { &[0, 1][..] } else { &[0] };
        assert_eq!(seen.lock().placed, placed);
        // Both doorbells are eventfds, of which this one is queue 1's.
        let served = || seen.lock().served[1];
        if leaves_both {
            driver.write(0x3004, &[1, 0]);
            thread::sleep(Duration::from_millis(20));
            assert_eq!(served(), 0);
        } else {
            driver.wait("what was rung for before is not served", || served() != 0);
            let before = served();
            driver.write(0x3004, &[1, 0]);
            driver.wait("its doorbell is not heard", || served() != before);
        }
        assert_eq!(seen.lock().served[0], 0);
    }
}
