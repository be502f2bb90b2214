use super::super::dma::{RegisterError, host_error};
use super::super::kernel::{Call, Kernel};
use super::super::preflight::GroupNumber;
use super::super::preflight::tests::FakeHost;
use super::super::window::{MadeWindow, WindowError};
use super::*;
use crate::error_chain::chain;
use spapr_hypercalls::address::HostVirtualAddress;
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::{Geometry, HostError, HostRange};
use vfio_ioctls::VfioOps;

#[path = "container_window_tests.rs"]
mod windows;

const RAM: HostRange = HostRange {
    start: HostVirtualAddress(0x7000_0000_0000),
    bytes: 1 << 28,
};

fn attach_on(host: &FakeHost, policy: IommuPolicy) -> Result<Container, ContainerError> {
    let group = Group::open(&host.paths(), GroupNumber(0))?;
    Container::attach(&host.paths(), group, policy)
}

fn attach(policy: IommuPolicy) -> Result<Container, ContainerError> {
    attach_on(&FakeHost::ready(), policy)
}

fn default_window() -> Geometry {
    Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries: 1 << 18,
    }
}

fn large_window() -> Geometry {
    Geometry {
        bus_offset: Ioba(1 << 59),
        page_shift: PageShift::SIZE_64K,
        entries: 1 << 31,
    }
}

/// Makes a window at its place and gives the levels of its table.
fn create(container: &Container, geometry: Geometry) -> Result<u32, WindowError> {
    let place = Some(geometry.bus_offset);
    let made = container.create_window(geometry.page_shift, geometry.entries, place)?;
    assert_eq!(made.start, geometry.bus_offset);
    Ok(made.levels)
}

#[test]
fn a_v2_container_is_set_up_without_its_default_window_and_taken_down_in_order() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::Auto).unwrap();
    assert_eq!(
        container.info(),
        &IommuInfo {
            version: IommuVersion::V2,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes: 0x8000_0000,
            page_sizes: 0x4021_1000,
            dynamic_windows: 2,
            levels: 5,
        }
    );
    drop(container);
    assert_eq!(
        Kernel::calls(),
        [
            Call::GroupGetStatus,
            Call::GetApiVersion,
            Call::CheckExtension(7),
            Call::CheckExtension(2),
            Call::GroupSetContainer,
            Call::SetIommu(7),
            Call::GetInfo,
            Call::RemoveWindow(0),
            Call::GroupUnsetContainer,
        ]
    );
}

#[test]
fn a_window_that_starts_elsewhere_is_made_there_and_not_beside_the_hosts_own() {
    Kernel::install(|k| k.default_window = (0x8000_0000, 0x1000_0000));
    let container = attach(IommuPolicy::V2).unwrap();
    let window = container.info().default_window(None).unwrap();
    assert_eq!(
        (window.bus_offset, window.entries),
        (Ioba(1 << 31), 1 << 16)
    );
    create(&container, window).unwrap();
    Kernel::with(|k| assert_eq!(k.windows, [(1 << 31, 1 << 28)].into()));
    container.remove_window(window.bus_offset).unwrap();
    Kernel::with(|k| assert!(k.windows.is_empty()));
}

#[test]
fn who_has_the_tables_is_known_from_the_hosts_device_tree() {
    Kernel::install(|_| {});
    let bare_metal = attach(IommuPolicy::V2).unwrap();
    assert_eq!(bare_metal.info().platform, Platform::BareMetal);
    Kernel::install(|_| {});
    let lpar = attach_on(&FakeHost::ready().into_lpar(), IommuPolicy::V2).unwrap();
    assert_eq!(lpar.info().platform, Platform::Lpar);
}

#[test]
fn as_many_windows_as_the_platform_has_are_told_and_minus_one_is_none() {
    for (most, told) in [(-1, 0), (0, 0), (1, 1), (2, 2)] {
        Kernel::install(|k| (k.most_windows, k.levels) = (most, 0));
        let info = *attach(IommuPolicy::V2).unwrap().info();
        assert_eq!((info.dynamic_windows, info.levels), (told, 1), "{most}");
    }
}

#[test]
fn a_default_window_is_as_large_as_asked_for_or_as_usual_and_no_larger_than_the_hosts() {
    let of = |window_bytes, wanted| {
        let info = IommuInfo {
            version: IommuVersion::V2,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes,
            page_sizes: 0x1000,
            dynamic_windows: 0,
            levels: 1,
        };
        let window = info.default_window(wanted)?;
        Ok(window.entries << window.page_shift.get())
    };
    assert_eq!(of(2 << 30, None), Ok(1 << 30));
    assert_eq!(of(256 << 20, None), Ok(256 << 20));
    assert_eq!(of(0x4fff_ffff, None), Ok(1 << 30));
    assert_eq!(of(2 << 30, Some(2 << 30)), Ok(2 << 30));
    assert_eq!(of(2 << 30, Some(16 << 20)), Ok(16 << 20));
    let error: DefaultWindowError = of(256 << 20, Some(1 << 30)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("1024 MiB is more than the host has, 256 MiB"),
        "{text}"
    );
    // What a window of 4 GiB looks like in 32 bits: none is tried.
    for told in [0, 4095] {
        for wanted in [None, Some(16 << 20)] {
            assert_eq!(of(told, wanted), Err(DefaultWindowError::Untold(told)));
        }
    }
}

