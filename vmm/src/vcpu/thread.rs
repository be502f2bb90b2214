//! A processor's thread: waits to be started, runs the guest, serves its exits.

use std::sync::Arc;

use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_kvm::exit::{Exit, OtherExit};
use spapr_kvm::kick::{KickError, VcpuKick};
use spapr_kvm::shared_area::SharedArea;
use spapr_kvm::vcpu::{EntryRegisters, Vcpu, VcpuError, lpcr, msr};
use spapr_kvm::{registers, time_base};
use vmm_sys_util::errno::Error as Errno;

use super::hypercalls::{self, Served};
use super::system_reset::SystemReset;
use crate::lifecycle::End;
use crate::partition::Partition;
use crate::partition::counters::Counters;
use crate::partition::modes::{LPCR_AIL, LPCR_ILE};
use crate::partition::pause::Wanted;
use crate::partition::processors::{Kick, StartAddress};
use log::Level;
use spapr_devices::error_chain::chain;
use spapr_devices::guest_message;

/// Why a processor cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// KVM cannot set it up.
    #[error(transparent)]
    Setup(#[from] VcpuError),
    /// It cannot be interrupted.
    #[error(transparent)]
    Kick(#[from] KickError),
    /// KVM_RUN failed.
    #[error("KVM_RUN failed at guest address {pc:#x}")]
    Run {
        /// The next instruction's address.
        pc: u64,
        /// KVM's refusal.
        source: Errno,
    },
    /// KVM stopped for a reason that no guest should bring about.
    #[error("KVM stopped the processor at guest address {pc:#x} for an unknown reason: {exit}")]
    UnknownExit {
        /// The next instruction's address.
        pc: u64,
        /// KVM's reason.
        exit: OtherExit,
    },
}

impl Kick for VcpuKick {
    fn kick(&self) {
        Self::kick(self);
    }
}

/// One processor.
pub struct Processor {
    vcpu: Vcpu,
    server: u32,
    partition: Arc<Partition>,
    kick: VcpuKick,
    counters: Counters,
}

/// Ends the machine's run when its thread panics, which is a defect here: without the processor the
/// guest would hang, and nobody would know.
struct EndOnPanic {
    partition: Arc<Partition>,
    server: u32,
}

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = format!("processor {}: its thread panicked", self.server);
            self.partition.lifecycle.end(End::Failed(text));
            // Whoever pauses the machine must not wait for this processor.
            self.partition.pause.end();
        }
    }
}

/// What a processor does next.
enum Next {
    /// Wait to be started.
    Stopped,
    /// The run is over.
    Over,
}

impl Processor {
    /// A processor with interrupt server number `server`, stopped.
    ///
    /// # Errors
    /// When KVM refuses to make it interruptible.
    pub fn new(vcpu: Vcpu, server: u32, partition: Arc<Partition>) -> Result<Self, ThreadError> {
        let kick = VcpuKick::new(&vcpu)?;
        partition
            .processors
            .set_kick(server, Box::new(kick.clone()));
        Ok(Self {
            vcpu,
            server,
            partition,
            kick,
            counters: Counters::default(),
        })
    }

    /// Runs the processor until the machine's run is over; for a thread of its own.
    pub fn run(mut self) -> Counters {
        let ends_with_a_panic = EndOnPanic {
            partition: Arc::clone(&self.partition),
            server: self.server,
        };
        let result = self
            .kick
            .enter_thread()
            .map_err(ThreadError::from)
            .and_then(|running| {
                let result = self.run_while_started();
                drop(running);
                result
            });
        if let Err(error) = result {
            let text = format!("processor {}: {}", self.server, chain(&error));
            self.partition.lifecycle.end(End::Failed(text));
        }
        drop(ends_with_a_panic);
        self.counters
    }

    fn run_while_started(&mut self) -> Result<(), ThreadError> {
        while let Some(start) = self.partition.processors.wait_for_start(self.server) {
            let Some(hidden_ticks) = self.partition.pause.enter() else {
                break;
            };
            let next = self.run_from(start, hidden_ticks);
            self.partition.pause.leave();
            match next? {
                Next::Stopped => {
                    self.vcpu.set_online(false)?;
                    self.partition.registers.forget(self.server);
                    self.partition.processors.stopped(self.server);
                }
                Next::Over => break,
            }
        }
        Ok(())
    }

