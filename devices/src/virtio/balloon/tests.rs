//! A driver of a balloon, and one that says what it likes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Balloon, BalloonControl, BalloonOptions};
use crate::vfio::host_page_bytes;
use crate::virtio::device::Device;
use crate::virtio::queues::{Queues, WRITE};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORTING: usize = 3;

/// Queues first, then pages that may be given away.
const FIRST_PAGE: u64 = 0x10_0000;
const PAGES: u64 = 64;

struct Guest {
    queues: Queues<Balloon>,
    control: Arc<BalloonControl>,
    told: Arc<Mutex<Vec<u64>>>,
    page_bytes: u64,
}

impl Guest {
    fn new(releases: bool) -> Self {
        // As large as the host's own, or larger.
        let page_bytes = host_page_bytes().max(0x1_0000);
        let bytes = FIRST_PAGE + PAGES * page_bytes;
        let ram = [(GuestAddress(0), usize::try_from(bytes).unwrap())];
        let ram = GuestMemoryMmap::from_ranges(&ram).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let control = BalloonControl::new(bytes, move |left| telling.lock().push(left)).unwrap();
        let control = Arc::new(control);
        let options = BalloonOptions {
            deflates_on_oom: true,
            reports_free_pages: true,
            released_page_bytes: releases.then_some(page_bytes),
        };
        let balloon = Balloon::new(Arc::clone(&control), ram.clone(), options).unwrap();
        let mut guest = Self {
            queues: Queues::new(balloon, ram),
            control,
            told,
            page_bytes,
        };
        guest.queues.start();
        for page in 0..PAGES {
            let full = vec![0xaa; usize::try_from(page_bytes).unwrap()];
            let at = GuestAddress(FIRST_PAGE + page * page_bytes);
            guest.queues.ram.write_slice(&full, at).unwrap();
        }
        guest
    }

    /// Numbers of the 4 KiB of which a page of the host's is made.
    fn parts(&self, page: u64) -> Vec<u32> {
        let start = (FIRST_PAGE + page * self.page_bytes) >> 12;
        (start..start + (self.page_bytes >> 12))
            .map(|it| u32::try_from(it).unwrap())
            .collect()
    }

    fn list(&mut self, queue: usize, numbers: &[u32]) -> Result<(), String> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        let at = Queues::<Balloon>::buffers(queue);
        self.queues
            .ram
            .write_slice(&bytes, GuestAddress(at))
            .unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        self.queues.descriptor((queue, 0), at, length, 0, 0);
        self.queues.offer((queue, 0));
        self.queues.ring(queue).map_err(|error| error.to_string())
    }

    fn report(&mut self, address: u64, bytes: u32) -> Result<(), String> {
        self.queues
            .descriptor((REPORTING, 0), address, bytes, WRITE, 0);
        self.queues.offer((REPORTING, 0));
        self.queues
            .ring(REPORTING)
            .map_err(|error| error.to_string())
    }

    /// Whether a page is empty; it is full otherwise.
    #[track_caller]
    fn is_empty(&self, page: u64) -> bool {
        let mut bytes = vec![0; usize::try_from(self.page_bytes).unwrap()];
        let at = GuestAddress(FIRST_PAGE + page * self.page_bytes);
        self.queues.ram.read_slice(&mut bytes, at).unwrap();
        let is_empty = bytes.iter().all(|byte| *byte == 0);
        assert!(
            is_empty || bytes.iter().all(|byte| *byte == 0xaa),
            "page {page}"
        );
        is_empty
    }
}

#[test]
fn whole_pages_of_the_hosts_go_back_to_it_and_parts_of_one_do_not() {
    let mut guest = Guest::new(true);
    let all = guest.parts(3);
    guest.list(INFLATE, &all).unwrap();
    assert!(guest.is_empty(3) && !guest.is_empty(2) && !guest.is_empty(4));
    // From the last to the first, in two lists, and with a part that is taken back.
    let mut all = guest.parts(5);
    all.reverse();
    let (first, second) = all.split_at(7);
    guest.list(INFLATE, first).unwrap();
    assert!(!guest.is_empty(5));
    guest.list(INFLATE, second).unwrap();
    assert!(guest.is_empty(5));
    let all = guest.parts(7);
    guest.list(INFLATE, &all[..8]).unwrap();
    guest.list(DEFLATE, &all[2..3]).unwrap();
    guest.list(INFLATE, &all[8..]).unwrap();
    assert!(!guest.is_empty(7));
    assert_eq!(
        (guest.queues.used(INFLATE), guest.queues.used(DEFLATE)),
        (5, 1)
    );
}