#[test]
fn v1_is_taken_where_the_kernel_refuses_v2_for_the_group() {
    Kernel::install(|k| k.refused_iommus = vec![7]);
    let container = attach(IommuPolicy::Auto).unwrap();
    assert_eq!(container.version(), IommuVersion::V1);
    assert_eq!(container.info().page_sizes, 4096);
    assert_eq!(container.info().dynamic_windows, 0);
    // A v1 container's window is not removed.
    assert!(!Kernel::calls().contains(&Call::RemoveWindow(0)));
}

#[test]
fn a_version_asked_for_is_taken_or_refused_by_name() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V1).unwrap();
    assert_eq!(container.version(), IommuVersion::V1);
    drop(container);
    Kernel::install(|k| k.refused_iommus = vec![7]);
    let message = chain(&attach(IommuPolicy::V2).unwrap_err());
    assert!(
        message.contains("refused a v2 SPAPR TCE container"),
        "{message}"
    );
    assert!(
        message.contains("IOMMU group 0") && message.contains("os error 1"),
        "{message}"
    );
    Kernel::install(|k| k.extensions = vec![2]);
    let message = chain(&attach(IommuPolicy::V2).unwrap_err());
    assert!(
        message.contains("offers no v2 SPAPR TCE container"),
        "{message}"
    );
}

#[test]
fn a_host_without_spapr_support_is_told_so() {
    for policy in [IommuPolicy::Auto, IommuPolicy::V1, IommuPolicy::V2] {
        Kernel::install(|k| k.extensions = vec![1, 3]);
        let message = chain(&attach(policy).unwrap_err());
        assert!(message.contains("no SPAPR TCE support"), "{message}");
        assert!(
            message.contains("modprobe vfio_iommu_spapr_tce"),
            "{message}"
        );
        assert!(!Kernel::calls().contains(&Call::GroupSetContainer));
    }
}

#[test]
fn another_api_version_is_refused() {
    Kernel::install(|k| k.api_version = 1);
    let message = chain(&attach(IommuPolicy::Auto).unwrap_err());
    assert!(
        message.contains("API version 1; version 0 is needed"),
        "{message}"
    );
}

#[test]
fn any_call_of_the_set_up_may_fail_and_the_group_leaves_the_container() {
    Kernel::install(|_| {});
    drop(attach(IommuPolicy::V2).unwrap());
    let calls = Kernel::calls().len() - 1;
    for number in 0..calls {
        Kernel::install(|k| k.fail = Some((number, libc::EIO)));
        let error = attach(IommuPolicy::V2).unwrap_err();
        let failed = Kernel::with(|k| k.log[number].clone());
        assert!(
            chain(&error).contains("os error 5"),
            "{failed:?}: {}",
            chain(&error)
        );
        assert!(
            !Kernel::with(|k| k.has_container),
            "after {failed:?} failed"
        );
    }
}

#[test]
fn a_v1_container_is_enabled_once_for_a_window_within_its_own_and_disabled_with_it() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V1).unwrap();
    Kernel::calls();
    // Nothing to clear before anything could be mapped.
    container.remove_window(Ioba(0)).unwrap();
    assert_eq!(create(&container, default_window()).unwrap(), 1);
    assert_eq!(create(&container, default_window()).unwrap(), 1);
    assert_eq!(Kernel::calls(), [Call::Enable]);
    // The kernel has made no table yet.
    container.remove_window(Ioba(0)).unwrap();
    let unmap = Call::Unmap {
        iova: 0,
        bytes: 0x8000_0000,
    };
    assert_eq!(Kernel::calls(), [unmap, Call::Disable]);
    // For the next guest it is enabled again, and no more of the limit is taken than for one.
    assert_eq!(create(&container, default_window()).unwrap(), 1);
    assert_eq!(Kernel::calls(), [Call::Enable]);
    let message = chain(&create(&container, large_window()).unwrap_err());
    assert!(message.contains("no pages of 64 KiB") && message.contains("it has 4 KiB"));
    for (bus_offset, entries) in [(0, 1 << 20), (0x8000_0000, 1), (u64::MAX - 4095, 1)] {
        let geometry = Geometry {
            bus_offset: Ioba(bus_offset),
            entries,
            ..default_window()
        };
        let error = create(&container, geometry).unwrap_err();
        assert!(matches!(error, WindowError::OutsideFixedWindow { .. }));
    }
}

