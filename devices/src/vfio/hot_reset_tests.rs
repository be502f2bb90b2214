use proptest::prelude::*;

use super::super::device::tests::open_device;
use super::super::kernel::{Call, Kernel};
use super::*;

fn member(address: &str, group: u32) -> ResetMember {
    ResetMember {
        address: address.parse().unwrap(),
        group: GroupNumber(group),
    }
}

#[test]
fn all_functions_of_a_bus_are_told_with_their_groups() {
    let device = open_device(|kernel| {
        kernel.bus = Some(vec![(0, 1, 1, 0), (0, 1, 1, 1), (7, 0xffff, 0xff, 0xff)]);
    });
    let expected = [
        member("0001:01:00.0", 0),
        member("0001:01:00.1", 0),
        member("ffff:ff:1f.7", 7),
    ];
    assert_eq!(device.hot_reset_members().unwrap(), expected);
    let shown = expected.map(|member| member.to_string());
    assert_eq!(shown[2], "ffff:ff:1f.7 (IOMMU group 7)");
}

#[test]
fn a_device_on_a_root_bus_has_no_reset_with_others_and_a_refusal_is_told() {
    let device = open_device(|_| {});
    assert_eq!(device.hot_reset_members().unwrap(), []);
    Kernel::with(|kernel| kernel.fail = Some((kernel.log.len(), libc::EPERM)));
    let error = device.hot_reset_members().unwrap_err().to_string();
    assert!(
        error.contains("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"),
        "{error}"
    );
}

#[test]
fn the_kernel_is_shown_the_groups() {
    let device = open_device(|kernel| kernel.bus = Some(vec![(0, 1, 1, 0)]));
    let group = device.container().group();
    Kernel::calls();
    device.hot_reset([group]).unwrap();
    let fd = group.as_fd().as_raw_fd();
    assert_eq!(Kernel::calls(), [Call::DeviceHotReset(vec![fd])]);
    let error = device.hot_reset([]).unwrap_err().to_string();
    assert!(error.contains("VFIO_DEVICE_PCI_HOT_RESET"), "{error}");
}

proptest! {
    #[test]
    fn whatever_the_kernel_answers_is_read_to_an_end(words in prop::collection::vec(any::<u32>(), 0..40)) {
        let most = words.len().saturating_sub(HEADER_WORDS) / 2;
        prop_assert!(members(&words).len() <= most);
    }
}
