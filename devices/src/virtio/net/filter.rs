//! Which frames a driver wants (virtio 5.1.6.5.1, 5.1.6.5.2).

use crate::net::Mac;

/// The most addresses of each table; with more, all frames of its kind come.
pub(super) const MOST_ADDRESSES: usize = 64;

/// Addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Those that there is room for.
    pub addresses: Vec<Mac>,
    /// There are more.
    pub overflows: bool,
}

impl Table {
    fn has(&self, mac: Mac) -> bool {
        self.overflows || self.addresses.contains(&mac)
    }
}

/// What a driver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The card's address.
    pub mac: Mac,
    /// Everything.
    pub promiscuous: bool,
    /// All that is for groups.
    pub all_multicast: bool,
    /// All that is for one card.
    pub all_unicast: bool,
    /// Nothing that is for groups.
    pub no_multicast: bool,
    /// Nothing that is for one card.
    pub no_unicast: bool,
    /// Nothing that is for all.
    pub no_broadcast: bool,
    /// Further addresses of one card.
    pub unicast: Table,
    /// Groups.
    pub multicast: Table,
}

impl Filter {
    /// What a driver wants that has said nothing: everything.
    pub const fn of_card(mac: Mac) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Table {
                addresses: Vec::new(),
                overflows: false,
            },
            multicast: Table {
                addresses: Vec::new(),
                overflows: false,
            },
        }
    }

    /// Whether a frame to `to` is wanted.
    pub(super) fn wants(&self, to: Mac) -> bool {
        if self.promiscuous {
            true
        } else if to.is_broadcast() {
            !self.no_broadcast
        } else if to.is_group() {
            !self.no_multicast && (self.all_multicast || self.multicast.has(to))
        } else {
            !self.no_unicast && (self.all_unicast || to == self.mac || self.unicast.has(to))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);
    const ALL: Mac = Mac([0xff; 6]);

    fn wanted(change: impl Fn(&mut Filter)) -> [bool; 4] {
        let mut filter = Filter::of_card(OWN);
        filter.promiscuous = false;
        change(&mut filter);
        [OWN, OTHER, GROUP, ALL].map(|to| filter.wants(to))
    }

    #[test]
    fn a_frame_is_wanted_by_what_its_address_is_of() {
        assert_eq!(wanted(|_| {}), [true, false, false, true]);
        assert_eq!(wanted(|it| it.promiscuous = true), [true; 4]);
        assert_eq!(
            wanted(|it| it.all_unicast = true),
            [true, true, false, true]
        );
        assert_eq!(
            wanted(|it| it.all_multicast = true),
            [true, false, true, true]
        );
        assert_eq!(
            wanted(|it| it.no_broadcast = true),
            [true, false, false, false]
        );
        assert_eq!(
            wanted(|it| it.no_unicast = true),
            [false, false, false, true]
        );
        assert_eq!(
            wanted(|it| it.unicast.addresses.push(OTHER)),
            [true, true, false, true]
        );
        assert_eq!(
            wanted(|it| it.multicast.addresses.push(GROUP)),
            [true, false, true, true]
        );
        assert_eq!(
            wanted(|it| {
                it.multicast.overflows = true;
                it.no_multicast = true;
            }),
            [true, false, false, true]
        );
        assert_eq!(
            wanted(|it| it.multicast.overflows = true),
            [true, false, true, true]
        );
    }
}
