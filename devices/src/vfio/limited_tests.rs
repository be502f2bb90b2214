use super::super::container::IommuPolicy;
use super::super::group::Group;
use super::super::kernel::{Call, Kernel};
use super::super::preflight::GroupNumber;
use super::super::preflight::tests::FakeHost;
use super::*;

const GIB: u64 = 1 << 30;
const DEFAULT_ENTRIES: u64 = GIB >> 12;

fn attach(policy: IommuPolicy) -> Container {
    let host = FakeHost::ready();
    let group = Group::open(&host.paths(), GroupNumber(0)).unwrap();
    Container::attach(&host.paths(), group, policy).unwrap()
}

fn make_default(container: &Container) -> Result<MadeWindow, WindowError> {
    container.create_window(PageShift::SIZE_4K, DEFAULT_ENTRIES, Some(Ioba(0)))
}

fn make_dynamic(container: &Container, bytes: u64) -> Result<MadeWindow, WindowError> {
    container.create_window(PageShift::SIZE_64K, bytes >> 16, None)
}

/// Has the next call fail.
fn fail_next(errno: i32) {
    Kernel::calls();
    Kernel::with(|k| k.fail = Some((0, errno)));
}

#[test]
fn two_windows_lie_inside_one_of_the_hosts_that_goes_with_the_last_of_them() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2);
    container.share_window(8 * GIB).unwrap();
    assert!(!container.has_shared_window());
    assert_eq!(make_default(&container).unwrap().start, Ioba(0));
    assert!(container.has_shared_window());
    // 12 GiB, rounded up to a power of two.
    Kernel::with(|k| assert_eq!(k.windows, [(0, 16 * GIB)].into()));
    let made = make_dynamic(&container, 8 * GIB).unwrap();
    assert_eq!(made.start, LIMITED_START);
    Kernel::with(|k| assert_eq!(k.windows.len(), 1));
    Kernel::calls();
    // Nothing has been registered, which the kernel wants before it unmaps.
    container.remove_window(LIMITED_START).unwrap();
    let unmapped = Kernel::calls()
        .into_iter()
        .rev()
        .find_map(|call| match call {
            Call::Unmap { iova, bytes } => Some((iova, bytes)),
            _ => None,
        });
    assert_eq!(unmapped, Some((LIMITED_START.0, 8 * GIB)));
    Kernel::with(|k| assert_eq!(k.windows.len(), 1));
    make_dynamic(&container, GIB).unwrap();
    container.remove_window(Ioba(0)).unwrap();
    container.remove_window(LIMITED_START).unwrap();
    Kernel::with(|k| assert!(k.windows.is_empty()));
    // From then on, windows are the host's own.
    make_default(&container).unwrap();
    let made = make_dynamic(&container, GIB).unwrap();
    assert_eq!(made.start, Ioba(1 << 59));
}

#[test]
fn nothing_lies_between_2_and_4_gib_nor_beyond_the_hosts_window_nor_twice_anywhere() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2);
    container.share_window(8 * GIB).unwrap();
    let page = PageShift::SIZE_4K;
    for (entries, place) in [
        ((4 * GIB) >> 12, Some(Ioba(0))),
        (GIB >> 12, Some(Ioba(2 * GIB))),
        ((16 * GIB) >> 12, None),
        (1 << 51, None),
        (GIB >> 12, Some(Ioba(1 << 59))),
    ] {
        let refused = container.create_window(page, entries, place).unwrap_err();
        let is_full = matches!(refused, WindowError::NoRoomInside { .. });
        assert!(is_full, "{entries:#x} {place:?}: {refused}");
    }
    Kernel::with(|k| assert!(k.windows.is_empty()));
    make_default(&container).unwrap();
    assert!(make_default(&container).is_err());
    make_dynamic(&container, GIB).unwrap();
    assert!(make_dynamic(&container, GIB).is_err());
    let missing = container.remove_window(Ioba(2 * GIB)).unwrap_err();
    assert!(matches!(missing, WindowError::Remove { .. }), "{missing}");
}

#[test]
fn a_kernel_that_refuses_leaves_all_as_it_was() {
    Kernel::install(|_| {});
    let container = attach(IommuPolicy::V2);
    container.share_window(8 * GIB).unwrap();
    assert!(container.share_window(8 * GIB).is_err());
    fail_next(libc::EINVAL);
    make_default(&container).unwrap_err();
    container.unshare_window();
    make_default(&container).unwrap();
    Kernel::with(|k| assert_eq!(k.windows, [(0, GIB)].into()));
    container.remove_window(Ioba(0)).unwrap();

    container.share_window(8 * GIB).unwrap();
    make_default(&container).unwrap();
    container.unshare_window();
    make_dynamic(&container, GIB).unwrap();
    for start in [LIMITED_START, Ioba(0)] {
        // One that is not removed is there, and can be removed later.
        fail_next(libc::EBUSY);
        container.remove_window(start).unwrap_err();
        assert!(container.has_shared_window());
        container.remove_window(start).unwrap();
    }
    Kernel::with(|k| assert!(k.windows.is_empty()));
}

#[test]
fn only_bare_metal_whose_windows_start_at_0_has_such_a_window() {
    Kernel::install(|_| {});
    let info = *attach(IommuPolicy::V2).info();
    assert_eq!(info.shared_window_bytes(GIB), Some(8 * GIB));
    assert_eq!(info.shared_window_bytes(4 * GIB), Some(8 * GIB));
    assert_eq!(info.shared_window_bytes(1 << 40), Some(1 << 41));
    let changed = |change: fn(&mut IommuInfo)| {
        let mut info = info;
        change(&mut info);
        info.shared_window_bytes(GIB)
    };
    assert_eq!(changed(|info| info.platform = Platform::Lpar), None);
    assert_eq!(changed(|info| info.window_start = Ioba(1 << 31)), None);
    assert_eq!(changed(|info| info.version = IommuVersion::V1), None);
    assert_eq!(changed(|info| info.page_sizes = 1 << 16), None);
    for bytes in [1 << 59, u64::MAX] {
        assert_eq!(info.shared_window_bytes(bytes), None);
    }
}
