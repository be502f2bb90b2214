//! What is chosen of the machine.

use super::*;

#[test]
fn the_interrupt_controller_is_chosen_as_for_qemu() {
    use crate::spec::InterruptControllerMode::{Auto, Xics};
    let mode = |text: &str| {
        let line = domain_with("pseries,usb=off", text).expect("a machine");
        line.machine.expect("a machine").interrupt_controller
    };
    for (text, expected) in [
        ("pseries,graphics=off", Auto),
        ("pseries,ic-mode=dual", Auto),
        ("pseries,ic-mode=xive", Auto),
        ("pseries,ic-mode=xics", Xics),
    ] {
        assert_eq!(mode(text), expected, "{text}");
    }
    let message = refusal("usb=off", "ic-mode=both");
    assert!(message.contains("dual, xive or xics"), "{message}");
}

#[test]
fn each_level_of_safety_is_taken_as_qemu_names_it() {
    use crate::spec::speculation::{BranchSafety, Safety, Wanted};
    let wanted = |text: &str| {
        let line = domain_with("usb=off", text).expect("parses");
        line.machine.expect("a machine").speculation
    };
    assert_eq!(wanted("usb=off,vsmt=1"), Wanted::default());
    for (name, safety) in [
        ("broken", Safety::Broken),
        ("workaround", Safety::Workaround),
        ("fixed", Safety::Fixed),
        ("Fixed", Safety::Fixed),
    ] {
        let cache = wanted(&format!("cap-cfpc={name}"));
        assert_eq!(cache.cache, Some(safety), "{name}");
        let checks = wanted(&format!("cap-sbbc={name}"));
        assert_eq!(checks.bounds_checks, Some(safety), "{name}");
        assert_eq!((cache.bounds_checks, checks.cache), (None, None));
    }
    for (name, safety) in [
        ("broken", BranchSafety::Broken),
        ("workaround", BranchSafety::Workaround),
        ("fixed-ibs", BranchSafety::FixedIbs),
        ("fixed-ccd", BranchSafety::FixedCcd),
        ("fixed-na", BranchSafety::FixedNa),
    ] {
        let branches = wanted(&format!("cap-ibs={name}")).branches;
        assert_eq!(branches, Some(safety), "{name}");
    }
    assert_eq!(wanted("cap-ccf-assist=on").flush_assist, Some(true));
    assert_eq!(wanted("cap-ccf-assist=off").flush_assist, Some(false));
    assert_eq!(
        refusal("usb=off", "cap-cfpc=safe"),
        "-machine: cap-cfpc=safe should be broken, workaround or fixed"
    );
    let refused = refusal("usb=off", "cap-ibs=fixed");
    assert!(
        refused.contains("fixed-ibs, fixed-ccd or fixed-na"),
        "{refused}"
    );
}

#[test]
fn devices_without_an_address_get_the_free_places_of_their_bus() {
    let more = |devices: &str| {
        let line = domain_with("timestamp=on", &format!("timestamp=on\n{devices}"));
        let machine = line.expect("parses").machine.expect("a machine");
        let places = machine.vfio.into_iter().map(|device| {
            let place = device.place.expect("a place");
            (
                device.host.to_string(),
                place.bridge,
                place.function.to_string(),
            )
        });
        // The first is the domain's own.
        places.skip(1).collect::<Vec<_>>()
    };
    let place = |host: &str, bridge, function: &str| (host.to_owned(), bridge, function.to_owned());
    let devices = "-device\nvfio-pci,host=0001:01:00.1,bus=pci.1.0\n\
                   -device\nvfio-pci,host=0001:01:00.2,bus=pci.1.0\n\
                   -device\nvfio-pci,host=0002:01:00.0\n\
                   -device\nvfio-pci,host=0001:01:00.3,bus=pci.1.0,addr=2";
    assert_eq!(
        more(devices),
        [
            place("0001:01:00.1", 1, "00.0"),
            place("0001:01:00.2", 1, "03.0"),
            place("0002:01:00.0", 0, "00.0"),
            place("0001:01:00.3", 1, "02.0"),
        ]
    );
    let many: Vec<String> = (0..32)
        .map(|number| format!("-device\nvfio-pci,host=0001:02:{number:02x}.0,bus=pci.1.0"))
        .collect();
    assert_eq!(
        refusal(
            "timestamp=on",
            &format!("timestamp=on\n{}", many.join("\n"))
        ),
        "-device vfio-pci: the bus of host bridge 1 has 32 devices, and no room for another"
    );
}
