//! The floor's loop around KVM_RUN.

use std::io::Write;

use spapr_devices::vfio::Container;
use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba};
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::{GuestMemory, HostRange};
use spapr_kvm::exit::Exit;
use spapr_kvm::vcpu::Vcpu;
use spapr_vmm::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use super::super::AnyError;
use super::super::command_line::Floor;
use super::Attached;

const PAGE_BYTES: u64 = 4096;
/// Token of power-off, as QEMU numbers it.
const POWER_OFF: u32 = 0x2003;
const LONGEST: usize = 512;

/// What is done about hypercalls.
pub(super) struct Loop<'a> {
    floor: Floor,
    ram: &'a GuestRam,
    container: Option<&'a Container>,
    list: [u64; LONGEST],
}

impl<'a> Loop<'a> {
    pub(super) fn new(floor: Floor, ram: &'a GuestRam, attached: Option<&'a Attached>) -> Self {
        Self {
            floor,
            ram,
            container: attached.map(|attached| &attached.container),
            list: [0; LONGEST],
        }
    }

    /// Runs the guest until it powers off.
    ///
    /// # Errors
    /// When KVM stops for what this guest does not bring about, or VFIO refuses a call.
    pub(super) fn run(&mut self, vcpu: &mut Vcpu) -> Result<(), AnyError> {
        loop {
            match vcpu.run_guest() {
                Ok(Exit::Hypercall) => {}
                Ok(other) => return Err(format!("KVM stopped for {other:?}").into()),
                Err(error) if error.errno() == libc::EINTR => continue,
                Err(error) => return Err(error.into()),
            }
            let Some(call) = vcpu.papr_hcall() else {
                continue;
            };
            *call.ret = match call.nr {
                abi::H_PUT_TERM_CHAR => {
                    print(call.args);
                    0
                }
                abi::KVMPPC_H_RTAS => {
                    if self.is_power_off(call.args[0]) {
                        return Ok(());
                    }
                    0
                }
                _ if self.floor == Floor::Exit => ReturnCode::FUNCTION.to_register(),
                abi::H_PUT_TCE | abi::H_PUT_TCE_INDIRECT | abi::H_STUFF_TCE => {
                    self.map(call.nr, call.args)?;
                    0
                }
                _ => ReturnCode::FUNCTION.to_register(),
            };
        }
    }

    /// The VFIO calls that a TCE call takes, with nothing checked.
    fn map(&mut self, number: u64, args: &[u64; 9]) -> Result<(), AnyError> {
        let Some(container) = self.container else {
            return Ok(());
        };
        let [_, ioba, third, count, ..] = *args;
        match number {
            abi::H_PUT_TCE if third & 3 != 0 => map_run(self.ram, container, ioba, third, 1),
            abi::H_PUT_TCE => Ok(container.unmap(Ioba(ioba), PAGE_BYTES)?),
            abi::H_STUFF_TCE => Ok(container.unmap(Ioba(ioba), count * PAGE_BYTES)?),
            _ => {
                let count = usize::try_from(count)?.min(LONGEST);
                let list = &mut self.list[..count];
                self.ram
                    .read_doublewords(GuestPhysicalAddress(third), list)?;
                map_list(self.ram, container, ioba, list)
            }
        }
    }

    fn is_power_off(&self, block: u64) -> bool {
        let token: Result<u32, _> = self.ram.mmap().read_obj(GuestAddress(block));
        token.is_ok_and(|token| u32::from_be(token) == POWER_OFF)
    }
}

/// One call for each run of pages that follow each other.
fn map_list(
    ram: &GuestRam,
    container: &Container,
    ioba: u64,
    list: &[u64],
) -> Result<(), AnyError> {
    let mut ioba = ioba;
    for run in list.chunk_by(|one, next| one + PAGE_BYTES == *next) {
        let count = run.len() as u64;
        map_run(ram, container, ioba, run[0], count)?;
        ioba += count * PAGE_BYTES;
    }
    Ok(())
}

fn map_run(
    ram: &GuestRam,
    container: &Container,
    ioba: u64,
    entry: u64,
    count: u64,
) -> Result<(), AnyError> {
    let start = GuestMemory::host_range(ram, GuestPhysicalAddress(entry & !0xfff));
    let start = start.map_or(HostVirtualAddress(0), |range| range.start);
    let bytes = count * PAGE_BYTES;
    let host = HostRange { start, bytes };
    // SAFETY: guest memory, of which no Rust reference exists; it is unmapped when the process
    // closes the container, before the memory goes.
    Ok(unsafe { container.map(Ioba(ioba), host, Permission::READ_WRITE) }?)
}

/// Passes the guest's text on.
fn print(args: &[u64; 9]) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&args[2].to_be_bytes());
    bytes[8..].copy_from_slice(&args[3].to_be_bytes());
    let length = usize::try_from(args[1]).unwrap_or(0).min(16);
    let mut stdout = std::io::stdout().lock();
    // A reader that is gone misses the rest.
    let _ = stdout.write_all(&bytes[..length]);
    let _ = stdout.flush();
}
