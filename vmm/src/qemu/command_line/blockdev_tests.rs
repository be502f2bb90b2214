//! Block nodes as libvirt writes them, and as nobody should.

use super::super::{DeviceKind, VirtioDevice, VirtioKind};
use super::*;

fn nodes(all: &[&str]) -> Result<Nodes, String> {
    let mut nodes = Nodes::default();
    for one in all {
        nodes.read(one).map_err(|error| error.to_string())?;
    }
    Ok(nodes)
}

fn device(text: &str) -> Device {
    Device::parse(text).unwrap()
}

fn disk(nodes: &Nodes, device: VirtioDevice) -> DiskDescription {
    let VirtioKind::Disk {
        drive,
        options,
        shares,
    } = device.kind
    else {
        panic!("no disk")
    };
    nodes
        .disk("-device virtio-blk-pci", &drive, &options, shares)
        .unwrap()
}

const STORAGE: &str = r#"{"driver":"file","filename":"/d.img","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap","cache":{"direct":true,"no-flush":false}}"#;
const FORMAT: &str = r#"{"node-name":"libvirt-1-format","read-only":false,"discard":"unmap","cache":{"direct":true,"no-flush":false},"driver":"raw","file":"libvirt-1-storage"}"#;
const DISK: &str = r#"{"driver":"virtio-blk-pci","bus":"pci.0","addr":"0x4","drive":"libvirt-1-format","id":"virtio-disk0","bootindex":1,"write-cache":"off","serial":"s1"}"#;

#[test]
fn a_disk_is_read_as_libvirt_writes_it() {
    let nodes = nodes(&[STORAGE, FORMAT]).unwrap();
    let device = device(DISK);
    nodes.check(std::slice::from_ref(&device)).unwrap();
    let DeviceKind::Virtio(device) = device.kind else {
        panic!("no virtio device")
    };
    let disk = disk(&nodes, device);
    assert_eq!(disk.image.path, PathBuf::from("/d.img"));
    assert!(disk.image.direct && disk.image.discards && !disk.image.ignores_flush);
    assert!(!disk.options.write_cache && !disk.image.read_only);
    assert_eq!(disk.image.format, Some(Format::Raw));
    assert_eq!(disk.options.serial, "s1");
}

#[test]
fn a_file_alone_is_raw_and_never_probed() {
    let pairs = "driver=file,filename=/d.img,node-name=n,cache.no-flush=on,read-only=on,aio=threads,locking=off";
    let nodes = nodes(&[pairs]).unwrap();
    let DeviceKind::Virtio(device) = device("virtio-blk-pci,drive=n").kind else {
        panic!("no virtio device")
    };
    let disk = disk(&nodes, device);
    assert_eq!(disk.image.format, Some(Format::Raw));
    assert!(disk.image.ignores_flush && disk.image.read_only);
    assert!(!disk.image.locks && !disk.image.discards);
    assert_eq!(disk.aio, Aio::Threads);
}

#[test]
fn an_image_is_given_by_the_descriptors_of_a_set() {
    let file = r#"{"driver":"file","filename":"/dev/fdset/2","node-name":"s"}"#;
    let mut nodes = nodes(&[file]).unwrap();
    let image = |nodes: &Nodes| nodes.image("-device", "s", &mut Vec::new());
    assert_eq!(
        image(&nodes).unwrap_err().to_string(),
        "-blockdev node-name=s filename: there is no -add-fd set 2"
    );
    nodes.passed = vec![(1, 30), (2, 31), (2, 32)];
    assert_eq!(image(&nodes).unwrap().0.descriptors, [31, 32]);
}

#[test]
fn a_chain_of_images_is_read_as_libvirt_writes_it() {
    let base_file = r#"{"driver":"file","filename":"/b.img","node-name":"s2","read-only":true}"#;
    let base = r#"{"node-name":"f2","read-only":true,"driver":"raw","file":"s2"}"#;
    let top_file = r#"{"driver":"file","filename":"/t.qcow2","node-name":"s1"}"#;
    let top = r#"{"node-name":"f1","read-only":false,"driver":"qcow2","file":"s1","backing":"f2"}"#;
    let all = nodes(&[base_file, base, top_file, top]).unwrap();
    let DeviceKind::Virtio(device) = device("virtio-blk-pci,drive=f1").kind else {
        panic!("no virtio device")
    };
    let disk = disk(&all, device);
    assert_eq!(disk.image.format, Some(Format::Qcow2));
    assert!(!disk.image.read_only);
    let Backing::Given(Some(backing)) = disk.image.backing else {
        panic!("no backing image")
    };
    assert_eq!((backing.path, backing.read_only), ("/b.img".into(), true));
    assert_eq!(backing.format, Some(Format::Raw));
    let alone = nodes(&[top_file, &top.replace("\"f2\"", "null")]).unwrap();
    let (image, _) = alone.image("-device", "f1", &mut Vec::new()).unwrap();
    assert_eq!(image.backing, Backing::Given(None));
    let circle = nodes(&[top_file, &top.replace("f2", "f1")]).unwrap();
    let refused = circle.image("-device", "f1", &mut Vec::new()).unwrap_err();
    assert_eq!(refused.to_string(), "-blockdev: the node f1 is used twice");
}

#[test]
fn what_is_not_there_is_named() {
    let refusal = |all: &[&str]| nodes(all).unwrap_err();
    assert_eq!(
        refusal(&["throttle,node-name=t,throttle-group=g,file=n"]),
        "-blockdev throttle is not supported: disks are not throttled; in a libvirt domain, remove <iotune>"
    );
    assert!(
        refusal(&["nbd,node-name=n"])
            .starts_with("-blockdev: nbd is not supported; there are file")
    );
    assert_eq!(
        refusal(&["file,node-name=n,filename=/x,pr-manager=p"]),
        "-blockdev file: the property pr-manager=p is not supported"
    );
    assert!(refusal(&["file,node-name=n,filename=/x,detect-zeroes=on"]).contains("should be off"));
    assert_eq!(
        refusal(&[STORAGE, STORAGE]),
        "-blockdev node-name: the id libvirt-1-storage is given twice"
    );
}

#[test]
fn each_node_has_one_disk() {
    let check = |all: &[&str], devices: &[&str]| {
        let devices: Vec<Device> = devices.iter().map(|text| device(text)).collect();
        let checked = nodes(all).unwrap().check(&devices);
        checked.unwrap_err().to_string()
    };
    assert_eq!(
        check(&[STORAGE], &[]),
        "-blockdev: libvirt-1-storage is used by nothing"
    );
    assert_eq!(
        check(&[FORMAT], &[DISK]),
        "-blockdev node-name=libvirt-1-format: there is no block node libvirt-1-storage"
    );
    assert_eq!(
        check(&[], &["virtio-blk-pci,drive=d"]),
        "-device virtio-blk-pci: there is no block node d"
    );
    let twice = check(
        &[STORAGE, FORMAT],
        &[DISK, "virtio-blk-pci,drive=libvirt-1-storage"],
    );
    assert_eq!(twice, "-blockdev: the node libvirt-1-storage is used twice");
}
