use super::*;

#[test]
fn msi_is_granted_and_queried_as_linux_does_it() {
    let platform = FakePlatform::new();
    let [high, low] = BUID;
    let change = |function, count| {
        status(
            &platform,
            "ibm,change-msi",
            &[0, high, low, function, count, 1],
            4,
        )
    };
    let query = |index| {
        status(
            &platform,
            "ibm,query-interrupt-source-number",
            &[0, high, low, index],
            3,
        )
    };
    assert_eq!(query(0)[0], -1);
    assert_eq!(
        change(4, 100),
        [0, 65, 2, 2],
        "too many: how many there are"
    );
    assert_eq!(query(0)[0], -1, "and none allocated");
    assert_eq!(change(4, 65), [0, 65, 2, 2]);
    assert_eq!(query(64), [0, 0x1340, 1]);
    assert_eq!(query(65)[0], -1);
    assert_eq!(change(3, 4), [0, 4, 2, 1]);
    assert_eq!(query(4)[0], -1);
    assert_eq!(change(1, 0), [0, 0, 2, 1]);
    assert_eq!(query(0)[0], -1);
    assert!(platform.fixture.lines.sources().is_empty());
    // Of a function whose messages may have addresses of 64 bits, none of 32 bits can be had.
    for function in [0, 2, 5, 6, 7, u32::MAX] {
        assert_eq!(change(function, 1)[0], -3);
    }
    assert_eq!(
        status(&platform, "ibm,change-msi", &[0x800, high, low, 4, 1, 1], 3)[0],
        -3
    );
    platform.fixture.lines.fault.fail_call(3);
    assert_eq!(change(4, 8)[0], -1);
    assert!(platform.fixture.lines.sources().is_empty());
}

#[test]
fn messages_with_addresses_of_32_bits_are_given_where_there_are_no_others() {
    let platform = FakePlatform::with(|function| {
        // Its MSI capability, without the bit for 64.
        function.poke(0x82, 0x0a);
        function
    });
    let change = |function, count| {
        let [high, low] = BUID;
        let arguments = [0, high, low, function, count, 1];
        status(&platform, "ibm,change-msi", &arguments, 4)
    };
    for (function, kind, count) in [(5, 1, 1), (5, 1, 32), (3, 1, 8), (6, 2, 65), (4, 2, 3)] {
        assert_eq!(change(function, count), [0, count.cast_signed(), 2, kind]);
        assert_eq!(platform.fixture.lines.sources().len(), count as usize);
    }
    assert_eq!(change(6, 100), [0, 65, 2, 2]);
    assert_eq!(change(5, 0), [0, 0, 2, 1]);
    assert!(platform.fixture.lines.sources().is_empty());
    assert_eq!(change(7, 1)[0], -3);
}
