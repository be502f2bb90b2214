//! The windows of a container of version 2.

use std::slice;

use super::*;

#[test]
fn a_window_gets_as_few_levels_as_memory_allows() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    assert_eq!(create(&container, default_window()).unwrap(), 1);
    assert_eq!(create(&container, large_window()).unwrap(), 2);
    Kernel::with(|k| assert_eq!(k.windows, [(0, 1 << 30), (1 << 59, 1 << 47)].into()));
    container.remove_window(Ioba(1 << 59)).unwrap();
    Kernel::with(|k| k.levels_needed = 4);
    Kernel::calls();
    assert_eq!(create(&container, large_window()).unwrap(), 4);
    let levels: Vec<u32> = Kernel::calls()
        .iter()
        .map(|call| match call {
            Call::CreateWindow { levels, .. } => *levels,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(levels, [2, 3, 4]);
}

#[test]
fn levels_are_tried_no_further_than_the_iommu_has_them() {
    for (levels, tries) in [(3, 3), (9, 5)] {
        Kernel::install(|k| (k.levels_needed, k.levels) = (9, levels));
        let container = attach(IommuPolicy::V2).unwrap();
        Kernel::calls();
        let error = create(&container, default_window()).unwrap_err();
        assert_eq!(Kernel::calls().len(), tries);
        assert_eq!(
            HostError::from(&error),
            HostError::OutOfResources(libc::ENOMEM)
        );
    }
}

#[test]
fn more_levels_are_not_tried_where_they_cannot_help() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    Kernel::calls();
    Kernel::with(|k| k.fail = Some((0, libc::EINVAL)));
    let error = create(&container, default_window()).unwrap_err();
    assert_eq!(Kernel::calls().len(), 1);
    let message = chain(&error);
    for part in [
        "0x40000000 bytes in pages of 4 KiB",
        "4194304 bytes in 1 levels",
        "os error 22",
    ] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert_eq!(HostError::from(&error), HostError::Refused(libc::EINVAL));
}

#[test]
fn a_limit_too_low_for_a_window_is_told_at_once() {
    Kernel::install(|k| (k.memory_limit, k.levels_needed) = (Some(4 << 20), 9));
    let container = attach(IommuPolicy::V2).unwrap();
    Kernel::calls();
    // Tables of 4 MiB are within the limit: the reason is another, and more levels are tried
    // until their tables exceed it.
    let message = chain(&create(&container, default_window()).unwrap_err());
    assert!(
        message.contains("only 4194304 bytes are available"),
        "{message}"
    );
    assert_eq!(Kernel::calls().len(), 2);
    Kernel::with(|k| k.memory_limit = Some((4 << 20) - 1));
    let error = create(&container, default_window()).unwrap_err();
    let message = chain(&error);
    assert!(message.contains("needs 4194304 bytes"), "{message}");
    assert!(
        message.contains("only 4194303 bytes are available"),
        "{message}"
    );
    assert_eq!(
        HostError::from(&error),
        HostError::OutOfResources(libc::ENOMEM)
    );
    assert_eq!(Kernel::calls().len(), 1);
    drop(container);

    Kernel::install(|k| k.memory_limit = Some(1 << 31));
    let container = attach(IommuPolicy::V1).unwrap();
    Kernel::calls();
    Kernel::with(|k| k.fail = Some((0, libc::ENOMEM)));
    let message = chain(&create(&container, default_window()).unwrap_err());
    assert!(message.contains("needs 2155872256 bytes"), "{message}");
    assert!(
        message.contains("only 2147483648 bytes are available"),
        "{message}"
    );
}

#[test]
fn a_window_that_the_kernel_puts_elsewhere_is_removed_again() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    let mut geometry = default_window();
    geometry.bus_offset = Ioba(1 << 59);
    let message = create(&container, geometry).unwrap_err().to_string();
    assert!(
        message.contains("at bus address 0x0, not at 0x800000000000000"),
        "{message}"
    );
    Kernel::with(|k| assert!(k.windows.is_empty()));
    // The next one finds its place free.
    assert_eq!(create(&container, default_window()).unwrap(), 1);
}

#[test]
fn a_window_that_may_be_anywhere_is_made_once_and_is_where_the_kernel_puts_it() {
    let elsewhere = Ioba(0x4000_0000_0000_0000);
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    create(&container, default_window()).unwrap();
    Kernel::calls();
    Kernel::with(|k| k.next_start = Some(elsewhere.0));
    let made = container.create_window(PageShift::SIZE_64K, 1 << 14, None);
    let start = elsewhere;
    assert_eq!(made.unwrap(), MadeWindow { start, levels: 1 });
    let create = Call::CreateWindow {
        shift: 16,
        bytes: 1 << 30,
        levels: 1,
    };
    assert_eq!(Kernel::calls(), [create]);
    container.remove_window(elsewhere).unwrap();
}

/// More than 2^21 entries, which a host with more levels has in two: guests beyond 128 GiB with pages of 64 KiB.
#[test]
fn a_window_of_1_tib_is_asked_for_once_in_one_level_where_the_host_has_one() {
    let create_call = Call::CreateWindow {
        shift: 16,
        bytes: 1 << 40,
        levels: 1,
    };
    for refused in [false, true] {
        Kernel::install(|k| k.levels = 1);
        let container = attach(IommuPolicy::V2).unwrap();
        create(&container, default_window()).unwrap();
        Kernel::calls();
        Kernel::with(|k| k.levels_needed = if refused { 2 } else { 1 });
        let made = container.create_window(PageShift::SIZE_64K, 1 << 24, None);
        assert_eq!(Kernel::calls(), slice::from_ref(&create_call));
        let Err(error) = made else {
            assert_eq!(made.unwrap().levels, 1);
            continue;
        };
        assert!(refused);
        let message = error.to_string();
        // 8 bytes an entry for the hardware and 8 for the host's copy.
        for part in [
            "0x10000000000 bytes",
            "tables of 268435456 bytes in 1 levels",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn a_third_window_is_out_of_resources() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    create(&container, default_window()).unwrap();
    create(&container, large_window()).unwrap();
    let error = create(&container, large_window()).unwrap_err();
    assert_eq!(
        HostError::from(&error),
        HostError::OutOfResources(libc::ENOSPC)
    );
}

#[test]
fn impossible_windows_are_refused_without_asking_the_kernel() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    Kernel::calls();
    for (shift, entries, part) in [
        (12, 0, "power of two"),
        (12, 3, "power of two"),
        (34, 1 << 40, "64-bit"),
        (24, 1 << 8, "it has 4 KiB, 64 KiB, 2 MiB, 1 GiB"),
    ] {
        let geometry = Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::new(shift).unwrap(),
            entries,
        };
        let message = create(&container, geometry).unwrap_err().to_string();
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert_eq!(Kernel::calls(), []);
}