#[test]
fn nothing_goes_back_where_a_device_could_reach_it() {
    let mut guest = Guest::new(false);
    let all = guest.parts(3);
    guest.list(INFLATE, &all).unwrap();
    assert_eq!(guest.queues.used(INFLATE), 1);
    assert!(!guest.is_empty(3));
    // Nor is the driver asked to report.
    assert_eq!(guest.queues.device.features(), 0b110);
    guest.report(FIRST_PAGE, 0x10_0000).unwrap();
    assert!(!guest.is_empty(0));
}

#[test]
fn what_is_reported_goes_back_in_whole_pages() {
    let mut guest = Guest::new(true);
    assert_eq!(guest.queues.device.features(), 0b10_0110);
    let bytes = guest.page_bytes;
    let length = u32::try_from(3 * bytes).unwrap();
    guest
        .report(FIRST_PAGE + 10 * bytes + 0x1000, length)
        .unwrap();
    let empty: Vec<u64> = (0..PAGES).filter(|page| guest.is_empty(*page)).collect();
    assert_eq!(empty, [11, 12]);
    let end = FIRST_PAGE + PAGES * bytes;
    for (address, length) in [(end - 0x1000, 0x2000), (end, 1), (u64::MAX - 7, 64)] {
        let refused = guest.report(address, length).unwrap_err();
        assert!(refused.contains("a page that is not memory"), "{refused}");
    }
}

#[test]
fn lists_that_make_no_sense_are_refused() {
    let mut guest = Guest::new(true);
    let refused = guest.list(INFLATE, &[u32::MAX]).unwrap_err();
    assert!(refused.contains("a page that is not memory"), "{refused}");
    let mut guest = Guest::new(true);
    guest
        .queues
        .descriptor((INFLATE, 0), FIRST_PAGE, 1 << 20, 0, 0);
    guest.queues.offer((INFLATE, 0));
    let refused = guest.queues.ring(INFLATE).unwrap_err().to_string();
    assert!(refused.contains("too long"), "{refused}");
}

#[test]
fn the_driver_is_told_what_is_wanted_and_monitors_what_it_has() {
    let mut guest = Guest::new(true);
    let all = FIRST_PAGE + PAGES * guest.page_bytes;
    let mut config = [0; 9];
    guest.control.leave(all - (5 << 12));
    assert!(guest.queues.device.config_has_changed());
    assert!(!guest.queues.device.config_has_changed());
    guest.queues.device.read_config(0, &mut config);
    assert_eq!(config, [5, 0, 0, 0, 0, 0, 0, 0, 0]);
    guest.queues.device.write_config(4, &3_u32.to_le_bytes());
    guest.queues.collect().unwrap();
    assert_eq!(guest.control.left_bytes(), all - (3 << 12));
    assert_eq!(*guest.told.lock(), [all - (3 << 12)]);
    // At once, that is not told, and nothing of what is in between.
    for pages in (0..200_u32).chain([7]) {
        guest.queues.device.write_config(4, &pages.to_le_bytes());
        guest.queues.collect().unwrap();
    }
    assert_eq!(guest.told.lock().len(), 1);
    let begun = Instant::now();
    while guest.told.lock().len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(20));
        guest.queues.collect().unwrap();
    }
    assert_eq!(*guest.told.lock(), [all - (3 << 12), all - (7 << 12)]);
    guest.queues.device.write_config(4, &u32::MAX.to_le_bytes());
    assert_eq!(guest.control.left_bytes(), 0);
    let control = Arc::clone(&guest.control);
    drop(guest);
    assert_eq!(control.left_bytes(), all);
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let mut guest = Guest::new(true);
    let at = Queues::<Balloon>::buffers(STATISTICS);
    let tell = |guest: &mut Guest, free: u64| {
        let mut bytes = vec![4, 0];
        bytes.extend(free.to_le_bytes());
        guest
            .queues
            .ram
            .write_slice(&bytes, GuestAddress(at))
            .unwrap();
        guest.queues.descriptor((STATISTICS, 0), at, 10, 0, 0);
        guest.queues.offer((STATISTICS, 0));
        guest.queues.ring(STATISTICS).unwrap();
    };
    tell(&mut guest, 1 << 20);
    assert_eq!(guest.control.statistics().values[4], Some(1 << 20));
    // The buffer stays with the device until someone wants more.
    guest.queues.collect().unwrap();
    assert_eq!(guest.queues.used(STATISTICS), 0);
    guest.control.set_interval_seconds(1);
    let begun = Instant::now();
    while guest.queues.used(STATISTICS) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(20));
        guest.queues.collect().unwrap();
    }
    assert!(begun.elapsed() > Duration::from_millis(900));
    tell(&mut guest, 2 << 20);
    assert_eq!(guest.control.statistics().values[4], Some(2 << 20));
    guest.control.set_interval_seconds(u64::MAX);
    guest.queues.collect().unwrap();
    // Two at a time: the first comes back.
    tell(&mut guest, 3 << 20);
    assert_eq!(guest.queues.used(STATISTICS), 2);
}

