//! What a PCI device is called: its vendor and itself, by the list of ids that distributions ship.

use std::fs;
use std::path::Path;

use super::report::{GroupReport, State};

/// Where distributions have the list: Debian's pci.ids and Fedora's hwdata.
const LISTS: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// The list of ids of this host; empty where there is none.
#[derive(Debug, Default)]
pub struct Names(String);

impl Names {
    /// That of this host.
    pub fn of_host() -> Self {
        let lists = LISTS.iter().filter_map(|path| fs::read(path).ok());
        let list = lists.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self(list.into_iter().next().unwrap_or_default())
    }

    /// What the device at `address` is: its vendor's name and its own as far as the list has them, and its numbers,
    /// `VENDOR:DEVICE` in hexadecimal digits as `lspci -n` has them. `None` for what has no numbers in sysfs.
    pub fn of(&self, sys: &Path, address: &str) -> Option<String> {
        let folder = sys.join("bus/pci/devices").join(address);
        let number = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            let digits = text.trim().strip_prefix("0x")?;
            u16::from_str_radix(digits, 16).ok()
        };
        let (vendor, device) = (number("vendor")?, number("device")?);
        let mut words = self.find(vendor, device);
        words.push(format!("[{vendor:04x}:{device:04x}]"));
        Some(words.join(" "))
    }

    /// The names of a vendor and of its device. A vendor's line begins with its number, those of its devices follow
    /// behind a tab, those of their subsystems behind two.
    fn find(&self, vendor: u16, device: u16) -> Vec<String> {
        let (vendor, device) = (format!("{vendor:04x}  "), format!("\t{device:04x}  "));
        let mut lines = self.0.lines();
        let Some(name) = lines.by_ref().find_map(|line| line.strip_prefix(&vendor)) else {
            return Vec::new();
        };
        let mut of_vendor =
            lines.take_while(|line| line.starts_with(['\t', '#']) || line.is_empty());
        let own = of_vendor.find_map(|line| line.strip_prefix(&device));
        [Some(name), own]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect()
    }
}

/// What devices are, a line for each; a bridge's name says nothing to whoever passes through what is behind it.
pub(super) fn lines(groups: &[GroupReport]) -> String {
    let members = groups.iter().filter(|group| group.state != State::NoDevice);
    let members = members.flat_map(|group| &group.members);
    let lines = members.filter_map(|it| Some(format!("{} is {}\n", it.name, it.model.as_ref()?)));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# a comment\n1b36  Red Hat, Inc.\n\t0010  QEMU NVM Express Controller\n\t\t1af4 1100  other\n\
                        8086  Intel Corporation\n\t10d3  82574L Gigabit Network Connection\nC 00  Unclassified\n";

    #[test]
    fn a_device_has_its_vendors_name_its_own_and_its_numbers() {
        let sys = tempfile::tempdir().unwrap();
        let names = Names(LIST.to_owned());
        let device = |vendor: &str, device: &str| {
            let folder = sys.path().join("bus/pci/devices/0001:01:00.0");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("vendor"), vendor).unwrap();
            fs::write(folder.join("device"), device).unwrap();
            names.of(sys.path(), "0001:01:00.0")
        };
        let nvme = "Red Hat, Inc. QEMU NVM Express Controller [1b36:0010]";
        assert_eq!(device("0x1b36\n", "0x0010\n").as_deref(), Some(nvme));
        // A device of the next vendor is not this one's.
        assert_eq!(
            device("0x1b36\n", "0x10d3\n").as_deref(),
            Some("Red Hat, Inc. [1b36:10d3]")
        );
        assert_eq!(
            device("0x1234\n", "0x10d3\n").as_deref(),
            Some("[1234:10d3]")
        );
        assert_eq!(names.of(sys.path(), "0002:01:00.0"), None);
        assert_eq!(device("x\n", "0x10d3\n"), None);
    }
}
