//! Whether the kernel's handler of H_PUT_TCE_INDIRECT checks where a list's range ends.
//!
//! Before Linux 7 it checks the first page alone (`iommu_tce_check_ioba` in arch/powerpc/kernel/iommu.c ignored the count), so that a guest
//! writes entries behind the host's table with a list that starts at the window's last page. The fix came
//! without a mark that could be asked for, so it is tried: a VM of its own, with a processor that runs some
//! instructions and a table that no hardware stands behind, passes a list of two entries for the last page
//! of the table. Both entries name memory that the VM does not have, which the handler finds out before it
//! writes the first one, so nothing is written in any case:
//!
//! | the kernel | answers |
//! |---|---|
//! | checks the range, as PAPR has it | H_PARAMETER, at once |
//! | does not | leaves the call to user space (H_TOO_HARD), for the memory it does not know |
//!
//! A list of one entry comes first: it must be left to user space, or the answer to the other one means
//! something else (`kvmppc_h_put_tce_indirect` in arch/powerpc/kvm/book3s_64_vio.c).

use std::sync::Arc;

use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::world::Geometry;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::errno;

use crate::host::{self, Capabilities, HostError, Kvm};
use crate::memory_slots::{MemorySlotError, MemorySlots};
use crate::tce_table::{TceTable, TceTableError};
use crate::vcpu::{EntryRegisters, Vcpu, VcpuError, msr};
use crate::vm::VmError;

/// Memory of the VM, whole host pages of any size.
const RAM_BYTES: usize = 1 << 20;
/// Where the list is.
const LIST: u64 = 0x8_0000;
/// An entry that names memory the VM does not have, to be read and written.
const BEYOND_RAM: u64 = 0x1000_0000 | 3;
/// The hypercall with which the processor stops when the kernel has answered; KVM knows none of this number.
const ANSWERED: u64 = 0x3ff8;
/// The same, when an exception has come.
const EXCEPTION: u64 = 0x3ff4;
/// A processor that stops for other things more often than this does not do what it was told.
const MOST_RUNS: usize = 16;

const LIOBN: Liobn = Liobn::of_pci_window(0, 0);

/// Why the kernel could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum ListCheckError {
    /// There is no VM for it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It has no memory.
    #[error("cannot map {RAM_BYTES:#x} bytes")]
    Map(#[from] vm_memory::mmap::FromRangesError),
    /// Its memory cannot be written.
    #[error("cannot write its memory")]
    Write(#[from] vm_memory::GuestMemoryError),
    /// Its memory is not the VM's.
    #[error(transparent)]
    Slot(#[from] MemorySlotError),
    /// It has no table.
    #[error(transparent)]
    Table(#[from] TceTableError),
    /// KVM refused something for the VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// KVM refused something for its processor.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The processor cannot be made or run.
    #[error("KVM cannot {0} its processor")]
    Run(&'static str, #[source] errno::Error),
    /// The processor does something else.
    #[error("its vCPU stopped before it had made the calls")]
    Astray,
}

/// How the kernel met a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Answered(ReturnCode),
    LeftToUserSpace,
}

/// Whether the kernel has been shown to refuse a list that ends outside of its window.
///
/// # Errors
/// [`ListCheckError`]: it has not been shown.
pub fn checks_where_lists_end(kvm: &Kvm) -> Result<bool, ListCheckError> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM_BYTES)])?;
    let vm = Arc::new(host::create_vm(kvm)?);
    let slots = MemorySlots::new(Arc::clone(&vm), Capabilities::of(&vm).max_memory_slots);
    let start = memory.get_host_address(GuestAddress(0))?;
    // SAFETY: the memory outlives the VM's processor, which runs in this function alone.
    unsafe {
        slots.add(
            GuestPhysicalAddress(0),
            HostVirtualAddress(start as u64),
            RAM_BYTES as u64,
        )?;
    }
    // KVM rounds up to entries that fill a host page: a whole one, so that the end is where we think.
    let entries = host_page_bytes() / size_of::<u64>() as u64;
    let geometry = Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries,
    };
    let table = TceTable::new(&vm, LIOBN, geometry)?;
    vm.enable_hcall(abi::H_PUT_TCE_INDIRECT, true)?;
    write_program(&memory)?;
    let mut vcpu = vm
        .create_vcpu(0)
        .map_err(|source| ListCheckError::Run("make", source))?;
    vcpu.enable_papr()?;
    vcpu.set_online(true)?;
    let last_page = (entries - 1) << PageShift::SIZE_4K.get();
    let one = put_list(&mut vcpu, last_page, 1)?;
    let two = put_list(&mut vcpu, last_page, 2)?;
    drop(vcpu);
    drop(table);
    log::debug!("lists for the last page of a window: one entry {one:?}, two {two:?}");
    Ok(one == Met::LeftToUserSpace && two == Met::Answered(ReturnCode::PARAMETER))
}

