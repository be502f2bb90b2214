use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

const LISN: Lisn = Lisn(0x1200);

/// A device's line, which VFIO masks when it signals.
#[derive(Default)]
struct Device {
    raised: AtomicBool,
    masked: AtomicBool,
    event: Mutex<Option<Arc<EventFd>>>,
    samples: AtomicU32,
}

impl Device {
    /// Raises its line; that may be so already.
    fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.signal();
    }

    fn lower(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    fn signal(&self) {
        let event = self.event.lock();
        if self.raised.load(Ordering::SeqCst)
            && let Some(event) = &*event
            && !self.masked.swap(true, Ordering::SeqCst)
        {
            event.write(1).unwrap();
        }
    }

    fn samples(&self) -> u32 {
        self.samples.load(Ordering::SeqCst)
    }
}

impl LevelLine for Device {
    fn sample(&self) {
        unreachable!("nobody says that the guest listens");
    }

    fn sample_again(&self) {
        self.samples.fetch_add(1, Ordering::SeqCst);
        self.masked.store(false, Ordering::SeqCst);
        self.signal();
    }
}

/// Devices that share a source, and the interrupts of the guest.
struct Bench {
    lines: SampledLines,
    devices: Vec<Arc<Device>>,
    interrupts: Arc<EventFd>,
}

impl Bench {
    fn new(devices: usize) -> Self {
        let lines = SampledLines::new(|| Ok(())).unwrap();
        let devices: Vec<_> = (0..devices).map(|_| Arc::<Device>::default()).collect();
        for device in &devices {
            let line: Weak<Device> = Arc::downgrade(device);
            lines
                .add(LISN, line, || EventFd::new(EFD_NONBLOCK))
                .unwrap();
        }
        let interrupts = Arc::clone(&lines.shared.sources().by_number[&LISN].interrupt);
        let bench = Self {
            lines,
            devices,
            interrupts,
        };
        (0..bench.devices.len()).for_each(|number| bench.connect(number));
        bench
    }

    fn connect(&self, number: usize) {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        self.lines.connect(LISN, &event).unwrap();
        *self.devices[number].event.lock() = Some(event);
    }

    fn disconnect(&self, number: usize) -> Arc<EventFd> {
        let event = self.devices[number].event.lock().take().unwrap();
        self.lines.disconnect(LISN, &event);
        event
    }

    /// Waits for an interrupt, and takes it with those that came since the last one.
    fn interrupt(&self) {
        eventually(|| self.interrupts.read().is_ok());
    }

    fn is_silent(&self) -> bool {
        thread::sleep(Duration::from_millis(20));
        self.interrupts.read().is_err()
    }
}

fn eventually(mut happens: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(10);
    while !happens() {
        assert!(Instant::now() < patience, "it never happens");
        thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_line_interrupts_again_and_again_until_it_is_served_and_then_rests() {
    let bench = Bench::new(1);
    let device = &bench.devices[0];
    assert!(bench.is_silent() && device.samples() == 0);
    for _ in 0..3 {
        device.raise();
        bench.interrupt();
        // Found raised by samples: whatever interrupt the guest has lost, there is another.
        bench.interrupt();
        bench.interrupt();
        device.lower();
        eventually(|| !device.masked.load(Ordering::SeqCst));
        while bench.interrupts.read().is_ok() {}
        let samples = device.samples();
        assert!(bench.is_silent());
        assert_eq!(
            device.samples(),
            samples,
            "it is sampled only after signals"
        );
    }
}

#[test]
fn nothing_is_lost_of_devices_that_share_a_source() {
    let bench = Bench::new(3);
    let handled = [const { AtomicU32::new(0) }; 3];
    const EACH: u32 = 300;
    thread::scope(|scope| {
        for (device, handled) in bench.devices.iter().zip(&handled) {
            scope.spawn(move || {
                for number in 0..EACH {
                    device.raise();
                    eventually(|| handled.load(Ordering::SeqCst) > number);
                }
            });
        }
        // The guest: at an interrupt, it serves whoever has raised the line.
        while handled
            .iter()
            .any(|count| count.load(Ordering::SeqCst) < EACH)
        {
            bench.interrupt();
            for (device, handled) in bench.devices.iter().zip(&handled) {
                if device.raised.load(Ordering::SeqCst) {
                    device.lower();
                    handled.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
}

#[test]
fn a_line_that_is_disconnected_interrupts_nobody_and_can_be_connected_again() {
    let bench = Bench::new(2);
    bench.devices[0].raise();
    bench.interrupt();
    let event = bench.disconnect(0);
    while bench.interrupts.read().is_ok() {}
    event.write(1).unwrap();
    assert!(bench.is_silent());
    bench.devices[1].raise();
    bench.interrupt();
    bench.devices[1].lower();
    bench.devices[0].masked.store(false, Ordering::SeqCst);
    bench.connect(0);
    bench.devices[0].signal();
    bench.interrupt();
}

#[test]
fn when_lines_have_ended_devices_are_left_alone() {
    let bench = Bench::new(1);
    let device = &bench.devices[0];
    device.raise();
    eventually(|| device.samples() > 2);
    bench.lines.end();
    let samples = device.samples();
    assert!(!bench.is_silent(), "what came before counts");
    assert!(bench.is_silent());
    assert_eq!(device.samples(), samples);
    assert_eq!(Arc::strong_count(device), 1);
}

#[test]
fn devices_that_are_gone_are_not_sampled() {
    let mut bench = Bench::new(2);
    bench.devices[0].raise();
    bench.interrupt();
    let gone = bench.devices.pop();
    drop(gone);
    bench.devices[0].lower();
    eventually(|| !bench.devices[0].masked.load(Ordering::SeqCst));
}

#[test]
fn a_source_that_was_not_added_cannot_be_connected() {
    let bench = Bench::new(1);
    let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let refused = bench.lines.connect(Lisn(0x1201), &event).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotFound);
}

#[test]
fn samples_are_soon_at_first_and_leave_most_of_the_processor_to_others() {
    let micros = Duration::from_micros;
    let quick = micros(1);
    assert_eq!(pause(Duration::ZERO, Duration::ZERO), micros(50));
    assert_eq!(pause(micros(400), quick), micros(100));
    assert_eq!(pause(Duration::from_millis(900), quick), micros(250));
    assert_eq!(pause(Duration::from_secs(1), quick), micros(1000));
    // As under emulation.
    assert_eq!(pause(Duration::ZERO, micros(100)), micros(800));
    assert_eq!(pause(Duration::MAX, Duration::MAX), Duration::MAX);
}
