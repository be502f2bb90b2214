//! Whole command lines, as libvirt 11.3 builds them.

use spapr_hypercalls::policy::LockPolicy;

use super::*;
use crate::spec::{ByteSize, VhostSource};

mod machine;

/// The probe's.
const PROBE: &str = "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg \
    -qmp unix:/var/lib/libvirt/qemu/qmp-1/qmp.monitor,server=on,wait=off \
    -pidfile /var/lib/libvirt/qemu/qmp-1/qmp.pid -daemonize";

/// A domain with a host device and a pseudo-terminal; one word on each line.
const DOMAIN: &str = r#"-name
guest=g1,debug-threads=on
-S
-object
{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-1-g1/master-key.aes"}
-machine
pseries,usb=off,dump-guest-core=off,memory-backend=ppc_spapr.ram
-accel
kvm
-cpu
host
-m
size=1048576k
-object
{"qom-type":"memory-backend-ram","id":"ppc_spapr.ram","size":1073741824}
-overcommit
mem-lock=off
-smp
2,sockets=2,cores=1,threads=1
-uuid
1ccfd97d-5eb4-478a-bbe6-88d254c16db7
-display
none
-no-user-config
-nodefaults
-chardev
socket,id=charmonitor,fd=29,server=on,wait=off
-mon
chardev=charmonitor,id=monitor,mode=control
-rtc
base=utc
-no-shutdown
-boot
strict=on
-kernel
/boot/vmlinux
-initrd
/boot/initrd
-append
console=hvc0 a=b,c
-device
{"driver":"spapr-pci-host-bridge","index":1,"id":"pci.1"}
-add-fd
set=0,fd=31,opaque=serial0-log
-chardev
pty,id=charserial0,logfile=/dev/fdset/0,logappend=on
-device
{"driver":"spapr-vty","chardev":"charserial0","id":"serial0","reg":805306368}
-audiodev
{"id":"audio1","driver":"none"}
-device
{"driver":"vfio-pci","host":"0001:01:00.0","id":"hostdev0","bus":"pci.1.0","addr":"0x1"}
-sandbox
on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-msg
timestamp=on"#;

fn domain() -> Vec<String> {
    DOMAIN.lines().map(str::to_owned).collect()
}

/// The domain's command line with `from` in place of `to` in one of its words.
fn domain_with(from: &str, to: &str) -> Result<CommandLine, CommandLineError> {
    let text = DOMAIN.replace(from, to);
    assert_ne!(text, DOMAIN, "{from}");
    CommandLine::parse(text.lines().map(str::to_owned))
}

fn refusal(from: &str, to: &str) -> String {
    domain_with(from, to).expect_err("refused").to_string()
}

#[test]
fn the_probe_asks_for_no_machine() {
    let words = PROBE.split_whitespace().map(str::to_owned);
    let line = CommandLine::parse(words).expect("parses");
    assert!(line.machine.is_none());
    assert!(line.process.daemonize && line.process.starts_paused);
    assert_eq!(line.monitors.len(), 1);
    let Backend::Listen(SocketAddress::Unix(path)) = &line.chardevs[0].backend else {
        panic!("{:?}", line.chardevs[0])
    };
    assert!(path.ends_with("qmp.monitor"));
    assert!(line.process.pid_file.is_some());
}

#[test]
fn a_domain_becomes_the_description_that_run_uses() {
    let line = CommandLine::parse(domain()).expect("parses");
    let machine = line.machine.expect("a machine");
    assert_eq!(machine.memory, ByteSize(1 << 30));
    assert_eq!((machine.cpus, machine.threads_per_core), (2, 1));
    assert_eq!(machine.command_line, "console=hvc0 a=b,c");
    assert_eq!(machine.vty, 0x3000_0000);
    let [device] = machine.vfio.as_slice() else {
        panic!("one device")
    };
    assert_eq!(device.host.to_string(), "0001:01:00.0");
    let place = device.place.expect("a place");
    assert_eq!(
        (place.bridge, place.function.to_string().as_str()),
        (1, "01.0")
    );
    let uuid = machine.uuid.expect("a uuid").to_string();
    assert_eq!(uuid, "1ccfd97d-5eb4-478a-bbe6-88d254c16db7");
    assert_eq!(line.monitors, ["charmonitor"]);
    assert_eq!(line.terminal.expect("a terminal").id, "charserial0");
    assert_eq!(line.descriptors[0].fd, 31);
    let process = line.process;
    assert!(process.no_shutdown && process.sandbox && process.starts_paused);
    assert!(process.timestamps && !process.daemonize);
    assert_eq!(process.name.as_deref(), Some("g1"));
}

#[test]
fn topologies_have_a_place_for_each_processor() {
    let line = domain_with(
        "2,sockets=2,cores=1,threads=1",
        "8,sockets=1,cores=2,threads=4",
    );
    let machine = line.expect("parses").machine.expect("a machine");
    assert_eq!((machine.cpus, machine.threads_per_core), (8, 4));
    assert_eq!(
        refusal(
            "2,sockets=2,cores=1,threads=1",
            "1,maxcpus=4,sockets=4,cores=1,threads=1"
        ),
        "-smp 1,maxcpus=4,sockets=4,cores=1,threads=1: 4 places for 1 processors; processors \
         cannot be added later (in a libvirt domain: <vcpu> without current=)"
    );
    assert_eq!(
        refusal("2,sockets=2,cores=1,threads=1", "3,threads=3"),
        "-smp: threads=3 should be 1, 2, 4 or 8"
    );
}

#[test]
fn no_cores_or_sockets_are_refused() {
    for name in ["cores", "sockets"] {
        let topology = format!("2,{name}=0");
        assert_eq!(
            refusal("2,sockets=2,cores=1,threads=1", &topology),
            format!("-smp: {name}=0 should be 1 or more")
        );
    }
}

#[test]
fn paths_mean_the_same_after_the_process_has_left_its_folder() {
    let line = domain_with("/boot/vmlinux", "vmlinux").expect("parses");
    let kernel = line.machine.expect("a machine").kernel;
    assert!(kernel.is_absolute() && kernel.ends_with("vmlinux"));
    let line = domain_with(
        "-no-shutdown",
        "-pidfile\npid\n-spapr-vmm\nstats=stats.json",
    );
    let process = line.expect("parses").process;
    assert!(process.pid_file.expect("a path").is_absolute());
    assert!(process.stats.expect("a path").is_absolute());
    let refused = refusal("/boot/initrd", "");
    assert!(refused.starts_with("-initrd: cannot be read"), "{refused}");
}

#[test]
fn what_nothing_uses_is_refused() {
    let chardev = "timestamp=on\n-chardev\nnull,id=spare";
    assert_eq!(
        refusal("timestamp=on", chardev),
        "-chardev: spare is used by nothing"
    );
    let memory = "timestamp=on\n-object\nmemory-backend-ram,id=spare,size=1G";
    assert_eq!(
        refusal("timestamp=on", memory),
        "-object: spare is used by nothing"
    );
}

#[test]
fn a_core_has_as_many_numbers_as_threads() {
    assert!(domain_with("usb=off", "usb=off,vsmt=1").is_ok());
    let refused = refusal("usb=off", "usb=off,vsmt=8");
    assert!(refused.contains("-smp says threads=1"), "{refused}");
}

#[test]
fn processors_fill_whole_sockets() {
    let topology = "2,sockets=2,cores=1,threads=1";
    for bad in ["4,cores=4,threads=4", "6,sockets=2,threads=2", "3,cores=2"] {
        let refused = refusal(topology, bad);
        assert!(refused.contains("do not make up"), "{refused}");
    }
    assert!(domain_with(topology, "8,cores=2,threads=4").is_ok());
}

#[test]
fn options_of_our_own_come_through() {
    let line = domain_with(
        "timestamp=on",
        "timestamp=on\n-spapr-vmm\nlock=attach,stats=/s,log=info",
    );
    let line = line.expect("parses");
    assert_eq!(line.machine.expect("a machine").lock, LockPolicy::Attach);
    assert_eq!(line.process.stats, Some("/s".into()));
    assert_eq!(line.process.log, Some(LevelFilter::Info));
    let refused = refusal("timestamp=on", "timestamp=on\n-spapr-vmm\nlock=never");
    assert_eq!(
        refused,
        "-spapr-vmm: lock=never should be first-map or attach"
    );
    let refused = refusal("timestamp=on", "timestamp=on\n-spapr-vmm\nlock-region=64");
    assert_eq!(
        refused,
        "-spapr-vmm: lock-region=64: 64 without a unit is a number of bytes; write 64M for as many MiB, \
         64G for as many GiB"
    );
}

/// What of libvirt's command line is replaced by what, and the refusal.
const NOT_SUPPORTED: &[(&str, &str, &str)] = &[
    (
        "usb=off",
        "usb=on",
        "-machine: usb=on should be off (in a libvirt domain: <controller type='usb' model='none'/>)",
    ),
    (
        "usb=off",
        "max-cpu-compat=power9",
        "-machine: the property max-cpu-compat=power9 is not supported: guests have the host's processor, or its own \
             model; in a libvirt domain, have <cpu mode='host-passthrough'/>",
    ),
    (
        "\nkvm\n",
        "\ntcg\n",
        "-accel: tcg is not supported; there are kvm (guests are never emulated; in a libvirt domain: <domain \
             type='kvm'>)",
    ),
    (
        "\nhost\n",
        "\nPOWER7\n",
        "-cpu: model=POWER7 should be host, POWER9, POWER10 or POWER11 (in a libvirt domain: <cpu \
             mode='host-passthrough'/>)",
    ),
    (
        "base=utc",
        "base=localtime",
        "-rtc: base=localtime should be utc or YYYY-MM-DDTHH:MM:SS (in a libvirt domain: <clock offset='utc'/>)",
    ),
    (
        "strict=on",
        "order=n",
        "-boot: the property order=n is not supported: there is no firmware; a guest starts from -kernel and -initrd \
             (<kernel>, <initrd> and <cmdline> below <os> in a libvirt domain, and no <loader>, <nvram> or <boot>)",
    ),
    (
        "-display\nnone",
        "-display\ngtk",
        "-display gtk is not supported: there is no graphics, sound or USB; the guest has a serial \
             terminal (-serial stdio, or -chardev with -device spapr-vty). In a libvirt domain, remove <graphics>, \
             <sound>, <input>, <hub> and <redirdev>, and have <video><model type='none'/></video> and <controller \
             type='usb' model='none'/>",
    ),
    (
        "usb=off",
        "kernel_irqchip=split",
        "-machine: kernel-irqchip=split should be on: interrupts come from KVM's controller, and there \
             is no other (in a libvirt domain: no <ioapic>)",
    ),
    (
        "usb=off",
        "kvm-type=PR",
        "-machine: kvm-type=PR should be HV: guests run in hypervisor mode alone",
    ),
    (
        "1048576k",
        "1Q",
        "-m: size=1Q should be a size such as 512M, 1.5G or 2GiB",
    ),
    (
        "timestamp=on",
        "timestamp=on\n-monitor\nstdio",
        "-monitor stdio is not supported: there is no monitor for people; QMP is at -qmp \
             unix:PATH,server=on,wait=off",
    ),
    (
        "timestamp=on",
        "timestamp=on\n-serial\npty",
        "the guest has one terminal, and -serial or -device spapr-vty give it a second (in a libvirt domain: one \
             <serial>, and no <console> of another kind)",
    ),
    (
        "\"pci.1.0\"",
        "\"pci.2.0\"",
        "-device vfio-pci: there is no bus pci.2.0",
    ),
    (
        "\"charserial0\"",
        "\"charserial1\"",
        "-device spapr-vty: there is no chardev charserial1",
    ),
    (
        "mode=control",
        "mode=readline",
        "-mon: mode=readline should be control",
    ),
    (
        "-kernel\n/boot/vmlinux",
        "-no-reboot",
        "no -kernel: a guest starts from a kernel (<kernel> below <os> in a libvirt domain)",
    ),
];

#[test]
fn what_is_not_supported_is_named() {
    for (from, to, expected) in NOT_SUPPORTED {
        assert_eq!(refusal(from, to), *expected);
    }
}

/// The whole of what a value makes of the machine, to compare ways of writing it.
fn machine_of(line: &CommandLine) -> String {
    format!("{:?} {:?} {:?}", line.machine, line.devices, line.chardevs)
}

#[test]
fn values_may_be_written_in_any_way_that_qemu_takes() {
    for (from, to) in [
        ("usb=off", "usb=no"),
        ("usb=off", "usb=n,kernel_irqchip=on"),
        ("usb=off", "usb=false,kernel-irqchip=on,kvm-type=HV"),
        ("usb=off", "kvm_type=hv,graphics=no,mem_merge=y"),
        ("usb=off", "kvm-type=auto,cap-htm=off,cap-large-decr=true"),
        ("dump-guest-core=off", "dump_guest_core=no"),
        ("\nkvm\n", "\nkvm,kernel-irqchip=on\n"),
        ("server=on,wait=off", "server,nowait"),
        ("server=on,wait=off", "server=yes,wait=no"),
        ("size=1048576k", "1024"),
        ("size=1048576k", "1G"),
        ("size=1048576k", "1GiB"),
        ("size=1048576k", "1.0G"),
        ("2,sockets=2,cores=1,threads=1", "cpus=0x2,sockets=02"),
        ("\"0001:01:00.0\"", "\"1:1:0.0\""),
        (
            "\"0001:01:00.0\"",
            "\"0001:01:00.0\",\"rombar\":0,\"romfile\":\"\"",
        ),
        (
            "\"0001:01:00.0\"",
            "\"0001:01:00.0\",\"multifunction\":true",
        ),
        (
            "\"0001:01:00.0\"",
            "\"0001:01:00.0\",\"multifunction\":\"true\"",
        ),
        ("\"0x1\"", "\"1.0\""),
        ("\"0x1\"", "8"),
        ("mem-lock=off", "mem-lock=false"),
        ("strict=on", "strict=yes,menu=no"),
        ("timestamp=on", "timestamp"),
    ] {
        let line = domain_with(from, to).unwrap_or_else(|why| panic!("{to}: {why}"));
        let expected = CommandLine::parse(domain()).expect("parses");
        assert_eq!(machine_of(&line), machine_of(&expected), "{to}");
    }
}

#[test]
fn a_socket_device_has_a_context_id_and_a_descriptor_of_its_own() {
    let parse = |words: &str| {
        let words = "-machine pseries,accel=kvm -kernel /k ".to_owned() + words;
        CommandLine::parse(words.split(' ').map(str::to_owned))
    };
    for (words, cid, vhost) in [
        (
            r#"-device {"driver":"vhost-vsock-pci","id":"vsock0","guest-cid":3,"vhostfd":"28","bus":"pci.0","addr":"0x2"}"#,
            3,
            VhostSource::Descriptor(28),
        ),
        (
            "-device vhost-vsock-pci-non-transitional,guest-cid=4294967294",
            u32::MAX - 1,
            VhostSource::Path,
        ),
    ] {
        let machine = parse(words).expect("parses").machine.expect("a machine");
        let (_, vsock) = machine.vsocks().next().expect("a socket device");
        assert_eq!((vsock.cid, vsock.vhost), (cid, vhost), "{words}");
    }
    for (words, part) in [
        ("", "guest-cid"),
        (",guest-cid=2", "guest-cid=2 should be 3 to 4294967294"),
        (",guest-cid=4294967295", "guest-cid=4294967295 should be"),
        (
            ",guest-cid=3,iommu_platform=on",
            "iommu_platform=on should be off",
        ),
        (
            ",guest-cid=3,vhostfd=9 -add-fd set=1,fd=9",
            "9 is given twice",
        ),
    ] {
        let refused = parse(&format!("-device vhost-vsock-pci{words}"));
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains(part), "{words}: {refused}");
    }
}

