//! The parts of the page that show plots.

use maud::{Markup, html};
use spapr_lab::benchmark::results::{Peer, Results};
use spapr_lab::benchmark::row::Row;

use super::charts::{self, Bar, Group, Line, Part, Spread};
use super::compare::{as_number, takes_no_call};
use super::{names, text};

/// The class of a peer's colour.
pub(super) const fn class(peer: Peer) -> &'static str {
    match peer {
        Peer::Auto => "auto",
        Peer::Kernel => "kernel",
        Peer::User => "user",
        Peer::UserV1 => "v1",
        Peer::QemuKernel => "qemu-kernel",
        Peer::QemuSafe => "qemu-safe",
        Peer::QemuUser => "qemu-user",
        Peer::QemuVof => "qemu-vof",
        Peer::QemuNext => "qemu-next",
        Peer::QemuNextVof => "qemu-next-vof",
        Peer::FloorKernel => "floor-kernel",
        Peer::FloorExit | Peer::FloorMap | Peer::FloorMapV1 | Peer::Host => "floor",
    }
}

/// A plot with its heading and what is to be said about it; nothing when there is nothing to show.
fn figure(title: &str, note: &str, plot: Option<Markup>) -> Markup {
    html! {
        @if let Some(plot) = plot {
            figure {
                figcaption { strong { (capital(title)) } " " (note) }
                (plot)
            }
        }
    }
}

/// A title with a capital letter, unless it begins with a name.
fn capital(title: &str) -> String {
    let mut letters = title.chars();
    match letters.next() {
        Some(first) if !title.starts_with("ibm,") => {
            format!("{}{}", first.to_uppercase(), letters.as_str())
        }
        _ => title.to_owned(),
    }
}

/// Bars of one row for some peers.
fn group(results: &Results, name: &str, n: u64, peers: &[Peer], title: &str) -> Option<Group> {
    let bars: Vec<Bar> = peers
        .iter()
        .filter_map(|&peer| Some(simple_bar(peer, peer.name(), results.row(peer, name, n)?)))
        .collect();
    (!bars.is_empty()).then(|| Group {
        title: title.to_owned(),
        bars,
    })
}

fn simple_bar(peer: Peer, name: &str, row: &Row) -> Bar {
    Bar {
        name: name.to_owned(),
        parts: vec![Part {
            name: "median",
            class: class(peer),
            value: as_number(row.median()),
        }],
        label: text::value(row.median(), row.unit),
    }
}

fn bar_plot(groups: Vec<Option<Group>>) -> Option<Markup> {
    let groups: Vec<Group> = groups.into_iter().flatten().collect();
    (!groups.is_empty()).then(|| charts::bars(&groups))
}

/// The rows that say most, as bars.
pub(super) fn overview(results: &Results) -> Markup {
    const FLOORS: [Peer; 3] = [Peer::FloorExit, Peer::FloorKernel, Peer::FloorMap];
    let shown = [
        ("exit", 1),
        ("put-remap", 1),
        ("indirect-live-contiguous", 512),
        ("indirect-live-scattered", 512),
        ("stuff-mapped", 512),
        ("stuff-clear", 512),
        ("rtas-config-read", 1),
    ];
    html! {
        @for (name, n) in shown {
            @let peers: Vec<Peer> = FLOORS
                .into_iter()
                .chain(Peer::VMMS)
                .filter(|peer| *peer != Peer::FloorExit || takes_no_call(name))
                .filter(|peer| *peer != Peer::FloorMap || !takes_no_call(name))
                .collect();
            @let count = if n > 1 { format!(", {n} entries") } else { String::new() };
            (figure(
                &format!("{}{count}.", names::title(name)),
                "Medians; shorter is better.",
                bar_plot(vec![group(results, name, n, &peers, "")]),
            ))
        }
    }
}

