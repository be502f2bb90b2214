//! A device whose requests are done when the host says so.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use virtio_queue::Queue;
use vm_memory::Bytes;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::driver::{BUFFER, Driver, WRITE_ONLY};
use super::requests;
use super::{Device, Done, Identity, ServeError, Served};
use crate::dma::DmaMemory;
use crate::pci::FunctionBackend;

/// What the test says for the host.
struct Host {
    event: Arc<EventFd>,
    /// How many more requests are done.
    done: AtomicUsize,
    /// How many the device has taken.
    taken: AtomicUsize,
}

impl Host {
    /// Waits until the device has taken so many requests in all: the host is done with no others.
    fn wait_for(&self, requests: usize) {
        let start = Instant::now();
        while self.taken.load(Ordering::SeqCst) < requests {
            assert!(start.elapsed() < LIMIT, "{requests} are not taken");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(&self, requests: usize) {
        self.done.fetch_add(requests, Ordering::SeqCst);
        self.event.write(1).unwrap();
    }
}

struct Later {
    host: Arc<Host>,
    under_way: VecDeque<u16>,
    done: VecDeque<u16>,
}

impl Device for Later {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-later",
            device_id: 4,
            class_code: 0,
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn serve(
        &mut self,
        _index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        while self.under_way.len() < 2 {
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            self.under_way.push_back(request.head);
            self.host.taken.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Served::Full)
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.host.event))
    }

    fn collect(&mut self) -> io::Result<()> {
        let count = self.host.done.swap(0, Ordering::SeqCst);
        self.done.extend(self.under_way.drain(..count));
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    fn next_done(&mut self, memory: &DmaMemory) -> Result<Option<Done>, ServeError> {
        let Some(head) = self.done.pop_front() else {
            return Ok(None);
        };
        memory.write_obj(1_u8, vm_memory::GuestAddress(BUFFER))?;
        Ok(Some(Done {
            queue: 0,
            head,
            written: 1,
        }))
    }

    fn reset(&mut self) {
        self.done.clear();
    }
}

fn driver() -> (Driver, Arc<Host>) {
    let host = Arc::new(Host {
        event: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        done: AtomicUsize::new(0),
        taken: AtomicUsize::new(0),
    });
    let device = Later {
        host: Arc::clone(&host),
        under_way: VecDeque::new(),
        done: VecDeque::new(),
    };
    let driver = Driver::of(Box::new(device), false);
    driver.start();
    driver.descriptor(0, BUFFER, 8, WRITE_ONLY, 0);
    (driver, host)
}

const A_WHILE: Duration = Duration::from_millis(20);
/// A machine may have much else to do.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn requests_are_given_back_when_the_host_is_done_and_the_others_have_their_turn_then() {
    let (driver, host) = driver();
    for count in 1..=4 {
        driver.request(count);
    }
    host.wait_for(2);
    thread::sleep(A_WHILE);
    assert_eq!(driver.used().0, 0);
    host.finish(1);
    driver.wait("the first is done", || driver.used() == (1, 1));
    driver.wait("it is signalled", || driver.events[1].read().is_ok());
    host.finish(1);
    driver.wait("the second is done", || driver.used().0 == 2);
    // Two were all that the device took at a time.
    host.wait_for(4);
    host.finish(2);
    driver.wait("all are done", || driver.used().0 == 4);
}

#[test]
fn a_reset_is_over_when_the_host_is_done() {
    let (driver, host) = driver();
    driver.request(1);
    driver.request(2);
    host.wait_for(2);
    let before = driver.status();
    driver.write(0x14, &[0]);
    assert_eq!(driver.status(), before);
    // Nothing is taken from a driver meanwhile.
    driver.write(0x14, &[0x0f]);
    host.finish(1);
    thread::sleep(A_WHILE);
    assert_eq!(driver.status(), before);
    host.finish(1);
    driver.wait("it is reset", || driver.status() == 0);
    assert_eq!(driver.used().0, 0);
    driver.start();
    driver.request(1);
    host.wait_for(3);
    host.finish(1);
    driver.wait("it works again", || driver.used().0 == 1);
}

#[test]
fn a_pause_waits_for_what_is_under_way_and_has_it_given_back() {
    let (driver, host) = driver();
    driver.request(1);
    host.wait_for(1);
    thread::scope(|scope| {
        let paused = scope.spawn(|| driver.function.hold(true));
        thread::sleep(A_WHILE);
        assert!(!paused.is_finished());
        host.finish(1);
        paused.join().unwrap();
    });
    assert_eq!(driver.used().0, 1);
    driver.request(2);
    thread::sleep(A_WHILE);
    host.event.write(1).unwrap();
    thread::sleep(A_WHILE);
    assert_eq!(driver.used().0, 1);
    driver.function.hold(false);
    host.wait_for(2);
    host.finish(1);
    driver.wait("it goes on", || driver.used().0 == 2);
}

#[test]
fn what_is_done_while_the_device_may_do_no_dma_is_given_back_when_it_may() {
    let (driver, host) = driver();
    driver.request(1);
    host.wait_for(1);
    driver.function.write_config(4, &[2, 0]).unwrap();
    host.finish(1);
    thread::sleep(A_WHILE);
    assert_eq!(driver.used().0, 0);
    driver.function.write_config(4, &[6, 0]).unwrap();
    driver.wait("it is given back", || driver.used().0 == 1);
}

#[test]
fn the_device_goes_when_the_host_is_done() {
    let (driver, host) = driver();
    driver.request(1);
    host.wait_for(1);
    let gone = thread::spawn(move || drop(driver));
    thread::sleep(A_WHILE);
    assert!(!gone.is_finished());
    host.finish(1);
    gone.join().unwrap();
}
