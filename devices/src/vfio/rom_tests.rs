use std::fs;

use super::super::VfioFunction;
use super::super::device::tests::{COMMAND_AT, describe_rom, open_device};
use super::*;
use crate::pci::{BarSpace, FunctionBackend, ROM};

#[test]
fn a_file_is_padded_to_a_size_that_a_rom_can_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rom");
    for (bytes, padded) in [
        (1, 2048),
        (2048, 2048),
        (2049, 4096),
        (MOST_BYTES, MOST_BYTES),
    ] {
        fs::write(&path, vec![7; bytes]).unwrap();
        let rom = Rom::of_file(&path).unwrap();
        assert_eq!(rom.bytes(), padded as u64);
        let mut data = [0; 2];
        rom.read(bytes as u64 - 1, &mut data);
        let next = if bytes < padded { ERASED } else { 0xff };
        assert_eq!(data, [7, next]);
        rom.read(u64::MAX, &mut data);
        assert_eq!(data, [ERASED; 2]);
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rom");
    let refusal = || Rom::of_file(&path).unwrap_err().to_string();
    let missing = refusal();
    assert!(missing.starts_with("cannot read the expansion ROM") && missing.ends_with("rom"));
    for bytes in [0, MOST_BYTES as u64 + 1] {
        let file = fs::File::create(&path).unwrap();
        file.set_len(bytes).unwrap();
        let size = refusal();
        assert!(size.contains(&format!("rom has {bytes} bytes")), "{size}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refusal().contains("is no regular file"));
}

#[test]
fn a_devices_rom_is_read_while_it_decodes_memory_and_then_never_again() {
    let content: Vec<u8> = (0..2048u32).map(|at| (at % 251) as u8).collect();
    let device = open_device(|kernel| describe_rom(kernel, &content));
    device.write_config(COMMAND, &[0x41, 1]).unwrap();
    let rom = Rom::of_device(&device).unwrap().expect("there is one");
    let mut command = [0; 2];
    device.read_config(COMMAND, &mut command).unwrap();
    assert_eq!(command, [0x41, 1], "as it was");
    assert_eq!(rom, Rom(content.clone().into()));
    let function = VfioFunction::new(device, Some(rom)).unwrap();
    let bar = function.bar(ROM).expect("a ROM");
    assert_eq!((bar.bytes, bar.space), (2048, BarSpace::Memory32));
    assert!(bar.mappings.is_empty(), "the guest's reads are served here");
    let mut data = [0; 8];
    function.write_bar(ROM, 16, &[0; 8]).unwrap();
    function.read_bar(ROM, 16, &mut data).unwrap();
    assert_eq!(data, content[16..24]);
}

#[test]
fn a_device_without_a_rom_has_none_and_one_that_cannot_be_read_is_told() {
    let device = open_device(|_| {});
    assert_eq!(Rom::of_device(&device).unwrap(), None);
    let function = VfioFunction::new(device, None).unwrap();
    assert_eq!(function.bar(ROM), None);
    // The file ends before the ROM does.
    let device = open_device(|kernel| {
        describe_rom(kernel, &[0; 2048]);
        let file = kernel.device.as_ref().unwrap();
        file.set_len(COMMAND_AT + 0x100).unwrap();
    });
    let error = Rom::of_device(&device).unwrap_err().to_string();
    assert!(error.contains("expansion ROM of PCI device 0001:01:00.0"));
    let mut command = [0; 2];
    device.read_config(COMMAND, &mut command).unwrap();
    assert_eq!(command, [0; 2], "as it was");
}