/// What of a call is the exit's, what VFIO's, and what the VMM's own, by the floors.
pub(super) fn profile(results: &Results) -> Markup {
    const PARTS: [(&str, &str); 3] = [
        ("exit and return", "floor"),
        ("VFIO calls", "kernel"),
        ("the VMM's own", "qemu-user"),
    ];
    let shown = [
        ("exit", 1),
        ("put-map", 1),
        ("put-remap", 1),
        ("put-unmap", 1),
        ("indirect-live-contiguous", 8),
        ("indirect-live-contiguous", 512),
        ("indirect-empty-contiguous", 512),
        ("indirect-live-scattered", 512),
        ("stuff-mapped", 512),
        ("stuff-clear", 512),
    ];
    let groups = shown.map(|(name, n)| {
        let exit = results.row(Peer::FloorExit, "exit", 1)?.median();
        let row = results.row(Peer::User, name, n)?;
        let floor = super::compare::floor(results, Peer::User, row)?.median();
        let total = row.median();
        let exit = exit.min(total);
        let calls = floor.clamp(exit, total) - exit;
        let values = [exit, calls, total - exit - calls];
        let parts = PARTS
            .into_iter()
            .zip(values)
            .map(|((name, class), value)| Part {
                name,
                class,
                value: as_number(value),
            });
        let own = text::thousands(total - exit - calls);
        Some(Group {
            title: format!("{}, {n}", names::title(name)),
            bars: vec![Bar {
                name: "--tce user".to_owned(),
                parts: parts.collect(),
                label: format!("own: {own}"),
            }],
        })
    });
    let plot = bar_plot(groups.into()).map(|plot| {
        html! {
            (plot)
            (charts::legend(PARTS.into_iter()))
        }
    });
    figure(
        "Where the instructions go.",
        "Calls served in user space: what the floor takes for the exit, what it takes more for the VFIO \
         calls, and what is left.",
        plot,
    )
}

