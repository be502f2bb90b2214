//! The demo's table: the runs side by side.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::evidence::{Evidence, Expected, HYPERCALLS};
use super::stats::Stats;

/// One column per run, with what is wrong with it. On a terminal with so many columns, cells have several lines where
/// the table would be wider.
pub(super) fn of(
    runs: &[(Vec<String>, Evidence)],
    expected: &Expected,
    packages: &str,
    columns: Option<u16>,
) -> Table {
    let mut table = Table::new();
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(columns);
    }
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut header = vec![Cell::new("")];
    header.extend(runs.iter().map(|(_, run)| Cell::new(run.shown.options)));
    table.set_header(header);
    let mut row = |title: &str, value: &dyn Fn(&Evidence) -> String| {
        let mut cells = vec![Cell::new(title)];
        cells.extend(
            runs.iter()
                .map(|(_, run)| Cell::new(value(run)).set_alignment(CellAlignment::Right)),
        );
        table.add_row(cells);
    };
    machine_rows(&mut row);
    row("Debian packages", &|_| packages.to_owned());
    tce_rows(&mut row);
    row("VFIO map / unmap ioctls", &|run| {
        of_windows(run, |stats| {
            let map: u64 = stats.windows.iter().map(|window| window.map_ioctls).sum();
            let unmap: u64 = stats.windows.iter().map(|window| window.unmap_ioctls).sum();
            format!("{map} / {unmap}")
        })
    });
    row("guest memory locked, at most", &|run| {
        of_windows(run, |stats| {
            let memory = &stats.memory;
            format!(
                "{} of {}",
                mib(memory.peak_locked_bytes),
                mib(memory.guest_bytes)
            )
        })
    });
    row("locked in all, at the end", &|run| {
        of_windows(run, |stats| mib(stats.memory.process_locked_bytes))
    });
    row("start to the guest's init", &time_to_init);
    row(
        "64 MiB read with O_DIRECT",
        &|run| match run.guest("SHA256") {
            Some(digest) if digest == expected.sha256 => format!("SHA-256 {} equal", short(digest)),
            Some(digest) => format!("SHA-256 {} DIFFERS", short(digest)),
            None => "nothing".to_owned(),
        },
    );
    let mut cells = vec![Cell::new("result")];
    cells.extend(runs.iter().map(|(verdict, _)| {
        Cell::new(if verdict.is_empty() {
            "passed"
        } else {
            "FAILED"
        })
        .set_alignment(CellAlignment::Right)
    }));
    table.add_row(cells);
    table
}

type Row<'a> = dyn FnMut(&str, &dyn Fn(&Evidence) -> String) + 'a;

fn machine_rows(row: &mut Row<'_>) {
    row("host CPU", &|run| run.host("cpu").to_owned());
    row("host kernel", &|run| run.host("kernel").to_owned());
    row("guest kernel", &|run| {
        run.guest("KERNEL").unwrap_or("?").to_owned()
    });
    row("page size, host / guest", &|run| {
        format!(
            "{} / {}",
            kib(run.host("page")),
            kib(run.guest("PAGE").unwrap_or("?"))
        )
    });
    row("device", &|run| run.host("device").to_owned());
    row("LIOBN", &|run| window(run, |window| window.liobn.clone()));
    row("DMA window", &|run| {
        window(run, |window| {
            let size = window.page_size.saturating_mul(window.entries);
            format!(
                "{} at {:#x}, {} B pages",
                mib(size),
                window.bus_offset,
                window.page_size
            )
        })
    });
    row("window's path", &|run| {
        window(run, |window| match &window.reason {
            Some(reason) => format!("{} ({reason})", window.path),
            None => window.path.clone(),
        })
    });
}

fn tce_rows(row: &mut Row<'_>) {
    for (index, (hypercall, _)) in HYPERCALLS.into_iter().enumerate() {
        row(&format!("{hypercall}, in kernel / in VMM"), &|run| {
            let in_kernel = run.kernel[index].answered;
            let in_vmm = of_windows(run, |stats| stats.calls(hypercall).to_string());
            format!("{in_kernel} / {in_vmm}")
        });
    }
}

fn of_windows(run: &Evidence, value: impl Fn(&Stats) -> String) -> String {
    run.stats.as_ref().map_or_else(|| "?".to_owned(), value)
}

/// The window that the guest reads through: the dynamic one, if it made one.
fn window(run: &Evidence, value: impl Fn(&super::stats::Window) -> String) -> String {
    run.stats
        .as_ref()
        .and_then(|stats| stats.windows.last())
        .map_or_else(|| "?".to_owned(), value)
}

/// The VMM's own time up to the first instruction, and the guest kernel's up to init.
fn time_to_init(run: &Evidence) -> String {
    let kernel = run
        .guest("INIT")
        .and_then(|init| init.strip_prefix("uptime=")?.parse::<f64>().ok());
    let vmm = run
        .stats
        .as_ref()
        .and_then(|stats| stats.first_guest_instruction_ns);
    match (vmm, kernel) {
        (Some(vmm), Some(kernel)) => {
            let vmm = std::time::Duration::from_nanos(vmm).as_secs_f64();
            format!("{:.2} s (VMM {vmm:.2}, guest {kernel:.2})", vmm + kernel)
        }
        _ => "?".to_owned(),
    }
}

fn mib(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{} KiB", bytes >> 10)
    }
}

fn kib(bytes: &str) -> String {
    bytes
        .parse::<u64>()
        .map_or_else(|_| bytes.to_owned(), |bytes| format!("{} KiB", bytes >> 10))
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
