//! Commands of all kinds, functions and events, as a driver should have them.

use std::fs;
use std::sync::Arc;

use super::cdb;
use super::driver::{
    ANSWER, ANSWER_BYTES, Answered, CD, CD_BYTES, CONTROL, DATA, DISK, DISK_BYTES, Driver, EMPTY,
    EVENTS, GOOD, HEADER_BYTES, REQUESTS, check, content, on_blocks, on_many,
};
use super::{Address, Scsi, ScsiOptions, UnitKind, UnitOptions};
use crate::dma::DmaMemory;
use crate::image::Kind;
use crate::virtio::device::{Device, ServeError};
use crate::virtio::disk::{DiskFailures, DiskOptions, ErrorPolicy, OnError};
use crate::virtio::queues::{Queues, WRITE};

#[test]
fn a_driver_reads_writes_and_flushes_a_disk() {
    let mut driver = Driver::new();
    assert_eq!(
        driver.command(DISK, &on_blocks(cdb::READ_10, 3, 2), 1024),
        GOOD
    );
    assert_eq!(
        driver.data(1024),
        fs::read(&driver.path).unwrap()[3 * 512..][..1024]
    );
    driver.put(DATA, &[0xa5; 1536]);
    let write = on_many(cdb::WRITE_16, 0, 125, 3);
    assert_eq!(driver.command(DISK, &write, -1536), GOOD);
    assert_eq!(
        fs::read(&driver.path).unwrap()[125 * 512..][..1536],
        [0xa5; 1536]
    );
    assert_eq!(
        driver.command(DISK, &[cdb::READ_6, 0, 0, 125, 1, 0], 512),
        GOOD
    );
    assert_eq!(driver.data(512), [0xa5; 512]);
    let long = [cdb::READ_12, 0, 0, 0, 0, 127, 0, 0, 0, 1, 0, 0];
    assert_eq!(driver.command(DISK, &long, 512), GOOD);
    let flush = on_blocks(cdb::SYNCHRONIZE_CACHE_10, 0, 0);
    assert_eq!(driver.command(DISK, &flush, 0), GOOD);
    let counters = driver.disk.image().counters();
    let counted = [Kind::Read, Kind::Write, Kind::Flush].map(|kind| counters.tally(kind).bytes);
    assert_eq!(counted, [2048, 1536, 0]);
    assert_eq!(counters.tally(Kind::Flush).operations, 1);
}

#[test]
fn room_that_is_too_much_is_told_and_too_little_is_an_overrun() {
    let mut driver = Driver::new();
    let answered = driver.command(DISK, &on_blocks(cdb::READ_10, 0, 1), 4096);
    assert_eq!(
        answered,
        Answered {
            residual: 3584,
            ..GOOD
        }
    );
    let answered = driver.command(DISK, &on_blocks(cdb::READ_10, 0, 9), 4096);
    assert_eq!((answered.response, answered.residual), (1, 4096));
    let answered = driver.command(DISK, &on_blocks(cdb::WRITE_10, 0, 9), -4096);
    assert_eq!((answered.response, answered.residual), (1, 4096));
    assert_eq!(
        driver.disk.image().counters().tally(Kind::Write).operations,
        0
    );
}