/// Instructions, little-endian (Power ISA, I 2 and 3.3).
const SC_1: u32 = 0x4400_0022;
const MR_4_3: u32 = 0x7c64_1b78;

const fn li_3(value: u64) -> u32 {
    0x3860_0000 | (value & 0x7fff) as u32
}

/// At 0 a hypercall with the registers as they are, and one that tells its answer; at each exception's
/// place one that tells of it.
fn write_program(memory: &GuestMemoryMmap<()>) -> Result<(), ListCheckError> {
    let write = |address: u64, program: &[u32]| {
        let bytes: Vec<u8> = program.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write_slice(&bytes, GuestAddress(address))
    };
    write(0, &[SC_1, MR_4_3, li_3(ANSWERED), SC_1])?;
    for place in (0x100..0x4000).step_by(0x20) {
        write(place, &[li_3(EXCEPTION), SC_1])?;
    }
    let list = [BEYOND_RAM; 2];
    let bytes: Vec<u8> = list.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    Ok(memory.write_slice(&bytes, GuestAddress(LIST))?)
}

/// Passes so many entries of the list for `ioba`.
fn put_list(vcpu: &mut Vcpu, ioba: u64, count: u64) -> Result<Met, ListCheckError> {
    let mut gpr = [0; 32];
    gpr[3..8].copy_from_slice(&[abi::H_PUT_TCE_INDIRECT, LIOBN.0.into(), ioba, LIST, count]);
    vcpu.set_entry(&EntryRegisters {
        pc: 0,
        msr: msr::SF | msr::ME | msr::LE,
        gpr,
    })?;
    vcpu.clear_immediate_exit();
    for _ in 0..MOST_RUNS {
        match vcpu.run_guest() {
            Ok(_) => {}
            Err(error) if error.errno() == libc::EINTR => continue,
            Err(error) => return Err(ListCheckError::Run("run", error)),
        }
        let Some(call) = vcpu.papr_hcall() else {
            return Err(ListCheckError::Astray);
        };
        return match call.nr {
            abi::H_PUT_TCE_INDIRECT => Ok(Met::LeftToUserSpace),
            ANSWERED => Ok(Met::Answered(ReturnCode(call.args[0].cast_signed()))),
            _ => Err(ListCheckError::Astray),
        };
    }
    Err(ListCheckError::Astray)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exception_has_a_program_and_the_list_is_the_guests_byte_order() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        write_program(&memory).unwrap();
        let word = |address| memory.read_obj::<u32>(GuestAddress(address)).unwrap();
        assert_eq!(u32::from_le(word(0)), 0x4400_0022);
        // li r3, 0x3ff8
        assert_eq!(u32::from_le(word(8)), 0x3860_3ff8);
        // System reset, program check, hypervisor virtualization.
        for place in [0x100, 0x700, 0xea0] {
            assert_eq!(u32::from_le(word(place)), 0x3860_3ff4);
        }
        let entry = memory.read_obj::<u64>(GuestAddress(LIST + 8)).unwrap();
        assert_eq!(u64::from_be(entry), BEYOND_RAM);
    }
}
