//! A device whose first queue the host's kernel serves; the test says what that does.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::driver::{ACKNOWLEDGE_AND_DRIVER, Driver, EVENT_IDX, FEATURES_OK, NEEDS_RESET};
use super::{Device, Identity, ServeError, Served, VhostQueues};
use crate::dma::DmaMemory;
use crate::interrupts::Signal;
use crate::pci::{FunctionBackend, InterruptKind};
use crate::vhost::{BackEnd, Ring};

/// What the kernel was told.
#[derive(Debug, Default)]
struct Told {
    features: u64,
    /// Of queue 0: entries, addresses, and where it began.
    placed: Option<(u16, [u64; 3], u16)>,
    is_running: bool,
    starts: u32,
    call: Option<EventFd>,
    error: Option<EventFd>,
    /// How far it has got when it is halted.
    next_avail: u16,
    refuses: bool,
}

impl Told {
    fn signal(&self) {
        self.call.as_ref().unwrap().write(1).unwrap();
    }
}

/// The kernel, which keeps descriptors of its own.
struct Fake(Arc<Mutex<Told>>);

impl BackEnd for Fake {
    fn queues(&self) -> usize {
        1
    }

    fn begin(&mut self, features: u64) -> io::Result<()> {
        let mut told = self.0.lock();
        assert!(!told.is_running);
        told.features = features;
        Ok(())
    }

    fn place(&mut self, ring: &Ring<'_>) -> io::Result<()> {
        let mut told = self.0.lock();
        if told.refuses {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        told.placed = Some((ring.entries, ring.addresses, ring.next_avail));
        told.call = Some(ring.call.try_clone()?);
        told.error = Some(ring.error.try_clone()?);
        Ok(())
    }

    fn set_call(&mut self, _index: usize, call: &EventFd) -> io::Result<()> {
        self.0.lock().call = Some(call.try_clone()?);
        Ok(())
    }

    fn run(&mut self, placed: &[usize]) -> io::Result<()> {
        assert_eq!(placed, [0]);
        let mut told = self.0.lock();
        told.is_running = true;
        told.starts += 1;
        Ok(())
    }

    fn halt(&mut self, _placed: &[usize]) -> io::Result<()> {
        self.0.lock().is_running = false;
        Ok(())
    }

    fn next_avail(&mut self, _index: usize) -> io::Result<u16> {
        Ok(self.0.lock().next_avail)
    }
}

struct Served0 {
    queues: VhostQueues,
    event: Arc<EventFd>,
}

impl Device for Served0 {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-kernel",
            device_id: 4,
            class_code: 0,
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn serve(&mut self, _: usize, _: &mut Queue, _: &DmaMemory) -> Result<Served, ServeError> {
        panic!("the kernel serves it");
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.event))
    }

    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        Some(&mut self.queues)
    }
}

const START: u8 = ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | 4;
/// The control of vector 1, which is queue 0's.
const CONTROL: u64 = 0x8000 + 16 + 12;

fn driver() -> (Driver, Arc<Mutex<Told>>) {
    let told = Arc::new(Mutex::new(Told::default()));
    let device = Served0 {
        queues: VhostQueues::new(Box::new(Fake(Arc::clone(&told)))).unwrap(),
        event: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
    };
    (Driver::of(Box::new(device), false), told)
}

fn started() -> (Driver, Arc<Mutex<Told>>) {
    let (driver, told) = driver();
    driver.start();
    assert!(told.lock().is_running, "a driver that is ready is served");
    (driver, told)
}

#[test]
fn the_kernel_is_told_what_a_driver_has_set_and_signals_its_vector_itself() {
    let (driver, told) = started();
    let offered = driver.offered();
    {
        let told = told.lock();
        assert_eq!(told.features, offered & !EVENT_IDX);
        assert_eq!(told.placed, Some((8, [0x1000, 0x2000, 0x3000], 0)));
        told.signal();
    }
    // At once: no thread has a part in it.
    assert_eq!(driver.events[1].read().unwrap(), 1);
}

#[test]
fn what_comes_while_a_vector_is_masked_is_pending_and_signalled_later() {
    let (driver, told) = started();
    for _ in 0..3 {
        driver.write(CONTROL, &[1, 0, 0, 0]);
        told.lock().signal();
        driver.wait("it is not pending", || {
            driver.read::<4>(0xc000) == [2, 0, 0, 0]
        });
        assert!(driver.events[1].read().is_err());
        driver.write(CONTROL, &[0; 4]);
        assert_eq!(driver.events[1].read().unwrap(), 1);
        told.lock().signal();
        assert_eq!(driver.events[1].read().unwrap(), 1);
    }
    // What vectors signalled is let go with them.
    driver
        .function
        .disable_interrupts(InterruptKind::MsiX)
        .unwrap();
    told.lock().signal();
    assert!(driver.events[1].read().is_err());
    let events = &driver.events;
    driver
        .function
        .set_interrupts(InterruptKind::MsiX, &events.clone().map(Signal::from))
        .unwrap();
    told.lock().signal();
    assert_eq!(events[1].read().unwrap(), 1);
}

