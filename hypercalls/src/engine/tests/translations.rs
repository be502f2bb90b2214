//! Where bus addresses lead, for devices that the VMM makes itself.

use super::*;
use crate::tce::Permission;

/// What is behind `ioba`.
fn behind(engine: &TestEngine, ioba: u64, wanted: Permission) -> Option<(u64, u64)> {
    let range = engine.translate(0, Ioba(ioba), wanted)?;
    Some((range.start.0, range.bytes))
}

#[test]
fn a_bus_address_leads_where_its_entry_says_and_no_further_than_its_page() {
    for container in [ContainerVersion::V2, ContainerVersion::V1] {
        let engine = engine(container, TcePolicy::Auto, LockPolicy::FirstMap);
        assert_eq!(behind(&engine, 0x3000, Permission::READ), None);
        assert_eq!(engine.put(0x3000, 0x1_5003), SUCCESS);
        let found = Some((0x1_5678, 0x988));
        assert_eq!(behind(&engine, 0x3678, Permission::READ_WRITE), found);
        assert_eq!(behind(&engine, 0x2fff, Permission::READ), None);
        assert_eq!(behind(&engine, 0x4000, Permission::READ), None);
        assert_eq!(engine.put(0x3000, 0), SUCCESS);
        assert_eq!(behind(&engine, 0x3678, Permission::READ), None);
    }
}

#[test]
fn an_entry_gives_no_more_than_its_permission() {
    let engine = lazy();
    assert_eq!(engine.put(0, 0x1_5001), SUCCESS);
    let found = Some((0x1_5000, 0x1000));
    assert_eq!(behind(&engine, 0, Permission::READ), found);
    assert_eq!(behind(&engine, 0, Permission::WRITE), None);
    assert_eq!(behind(&engine, 0, Permission::READ_WRITE), None);
}

#[test]
fn addresses_outside_all_windows_and_bridges_that_are_not_there_lead_nowhere() {
    let engine = lazy();
    for ioba in [1 << 30, 1 << 59, u64::MAX] {
        assert_eq!(behind(&engine, ioba, Permission::READ), None);
    }
    let translated = engine.translate(7, Ioba(0), Permission::READ);
    assert_eq!(translated, None);
}