#[test]
fn what_a_disk_tells_of_itself_is_what_there_is() {
    let mut driver = Driver::new();
    let inquiry = |page: Option<u8>| {
        [
            cdb::INQUIRY,
            page.is_some().into(),
            page.unwrap_or(0),
            0,
            255,
            0,
        ]
    };
    let standard = driver.told(DISK, &inquiry(None), 255);
    assert_eq!(standard[..5], [0, 0, 5, 0x12, 31]);
    assert_eq!(&standard[8..], b"QEMU    QEMU HARDDISK   2.5+");
    assert_eq!(driver.told(CD, &inquiry(None), 255)[..2], [5, 0x80]);
    let pages = driver.told(DISK, &inquiry(Some(0)), 255);
    assert_eq!(pages, [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    assert_eq!(
        &driver.told(DISK, &inquiry(Some(0x80)), 255)[4..],
        b"serial-number"
    );
    let identity = driver.told(DISK, &inquiry(Some(0x83)), 255);
    assert_eq!(identity[..8], [0, 0x83, 0, 33, 2, 0, 0, 17]);
    assert_eq!(&identity[8..25], b"drive-scsi0-0-0-0");
    assert_eq!(
        identity[25..],
        [1, 3, 0, 8, 0x50, 0, 0xc5, 0, 0x15, 0xea, 0x71, 0xad]
    );
    let limits = driver.told(DISK, &inquiry(Some(0xb0)), 255);
    assert_eq!((limits.len(), limits[3], limits[4]), (64, 60, 1));
    // 4 Mi sectors, in one range.
    assert_eq!(limits[20..28], [0, 0x40, 0, 0, 0, 0, 0, 1]);
    assert_eq!(
        driver.told(DISK, &inquiry(Some(0xb2)), 255)[5..7],
        [0xe0, 2]
    );
    assert_eq!(
        driver.refusal(CD, &inquiry(Some(0xb0)), 255),
        check(5, 0x24, 0)
    );
    let capacity = driver.told(DISK, &[cdb::READ_CAPACITY_10], 8);
    assert_eq!(capacity, [0, 0, 0x07, 0xff, 0, 0, 2, 0]);
    let mut long = [0; 16];
    (long[0], long[1], long[13]) = (cdb::SERVICE_ACTION_IN_16, 0x10, 32);
    let capacity = driver.told(DISK, &long, 32);
    assert_eq!(capacity[4..15], [0, 0, 0x07, 0xff, 0, 0, 2, 0, 0, 0, 0x80]);
    let pages = driver.told(DISK, &[cdb::MODE_SENSE_6, 0, 0x3f, 0, 255, 0], 255);
    // Forced unit access, a descriptor of 8 bytes, and a write cache.
    assert_eq!(
        (usize::from(pages[0]), pages[2], pages[3]),
        (pages.len() - 1, 0x10, 8)
    );
    assert_eq!(pages[4..12], [0, 0, 8, 0, 0, 0, 2, 0]);
    let caching = driver.told(
        DISK,
        &[cdb::MODE_SENSE_10, 8, 8, 0, 0, 0, 0, 0, 255, 0],
        255,
    );
    assert_eq!(caching[8..11], [8, 18, 4]);
}

#[test]
fn a_write_cache_is_turned_off_with_what_it_has_written() {
    let mut driver = Driver::new();
    let select = [cdb::MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, 28, 0];
    let mut page = [0; 28];
    (page[8], page[9]) = (8, 18);
    driver.put(DATA, &page);
    assert_eq!(driver.command(DISK, &select, -28), GOOD);
    let caching = driver.told(DISK, &[cdb::MODE_SENSE_6, 8, 8, 0, 255, 0], 255);
    assert_eq!(caching[4..7], [8, 18, 0]);
    let flushes = |driver: &Driver| driver.disk.image().counters().tally(Kind::Flush).operations;
    assert_eq!(flushes(&driver), 1);
    driver.put(DATA, &page);
    // A driver that was told of no room for it asks again.
    assert_eq!(driver.command(DISK, &select, -28), GOOD);
    assert_eq!(flushes(&driver), 2);
    // What cannot be changed cannot be changed.
    page[11] = 1;
    driver.put(DATA, &page);
    assert_eq!(driver.refusal(DISK, &select, -28), check(5, 0x26, 0));
    assert_eq!(driver.refusal(DISK, &select, -20), check(5, 0x1a, 0));
}

#[test]
fn ranges_are_zeroed_and_unmapped() {
    let mut driver = Driver::new();
    driver.put(DATA, &[0; 512]);
    let same = on_many(cdb::WRITE_SAME_16, 0x08, 2, 4);
    assert_eq!(driver.command(DISK, &same, -512), GOOD);
    let without_data = on_many(cdb::WRITE_SAME_16, 0x01, 32, 4);
    assert_eq!(driver.command(DISK, &without_data, 0), GOOD);
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(64_u64.to_be_bytes());
    list.extend(16_u32.to_be_bytes());
    list.extend([0; 4]);
    driver.put(DATA, &list);
    let unmap = [cdb::UNMAP, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(driver.command(DISK, &unmap, -24), GOOD);
    let image = fs::read(&driver.path).unwrap();
    assert_eq!(image[1024..3072], [0; 2048]);
    assert_eq!(image[32 * 512..][..2048], [0; 2048]);
    assert_eq!(image[80 * 512..][..2], [80 * 2, 80 * 2]);
    let counters = driver.disk.image().counters();
    let counted = [Kind::Zero, Kind::Discard].map(|kind| counters.tally(kind).bytes);
    assert_eq!(counted, [4096, 8192]);
    driver.put(DATA, &[1]);
    assert_eq!(driver.refusal(DISK, &same, -512), check(5, 0x26, 0));
}

#[test]
fn what_cannot_be_is_told_and_the_disk_stays_as_it_is() {
    let mut driver = Driver::new();
    let before = fs::read(&driver.path).unwrap();
    let blocks = u32::try_from(DISK_BYTES / 512).unwrap();
    for (opcode, bytes) in [
        (cdb::READ_10, 1024),
        (cdb::WRITE_10, -1024),
        (cdb::VERIFY_10, 0),
    ] {
        let beyond = on_blocks(opcode, blocks - 1, 2);
        assert_eq!(driver.refusal(DISK, &beyond, bytes), check(5, 0x21, 0));
    }
    for first in [u64::from(blocks), u64::MAX, u64::MAX / 512] {
        let beyond = on_many(cdb::WRITE_16, 0, first, 1);
        assert_eq!(driver.refusal(DISK, &beyond, -512), check(5, 0x21, 0));
        let beyond = on_many(cdb::WRITE_SAME_16, 1, first, 1);
        assert_eq!(driver.refusal(DISK, &beyond, 0), check(5, 0x21, 0));
    }
    for opcode in [0xff, 0x04, cdb::READ_TOC, 0x7f] {
        assert_eq!(driver.refusal(DISK, &[opcode], 0), check(5, 0x20, 0));
    }
    for (unit, opcode) in [
        (CD, cdb::WRITE_10),
        (CD, cdb::UNMAP),
        (EMPTY, cdb::WRITE_16),
    ] {
        assert_eq!(driver.refusal(unit, &[opcode], 0), check(5, 0x20, 0));
    }
    assert_eq!(
        driver.refusal(EMPTY, &[cdb::TEST_UNIT_READY], 0),
        check(2, 0x3a, 0)
    );
    assert_eq!(
        driver.refusal((0, 9), &[cdb::TEST_UNIT_READY], 0),
        check(5, 0x25, 0)
    );
    assert_eq!(
        driver.command((7, 0), &[cdb::TEST_UNIT_READY], 0).response,
        3
    );
    assert_eq!(
        driver.told((0, 9), &[cdb::INQUIRY, 0, 0, 0, 36, 0], 36)[0],
        0x7f
    );
    assert_eq!(fs::read(&driver.path).unwrap(), before);
    let writes = driver.disk.image().counters().tally(Kind::Write);
    assert_eq!((writes.operations, writes.invalid), (0, 4));
}

#[test]
fn units_are_listed_by_whichever_of_their_target_is_asked() {
    let mut driver = Driver::new();
    let report = [cdb::REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    for unit in [DISK, CD, (0, 9)] {
        let list = driver.told(unit, &report, 255);
        assert_eq!((list.len(), list[3], list[17]), (24, 16, 1));
    }
    assert_eq!(driver.told(EMPTY, &report, 255)[3], 8);
}

#[test]
fn a_disc_is_read_and_told_of_as_a_drive_does() {
    let mut driver = Driver::new();
    assert_eq!(
        driver.told(CD, &[cdb::READ_CAPACITY_10], 8),
        [0, 0, 0, 99, 0, 0, 8, 0]
    );
    assert_eq!(
        driver.command(CD, &on_blocks(cdb::READ_10, 98, 2), 4096),
        GOOD
    );
    let disc = content(CD_BYTES);
    assert_eq!(driver.data(4096), disc[disc.len() - 4096..]);
    let toc = driver.told(CD, &[cdb::READ_TOC, 2, 0, 0, 0, 0, 0, 0, 255, 0], 255);
    // Track 1 from 00:02:00 on, and its end 100 blocks behind that.
    assert_eq!(
        toc,
        [
            0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 3, 25
        ]
    );
    let event = [cdb::GET_EVENT_STATUS, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
    assert_eq!(driver.told(CD, &event, 8), [0, 6, 4, 0x10, 0, 2, 0, 0]);
    let features = driver.told(
        CD,
        &[cdb::GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 255, 0],
        255,
    );
    assert_eq!(
        (usize::from(features[3]) + 4, features[7]),
        (features.len(), 8)
    );
    assert_eq!(
        driver.told(
            CD,
            &[cdb::READ_DISC_INFORMATION, 0, 0, 0, 0, 0, 0, 0, 255, 0],
            255
        )[1],
        32
    );
    let capabilities = driver.told(CD, &[cdb::MODE_SENSE_6, 0, 0x2a, 0, 255, 0], 255);
    assert_eq!(capabilities[4..6], [0x2a, 18]);
}

#[test]
fn a_tray_opens_unless_that_is_prevented_and_the_disc_is_new_when_it_closes() {
    let mut driver = Driver::new();
    let (eject, load) = (
        [cdb::START_STOP_UNIT, 0, 0, 0, 2, 0],
        [cdb::START_STOP_UNIT, 0, 0, 0, 3, 0],
    );
    let prevent = |how| [cdb::PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, how, 0];
    assert_eq!(driver.command(CD, &prevent(1), 0), GOOD);
    assert_eq!(driver.refusal(CD, &eject, 0), check(5, 0x53, 2));
    assert_eq!(driver.command(CD, &prevent(0), 0), GOOD);
    assert_eq!(driver.command(CD, &eject, 0), GOOD);
    assert_eq!(
        driver.refusal(CD, &on_blocks(cdb::READ_10, 0, 1), 2048),
        check(2, 0x3a, 2)
    );
    assert_eq!(driver.command(CD, &load, 0), GOOD);
    assert_eq!(
        driver.refusal(CD, &[cdb::TEST_UNIT_READY], 0),
        check(6, 0x28, 0)
    );
    assert_eq!(
        driver.command(CD, &on_blocks(cdb::READ_10, 0, 1), 2048),
        GOOD
    );
}

#[test]
fn another_size_is_an_event_and_an_attention() {
    let mut driver = Driver::new();
    let at = Queues::<Scsi>::buffers(EVENTS);
    driver.chain(EVENTS, &[(at, 16, WRITE)]);
    driver.queues.ring(EVENTS).unwrap();
    assert_eq!(driver.queues.used(EVENTS), 0);
    driver.disk.resize(2 * DISK_BYTES).unwrap();
    driver.settle().unwrap();
    assert_eq!(driver.queues.used(EVENTS), 1);
    let event = driver.get(at, 16);
    assert_eq!(event, [3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]);
    assert_eq!(
        driver.refusal(DISK, &[cdb::TEST_UNIT_READY], 0),
        check(6, 0x2a, 9)
    );
    assert_eq!(
        driver.told(DISK, &[cdb::READ_CAPACITY_10], 8)[..4],
        [0, 0, 0x0f, 0xff]
    );
}

#[test]
fn functions_end_commands_once_the_host_is_done_with_them() {
    let mut driver = Driver::new();
    // No command, no such unit, no such function.
    assert_eq!(driver.function(0, DISK, 9), 0);
    assert_eq!(driver.function(6, DISK, 9), 0);
    assert_eq!(driver.function(5, (0, 9), 0), 12);
    assert_eq!(driver.function(2, DISK, 0), 11);
    driver.offer(DISK, &on_blocks(cdb::READ_10, 0, 8), 4096, 7);
    driver.queues.ring(REQUESTS).unwrap();
    // Nothing is collected yet, so the command is there.
    assert_eq!(driver.function(6, DISK, 7), 10);
    assert_eq!(driver.function(6, DISK, 8), 0);
    assert_eq!(driver.function(0, DISK, 7), 0xee);
    // Each unit's first, of its reset, and no more.
    assert_eq!(driver.queues.used(REQUESTS), 4);
    driver.settle().unwrap();
    assert_eq!(driver.answered().response, 2);
    let at = Queues::<Scsi>::buffers(CONTROL) + 40;
    assert_eq!(driver.get(at, 1), [0]);
    assert_eq!(driver.function(5, DISK, 0), 0);
    assert_eq!(
        driver.refusal(DISK, &[cdb::TEST_UNIT_READY], 0),
        check(6, 0x29, 3)
    );
    assert_eq!(driver.command(CD, &[cdb::TEST_UNIT_READY], 0), GOOD);
    assert_eq!(driver.function(4, DISK, 0), 0);
    assert_eq!(
        driver.refusal(CD, &[cdb::TEST_UNIT_READY], 0),
        check(6, 0x29, 7)
    );
}

#[test]
fn a_unit_with_as_many_commands_as_it_takes_says_so() {
    let mut driver = Driver::new();
    for round in 0..2 {
        driver.offer(DISK, &on_blocks(cdb::READ_10, 0, 8), 4096, 7);
        for _ in 0..5 {
            driver.queues.offer((REQUESTS, 0));
        }
        driver.queues.ring(REQUESTS).unwrap();
        // Four are under way, and the others are given back at once.
        assert_eq!(driver.answered().status, 0x28, "{round}");
        driver.settle().unwrap();
        assert_eq!(driver.answered(), GOOD, "{round}");
    }
}

/// A disk whose writes find no room waits for the machine, and a reset of the unit has it forget what waits.
#[test]
fn what_waits_for_the_machine_is_tried_again_or_forgotten() {
    let failures = Arc::new(DiskFailures::new().unwrap());
    let options = DiskOptions {
        on_error: ErrorPolicy {
            read: OnError::Stop,
            write: OnError::Report,
        },
        ..DiskOptions::default()
    };
    let telling = Arc::clone(&failures);
    let mut driver = Driver::with(&options, |disk| disk.telling(telling, 0));
    let truncate = |driver: &Driver, bytes| {
        let file = fs::OpenOptions::new().write(true).open(&driver.path);
        file.unwrap().set_len(bytes).unwrap();
    };
    let read = on_blocks(cdb::READ_10, 1000, 1);
    for forgets in [false, true] {
        truncate(&driver, 0);
        driver.offer(DISK, &read, 512, 3);
        driver.queues.ring(REQUESTS).unwrap();
        let used = driver.queues.used(REQUESTS);
        driver.settle().unwrap();
        assert!(driver.disk.waits());
        assert_eq!(
            (failures.take().len(), driver.queues.used(REQUESTS)),
            (1, used)
        );
        truncate(&driver, DISK_BYTES);
        if forgets {
            // It is not over before the command is back.
            assert_eq!(driver.function(5, DISK, 0), 0xee);
            driver.settle().unwrap();
            assert_eq!(driver.answered().response, 4);
        } else {
            driver.queues.device.go_on();
            driver.queues.collect().unwrap();
            driver.settle().unwrap();
            assert_eq!(driver.answered(), GOOD);
        }
        assert!(!driver.disk.waits());
    }
    assert_eq!(
        driver.refusal(DISK, &[cdb::TEST_UNIT_READY], 0),
        check(6, 0x29, 3)
    );
}

#[test]
fn a_host_that_fails_is_an_error_of_the_medium() {
    let mut driver = Driver::new();
    let file = fs::OpenOptions::new().write(true).open(&driver.path);
    file.unwrap().set_len(0).unwrap();
    let read = on_blocks(cdb::READ_10, 1000, 1);
    assert_eq!(driver.refusal(DISK, &read, 512), check(3, 0x11, 0));
}

#[test]
fn disks_of_two_controllers_are_not_taken_for_one() {
    let driver = Driver::new();
    let memory = DmaMemory::by_guest_address(driver.queues.ram.clone());
    let unit = UnitOptions::new(Address { target: 0, lun: 0 }, UnitKind::Disk);
    let disk = Some(Arc::clone(&driver.disk));
    let again = Scsi::new(ScsiOptions::default(), [(unit.clone(), disk)], &memory);
    assert!(again.unwrap().is_none());
    let disk = Arc::clone(&driver.disk);
    drop(driver.queues);
    let again = Scsi::new(ScsiOptions::default(), [(unit, Some(disk))], &memory);
    assert!(again.unwrap().is_some());
}

#[test]
fn a_request_without_header_or_answer_stops_the_controller() {
    let at = Queues::<Scsi>::buffers(REQUESTS);
    for parts in [
        &[
            (at, HEADER_BYTES - 1, 0),
            (at + ANSWER, ANSWER_BYTES, WRITE),
        ][..],
        &[(at, HEADER_BYTES, 0)],
        &[
            (at, HEADER_BYTES, 0),
            (at + ANSWER, ANSWER_BYTES - 1, WRITE),
        ],
        &[(at + ANSWER, ANSWER_BYTES, WRITE), (at, HEADER_BYTES, 0)],
    ] {
        let mut driver = Driver::new();
        driver.chain(REQUESTS, parts);
        let rung = driver.queues.ring(REQUESTS);
        assert!(matches!(rung, Err(ServeError::Request(_))), "{rung:?}");
        driver.queues.start();
        driver.forget_attentions();
    }
}