#[derive(Clone, Debug)]
enum Step {
    List(usize, Vec<u32>),
    Report(u64, u32),
    Chain(usize, Vec<(u64, u32, u16, u16)>),
    Config(usize, Vec<u8>),
    Wanted(u64),
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    let number = prop_oneof![8 => 0x100_u32..0x520, 1 => any::<u32>()];
    let address = prop_oneof![0..FIRST_PAGE * 6, any::<u64>()];
    let bytes = prop_oneof![0..0x4_0000_u32, any::<u32>()];
    let descriptor = (address.clone(), bytes.clone(), 0..8_u16, 0..9_u16);
    prop_oneof![
        (0..2_usize, proptest::collection::vec(number, 0..200))
            .prop_map(|(queue, list)| Step::List(queue, list)),
        (address, bytes).prop_map(|(at, bytes)| Step::Report(at, bytes)),
        (0..4_usize, proptest::collection::vec(descriptor, 1..8))
            .prop_map(|(queue, chain)| Step::Chain(queue, chain)),
        (0..16_usize, proptest::collection::vec(any::<u8>(), 1..8))
            .prop_map(|(at, data)| Step::Config(at, data)),
        any::<u64>().prop_map(Step::Wanted),
        Just(Step::Start),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_driver_says_its_memory_has_what_it_had_or_is_empty(
        releases: bool,
        steps in proptest::collection::vec(step(), 1..20),
    ) {
        let mut guest = Guest::new(releases);
        for step in steps {
            let outcome = match step {
                Step::List(queue, list) => guest.list(queue, &list),
                Step::Report(at, bytes) => guest.report(at, bytes),
                Step::Chain(queue, chain) => {
                    for (index, (at, bytes, flags, next)) in (0..).zip(chain) {
                        guest.queues.descriptor((queue, index), at, bytes, flags, next);
                    }
                    guest.queues.offer((queue, 0));
                    guest.queues.ring(queue).map_err(|error| error.to_string())
                }
                Step::Config(at, data) => {
                    guest.queues.device.write_config(at, &data);
                    Ok(())
                }
                Step::Wanted(bytes) => {
                    guest.control.leave(bytes);
                    Ok(())
                }
                Step::Start => {
                    guest.queues.start();
                    Ok(())
                }
            };
            // Its driver would reset it.
            if outcome.is_err() {
                guest.queues.start();
            }
            guest.queues.collect().unwrap();
        }
        for page in 0..PAGES {
            let is_empty = guest.is_empty(page);
            prop_assert!(releases || !is_empty);
        }
        guest.queues.start();
        let all = guest.parts(1);
        prop_assert_eq!(guest.list(INFLATE, &all), Ok(()));
        prop_assert_eq!(guest.is_empty(1), releases);
    }
}