#[test]
fn a_v1_container_that_cannot_be_enabled_is_no_window() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V1).unwrap();
    Kernel::calls();
    Kernel::with(|k| k.fail = Some((0, libc::ENOMEM)));
    let error = create(&container, default_window()).unwrap_err();
    assert_eq!(
        HostError::from(&error),
        HostError::OutOfResources(libc::ENOMEM)
    );
    Kernel::with(|k| k.fail = None);
    assert!(create(&container, default_window()).is_ok());
}

#[test]
fn memory_that_the_kernel_holds_on_to_is_noticed() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    for miscounts in [false, true] {
        Kernel::with(|k| k.miscounts = miscounts);
        assert_eq!(container.register_memory(RAM), Ok(()));
        assert_eq!(container.unregister_memory(RAM), Ok(()));
        Kernel::with(|k| k.miscounts = false);
        assert_eq!(container.holds_on_to(RAM), miscounts);
        assert!(Kernel::with(|k| k.registered.is_empty()));
    }
}

#[test]
fn registering_memory_fails_on_any_number_but_zero() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    assert_eq!(container.register_memory(RAM), Ok(()));
    let busy = container.register_memory(RAM).unwrap_err();
    assert_eq!(busy, RegisterError::Refused(Errno::new(libc::EBUSY)));
    assert_eq!(container.unregister_memory(RAM), Ok(()));
    assert_eq!(
        container.unregister_memory(RAM),
        Err(Errno::new(libc::ENOENT))
    );
    Kernel::with(|k| k.register_returns = Some(37));
    let partial = container.register_memory(RAM).unwrap_err();
    assert_eq!(partial, RegisterError::Partial(37));
    let message = partial.to_string();
    assert!(message.contains("37 pages") && message.contains("registered nothing"));
    assert_eq!(
        HostError::from(partial),
        HostError::OutOfResources(libc::ENOMEM)
    );
    Kernel::with(|k| assert!(k.registered.is_empty()));
}

#[test]
fn a_container_that_has_locked_nothing_can_be_made_to_unmap_and_keeps_nothing_locked() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    create(&container, default_window()).unwrap();
    let refused = container.unmap(Ioba(0x2000), 4096);
    assert_eq!(refused, Err(Errno::new(libc::EPERM)));
    assert_eq!(container.enable_unmapping(), Ok(()));
    assert_eq!(container.unmap(Ioba(0x2000), 4096), Ok(()));
    Kernel::with(|k| assert!(k.registered.is_empty() && k.held.is_empty()));
}

#[test]
fn a_mapping_carries_the_permission_of_its_entry() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    container.register_memory(RAM).unwrap();
    create(&container, default_window()).unwrap();
    for (permission, bits) in [
        (Permission::READ, 1),
        (Permission::WRITE, 2),
        (Permission::READ_WRITE, 3),
        (Permission::NONE, 0),
    ] {
        Kernel::calls();
        // SAFETY: the kernel is a model, and no device reaches anything.
        unsafe { container.map(Ioba(0x2000), RAM, permission) }.unwrap();
        let map = Call::Map {
            iova: 0x2000,
            vaddr: RAM.start.0,
            bytes: RAM.bytes,
            flags: bits,
        };
        assert_eq!(Kernel::calls(), [map]);
    }
    assert_eq!(container.unmap(Ioba(0x2000), RAM.bytes), Ok(()));
    let outside = container.unmap(Ioba(1 << 40), 4096);
    assert_eq!(outside, Err(Errno::new(libc::ENXIO)));
}

#[test]
fn rust_vmms_devices_map_through_the_same_calls() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2).unwrap();
    container.register_memory(RAM).unwrap();
    create(&container, default_window()).unwrap();
    Kernel::calls();
    let ops: &dyn VfioOps = &container;
    let mut page = [0u8; 4096];
    let at = page.as_mut_ptr();
    // SAFETY: the kernel is a model, and no device reaches anything.
    unsafe { ops.vfio_dma_map(0x1000, 4096, at) }.unwrap();
    ops.vfio_dma_unmap(0x1000, 4096).unwrap();
    assert!(ops.vfio_dma_unmap(1 << 40, 4096).is_err());
    assert!(ops.as_any().is::<Container>());
    let vaddr = at.addr() as u64;
    let calls = Kernel::calls();
    let map = Call::Map {
        iova: 0x1000,
        vaddr,
        bytes: 4096,
        flags: 3,
    };
    assert_eq!(calls[0], map);
}

#[test]
fn errors_of_the_host_are_sorted_for_the_engine() {
    for errno in [libc::ENOMEM, libc::ENOSPC] {
        assert_eq!(
            host_error(Errno::new(errno)),
            HostError::OutOfResources(errno)
        );
    }
    for errno in [libc::EINVAL, libc::EPERM, libc::ENXIO, libc::EFAULT] {
        assert_eq!(host_error(Errno::new(errno)), HostError::Refused(errno));
    }
}
