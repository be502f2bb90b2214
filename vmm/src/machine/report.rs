//! What a machine counted, for `--stats`.

use std::collections::BTreeMap;
use std::time::Instant;

use spapr_devices::vfio::{IommuVersion, MemoryLimit};
use spapr_hypercalls::abi;
use spapr_hypercalls::stats::{BulkCallSnapshot, LockedMemory, WindowSnapshot, WindowState};

use crate::partition::Partition;
use crate::partition::counters::Counters;
use crate::stats::{BulkCallStatistics, MemoryStatistics, Statistics, WindowStatistics};

/// Adds the counters of one life of a machine to `statistics`.
pub(super) fn add(
    statistics: &mut Statistics,
    partition: &Partition,
    counters: &Counters,
    started: Instant,
) {
    merge(&mut statistics.exits, counters.exits());
    merge(&mut statistics.hypercalls, counters.hypercalls());
    merge(&mut statistics.rtas_calls, partition.rtas.calls());
    let snapshot = partition.engine.snapshot();
    for call in &snapshot.bulk_calls {
        add_bulk_call(&mut statistics.bulk_calls, call);
    }
    for window in &snapshot.windows {
        if let Some(window) = window_statistics(partition, window) {
            add_window(&mut statistics.windows, window);
        }
    }
    let peak = statistics
        .memory
        .peak_locked_bytes
        .max(snapshot.locked.peak_bytes);
    statistics.memory = memory_statistics(partition, &snapshot.locked);
    statistics.memory.peak_locked_bytes = peak;
    if statistics.first_guest_instruction_ns.is_none() {
        statistics.first_guest_instruction_ns = partition
            .first_entry
            .get()
            .map(|entry| u64::try_from(entry.duration_since(started).as_nanos()).unwrap_or(0));
    }
}

fn merge(sums: &mut BTreeMap<String, u64>, counts: BTreeMap<String, u64>) {
    for (name, count) in counts {
        *sums.entry(name).or_default() += count;
    }
}

/// `None` for a LIOBN that has no window and never had one.
fn window_statistics(partition: &Partition, window: &WindowSnapshot) -> Option<WindowStatistics> {
    let geometry = window.geometry?;
    let (phb, _) = window.liobn.pci_window()?;
    let container = partition.engine.host(phb)?.container();
    let (path, reason) = match window.state {
        WindowState::Unlocked => ("unlocked", None),
        WindowState::Bound => ("bound", None),
        WindowState::UserOnly(reason) => ("user", Some(reason.to_string())),
    };
    let counters = &window.counters;
    let calls = [
        (abi::H_GET_TCE, counters.get),
        (abi::H_PUT_TCE, counters.put),
        (abi::H_PUT_TCE_INDIRECT, counters.put_indirect),
        (abi::H_STUFF_TCE, counters.stuff),
    ];
    Some(WindowStatistics {
        liobn: window.liobn.to_string(),
        group: container.map(|container| container.group().number().0),
        container: container.map(|container| match container.version() {
            IommuVersion::V1 => 1,
            IommuVersion::V2 => 2,
        }),
        bus_offset: geometry.bus_offset.0,
        page_size: geometry.page_shift.bytes(),
        entries: geometry.entries,
        path: path.to_owned(),
        reason,
        calls: calls
            .into_iter()
            .filter_map(|(number, count)| Some((abi::name(number)?.to_owned(), count)))
            .collect(),
        tces: counters.entries_written,
        runs: counters.map_calls,
        // Where there is no hardware, nobody is told.
        map_ioctls: container.map_or(0, |_| counters.map_calls),
        unmap_ioctls: container.map_or(0, |_| counters.unmap_calls),
        failures: counters.refused_by_host + counters.unmap_failures,
    })
}

fn add_bulk_call(calls: &mut BTreeMap<String, BulkCallStatistics>, call: &BulkCallSnapshot) {
    let Some(name) = abi::name(call.call.number()) else {
        return;
    };
    let sum = calls.entry(name.to_owned()).or_default();
    sum.in_kernel = call.in_kernel;
    sum.handed_over += call.handed_over;
    sum.taken_back += call.taken_back;
}

fn add_window(windows: &mut Vec<WindowStatistics>, window: WindowStatistics) {
    let Some(known) = windows.iter_mut().find(|known| known.liobn == window.liobn) else {
        windows.push(window);
        return;
    };
    let mut sum = window;
    merge(&mut sum.calls, std::mem::take(&mut known.calls));
    sum.tces += known.tces;
    sum.runs += known.runs;
    sum.map_ioctls += known.map_ioctls;
    sum.unmap_ioctls += known.unmap_ioctls;
    sum.failures += known.failures;
    *known = sum;
}

fn memory_statistics(partition: &Partition, locked: &LockedMemory) -> MemoryStatistics {
    MemoryStatistics {
        guest_bytes: partition.ram.bytes(),
        page_bytes: partition.ram.page_bytes(),
        region_bytes: locked.region_bytes,
        locked_regions: locked.bytes.div_ceil(locked.region_bytes.max(1)),
        locked_bytes: locked.bytes,
        peak_locked_bytes: locked.peak_bytes,
        process_locked_bytes: MemoryLimit::current().map_or(0, |limit| limit.locked_bytes),
    }
}
