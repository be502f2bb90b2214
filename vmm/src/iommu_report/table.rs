//! The answer for people.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::in_guest;
use super::names;
use super::report::{
    ContainerReport, GroupReport, Interrupts, Limit, Locked, Member, Report, State, Verdict,
};
use super::terminal::fitted;
use crate::spec::ByteSize;

/// The whole answer as text, for a terminal with so many columns or a file.
pub fn render(report: &Report, columns: Option<u16>) -> String {
    let mut text = String::new();
    let mut paragraph = |lines: String| {
        if lines.is_empty() {
            return;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(lines.trim_end());
        text.push('\n');
    };
    paragraph(fitted(overview(&report.groups), columns));
    paragraph(names::lines(&report.groups));
    for reason in reasons(&report.groups) {
        paragraph(reason);
    }
    for note in report.groups.iter().flat_map(without_messages) {
        paragraph(note);
    }
    for group in &report.groups {
        if group.state == State::Free {
            let facts = fitted(facts(group), columns);
            paragraph(format!("IOMMU group {}\n{facts}", group.group));
        }
    }
    // Of many groups, it would be too much.
    if let [group] = &report.groups[..] {
        in_guest::tables(group, columns).for_each(&mut paragraph);
    }
    paragraph(locked_memory(report, columns));
    paragraph(limit(report));
    text
}

fn overview(groups: &[GroupReport]) -> Table {
    let mut table = new_table(["group", "devices (driver)", "interrupts", "passed through"]);
    for group in groups {
        let members: Vec<_> = group
            .members
            .iter()
            .map(|member| {
                let driver = member.driver.as_deref().unwrap_or("no driver");
                format!("{} ({driver})", member.name)
            })
            .collect();
        let interrupts: Vec<_> = group.members.iter().map(interrupts).collect();
        table.add_row([
            group.group.to_string(),
            members.join("\n"),
            interrupts.join("\n"),
            state(group.state).to_owned(),
        ]);
    }
    table
}

fn interrupts(member: &Member) -> String {
    let Some(Interrupts { msi, msi_x, intx }) = member.interrupts else {
        return "only root can see".to_owned();
    };
    let kinds = [("MSI-X", msi_x > 0), ("MSI", msi > 0), ("INTx", intx)];
    let kinds: Vec<_> = kinds
        .into_iter()
        .filter_map(|(name, is_there)| is_there.then_some(name))
        .collect();
    if kinds.is_empty() {
        return "none".to_owned();
    }
    kinds.join(", ")
}

/// What to know of devices that have no message-signalled interrupts, in groups that can be taken.
fn without_messages(group: &GroupReport) -> impl Iterator<Item = String> {
    let is_free = group.state == State::Free;
    // A bridge in the group is not passed through, and its driver is another.
    let is_passed = move |member: &&Member| {
        let driver = member.driver.as_deref();
        is_free && driver.is_some_and(|driver| driver.contains("vfio"))
    };
    group.members.iter().filter(is_passed).filter_map(|member| {
        let name = &member.name;
        match member.interrupts? {
            Interrupts {
                msi: 0,
                msi_x: 0,
                intx,
            } => Some(if intx {
                format!(
                    "{name} has neither MSI nor MSI-X: a guest gets its INTx, at the price of work of \
                     this host's\nfor each interrupt."
                )
            } else {
                format!(
                    "{name} has neither MSI nor MSI-X nor INTx: a driver that needs interrupts fails."
                )
            }),
            _ => None,
        }
    })
}

fn state(state: State) -> &'static str {
    match state {
        State::Free => "can be, now",
        State::HeldByAnotherProcess => "held by another process",
        State::NotBound => "not bound to vfio-pci",
        State::UsedByHost => "the host uses other devices of it",
        State::NoPermission => "no permission",
        State::NoDevice => "nothing but bridges",
        State::Refused => "refused by the kernel",
    }
}

/// Why groups cannot be taken. Of many groups, most belong to the host for good: how to bind is
/// told at length only for one that was asked for.
fn reasons(groups: &[GroupReport]) -> Vec<String> {
    let (asked_for_one, mut unbound) = (groups.len() == 1, false);
    let mut reasons = Vec::new();
    for group in groups {
        match group.state {
            State::NotBound if !asked_for_one => unbound = true,
            State::NoDevice if !asked_for_one => {}
            _ => reasons.extend(group.reason.clone()),
        }
        for container in &group.containers {
            reasons.extend(container.reason.clone());
        }
    }
    if unbound {
        reasons.push("`spapr-vmm iommu DEVICE` says how to bind a device to vfio-pci.".to_owned());
    }
    reasons
}

