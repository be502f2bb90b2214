//! Configuration space of PCI functions, by RTAS (PAPR 7.3.4).

use crate::machine::{HostBridge, Machine, PciFunction};
use crate::rtas;

const COMMAND: u32 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;

/// A function's configuration space.
#[derive(Clone, Copy, Debug)]
pub struct ConfigSpace {
    read_token: u32,
    write_token: u32,
    buid: [u32; 2],
    address: u32,
}

impl ConfigSpace {
    /// That of `function`, which is behind `bridge`; `None` when the machine lacks the services.
    pub fn of(
        machine: &Machine<'_>,
        bridge: &HostBridge<'_>,
        function: &PciFunction<'_>,
    ) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bridge.buid.to_be_bytes();
        Some(Self {
            read_token: machine.rtas_token("ibm,read-pci-config")?,
            write_token: machine.rtas_token("ibm,write-pci-config")?,
            buid: [
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
            ],
            address: function.config_address,
        })
    }

    /// Lets the function decode its memory BARs, and do DMA or not.
    pub fn enable(&self, bus_master: bool) {
        let command = self.read(COMMAND) & 0xffff & !COMMAND_BUS_MASTER | COMMAND_MEMORY;
        let mastering = if bus_master { COMMAND_BUS_MASTER } else { 0 };
        self.write(COMMAND, command | mastering);
    }

    /// The word of four bytes at `register`.
    pub fn read(&self, register: u32) -> u32 {
        let [high, low] = self.buid;
        let mut returns = [0; 2];
        // SAFETY: the service changes no memory but the returns.
        unsafe {
            rtas::call(
                self.read_token,
                &[self.address | register, high, low, 4],
                &mut returns,
            )
        };
        if returns[0] != 0 {
            rtas::stop_with("configuration space cannot be read");
        }
        returns[1]
    }

    /// Writes two bytes at `register`.
    fn write(&self, register: u32, value: u32) {
        let [high, low] = self.buid;
        let mut returns = [0];
        // SAFETY: the service changes no memory but the return; where a device does DMA to is ruled
        // by the DMA windows.
        unsafe {
            rtas::call(
                self.write_token,
                &[self.address | register, high, low, 2, value],
                &mut returns,
            )
        };
        if returns[0] != 0 {
            rtas::stop_with("configuration space cannot be written");
        }
    }
}