    /// Runs from `start` on, with the guest's time base so many ticks behind the host's.
    fn run_from(&mut self, start: StartAddress, hidden_ticks: u64) -> Result<Next, ThreadError> {
        self.enter_at(start)?;
        self.hide_ticks(hidden_ticks)?;
        self.partition.mark_first_entry();
        self.run_until_stopped()
    }

    /// Stays out of the guest while processors are paused; returns that the run is over, if it is.
    fn rest_while_paused(&self) -> Result<Option<Next>, ThreadError> {
        loop {
            match self.partition.pause.wanted() {
                None => return Ok(None),
                Some(Wanted::StepAside) => self.partition.pause.step_aside(),
                Some(Wanted::Pause) => break,
            }
        }
        self.save_registers();
        self.partition.pause.leave();
        // Not counted in at the end; that the caller counts out once more then does no harm.
        let Some(hidden_ticks) = self.partition.pause.enter() else {
            return Ok(Some(Next::Over));
        };
        self.hide_ticks(hidden_ticks)?;
        Ok(None)
    }

    /// Keeps the registers for whoever dumps the guest while it stands still.
    fn save_registers(&self) {
        match registers::read(&self.vcpu) {
            Ok(registers) => self.partition.registers.save(self.server, registers),
            Err(error) => {
                let server = self.server;
                guest_message!(
                    Level::Error,
                    "a dump would lack processor {server}: {}",
                    chain(&error)
                );
                self.partition.registers.forget(server);
            }
        }
    }

    /// The guest's clock stands still while it is paused.
    fn hide_ticks(&self, ticks: u64) -> Result<(), ThreadError> {
        if ticks == 0 {
            return Ok(());
        }
        Ok(time_base::set_behind(&self.vcpu, ticks)?)
    }

    /// The state in which a processor starts: 64-bit, no relocation, big-endian.
    fn enter_at(&mut self, start: StartAddress) -> Result<(), ThreadError> {
        let mut gpr = [0; 32];
        gpr[3] = start.r3;
        self.apply_modes()?;
        self.vcpu.set_online(true)?;
        let entry = EntryRegisters {
            pc: start.entry,
            msr: msr::SF | msr::ME,
            gpr,
        };
        Ok(self.vcpu.set_entry(&entry)?)
    }

    fn apply_modes(&self) -> Result<(), ThreadError> {
        let mask = LPCR_ILE | LPCR_AIL | lpcr::LD;
        Ok(self
            .vcpu
            .modify_lpcr(mask, self.partition.modes.lpcr() | lpcr::LD)?)
    }

    fn run_until_stopped(&mut self) -> Result<Next, ThreadError> {
        loop {
            match self.vcpu.run_guest() {
                Ok(Exit::Hypercall) => {
                    if let Some(next) = self.serve_hypercall()? {
                        return Ok(next);
                    }
                }
                Ok(Exit::MmioRead(address, data)) => {
                    self.counters.mmio += 1;
                    self.partition.mmio_read(address, data);
                }
                Ok(Exit::MmioWrite(address, data)) => {
                    self.counters.mmio += 1;
                    self.partition.mmio_write(address, data);
                }
                Ok(Exit::Interrupted) => self.counters.interrupted += 1,
                Ok(Exit::Other(exit)) => {
                    let pc = self.pc();
                    return Err(ThreadError::UnknownExit { pc, exit });
                }
                Err(error) => {
                    if let Some(next) = self.after_failed_run(error)? {
                        return Ok(next);
                    }
                }
            }
        }
    }

