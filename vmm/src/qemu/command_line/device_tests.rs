//! Devices as QEMU takes them.

use super::*;

fn refusal(text: &str) -> String {
    Device::parse(text).expect_err("refused").to_string()
}

#[test]
fn devices_are_read_from_json_and_from_pairs() {
    let json = r#"{"driver":"vfio-pci","host":"0005:90:01.0","id":"hostdev0","bus":"pci.1.0","addr":"0x1"}"#;
    let pairs = "vfio-pci,host=0005:90:01.0,id=hostdev0,bus=pci.1.0,addr=0x1";
    let device = Device::parse(json).expect("parses");
    assert_eq!(Device::parse(pairs).expect("parses"), device);
    assert_eq!(device.id.as_deref(), Some("hostdev0"));
    let DeviceKind::Vfio {
        host, bus, place, ..
    } = device.kind
    else {
        panic!("not vfio-pci")
    };
    assert_eq!(host.to_string(), "0005:90:01.0");
    let place = place.map(|place| place.to_string());
    assert_eq!((bus.as_str(), place.as_deref()), ("pci.1.0", Some("01.0")));
    let vty = Device::parse(
        r#"{"driver":"spapr-vty","chardev":"charserial0","id":"serial0","reg":805306368}"#,
    );
    let kind = DeviceKind::Vty {
        chardev: "charserial0".to_owned(),
        reg: 0x3000_0000,
    };
    assert_eq!(vty.expect("parses").kind, kind);
}

#[test]
fn a_device_may_be_written_in_any_way_that_qemu_takes() {
    let json =
        r#"{"driver":"vfio-pci","host":"0001:01:00.0","addr":"0x0","rombar":0,"romfile":""}"#;
    let device = Device::parse(json).expect("parses");
    for pairs in [
        "vfio-pci,host=1:1:0.0,multifunction=true,addr=0",
        "vfio-pci,host=0001:01:00.0,addr=0,multifunction=no",
        "vfio-pci,host=0x1:01:00.0,addr=0x0.0x0,romfile=",
        "driver=vfio-pci,host=0001:01:00.0,addr=00.0,multifunction",
    ] {
        assert_eq!(Device::parse(pairs).expect("parses"), device, "{pairs}");
    }
    assert_eq!(
        refusal("vfio-pci,host=0001:01:00.0,romfile=/rom"),
        "-device vfio-pci: romfile=/rom should be left empty: the guest is shown no ROM (in a libvirt domain: <rom \
         enabled='no'/>, or no <rom>)"
    );
    let with_token =
        Device::parse("vfio-pci,host=1:1:0,vf-token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3");
    let DeviceKind::Vfio { vf_token, .. } = with_token.expect("parses").kind else {
        panic!("not vfio-pci")
    };
    assert!(vf_token.is_some());
    assert_eq!(
        refusal("vfio-pci,host=1:1:0,vf-token=1"),
        "-device vfio-pci: vf-token=1 should be a UUID such as bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
    );
    assert_eq!(
        refusal("vfio-pci,host=nvme"),
        "-device vfio-pci: host=nvme should be a PCI address such as 0001:01:00.0"
    );
    assert_eq!(
        refusal("vfio-pci"),
        "-device vfio-pci needs the property host"
    );
}

#[test]
fn what_is_not_supported_is_named() {
    let crypto = refusal("frobnicator-pci,id=crypto0");
    assert!(
        crypto.starts_with(
            "-device: frobnicator-pci is not supported; there are spapr-pci-host-bridge, spapr-vty, vfio-pci, "
        ),
        "{crypto}"
    );
    let disk = refusal("ide-hd,drive=d");
    assert!(
        disk.starts_with("-device ide-hd is not supported: disks are virtio's"),
        "{disk}"
    );
    assert_eq!(
        refusal("vfio-pci,host=0001:01:00.0,x-igd-opregion=on"),
        "-device vfio-pci: the property x-igd-opregion=on is not supported"
    );
    assert_eq!(
        refusal("spapr-pci-host-bridge,index=31,id=pci.31"),
        "-device spapr-pci-host-bridge: index=31 should be 0 to 30"
    );
    assert_eq!(
        refusal("spapr-pci-host-bridge,index=1,dma_win_size=0x30000000"),
        "-device spapr-pci-host-bridge: dma_win_size=0x30000000: a window's size is a power of two, such \
         as 512M"
    );
}

#[test]
fn a_host_bridges_dma_window_has_a_size_for_one_or_for_all() {
    let size = DmaWindowSize::new(256 << 20).ok();
    for written in ["0x10000000", "268435456", "256M"] {
        let text = format!("spapr-pci-host-bridge,index=1,id=pci.1,dma_win_size={written}");
        let kind = DeviceKind::HostBridge {
            index: 1,
            dma_window: size,
        };
        assert_eq!(Device::parse(&text).expect("parses").kind, kind);
        let text = format!("spapr-pci-host-bridge.dma_win_size={written}");
        assert_eq!(global(&text).ok(), size);
    }
    let refused = global("vfio-pci.x=1").unwrap_err().to_string();
    assert!(refused.contains("vfio-pci.x"), "{refused}");
}

#[test]
fn a_virtio_device_keeps_the_name_of_its_type_by_which_libvirt_looks_for_it() {
    for name in ["virtio-balloon-pci", "virtio-balloon-pci-non-transitional"] {
        let device = Device::parse(&format!("{name},id=balloon0")).unwrap();
        assert_eq!(device.kind.type_name(), name);
    }
}

#[test]
fn an_entropy_device_is_known_by_each_of_its_names() {
    let json =
        r#"{"driver":"virtio-rng-pci","rng":"objrng0","id":"rng0","bus":"pci.0","addr":"0x3"}"#;
    let pairs = "virtio-rng-pci-non-transitional,rng=objrng0,id=rng0,addr=3,iommu_platform=off";
    let device = |text: &str| {
        let device = Device::parse(text).unwrap();
        let DeviceKind::Virtio(virtio) = device.kind else {
            panic!("{text}")
        };
        (
            device.id,
            virtio.kind,
            virtio.bus,
            virtio.place,
            virtio.iommu_platform,
        )
    };
    assert_eq!(device(json), device(pairs));
    let with_iommu = format!("{pairs},disable-legacy=on,disable-modern=off")
        .replace("iommu_platform=off", "iommu_platform=on");
    assert_ne!(device(json), device(&with_iommu));
    assert_eq!(
        refusal("virtio-rng-pci"),
        "-device virtio-rng-pci needs the property rng"
    );
    assert_eq!(
        refusal("virtio-rng-pci,rng=r,disable-modern=on"),
        "-device virtio-rng-pci: disable-modern=on should be off"
    );
    assert_eq!(
        refusal("virtio-rng-pci,rng=r,max-bytes=1024"),
        "-device virtio-rng-pci: the property max-bytes=1024 is not supported: entropy is not throttled; in a \
         libvirt domain, remove <rate> from <rng>"
    );
}
