use super::super::container::IommuPolicy;
use super::super::group::Group;
use super::super::kernel::{Call, Kernel};
use super::super::preflight::GroupNumber;
use super::super::preflight::tests::FakeHost;
use super::*;

/// Where the model's BAR 0 and configuration space are in the device's file.
const BAR0_AT: u64 = 0x1_0000;
const CONFIG_AT: u64 = 0x8_0000;

fn address() -> PciAddress {
    "0001:01:00.0".parse().unwrap()
}

fn description(flags: u32, bytes: u32, at: u64) -> Vec<u32> {
    let at = at.to_ne_bytes();
    let bytes = u64::from(bytes).to_ne_bytes();
    let word = |b: &[u8]| u32::from_ne_bytes(b.try_into().unwrap());
    vec![
        0,
        flags,
        0,
        0,
        word(&bytes[..4]),
        word(&bytes[4..]),
        word(&at[..4]),
        word(&at[4..]),
    ]
}

/// A device whose BAR 0 is 16 KiB and mappable, and whose regions are a file.
pub(in super::super) fn open_device(change: impl FnOnce(&mut Kernel)) -> Device {
    try_open(change).unwrap()
}

/// Has the model's BAR `index` so many bytes, where BAR 0 is.
pub(in super::super) fn describe_bar(kernel: &mut Kernel, index: u32, bytes: u32) {
    kernel.regions.insert(index, description(7, bytes, BAR0_AT));
}

/// Where the command register of the device is in its file, and where its ROM.
pub(in super::super) const COMMAND_AT: u64 = CONFIG_AT + 4;
const ROM_AT: u64 = 0xc_0000;

/// Has the model's device a ROM.
pub(in super::super) fn describe_rom(kernel: &mut Kernel, content: &[u8]) {
    let bytes = u32::try_from(content.len()).unwrap();
    let rom = RegionIndex::ROM.get();
    kernel.regions.insert(rom, description(1, bytes, ROM_AT));
    let file = kernel.device.as_ref().unwrap();
    file.write_all_at(content, ROM_AT).unwrap();
}

fn try_open(change: impl FnOnce(&mut Kernel)) -> Result<Device, DeviceError> {
    try_open_with(None, change)
}

fn try_open_with(
    vf_token: Option<Uuid>,
    change: impl FnOnce(&mut Kernel),
) -> Result<Device, DeviceError> {
    let host = FakeHost::ready();
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x10_0000).unwrap();
    file.write_all_at(&[0x86, 0x80], CONFIG_AT).unwrap();
    Kernel::install(|k| {
        k.device = Some(file);
        k.regions.insert(0, description(7, 0x4000, BAR0_AT));
        k.regions.insert(7, description(3, 0x1000, CONFIG_AT));
        change(k);
    });
    let group = Group::open(&host.paths(), GroupNumber(0)).unwrap();
    let container = Container::attach(&host.paths(), group, IommuPolicy::Auto).unwrap();
    Device::open(Arc::new(container), address(), vf_token)
}

#[test]
fn a_virtual_function_of_one_that_vfio_pci_has_is_opened_by_the_token_of_both() {
    const TOKEN: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
    let guarded = |kernel: &mut Kernel| kernel.vf_token = Some(TOKEN);
    try_open_with(Some(TOKEN.parse().unwrap()), guarded).unwrap();
    let name = format!("0001:01:00.0 vf_token={TOKEN}");
    assert!(Kernel::calls().contains(&Call::GroupGetDevice(name)));
    let without = try_open(guarded).unwrap_err().to_string();
    assert!(
        without.contains("Name the token by vf-token=UUID"),
        "{without}"
    );
    let other = try_open_with(Some(Uuid::nil()), guarded).unwrap_err();
    let other = other.to_string();
    assert!(other.contains("The one in vf-token= is another"), "{other}");
    let none = try_open_with(Some(Uuid::nil()), |_| {}).unwrap_err();
    let none = none.to_string();
    assert!(none.contains("0001:01:00.0 takes no VF token"), "{none}");
}

#[test]
fn a_device_is_asked_for_by_its_address_and_closes_before_its_group() {
    let device = open_device(|_| {});
    let container = device.container().clone();
    let calls = Kernel::calls();
    assert!(calls.contains(&Call::GroupGetDevice("0001:01:00.0".to_owned())));
    drop(container);
    assert_eq!(Kernel::calls(), []);
    drop(device);
    assert_eq!(Kernel::calls(), [Call::GroupUnsetContainer]);
}

#[test]
fn a_device_of_another_group_or_kind_is_refused_by_name() {
    let message = try_open(|k| k.device = None).unwrap_err().to_string();
    assert!(message.contains("cannot open PCI device 0001:01:00.0"));
    assert!(!Kernel::with(|k| k.has_container));
    let message = try_open(|k| k.device_flags = 0).unwrap_err().to_string();
    assert!(message.contains("does not take 0001:01:00.0 for a PCI device"));
}

#[test]
fn any_call_of_opening_a_device_may_fail() {
    drop(open_device(|_| {}));
    let calls = Kernel::calls();
    let first = calls
        .iter()
        .position(|call| matches!(call, Call::GroupGetDevice(_)))
        .unwrap();
    for number in first..calls.len() - 1 {
        let error = try_open(|k| k.fail = Some((number, libc::EIO))).unwrap_err();
        assert!(error.to_string().contains("0001:01:00.0"), "{error}");
        assert!(!Kernel::with(|k| k.has_container));
    }
}