#[test]
fn the_kernel_has_let_go_when_a_pause_or_a_reset_is_over_and_goes_on_where_it_was() {
    let (driver, told) = started();
    told.lock().next_avail = 5;
    driver.function.hold(true);
    assert!(!told.lock().is_running);
    driver.function.hold(false);
    assert!(told.lock().is_running);
    assert_eq!(told.lock().placed.unwrap().2, 5);
    driver.function.write_config(4, &[2, 0]).unwrap();
    assert!(!told.lock().is_running);
    driver.function.write_config(4, &[6, 0]).unwrap();
    assert!(told.lock().is_running);
    driver.write(0x14, &[0]);
    assert!(!told.lock().is_running);
    assert_eq!(driver.status(), 0);
    driver.start();
    assert!(told.lock().is_running);
    // A reset is a beginning.
    assert_eq!(told.lock().placed.unwrap().2, 0);
    driver.function.reset().unwrap();
    assert!(!told.lock().is_running);
    driver
        .function
        .set_interrupts(
            InterruptKind::MsiX,
            &driver.events.clone().map(Signal::from),
        )
        .unwrap();
    driver.start();
    assert!(told.lock().is_running);
    drop(driver);
    assert!(!told.lock().is_running, "it outlives its device");
}

#[test]
fn rings_that_the_kernel_does_not_serve_stop_the_device_until_it_is_reset() {
    let (driver, told) = started();
    // Changes of configuration have vector 0, unmasked.
    driver.write(0x10, &[0, 0]);
    driver.write(0x8000 + 12, &[0; 4]);
    told.lock().error.as_ref().unwrap().write(1).unwrap();
    driver.wait("it does not stop", || driver.status() & NEEDS_RESET != 0);
    assert!(!told.lock().is_running);
    driver.wait("nobody is told", || driver.events[0].read().is_ok());
    driver.write(0x14, &[0]);
    told.lock().refuses = true;
    driver.start();
    assert_eq!(driver.status(), START | NEEDS_RESET);
    assert!(!told.lock().is_running);
    driver.write(0x14, &[0]);
    told.lock().refuses = false;
    driver.start();
    assert_eq!(driver.status(), START);
    assert!(told.lock().is_running);
}

#[derive(Clone, Debug)]
enum Step {
    Hold(bool),
    Master(bool),
    Mask(bool),
    Reset,
    FunctionReset,
    Start,
    Error,
    Write(u64, Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let data = prop::collection::vec(any::<u8>(), 1..=4);
    let data = data.prop_filter("a size", |data| data.len() != 3);
    prop_oneof![
        any::<bool>().prop_map(Step::Hold),
        any::<bool>().prop_map(Step::Master),
        any::<bool>().prop_map(Step::Mask),
        Just(Step::Reset),
        Just(Step::FunctionReset),
        Just(Step::Start),
        Just(Step::Start),
        Just(Step::Error),
        (0..0x40_u64, data).prop_map(|(at, data)| Step::Write(at, data)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_kernel_serves_only_a_driver_that_is_ready_in_a_machine_that_runs(
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let (driver, told) = driver();
        let (mut held, mut master) = (false, false);
        for step in steps {
            match step {
                Step::Hold(is) => {
                    held = is;
                    driver.function.hold(is);
                }
                Step::Master(is) => {
                    master = is;
                    driver.function.write_config(4, &[if is { 6 } else { 2 }, 0]).unwrap();
                }
                Step::Mask(is) => driver.write(CONTROL, &[u8::from(is), 0, 0, 0]),
                Step::Reset => driver.write(0x14, &[0]),
                Step::FunctionReset => {
                    master = false;
                    driver.function.reset().unwrap();
                }
                Step::Start => {
                    driver.write(0x14, &[0]);
                    master = true;
                    driver.start();
                }
                Step::Error => {
                    let told = told.lock();
                    if let Some(error) = told.error.as_ref().filter(|_| told.is_running) {
                        error.write(1).unwrap();
                        drop(told);
                        driver.wait("it does not stop", || driver.status() & NEEDS_RESET != 0);
                    }
                }
                Step::Write(at, data) => driver.write(at, &data),
            }
            let status = driver.status();
            let is_ready = status & 4 != 0 && status & NEEDS_RESET == 0;
            let may_run = is_ready && master && !held;
            let is_running = told.lock().is_running;
            prop_assert!(may_run || !is_running, "{status:#x} {master} {held}");
        }
    }
}
