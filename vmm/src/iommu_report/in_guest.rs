//! What a device will have in a guest, and what it will miss, for people: no line has more than 80 columns.

use comfy_table::{Table, presets};

use super::report::{Bar, GroupReport, Interrupts, Member, State};
use super::terminal::fitted;
use crate::spec::ByteSize;

/// What is told of each device that a guest can have of a group that can be taken.
pub(super) fn tables(group: &GroupReport, columns: Option<u16>) -> impl Iterator<Item = String> {
    let is_free = group.state == State::Free;
    let members = group.members.iter().filter(move |member| {
        let driver = member.driver.as_deref();
        is_free && driver.is_some_and(|driver| driver.contains("vfio"))
    });
    members.map(move |member| fitted(table(member, group), columns))
}

fn table(member: &Member, group: &GroupReport) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([member.name.as_str(), "in a guest"]);
    let mut row = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            table.add_row([title, &lines.join("\n")]);
        }
    };
    row("interrupts", interrupts(member.interrupts));
    row("BARs", bars(member));
    row("DMA", dma(group));
    row("reset", reset(member, group.group));
    row("after an error", vec![after_an_error(group.eeh).to_owned()]);
    row("misses", missing(member));
    table
}

fn interrupts(interrupts: Option<Interrupts>) -> Vec<String> {
    let Some(Interrupts { msi, msi_x, intx }) = interrupts else {
        return vec!["only root can see".to_owned()];
    };
    let vectors = |kind: &str, count: u32| match count {
        0 => None,
        1 => Some(format!("{kind}: 1 vector")),
        count => Some(format!("{kind}: {count} vectors")),
    };
    let line = intx.then(|| "line (INTx), until MSI or MSI-X is enabled".to_owned());
    let kinds = [vectors("MSI-X", msi_x), vectors("MSI", msi), line];
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    if kinds.is_empty() {
        return vec!["none: a driver that needs them fails".to_owned()];
    }
    kinds
}

fn bars(member: &Member) -> Vec<String> {
    let Some(resources) = &member.resources else {
        return vec!["not told by the host".to_owned()];
    };
    let bar = |bar: &Bar| {
        let place = match bar.address {
            None => "does not fit: the device is refused",
            Some(_) if bar.space == "io" => "as I/O ports",
            Some(address) if address < 1 << 32 => "below 4 GiB on the bus",
            Some(_) => "above 4 GiB on the bus",
        };
        let prefetchable = if bar.prefetchable {
            ", prefetchable"
        } else {
            ""
        };
        let size = ByteSize(bar.bytes);
        format!("{}: {size}{prefetchable}, {place}", bar.index)
    };
    resources.bars.iter().map(bar).collect()
}

/// In the best container.
fn dma(group: &GroupReport) -> Vec<String> {
    let Some(container) = group.containers.iter().find(|it| it.iommu.is_some()) else {
        return Vec::new();
    };
    let Some(default) = container.default_window_bytes else {
        return Vec::new();
    };
    let start = container.iommu.as_ref().map_or(0, |it| it.window_start);
    let default = format!("{} from {start:#x} on", ByteSize(default));
    let Some(window) = &container.dynamic_window else {
        return vec![default];
    };
    let of =
        |bytes, page_bytes| format!("{} in pages of {}", ByteSize(bytes), ByteSize(page_bytes));
    let full = of(window.window_bytes, window.page_bytes);
    let full = format!("with masks of 64 bits: {full}");
    match &container.limited_window {
        Some(limited) => vec![
            format!("with masks of up to 32 bits: {default}"),
            format!(
                "with masks of 33 to 63 bits: {}",
                of(limited.window_bytes, limited.page_bytes)
            ),
            format!(
                "  from {:#x} on, for tables of {}",
                limited.window_start,
                ByteSize(limited.table_bytes)
            ),
            full,
        ],
        None => vec![format!("with masks below 64 bits: {default}"), full],
    }
}

fn reset(member: &Member, group: u32) -> Vec<String> {
    let Some(resources) = &member.resources else {
        return vec!["not told by the host".to_owned()];
    };
    if !resources.resets.is_empty() {
        let methods = resources.resets.join(", ");
        return vec![format!("its own ({methods}), at each start and end")];
    }
    let others = resources.bus.iter().filter(|it| it.name != member.name);
    let others: Vec<_> = others.collect();
    if others.is_empty() {
        return vec!["none: a guest finds it as its last user left it".to_owned()];
    }
    let needed = others.iter().filter(|it| it.group != group);
    let needed: Vec<_> = needed
        .map(|it| format!("  {} of IOMMU group {}", it.name, it.group))
        .collect();
    if needed.is_empty() {
        let names = others.iter().map(|it| format!("  {}", it.name));
        let title = "with its bus, at each start, and with it".to_owned();
        return std::iter::once(title).chain(names).collect();
    }
    let title = "none, unless the guest also gets".to_owned();
    std::iter::once(title).chain(needed).collect()
}