/// Lines of a row over n, for some peers.
fn series(results: &Results, name: &str, peers: &[Peer]) -> Vec<Line> {
    let lines = peers.iter().map(|&peer| Line {
        name: peer.name(),
        class: class(peer).to_owned(),
        points: results
            .series(peer, name)
            .into_iter()
            .map(|row| (as_number(row.n), as_number(row.median())))
            .collect(),
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn line_plot(results: &Results, name: &str, peers: &[Peer], x_title: &str) -> Option<Markup> {
    let lines = series(results, name, peers);
    let mut ticks: Vec<f64> = Vec::new();
    for (n, _) in lines.iter().flat_map(|line| line.points.iter()) {
        if !ticks.contains(n) {
            ticks.push(*n);
        }
    }
    (!lines.is_empty()).then(|| charts::lines(x_title, "cost", &ticks, &lines))
}

const MODES_AND_QEMU: [Peer; 8] = [
    Peer::Auto,
    Peer::Kernel,
    Peer::User,
    Peer::UserV1,
    Peer::QemuKernel,
    Peer::QemuSafe,
    Peer::QemuUser,
    Peer::FloorMap,
];

/// Bulk calls, by the number of entries.
pub(super) fn bulk(results: &Results) -> Markup {
    let shown = [
        "indirect-live-contiguous",
        "indirect-live-scattered",
        "indirect-empty-contiguous",
        "stuff-mapped",
        "stuff-clear",
    ];
    html! {
        @for name in shown {
            (figure(
                &format!("{}.", names::title(name)),
                "By the number of entries; both scales are logarithmic.",
                line_plot(results, name, &MODES_AND_QEMU, "entries"),
            ))
        }
    }
}

/// How costs grow with other things.
pub(super) fn growth(results: &Results) -> Markup {
    const WITH_FLOORS: [Peer; 7] = [
        Peer::Host,
        Peer::Auto,
        Peer::User,
        Peer::QemuKernel,
        Peer::QemuUser,
        Peer::FloorMap,
        Peer::FloorKernel,
    ];
    let shown = [
        (
            "put-remap-regions",
            "registered regions",
            "What the kernel alone takes: it walks its list.",
        ),
        (
            "put-remap-liobns",
            "LIOBNs with a table in the kernel",
            "What the kernel alone takes.",
        ),
        (
            "engine-put-liobns",
            "LIOBNs",
            "Two loads, whatever their number.",
        ),
        ("window-create", "window, log2 of bytes", ""),
        ("window-map-last", "window, log2 of bytes", ""),
        ("exit-processors", "processors", ""),
        ("put-remap-processors-apart", "processors", ""),
        ("put-remap-processors-together", "processors", ""),
        ("indirect-16-processors-apart", "processors", ""),
    ];
    html! {
        @for (name, x_title, note) in shown {
            (figure(&format!("{}.", names::title(name)), note, line_plot(results, name, &WITH_FLOORS, x_title)))
        }
    }
}

/// The spread of samples.
pub(super) fn distributions(results: &Results) -> Markup {
    let shown = [
        ("exit", 1),
        ("put-remap", 1),
        ("indirect-live-contiguous", 8),
    ];
    html! {
        @for (name, n) in shown {
            @let spreads: Vec<Spread> = Peer::VMMS
                .into_iter()
                .filter_map(|peer| Some(spread(peer, results.row(peer, name, n)?)))
                .collect();
            (figure(
                &format!("{}, n = {n}.", names::title(name)),
                "A line from the least to the largest, a box from 5 to 95 %, a bar at the median, a \
                 dot at 99 %.",
                (!spreads.is_empty()).then(|| charts::spreads(&spreads)),
            ))
        }
    }
}

fn spread(peer: Peer, row: &Row) -> Spread {
    Spread {
        name: peer.name().to_owned(),
        class: class(peer).to_owned(),
        values: [0, 5, 50, 95, 99, 100].map(|percent| as_number(row.quantile(percent))),
    }
}

/// Times of reads; where instructions are counted, those of processors that stay busy.
const READS: [&str; 6] = [
    "nvme-random-4k-busy",
    "nvme-random-4k-latency",
    "nvme-random-4k-processor-time",
    "nvme-sequential-1m-busy",
    "nvme-sequential-1m-latency",
    "nvme-sequential-1m-processor-time",
];

/// The whole machine: start, memory, reads.
pub(super) fn whole(results: &Results) -> Markup {
    let bars = |names: &[&str]| {
        let groups = names
            .iter()
            .map(|name| group(results, name, 1, &Peer::VMMS, &names::title(name)));
        bar_plot(groups.collect())
    };
    html! {
        (figure("Start.", "", starts(results)))
        (figure("Memory.", "", bars(&["resident-above-guest-ram", "resident-with-device", "resident-with-virtio", "locked-before-dma", "locked"])))
        (figure(
            "NVMe reads by a Linux guest.",
            "The time of a read in the guest; where instructions are counted, by a processor that stays busy.",
            reads(results),
        ))
        (figure(
            "NVMe reads, guests with mitigations=off.",
            "",
            reads_of(results, "mitigations-off-"),
        ))
        (figure("Dynamic DMA windows.", "Off, at most 512 MiB, and as large as guest memory (1 GiB).", windows(results)))
    }
}

/// Starts, with each firmware of QEMU's.
fn starts(results: &Results) -> Option<Markup> {
    let names = [
        "start-first-instruction",
        "start-init",
        "mitigations-off-start-init",
        "login-agetty",
        "login-systemd",
    ];
    let groups = names.map(|name| group(results, name, 1, &Peer::STARTERS, &names::title(name)));
    bar_plot(groups.into())
}

/// Times of reads of guests of a variant.
fn reads_of(results: &Results, variant: &str) -> Option<Markup> {
    let groups = READS.map(|name| {
        let title = names::title(name);
        group(results, &format!("{variant}{name}"), 1, &Peer::VMMS, &title)
    });
    bar_plot(groups.into())
}

/// Times of reads, also with the other interrupt controller.
fn reads(results: &Results) -> Option<Markup> {
    let groups = READS.map(|name| {
        let mut group = group(results, name, 1, &Peer::VMMS, &names::title(name))?;
        for peer in [Peer::Auto, Peer::QemuKernel] {
            let row = results.row(peer, &format!("xics-{name}"), 1);
            let bar = row.map(|row| simple_bar(peer, &format!("{}, XICS", peer.name()), row));
            group.bars.extend(bar);
        }
        Some(group)
    });
    bar_plot(groups.into())
}

/// Reads, calls and locked memory by the dynamic windows that the guest is offered.
fn windows(results: &Results) -> Option<Markup> {
    let calls = [
        "nvme-random-4k-tce-calls",
        "nvme-sequential-1m-tce-calls",
        "locked",
    ];
    let variants = [
        ("", "off"),
        ("windows-512m-", "512 MiB"),
        ("windows-on-", "1 GiB"),
    ];
    let groups = READS.into_iter().chain(calls).map(|name| {
        let mut bars = Vec::new();
        for peer in [Peer::Auto, Peer::QemuKernel] {
            for (prefix, windows) in variants {
                if let Some(row) = results.row(peer, &format!("{prefix}{name}"), 1) {
                    bars.push(simple_bar(
                        peer,
                        &format!("{}, {windows}", peer.name()),
                        row,
                    ));
                }
            }
        }
        (!bars.is_empty()).then(|| Group {
            title: names::title(name),
            bars,
        })
    });
    bar_plot(groups.collect())
}