#[test]
fn configuration_space_and_registers_are_read_and_written_in_their_place() {
    let device = open_device(|_| {});
    let mut id = [0; 2];
    device.read_config(0, &mut id).unwrap();
    assert_eq!(u16::from_le_bytes(id), 0x8086);
    device.write_config(4, &[6, 0]).unwrap();
    let bar = RegionIndex::bar(0).unwrap();
    device.write(bar, 0x14, &[1, 2, 3, 4]).unwrap();
    let mut register = [0; 8];
    device.read(bar, 0x10, &mut register).unwrap();
    assert_eq!(register, [0, 0, 0, 0, 1, 2, 3, 4]);
    let mut command = [0; 4];
    device.read_config(4, &mut command).unwrap();
    assert_eq!(command, [6, 0, 0, 0]);
}

#[test]
fn accesses_outside_a_region_or_of_odd_size_are_refused() {
    let device = open_device(|_| {});
    let bar = RegionIndex::bar(0).unwrap();
    for (index, offset, length) in [
        (bar, 0x4000, 1),
        (bar, 0x3ffd, 4),
        (bar, u64::MAX, 8),
        (bar, 0, 3),
        (bar, 0, 0),
        (bar, 0, 16),
        (RegionIndex::bar(1).unwrap(), 0, 4),
        (RegionIndex::CONFIG, 0x1000, 4),
    ] {
        let mut data = vec![0; length];
        let read = device.read(index, offset, &mut data).unwrap_err();
        let write = device.write(index, offset, &data).unwrap_err();
        assert!(matches!(read, DeviceError::Access { .. }));
        assert!(matches!(write, DeviceError::Access { .. }));
        assert!(read.to_string().contains("0001:01:00.0"));
    }
}

#[test]
fn a_bar_is_mapped_in_whole_pages_and_shows_the_devices_registers() {
    let device = open_device(|_| {});
    let bar = RegionIndex::bar(0).unwrap();
    device.write(bar, 0x1c, &[0xaa, 0xbb, 0xcc, 0xdd]).unwrap();
    let mappings = device.map_region(bar).unwrap();
    let [mapping] = mappings.as_slice() else {
        panic!("{mappings:?}");
    };
    let expected = 0x4000u64.next_multiple_of(host_page_bytes());
    assert_eq!((mapping.region_offset(), mapping.bytes()), (0, expected));
    assert_eq!(mapping.host_address().0, mapping.as_ptr().addr() as u64);
    // SAFETY: 0x1c lies in the mapping.
    let register = unsafe { mapping.as_ptr().add(0x1c) };
    // SAFETY: the mapping lives, and the place is aligned for four bytes.
    let value = unsafe { register.cast::<u32>().read_volatile() };
    assert_eq!(value.to_ne_bytes(), [0xaa, 0xbb, 0xcc, 0xdd]);
    // Configuration space says that it cannot be mapped; there is no BAR 1.
    assert!(device.map_region(RegionIndex::CONFIG).unwrap().is_empty());
    assert!(
        device
            .map_region(RegionIndex::bar(1).unwrap())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_region_with_capabilities_is_asked_for_again_with_room_for_them() {
    let device = open_device(|k| {
        let mut answer = description(0xf, 0x4000, BAR0_AT);
        answer[3] = 32;
        let id = [3u16, 1].map(u16::to_ne_bytes).concat();
        answer.push(u32::from_ne_bytes(id.try_into().unwrap()));
        answer.push(0);
        k.regions.insert(0, answer);
    });
    assert!(device.region(RegionIndex::bar(0).unwrap()).msix_mappable);
    let asked = Call::DeviceGetRegionInfo(0);
    let times = Kernel::calls().iter().filter(|c| **c == asked).count();
    assert_eq!(times, 2);
}

#[test]
fn a_device_that_someone_holds_is_tried_again_to_be_reset_and_not_for_ever() {
    let device = open_device(|_| {});
    Kernel::calls();
    Kernel::with(|k| k.resets_refused = 2);
    assert!(device.reset().unwrap());
    assert_eq!(Kernel::calls().len(), 3);
    Kernel::with(|k| k.resets_refused = usize::MAX);
    let error = device.reset().unwrap_err();
    assert!(matches!(error, DeviceError::Held(_)), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("being unbound"), "{message}");
    assert!((5..100).contains(&Kernel::calls().len()));
}

#[test]
fn only_a_device_that_can_be_reset_is() {
    let device = open_device(|_| {});
    Kernel::calls();
    assert!(device.reset().unwrap());
    assert_eq!(Kernel::calls(), [Call::DeviceReset]);
    Kernel::with(|k| k.fail = Some((0, libc::EIO)));
    assert!(device.reset().is_err());
    assert_eq!(Kernel::calls(), [Call::DeviceReset]);
    let device = open_device(|k| k.device_flags = VFIO_DEVICE_FLAGS_PCI);
    Kernel::calls();
    assert!(!device.has_reset() && !device.reset().unwrap());
    assert_eq!(Kernel::calls(), []);
}
