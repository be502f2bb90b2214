//! SCSI devices as libvirt writes them, and as nobody should.

use spapr_devices::virtio::disk::OnError;

use super::*;

const CONTROLLER: &str = r#"{"driver":"virtio-scsi-pci","id":"scsi0","bus":"pci.0","addr":"0x2"}"#;
const NODES: [&str; 3] = [
    r#"{"driver":"file","filename":"/a.img","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap"}"#,
    r#"{"node-name":"libvirt-1-format","read-only":false,"discard":"unmap","driver":"raw","file":"libvirt-1-storage"}"#,
    r#"{"driver":"file","filename":"/b.iso","node-name":"disc","read-only":true}"#,
];

fn devices(texts: &[&str]) -> Vec<Device> {
    let all = texts.iter();
    all.map(|text| Device::parse(text).unwrap()).collect()
}

fn description(texts: &[&str]) -> Result<ScsiDescription, String> {
    let devices = devices(texts);
    check(&devices).map_err(|error| error.to_string())?;
    let mut nodes = Nodes::default();
    for node in NODES {
        nodes.read(node).map_err(|error| error.to_string())?;
    }
    let options = options_of(&devices[0]).expect("a controller");
    describe(&devices, &devices[0], options, &nodes).map_err(|error| error.to_string())
}

fn addresses(texts: &[&str]) -> Result<Vec<(u8, u16)>, String> {
    let units = description(texts)?.units;
    let addresses = units.iter().map(|unit| unit.options.address);
    Ok(addresses.map(|it| (it.target, it.lun)).collect())
}

#[test]
fn units_are_as_libvirt_writes_them() {
    let disk = r#"{"driver":"scsi-hd","bus":"scsi0.0","channel":0,"scsi-id":0,"lun":1,"device_id":"drive-scsi0-0-0-1","drive":"libvirt-1-format","id":"scsi0-0-0-1","bootindex":1,"write-cache":"on","werror":"stop","rerror":"stop","wwn":"0x5000c50015ea71ad","serial":"s1"}"#;
    let disc = r#"{"driver":"scsi-cd","bus":"scsi0.0","channel":0,"scsi-id":0,"lun":0,"device_id":"drive-scsi0-0-0-0","drive":"disc","id":"scsi0-0-0-0","vendor":"SEAGATE","product":"ST3146707LC"}"#;
    let empty = r#"{"driver":"scsi-cd","bus":"scsi0.0","channel":0,"scsi-id":1,"lun":0,"device_id":"drive-scsi0-0-1-0","id":"scsi0-0-1-0"}"#;
    let description = description(&[CONTROLLER, disk, disc, empty]).unwrap();
    assert_eq!(description.options, ScsiOptions::default());
    let [disk, disc, empty] = &description.units[..] else {
        panic!("{description:?}");
    };
    assert_eq!(disk.options.address, Address { target: 0, lun: 1 });
    assert_eq!(disk.options.device_id, "drive-scsi0-0-0-1");
    assert_eq!(disk.options.wwn, Some(0x5000_c500_15ea_71ad));
    let image = disk.disk.as_ref().unwrap();
    assert_eq!(image.options.serial, "s1");
    assert_eq!(image.options.on_error.read, OnError::Stop);
    assert!(!image.image.read_only && image.image.discards);
    assert_eq!(
        (disc.options.kind, disc.options.vendor.as_str()),
        (UnitKind::CdDrive, "SEAGATE")
    );
    let image = disc.disk.as_ref().unwrap();
    assert_eq!(
        (image.image.read_only, image.options.logical_block_bytes),
        (true, 2048)
    );
    assert_eq!((&empty.disk, empty.options.address.target), (&None, 1));
}

#[test]
fn a_controller_is_as_libvirt_writes_it() {
    let text = r#"{"driver":"virtio-scsi-pci","iommu_platform":true,"id":"scsi1","num_queues":8,"cmd_per_lun":50,"max_sectors":512,"ioeventfd":true,"bus":"pci.0","addr":"0x3"}"#;
    let device = Device::parse(text).unwrap();
    let expected = ScsiOptions {
        queues: 8,
        commands_per_unit: 50,
        most_sectors: 512,
        ..ScsiOptions::default()
    };
    assert_eq!(options_of(&device), Some(expected));
    let refused = |text: &str| Device::parse(text).unwrap_err().to_string();
    assert!(refused("virtio-scsi-pci,num_queues=65").ends_with("num_queues=65 should be 1 to 64"));
    assert!(refused("virtio-scsi-pci,iothread=i1").contains("remove iothread="));
}

#[test]
fn units_without_an_address_are_where_there_is_room() {
    let all = [
        "virtio-scsi-pci",
        "scsi-cd",
        "scsi-cd,scsi-id=1,lun=0",
        "scsi-cd,scsi-id=1",
        "scsi-cd",
        "scsi-cd,lun=4",
    ];
    let found = addresses(&all);
    assert_eq!(found, Ok(vec![(0, 0), (1, 0), (1, 1), (2, 0), (0, 4)]));
}

#[test]
fn what_makes_no_sense_of_a_unit_is_named() {
    let twice = addresses(&[
        CONTROLLER,
        "scsi-cd,scsi-id=3,lun=1",
        "scsi-cd,scsi-id=3,lun=1",
    ]);
    assert!(twice.unwrap_err().contains("have scsi-id=3 and lun=1"));
    let elsewhere = addresses(&[CONTROLLER, "scsi-cd,bus=scsi1.0"]).unwrap_err();
    assert!(elsewhere.contains("there is no bus of a virtio-scsi-pci device scsi1.0"));
    let unknown = addresses(&[CONTROLLER, "scsi-hd,drive=n"]).unwrap_err();
    assert!(
        unknown.contains("-device scsi-hd: there is no block node n"),
        "{unknown}"
    );
    let refused = |text: &str| Device::parse(text).unwrap_err().to_string();
    assert_eq!(
        refused("scsi-hd"),
        "-device scsi-hd needs the property drive"
    );
    assert!(refused("scsi-cd,scsi-id=256").ends_with("scsi-id=256 should be 0 to 255"));
    assert!(refused("scsi-cd,lun=16384").ends_with("lun=16384 should be 0 to 16383"));
    assert!(refused("scsi-cd,channel=1").ends_with("channel=1 should be 0"));
    assert!(refused("scsi-hd,drive=n,removable=on").ends_with("removable=on should be off"));
    assert!(refused("scsi-cd,vendor=123456789").ends_with("up to 8 characters of ASCII"));
}