    fn after_failed_run(&mut self, error: Errno) -> Result<Option<Next>, ThreadError> {
        match error.errno() {
            libc::EINTR | libc::EAGAIN => {
                self.counters.interrupted += 1;
                // First, so that a kick that comes while we look around is not lost.
                self.kick.acknowledge();
                if self.partition.processors.is_over() {
                    return Ok(Some(Next::Over));
                }
                if let Some(over) = self.rest_while_paused()? {
                    return Ok(Some(over));
                }
                self.apply_modes()?;
                if self.partition.processors.take_system_reset(self.server) {
                    self.interrupt_by_system_reset()?;
                }
                Ok(None)
            }
            _ if self.refuse_rtas_block() => Ok(None),
            _ => Err(ThreadError::Run {
                pc: self.pc(),
                source: error,
            }),
        }
    }

    #[inline]
    fn serve_hypercall(&mut self) -> Result<Option<Next>, ThreadError> {
        // None only if the exit were another one than KVM_RUN just said.
        let Some(mut call) = self.vcpu.papr_hcall() else {
            return Ok(None);
        };
        self.counters.count_hypercall(call.nr);
        match hypercalls::serve_tce(&self.partition, &mut call) {
            None => {}
            Some(false) => return Ok(None),
            Some(true) => {
                self.vcpu.rewind_to_hypercall()?;
                return Ok(None);
            }
        }
        match hypercalls::serve(&self.partition, self.server, call) {
            Served::Resume => Ok(None),
            Served::MakeAgain => {
                self.vcpu.rewind_to_hypercall()?;
                Ok(None)
            }
            Served::ModesChanged => {
                self.apply_modes()?;
                self.partition.processors.kick_all(Some(self.server));
                Ok(None)
            }
            Served::SharedArea(area) => {
                self.share(&area);
                Ok(None)
            }
            Served::Sprg0(value) => {
                self.set_sprg0(value)?;
                Ok(None)
            }
            Served::StopSelf => Ok(Some(Next::Stopped)),
            Served::End(end) => {
                // A guest that has crashed may be dumped.
                if matches!(end, End::OsTerm(_)) {
                    self.save_registers();
                }
                self.partition.lifecycle.end(end);
                // The main thread winds the run up; there is nothing more to execute here.
                Ok(Some(Next::Over))
            }
        }
    }

    /// Answers H_PARAMETER to an RTAS call whose argument block the kernel could not read; false
    /// when that is not why KVM_RUN failed.
    ///
    /// The kernel looks into every RTAS call for the interrupt controller's, and fails KVM_RUN for
    /// a block that is no RAM (EFAULT) or has too many arguments (EINVAL), with the call pending
    /// (`kvmppc_rtas_hcall` in arch/powerpc/kvm/book3s_rtas.c). A guest must not end the VMM.
    fn refuse_rtas_block(&mut self) -> bool {
        match self.vcpu.papr_hcall() {
            Some(call) if call.nr == abi::KVMPPC_H_RTAS => {
                self.counters.count_hypercall(call.nr);
                *call.ret = ReturnCode::PARAMETER.to_register();
                true
            }
            _ => false,
        }
    }

    /// Tells KVM of memory that it shares with the guest; H_RESOURCE if it takes none such now.
    fn share(&mut self, area: &SharedArea) {
        if self.vcpu.set_shared_area(area).is_err()
            && let Some(call) = self.vcpu.papr_hcall()
        {
            *call.ret = ReturnCode::RESOURCE.to_register();
        }
    }

    fn set_sprg0(&self, value: u64) -> Result<(), ThreadError> {
        let change = self
            .vcpu
            .change_registers(|registers| registers.sprg0 = value);
        Ok(change?)
    }

    /// Has the guest begin the handler of a system reset interrupt. KVM_RUN has just returned
    /// EINTR, so whatever the processor stopped for before has been completed, H_CEDE included.
    fn interrupt_by_system_reset(&self) -> Result<(), ThreadError> {
        let lpcr = self.partition.modes.lpcr();
        let change = self.vcpu.change_registers(|registers| {
            let interrupt = SystemReset::interrupt(registers.pc, registers.msr, lpcr);
            registers.pc = interrupt.pc;
            registers.msr = interrupt.msr;
            registers.srr0 = interrupt.srr0;
            registers.srr1 = interrupt.srr1;
        });
        Ok(change?)
    }

    fn pc(&self) -> u64 {
        self.vcpu.pc().unwrap_or(0)
    }
}