fn facts(group: &GroupReport) -> Table {
    let mut table = new_table(["container"]);
    let versions = group.containers.iter().map(|it| format!("v{}", it.version));
    let header = std::iter::once("container".to_owned()).chain(versions);
    table.set_header(header.map(Cell::new));
    let mut row = |title: &str, value: &dyn Fn(&ContainerReport) -> Option<String>| {
        let mut cells = vec![Cell::new(title)];
        cells.extend(group.containers.iter().map(|container| {
            let text = value(container).unwrap_or_else(|| "none".to_owned());
            Cell::new(text).set_alignment(CellAlignment::Right)
        }));
        table.add_row(cells);
    };
    row("DMA window of the host: start", &|it| {
        Some(format!("{:#x}", it.iommu.as_ref()?.window_start))
    });
    row("DMA window of the host: size", &|it| {
        Some(ByteSize(it.iommu.as_ref()?.window_bytes).to_string())
    });
    row("IOMMU page sizes", &|it| {
        let sizes = it.iommu.as_ref()?.page_sizes.iter();
        let sizes: Vec<_> = sizes.map(|&size| ByteSize(size).to_string()).collect();
        Some(sizes.join(", "))
    });
    row("dynamic windows", &|it| {
        Some(match it.iommu.as_ref()?.dynamic_windows {
            0 => "none, the host's window is all".to_owned(),
            1 => "one, in place of the default one".to_owned(),
            count => format!("yes, {count} windows at a time"),
        })
    });
    row("levels of a table, at most", &|it| {
        Some(it.iommu.as_ref()?.levels.to_string())
    });
    row("default window of this guest", &|it| {
        Some(ByteSize(it.default_window_bytes?).to_string())
    });
    row("dynamic window of this guest", &|it| {
        let window = it.dynamic_window.as_ref()?;
        let [bytes, page] = [window.window_bytes, window.page_bytes].map(ByteSize);
        Some(format!("{bytes} in pages of {page}"))
    });
    table
}

/// What is locked, for each group alone and for all free ones together, with libvirt's limit.
fn locked_memory(report: &Report, columns: Option<u16>) -> String {
    let mut text = format!(
        "Locked memory in KiB, as `ulimit -l` and VmLck count, of a guest with {} and --ddw {},\n\
         locked in regions of {}",
        ByteSize(report.memory_bytes),
        report.ddw,
        ByteSize(report.region_bytes)
    );
    text.push_str(match report.kernel_tables {
        Some(true) => ", with KVM's TCE tables (less with --tce user):\n",
        Some(false) => ", without KVM's TCE tables, which this host's KVM cannot bind:\n",
        None => ", with KVM's TCE tables (/dev/kvm could not be asked whether it has them):\n",
    });
    let mut table = new_table([
        "group",
        "container",
        "--lock",
        "before DMA",
        "first mapping",
        "at most",
        "limit",
    ]);
    let mut rows = |group: &str, version: u32, locked: &[Locked]| {
        for locked in locked {
            table.add_row(locked_row(group, version, locked, report.limit.exempt));
        }
    };
    for group in &report.groups {
        for container in &group.containers {
            rows(
                &group.group.to_string(),
                container.version,
                &container.locked,
            );
        }
    }
    for need in &report.together {
        rows(&format!("all {}", need.groups), need.version, &need.locked);
    }
    if table.row_count() == 0 {
        text = "No IOMMU group here can be asked what it would lock.".to_owned();
    } else {
        text.push_str(&fitted(table, columns));
    }
    text.push('\n');
    for libvirt in &report.libvirt {
        text.push_str(&format!(
            "libvirt would allow {} KiB for devices of {} ({} PCI host bridges).\n",
            kib(libvirt.limit_bytes),
            match libvirt.groups {
                1 => "one group".to_owned(),
                groups => format!("{groups} groups"),
            },
            libvirt.host_bridges
        ));
    }
    text
}

fn locked_row(group: &str, version: u32, locked: &Locked, exempt: bool) -> Vec<Cell> {
    let number = |bytes: u64| Cell::new(kib(bytes).to_string()).set_alignment(CellAlignment::Right);
    vec![
        Cell::new(group),
        Cell::new(format!("v{version}")),
        Cell::new(&locked.lock),
        number(locked.before_dma_bytes),
        number(locked.first_mapping_bytes),
        number(locked.most_bytes),
        Cell::new(match locked.verdict {
            _ if exempt => "does not bind",
            Verdict::Enough => "is enough",
            Verdict::EnoughToStart => "is enough to start",
            Verdict::TooLow => "is too low",
        }),
    ]
}

fn limit(report: &Report) -> String {
    let Limit {
        limit_bytes,
        locked_bytes,
        exempt,
        advice,
        ..
    } = &report.limit;
    let mut text = "Limit on locked memory (RLIMIT_MEMLOCK): ".to_owned();
    text.push_str(&match limit_bytes {
        Some(limit) => format!("{} KiB", kib(*limit)),
        None => "none".to_owned(),
    });
    text.push_str(&format!(", {} KiB in use here.", kib(*locked_bytes)));
    if *exempt {
        text.push_str(" It does not bind this process, which has CAP_IPC_LOCK.");
        if let Some(most) = report.most_bytes() {
            text.push_str(&format!(
                "\nOne without that capability needs `ulimit -l {}`, in the containers that `run` takes by \
                 itself.",
                kib(most)
            ));
        }
    }
    if let Some(advice) = advice {
        text.push_str(&format!(
            "\nIn the containers that `run` takes by itself, {advice}."
        ));
    }
    text
}

/// Whole KiB; all that the kernel charges is whole pages.
fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
