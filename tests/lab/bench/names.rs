//! The rows' names: what they mean, and which kind of row they are of.

/// The rows' names, and what they mean.
const TITLES: &[(&str, &str)] = &[
    ("exit", "exit round trip (a hypercall nobody knows)"),
    ("put-map", "H_PUT_TCE, map"),
    ("put-remap", "H_PUT_TCE, map over a live entry"),
    ("put-unmap", "H_PUT_TCE, unmap"),
    ("put-clear", "H_PUT_TCE, clear a clear entry"),
    ("get", "H_GET_TCE"),
    ("rtas-config-read", "RTAS read of configuration space"),
    ("first-map", "first mapping of all"),
    ("first-map-in-region", "first mapping in a further region"),
    (
        "longest-stall-put",
        "longest stall in one H_PUT_TCE, all memory mapped for the first time",
    ),
    (
        "longest-stall-list",
        "one H_PUT_TCE_INDIRECT of pages all over memory, all mapped for the first time",
    ),
    (
        "longest-away-put",
        "longest time away from the guest, while all memory is mapped for the first time by H_PUT_TCE",
    ),
    (
        "longest-away-list",
        "longest time away from the guest, in one H_PUT_TCE_INDIRECT of pages all over memory",
    ),
    (
        "stuff-window",
        "H_STUFF_TCE of a whole window, all mapped, made again until it is done",
    ),
    (
        "longest-away-stuff",
        "longest time away from the guest, in one H_STUFF_TCE of a whole window",
    ),
    (
        "indirect-live-contiguous",
        "H_PUT_TCE_INDIRECT, contiguous, over live entries",
    ),
    (
        "indirect-empty-contiguous",
        "H_PUT_TCE_INDIRECT, contiguous, onto clear entries",
    ),
    (
        "indirect-live-scattered",
        "H_PUT_TCE_INDIRECT, scattered, over live entries",
    ),
    (
        "indirect-empty-scattered",
        "H_PUT_TCE_INDIRECT, scattered, onto clear entries",
    ),
    ("stuff-mapped", "H_STUFF_TCE of mapped entries"),
    ("stuff-clear", "H_STUFF_TCE of clear entries"),
    (
        "start-first-instruction",
        "exec to the guest's first instruction",
    ),
    ("start-init", "exec to the Linux guest's init"),
    (
        "login-agetty",
        "exec to a login's first line, agetty alone on the disk's Debian",
    ),
    (
        "login-systemd",
        "exec to a login's first line, Debian with systemd",
    ),
    (
        "resident-above-guest-ram",
        "resident memory above guest RAM",
    ),
    ("locked", "locked memory after the reads"),
    (
        "resident-with-device",
        "resident memory above guest RAM, with a device",
    ),
    (
        "resident-with-virtio",
        "resident memory above guest RAM, with a virtio device of each kind",
    ),
    (
        "locked-before-dma",
        "locked memory with a device, before its first mapping",
    ),
    (
        "engine-get-liobns",
        "H_GET_TCE in the engine alone, n LIOBNs",
    ),
    (
        "engine-put-liobns",
        "H_PUT_TCE in the engine alone, n LIOBNs",
    ),
    (
        "window-create",
        "ibm,create-pe-dma-window, n = log2 of its bytes",
    ),
    (
        "window-remove",
        "ibm,remove-pe-dma-window, n = log2 of its bytes",
    ),
    (
        "window-map-last",
        "H_PUT_TCE at the end of a window, n = log2 of its bytes",
    ),
    ("exit-processors", "exit round trip, n processors at once"),
    (
        "put-remap-processors-apart",
        "H_PUT_TCE, n processors, a window each",
    ),
    (
        "put-remap-processors-together",
        "H_PUT_TCE, n processors, one window",
    ),
    (
        "indirect-16-processors-apart",
        "H_PUT_TCE_INDIRECT of 16, n processors, a window each",
    ),
    (
        "indirect-16-processors-together",
        "H_PUT_TCE_INDIRECT of 16, n processors, one window",
    ),
    ("put-remap-regions", "H_PUT_TCE, n registered regions"),
    ("get-regions", "H_GET_TCE, n registered regions"),
    ("put-remap-liobns", "H_PUT_TCE in kernel, n LIOBNs"),
    ("get-liobns", "H_GET_TCE in kernel, n LIOBNs"),
    (
        "nvme-random-4k-busy",
        "NVMe, read of 4 KiB, random, by a busy processor",
    ),
    ("nvme-random-4k-latency", "NVMe, read of 4 KiB, random"),
    (
        "nvme-random-4k-processor-time",
        "NVMe, read of 4 KiB, random: processor time",
    ),
    (
        "nvme-random-4k-tce-calls",
        "NVMe, 400 reads of 4 KiB: TCE calls",
    ),
    (
        "nvme-random-4k-platform-calls",
        "NVMe, 400 reads of 4 KiB: TCE calls to the platform below",
    ),
    (
        "nvme-sequential-1m-busy",
        "NVMe, read of 1 MiB, sequential, by a busy processor",
    ),
    (
        "nvme-sequential-1m-latency",
        "NVMe, read of 1 MiB, sequential",
    ),
    (
        "nvme-sequential-1m-processor-time",
        "NVMe, read of 1 MiB, sequential: processor time",
    ),
    (
        "nvme-sequential-1m-tce-calls",
        "NVMe, 40 reads of 1 MiB: TCE calls",
    ),
    (
        "nvme-sequential-1m-platform-calls",
        "NVMe, 40 reads of 1 MiB: TCE calls to the platform below",
    ),
    (
        "nvme-random-4k-exits",
        "NVMe, 400 reads of 4 KiB: returns to the VMM",
    ),
    (
        "nvme-sequential-1m-exits",
        "NVMe, 40 reads of 1 MiB: returns to the VMM",
    ),
    (
        "virtio-random-4k-busy",
        "virtio disk, read of 4 KiB, random, by a busy processor",
    ),
    (
        "virtio-random-4k-latency",
        "virtio disk, read of 4 KiB, random",
    ),
    (
        "virtio-random-4k-processor-time",
        "virtio disk, read of 4 KiB, random: processor time",
    ),
    (
        "virtio-random-4k-tce-calls",
        "virtio disk, 400 reads of 4 KiB: TCE calls",
    ),
    (
        "virtio-random-4k-exits",
        "virtio disk, 400 reads of 4 KiB: returns to the VMM",
    ),
    (
        "virtio-sequential-1m-busy",
        "virtio disk, read of 1 MiB, sequential, by a busy processor",
    ),
    (
        "virtio-sequential-1m-latency",
        "virtio disk, read of 1 MiB, sequential",
    ),
    (
        "virtio-sequential-1m-processor-time",
        "virtio disk, read of 1 MiB, sequential: processor time",
    ),
    (
        "virtio-sequential-1m-tce-calls",
        "virtio disk, 40 reads of 1 MiB: TCE calls",
    ),
    (
        "virtio-sequential-1m-exits",
        "virtio disk, 40 reads of 1 MiB: returns to the VMM",
    ),
    (
        "network-echo-64-busy",
        "virtio network, 64 bytes there and back, by a busy processor",
    ),
    (
        "network-echo-64-latency",
        "virtio network, 64 bytes there and back",
    ),
    (
        "network-echo-64-processor-time",
        "virtio network, 64 bytes there and back: processor time",
    ),
    (
        "network-echo-64-tce-calls",
        "virtio network, 64 bytes there and back, 400 times: TCE calls",
    ),
    (
        "network-echo-64-exits",
        "virtio network, 64 bytes there and back, 400 times: returns to the VMM",
    ),
    (
        "network-send-64k-busy",
        "virtio network, 64 KiB sent, by a busy processor",
    ),
    ("network-send-64k-latency", "virtio network, 64 KiB sent"),
    (
        "network-send-64k-processor-time",
        "virtio network, 64 KiB sent: processor time",
    ),
    (
        "network-send-64k-tce-calls",
        "virtio network, 64 KiB sent, 100 times: TCE calls",
    ),
    (
        "network-send-64k-exits",
        "virtio network, 64 KiB sent, 100 times: returns to the VMM",
    ),
    (
        "network-receive-64k-busy",
        "virtio network, 64 KiB received, by a busy processor",
    ),
    (
        "network-receive-64k-latency",
        "virtio network, 64 KiB received",
    ),
    (
        "network-receive-64k-processor-time",
        "virtio network, 64 KiB received: processor time",
    ),
    (
        "network-receive-64k-tce-calls",
        "virtio network, 64 KiB received, 100 times: TCE calls",
    ),
    (
        "network-receive-64k-exits",
        "virtio network, 64 KiB received, 100 times: returns to the VMM",
    ),
];

