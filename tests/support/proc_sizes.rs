//! Sizes in files of /proc (Documentation/filesystems/proc.rst).

/// The resident bytes of all mappings of a `/proc/PID/smaps` but those of at least `guest_bytes`, which are guest RAM.
#[must_use]
pub fn resident_without_guest(smaps: &str, guest_bytes: u64) -> u64 {
    let all: u64 = smaps.lines().filter_map(|line| bytes(line, "Rss:")).sum();
    all - of_guest(smaps, guest_bytes, "Rss:")
}

/// The bytes that a `/proc/PID/smaps` has under `key`, say `Locked:`, for all mappings of at least `guest_bytes`: guest
/// RAM, and KVM's of interrupt controllers, of which nothing is memory.
#[must_use]
pub fn of_guest(smaps: &str, guest_bytes: u64, key: &str) -> u64 {
    let (mut sum, mut is_guest) = (0, false);
    for line in smaps.lines() {
        if let Some(bytes) = bytes(line, "Size:") {
            is_guest = bytes >= guest_bytes;
        } else if is_guest {
            sum += bytes(line, key).unwrap_or(0);
        }
    }
    sum
}

/// The value of a line `KEY NUMBER kB` in bytes; none if the line has another key.
#[must_use]
pub fn bytes(line: &str, key: &str) -> Option<u64> {
    let number = line.strip_prefix(key)?.trim().strip_suffix("kB")?;
    Some(number.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
10000000-10200000 r-xp 00000000 00:02 3 /usr/bin/spapr-vmm
Size:               2048 kB
KernelPageSize:       64 kB
Rss:                1024 kB
7fff00000000-7fff40000000 rw-p 00000000 00:00 0
Size:            1048576 kB
Rss:               65536 kB
7fffe0000000-7fffe0010000 rw-p 00000000 00:00 0 [stack]
Size:                192 kB
Rss:                 128 kB
";

    #[test]
    fn guest_memory_is_what_is_as_large() {
        assert_eq!(of_guest(SMAPS, 1 << 30, "Rss:"), 65536 << 10);
        assert_eq!(of_guest(SMAPS, 1 << 30, "KernelPageSize:"), 0);
        assert_eq!(of_guest(SMAPS, 1 << 31, "Rss:"), 0);
    }

    #[test]
    fn guest_memory_does_not_count() {
        let resident = |guest_bytes| resident_without_guest(SMAPS, guest_bytes);
        assert_eq!(resident(1 << 30), (1024 + 128) << 10);
        assert_eq!(resident(1 << 31), (1024 + 65536 + 128) << 10);
    }
}