const fn after_an_error(eeh: Option<bool>) -> &'static str {
    match eeh {
        Some(true) => "frozen by the host (EEH); the guest's kernel resets it",
        Some(false) => "to be reset by hand: this host has no EEH for it",
        None => "unknown: the host could not be asked",
    }
}

fn missing(member: &Member) -> Vec<String> {
    let Some(resources) = &member.resources else {
        return Vec::new();
    };
    let unplaced = resources
        .unplaced_bars
        .iter()
        .map(|index| format!("BAR {index}, to which the host has given no address"));
    let rom = (resources.rom_bytes > 0).then(|| {
        format!(
            "its expansion ROM of {}, unless rombar=1 shows it",
            ByteSize(resources.rom_bytes)
        )
    });
    unplaced.chain(rom).collect()
}

#[cfg(test)]
mod tests {
    use super::super::gather::tests::{LIMIT, sample};
    use super::super::report::{Neighbour, Resources};
    use super::*;

    /// The first group of the sample, whose device has `resources`.
    fn group(resources: Option<Resources>) -> GroupReport {
        let mut group = sample(LIMIT).groups.swap_remove(0);
        group.members[0].resources = resources;
        group
    }

    fn text(group: &GroupReport) -> String {
        let text: Vec<String> = tables(group, None).collect();
        let text = text.join("\n");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        text
    }

    #[track_caller]
    fn has(text: &str, parts: &[&str]) {
        for part in parts {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }

    fn neighbour(function: u8, group: u32) -> Neighbour {
        Neighbour {
            name: format!("0001:01:00.{function}"),
            group,
        }
    }

    #[test]
    fn a_device_with_all_there_is_is_told_in_80_columns() {
        let bar = |index, space: &'static str, bytes, address| Bar {
            index,
            space,
            prefetchable: index == 2,
            bytes,
            address,
        };
        let resources = Resources {
            bars: vec![
                bar(0, "memory-64", 0x4000, Some(0x8000_0000)),
                bar(2, "memory-64", 32 << 30, Some(0x2100_0000_0000)),
                bar(4, "io", 32, Some(0x1000)),
                bar(5, "memory-32", 2 << 30, None),
            ],
            unplaced_bars: vec![3],
            rom_bytes: 256 << 10,
            resets: vec!["flr".to_owned(), "bus".to_owned()],
            bus: vec![neighbour(0, 1)],
        };
        let mut group = group(Some(resources));
        group.members[0].interrupts = Some(Interrupts {
            msi: 1,
            msi_x: 2048,
            intx: true,
        });
        group.eeh = Some(true);
        let text = text(&group);
        has(
            &text,
            &[
                "0001:01:00.0",
                "MSI-X: 2048 vectors",
                "MSI: 1 vector ",
                "line (INTx)",
                "0: 16K, below 4 GiB",
                "2: 32G, prefetchable, above 4 GiB",
                "4: 32, as I/O ports",
                "5: 2G, does not fit",
                "masks of up to 32 bits: 1G from 0x0 on",
                "masks of 33 to 63 bits: 1G in pages of 64K",
                "  from 0x100000000 on, for tables of 32M",
                "with masks of 64 bits: 1G in pages of 64K",
                "its own (flr, bus)",
                "frozen by the host (EEH)",
                "BAR 3, to which the host",
                "ROM of 256K",
            ],
        );
    }

    #[test]
    fn how_it_is_reset_depends_on_who_is_on_its_bus() {
        let with = |bus: Vec<Neighbour>| {
            text(&group(Some(Resources {
                bus,
                ..Resources::default()
            })))
        };
        has(&with(vec![neighbour(0, 1)]), &["none: a guest finds it as"]);
        let own = with(vec![neighbour(0, 1), neighbour(1, 1)]);
        has(&own, &["with its bus, at each start", "  0001:01:00.1 "]);
        let others = with(vec![neighbour(0, 1), neighbour(1, 1), neighbour(2, 7)]);
        has(
            &others,
            &[
                "unless the guest also gets",
                "0001:01:00.2 of IOMMU group 7",
            ],
        );
        assert!(!others.contains("00.1"), "{others}");
    }

    #[test]
    fn what_is_not_known_is_not_claimed_and_others_devices_are_left_out() {
        let mut group = group(None);
        group.members[0].interrupts = None;
        group.eeh = None;
        let unknown = text(&group);
        has(
            &unknown,
            &[
                "only root can see",
                "not told by the host",
                "could not be asked",
            ],
        );
        assert!(!unknown.contains("misses"), "{unknown}");
        group.eeh = Some(false);
        has(&text(&group), &["no EEH for it"]);
        group.members[0].driver = Some("pcieport".to_owned());
        assert_eq!(text(&group), "");
    }
}