/// What a name may begin with, before one of [`TITLES`], and what is said of the row then.
const VARIANTS: [(&str, &str); 7] = [
    ("cold-", ", the first calls of all"),
    ("mitigations-off-", ", guests with mitigations=off"),
    ("windows-on-", ", dynamic window as large as memory"),
    ("windows-512m-", ", dynamic window of at most 512 MiB"),
    ("xics-", ", XICS for interrupt controller"),
    ("line-", ", interrupts by the line (INTx)"),
    ("vhost-", ", frames passed by the host's kernel (vhost)"),
];

/// What a row's name means, in words.
pub(super) fn title(name: &str) -> String {
    let (plain, variants) = parts(name);
    match TITLES.iter().find(|(known, _)| *known == plain) {
        Some((_, title)) => format!("{title}{variants}"),
        None => name.to_owned(),
    }
}

/// A row's name without what says of which variant it is, and that in words.
pub(super) fn parts(name: &str) -> (&str, String) {
    let (mut plain, mut said) = (name, String::new());
    while let Some((rest, words)) = VARIANTS
        .iter()
        .find_map(|(prefix, words)| Some((plain.strip_prefix(prefix)?, words)))
    {
        plain = rest;
        said.push_str(words);
    }
    (plain, said)
}

/// Whether the row is about starts, memory or reads: the whole machine, and not single calls.
pub(super) fn is_of_machine(name: &str) -> bool {
    let (plain, _) = parts(name);
    let beginnings = [
        "start-",
        "login-",
        "resident-",
        "locked",
        "nvme-",
        "virtio-",
    ];
    beginnings.iter().any(|start| plain.starts_with(start))
}

