//! Requests that the host fails, and a machine that pauses for them: what a disk's file lacks, the host cannot read.

use std::fs::File;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::tests::{DATA, DISK_BYTES, Driver, FAILED, HEADER, IN, NEXT, OK, OUT, STATUS, WRITE};

use crate::image::Kind;
use crate::virtio::device::Device;
use crate::virtio::disk::{Action, DiskFailures, ErrorPolicy, IoStatus, OnError};

/// What a status is before the device writes it.
const NONE: u8 = 0xee;

fn policy(read: OnError) -> ErrorPolicy {
    ErrorPolicy {
        read,
        ..ErrorPolicy::default()
    }
}

fn driver(read: OnError) -> (Driver, Arc<DiskFailures>) {
    let failures = Arc::new(DiskFailures::new().unwrap());
    (Driver::telling(&failures, policy(read)), failures)
}

/// Has the file be of that many bytes.
fn resize(driver: &Driver, bytes: u64) {
    let path = driver.folder.path().join("image");
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

fn status(driver: &Driver) -> u8 {
    driver.ram.read_obj(GuestAddress(STATUS)).unwrap()
}

/// The machine goes on.
fn go_on(driver: &mut Driver) {
    driver.block.go_on();
    driver.drain();
    driver.serve().unwrap();
}

#[test]
fn a_request_waits_until_the_machine_goes_on_and_is_done_then() {
    let (mut driver, failures) = driver(OnError::Stop);
    let content = driver.on_disk(2048, 512);
    resize(&driver, 1024);
    assert_eq!(driver.request(IN, 4, 512, true), NONE);
    assert!(driver.disk.waits());
    assert_eq!(driver.disk.status(), IoStatus::Failed);
    let told = failures.take();
    assert_eq!(told.len(), 1);
    let first = (told[0].disk, told[0].kind, told[0].action);
    assert_eq!(first, (3, Kind::Read, Action::Stop));
    assert!(!told[0].is_no_space);
    // It fails again, and the machine pauses again.
    go_on(&mut driver);
    assert_eq!(status(&driver), NONE);
    assert!(driver.disk.waits());
    assert_eq!(failures.take().len(), 1);
    resize(&driver, DISK_BYTES);
    let path = driver.folder.path().join("image");
    std::os::unix::fs::FileExt::write_all_at(
        &File::options().write(true).open(path).unwrap(),
        &content,
        2048,
    )
    .unwrap();
    go_on(&mut driver);
    assert_eq!(status(&driver), OK);
    assert!(!driver.disk.waits() && failures.take().is_empty());
    assert_eq!(driver.data(512), content);
}

#[test]
fn nothing_else_is_begun_while_a_request_waits_and_all_is_done_when_the_machine_goes_on() {
    let (mut driver, failures) = driver(OnError::Stop);
    resize(&driver, 1024);
    assert_eq!(driver.request(IN, 4, 512, true), NONE);
    // A write to where there is a file, by another header and another status.
    let (header, other) = (HEADER + 0x100, STATUS + 0x10);
    let mut bytes = Vec::new();
    bytes.extend(OUT.to_le_bytes());
    bytes.extend([0; 12]);
    driver
        .ram
        .write_slice(&bytes, GuestAddress(header))
        .unwrap();
    driver.ram.write_obj(NONE, GuestAddress(other)).unwrap();
    driver
        .ram
        .write_slice(&[0x5a; 512], GuestAddress(DATA + 0x1000))
        .unwrap();
    driver.descriptor(3, (header, 16, NEXT, 4));
    driver.descriptor(4, (DATA + 0x1000, 512, NEXT, 5));
    driver.descriptor(5, (other, 1, WRITE, 0));
    driver.offer(3);
    driver.serve().unwrap();
    assert_ne!(driver.on_disk(0, 512), [0x5a; 512]);
    assert_eq!(failures.take().len(), 1);
    resize(&driver, DISK_BYTES);
    driver.block.go_on();
    driver.drain();
    // The queue is due by itself.
    assert_eq!(driver.block.next_due(), Some(0));
    assert_eq!(driver.block.next_due(), None);
    driver.serve().unwrap();
    assert_eq!(status(&driver), OK);
    assert_eq!(driver.ram.read_obj::<u8>(GuestAddress(other)).unwrap(), OK);
    assert_eq!(driver.on_disk(0, 512), [0x5a; 512]);
}

#[test]
fn a_machine_that_pauses_again_at_once_has_nothing_tried_meanwhile() {
    let (mut driver, failures) = driver(OnError::Stop);
    resize(&driver, 1024);
    assert_eq!(driver.request(IN, 4, 512, true), NONE);
    assert_eq!(failures.take().len(), 1);
    resize(&driver, DISK_BYTES);
    driver.block.go_on();
    driver.block.stay();
    driver.drain();
    driver.serve().unwrap();
    assert_eq!(status(&driver), NONE);
    assert!(driver.disk.waits());
    go_on(&mut driver);
    assert_eq!(status(&driver), OK);
}

#[test]
fn a_reset_forgets_what_waits() {
    let (mut driver, failures) = driver(OnError::Stop);
    resize(&driver, 1024);
    // More often than there are slots.
    for _ in 0..20 {
        assert_eq!(driver.request(IN, 4, 512, true), NONE);
        assert!(driver.disk.waits());
        assert_eq!(driver.block.in_flight(), 0);
        driver.start();
        assert!(!driver.disk.waits());
    }
    assert_eq!(failures.take().len(), 20);
    driver.block.go_on();
    driver.drain();
    assert_eq!(driver.request(IN, 0, 512, true), OK);
    let (memory, disk) = (driver.memory.clone(), Arc::clone(&driver.disk));
    resize(&driver, 0);
    assert_eq!(driver.request(IN, 4, 512, true), NONE);
    drop(driver.block);
    assert!(!disk.waits());
    assert!(super::Block::new(disk, memory).is_some());
}

#[test]
fn errors_are_ignored_or_reported_as_the_user_wants_it() {
    for (read, wanted, action) in [
        (OnError::Report, FAILED, Action::Report),
        (OnError::Ignore, OK, Action::Ignore),
        // The host has room, and another error.
        (OnError::Enospc, FAILED, Action::Report),
    ] {
        let (mut driver, failures) = driver(read);
        resize(&driver, 1024);
        assert_eq!(driver.request(IN, 4, 512, true), wanted);
        assert!(!driver.disk.waits());
        assert_eq!(driver.disk.status(), IoStatus::Ok);
        let told = failures.take();
        assert_eq!((told.len(), told[0].action), (1, action));
        assert_eq!(driver.request(IN, 0, 512, true), OK);
    }
}
