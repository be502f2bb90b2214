//! What a host that is an LPAR may have: its platform is QEMU's pseries machine, which lets its guests run guests.

use std::str::FromStr;

/// Where the registers of devices begin on the bus of such a host bridge (SPAPR_PCI_MEM_WIN_BUS_OFFSET in QEMU's
/// include/hw/pci-host/spapr.h). A DMA window there would hide them from no one, but the emulated NVMe moves no data to
/// or from addresses of its own registers (`nvme_addr_is_iomem` in hw/nvme/ctrl.c: Data Transfer Error).
const REGISTERS: u64 = 0x8000_0000;

/// A choice about the PCI host bridges of an LPAR, as `--lpar OPTION=VALUE` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LparOption {
    /// Whether its platform makes dynamic DMA windows.
    DynamicWindows(bool),
    /// Size of the default DMA window in bytes.
    WindowSize(u64),
    /// Where that starts on the bus.
    WindowStart(u64),
}

impl LparOption {
    /// The property of all host bridges of the emulator's that it is.
    pub(super) fn property(self) -> String {
        let property = match self {
            Self::DynamicWindows(true) => "ddw=on".to_owned(),
            Self::DynamicWindows(false) => "ddw=off".to_owned(),
            Self::WindowSize(bytes) => format!("dma_win_size={bytes:#x}"),
            Self::WindowStart(address) => format!("dma_win_addr={address:#x}"),
        };
        format!("spapr-pci-host-bridge.{property}")
    }
}

impl FromStr for LparOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("write it as OPTION=VALUE")?;
        match (name, value) {
            ("ddw", "on") => Ok(Self::DynamicWindows(true)),
            ("ddw", "off") => Ok(Self::DynamicWindows(false)),
            ("ddw", _) => Err("ddw is on or off".to_owned()),
            ("window-size", size) => number(size)
                .filter(|size| size.is_power_of_two() && u32::try_from(*size).is_ok())
                .map(Self::WindowSize)
                .ok_or_else(|| "window-size is a power of two up to 2G, such as 256M".to_owned()),
            ("window-start", address) => number(address)
                .filter(|address| *address < REGISTERS)
                .map(Self::WindowStart)
                .ok_or_else(|| {
                    format!("window-start is a bus address below {REGISTERS:#x}, where devices have their registers, such as 0x40000000")
                }),
            _ => Err(format!(
                "there is no {name}; there are ddw=on|off, window-size=SIZE and window-start=ADDRESS"
            )),
        }
    }
}

/// A number in hexadecimal, or in decimal with M or G behind it.
fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_properties_of_the_emulators_bridges() {
        let property = |text: &str| text.parse().map(LparOption::property);
        for (text, expected) in [
            ("ddw=off", "ddw=off"),
            ("window-size=256M", "dma_win_size=0x10000000"),
            ("window-start=0x40000000", "dma_win_addr=0x40000000"),
        ] {
            let expected = format!("spapr-pci-host-bridge.{expected}");
            assert_eq!(property(text), Ok(expected), "{text}");
        }
        for wrong in [
            "ddw",
            "ddw=1",
            "window-size=3G",
            "window-size=4G",
            "window-start=0x80000000",
            "windows=x",
            "x=1",
        ] {
            assert!(property(wrong).is_err(), "{wrong}");
        }
    }
}