#[test]
fn serial_ports_are_terminals() {
    let line = |words: &str| {
        let words = "-machine pseries,accel=kvm -kernel /k ".to_owned() + words;
        CommandLine::parse(words.trim_end().split(' ').map(str::to_owned))
    };
    let terminal = |words| line(words).expect("parses").terminal;
    for (words, expected) in [
        ("-serial stdio", Some(Backend::Stdio)),
        ("-serial mon:stdio -nographic", Some(Backend::Stdio)),
        ("-nographic", Some(Backend::Stdio)),
        ("-nographic -nodefaults", None),
        ("-nographic -daemonize", None),
        ("-nographic -serial none", None),
        ("-nographic -serial pty", Some(Backend::Pty)),
        ("-serial chardev:c -chardev null,id=c", Some(Backend::Null)),
        (
            "-nographic -chardev pty,id=c -device spapr-vty,chardev=c",
            Some(Backend::Pty),
        ),
        ("", None),
    ] {
        let chardev = terminal(words);
        assert_eq!(chardev.map(|it| it.backend), expected, "{words}");
    }
    let parsed = line("-serial stdio").expect("parses");
    let machine = parsed.machine.expect("a machine");
    assert_eq!(machine.vty, spapr_devices::vty::DEFAULT_UNIT_ADDRESS);
    assert_eq!(parsed.chardevs[0].id, "serial0");
    let refusal = |words| line(words).expect_err("refused").to_string();
    assert_eq!(
        refusal("-serial chardev:c"),
        "-serial: there is no chardev c"
    );
    assert!(refusal("-serial vc").contains("stdio, mon:stdio, pty"));
    assert!(refusal("-serial pty -serial stdio").contains("one terminal"));
    assert_eq!(
        terminal("-serial none -serial pty")
            .map(|it| it.id)
            .as_deref(),
        Some("serial1")
    );
}

proptest::proptest! {
    #[test]
    fn no_words_make_it_panic(
        places in proptest::collection::vec((0usize..80, "[ -~]{0,30}"), 0..6)
    ) {
        let mut words = domain();
        for (place, word) in places {
            let place = place % words.len();
            words[place] = word;
        }
        let _ = CommandLine::parse(words);
    }
}
