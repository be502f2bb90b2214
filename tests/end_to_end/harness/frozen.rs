//! Having the host's hardware freeze a device: the emulated bridge never does so by itself, but keeps the state of
//! each partitionable endpoint in a table, where firmware and kernel find it (docs/lab.md).

use std::fs;
use std::path::Path;

use super::registers::Registers;

/// Registers of a POWER9's and POWER10's PCI host bridge: which entry of its tables is to be accessed, and that entry.
const TABLE_ADDRESS: usize = 0x220;
const TABLE_DATA: usize = 0x228;
/// Tables by endpoint: whether its registers are frozen, whether its DMA is stopped, and 64 to an entry, whether either.
const FROZEN: u64 = 7;
const STOPPED: u64 = 8;
const ERRORS: u64 = 20;
/// Bit 0 in IBM's numbering.
const FIRST_BIT: u64 = 1 << 63;

/// Freezes the endpoint of the device at `address` on the host.
pub(crate) fn freeze(address: &str) {
    let device = Path::new("/sys/bus/pci/devices").join(address);
    let endpoint = fs::read_to_string(device.join("eeh_pe_config_addr")).expect("no EEH");
    let endpoint = u64::from_str_radix(endpoint.trim().trim_start_matches("0x"), 16);
    let endpoint = endpoint.expect("the number of the endpoint");
    let mut bridge = Registers::of_bridge(address);
    let select = |bridge: &mut Registers, table: u64, entry: u64| {
        bridge.write_u64(TABLE_ADDRESS, table << 48 | entry);
    };
    for table in [FROZEN, STOPPED] {
        select(&mut bridge, table, endpoint);
        bridge.write_u64(TABLE_DATA, FIRST_BIT);
    }
    select(&mut bridge, ERRORS, endpoint / 64);
    let errors = bridge.read_u64(TABLE_DATA);
    bridge.write_u64(TABLE_DATA, errors | FIRST_BIT >> (endpoint % 64));
}
