//! What the device needs to work at all is out of its reach: queues, lists, or all memory.

use spapr_test_guests::digest::Digest;
use spapr_test_guests::dma_memory::DmaMemory;
use spapr_test_guests::nvme::{Command, PAGE_BYTES};
use spapr_test_guests::rtas;

use crate::arena::Needed;
use crate::bench::{Bench, Outcome};
use crate::reads;
use spapr_test_guests::disk::PAGE_BLOCKS;
use spapr_test_guests::dma_window::Permission;

/// The device is used before anything is mapped.
pub(crate) fn before_any_mapping(bench: &mut Bench) {
    let outcome = identify_with_new_queues(bench);
    bench.conclude("admin-before-any-mapping", outcome);
}

/// All trials with a window.
pub(crate) fn all(bench: &mut Bench) {
    page_list(bench);
    for (name, page, permission) in [
        ("submission-queue-unmapped", Needed::IoSubmission, None),
        ("completion-queue-unmapped", Needed::IoCompletion, None),
        (
            "completion-queue-without-permission",
            Needed::IoCompletion,
            Some(Permission::Read),
        ),
    ] {
        queue(bench, name, page, permission);
    }
    for page in [Needed::AdminSubmission, Needed::AdminCompletion] {
        bench.window.unmap(bench.needed_ioba(page));
    }
    let outcome = identify_with_new_queues(bench);
    bench.conclude("admin-queues-unmapped", outcome);
    without_bus_mastering(bench);
}

/// The data's pages are mapped, and the list that names all but the first is not.
fn page_list(bench: &mut Bench) {
    let ioba = bench.tried_ioba(0);
    let list = bench.arena.needed(Needed::PageList);
    for index in 0..3 {
        bench.window.map(
            bench.tried_ioba(index),
            bench.arena.watched(index),
            Permission::ReadWrite,
        );
    }
    list.write(0, ioba + PAGE_BYTES);
    list.write(1, ioba + 2 * PAGE_BYTES);
    let list_ioba = bench.needed_ioba(Needed::PageList);
    let command = Command::read(0, 3 * PAGE_BLOCKS, [ioba, list_ioba]);
    let with_list = bench.attempt(command);
    (0..3).for_each(|index| bench.arena.restore(index));
    bench.conclude("read-with-page-list", with_list);

    bench.window.unmap(list_ioba);
    let without_list = bench.attempt(command);
    // The first page is named by the command itself.
    bench.arena.restore(0);
    bench.conclude("page-list-unmapped", without_list);
    (0..3).for_each(|index| bench.window.unmap(bench.tried_ioba(index)));
}

/// A queue of a working controller goes, or the device's permission to do with it what it does.
fn queue(bench: &mut Bench, name: &str, page: Needed, permission: Option<Permission>) {
    let tried = bench.tried_ioba(0);
    bench
        .window
        .map(tried, bench.arena.watched(13), Permission::ReadWrite);
    let ioba = bench.needed_ioba(page);
    let memory = bench.arena.needed(page);
    match permission {
        Some(permission) => bench.window.map(ioba, memory, permission),
        None => bench.window.unmap(ioba),
    }
    let completions = digest(bench.arena.needed(Needed::IoCompletion));
    let outcome = reads::attempt(bench, tried);
    if digest(bench.arena.needed(Needed::IoCompletion)) != completions {
        rtas::stop_with("the device has written to a queue that is out of its reach");
    }
    // The data itself may go where it belongs.
    bench.arena.restore(13);
    bench.window.unmap(tried);
    bench.conclude(name, outcome);
}

/// Everything is mapped, and the function may do no DMA.
fn without_bus_mastering(bench: &mut Bench) {
    let ioba = bench.tried_ioba(0);
    bench
        .window
        .map(ioba, bench.arena.watched(15), Permission::ReadWrite);
    bench.config.enable(false);
    let outcome = reads::attempt(bench, ioba);
    bench.conclude("read-without-bus-mastering", outcome);
    bench.window.unmap(ioba);
}

fn digest(page: DmaMemory) -> u64 {
    let mut digest = Digest::default();
    (0..page.words()).for_each(|index| digest.add(page.read(index)));
    digest.value()
}

fn identify_with_new_queues(bench: &mut Bench) -> Outcome {
    bench.controller.stop()?;
    bench.controller.start()?;
    let page = bench.needed_ioba(Needed::Buffer);
    bench
        .controller
        .administer(Command::identify_controller(page))
}