/// Whether the row is measured with Linux for a guest.
pub(super) fn is_of_linux(name: &str) -> bool {
    let (plain, _) = parts(name);
    plain.starts_with("nvme-")
        || plain.starts_with("virtio-")
        || plain.starts_with("login-")
        || plain == "start-init"
        || plain == "locked"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_titles_whatever_their_variant() {
        assert_eq!(title("get"), "H_GET_TCE");
        assert!(title("windows-on-locked").ends_with(", dynamic window as large as memory"));
        assert_eq!(
            title("mitigations-off-xics-locked"),
            "locked memory after the reads, guests with mitigations=off, XICS for interrupt controller"
        );
        assert_eq!(title("new-row"), "new-row");
        assert_eq!(title("cold-new-row"), "cold-new-row");
    }

    #[test]
    fn rows_of_linux_guests_are_told_from_those_of_bare_metal_ones() {
        for name in [
            "nvme-random-4k-busy",
            "mitigations-off-start-init",
            "xics-locked",
            "login-systemd",
        ] {
            assert!(is_of_linux(name) && is_of_machine(name), "{name}");
        }
        for name in ["start-first-instruction", "locked-before-dma"] {
            assert!(is_of_machine(name) && !is_of_linux(name), "{name}");
        }
        assert!(!is_of_machine("cold-stuff-clear"));
    }
}
