//! start-cpu, stop-self and query-cpu-stopped-state (PAPR 7.3.9, "SMP Support").

use super::call::Call;
use super::{CpuState, Outcome, Platform, StartCpuError, Status};

/// Arguments: interrupt server number, entry address, r3.
pub(super) fn start_cpu(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [server, entry, r3] = call.arguments();
    call.status(match platform.start_cpu(server, entry.into(), r3.into()) {
        Ok(()) => Status::Success,
        Err(StartCpuError::NotStopped) => Status::Hardware,
        Err(StartCpuError::NoSuchCpu) => Status::Parameter,
    });
    Outcome::Done
}

/// No arguments; does not return on success.
pub(super) fn stop_self(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::Success);
    Outcome::StopSelf
}

/// Arguments: interrupt server number. Returns: 0 stopped, 1 stopping, 2 not stopped.
pub(super) fn query_cpu_stopped_state(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [server] = call.arguments();
    match platform.cpu_state(server) {
        Some(CpuState::Stopped) => call.returns(Status::Success, &[0]),
        Some(CpuState::Stopping) => call.returns(Status::Success, &[1]),
        Some(CpuState::Running) => call.returns(Status::Success, &[2]),
        None => call.status(Status::Parameter),
    }
    Outcome::Done
}
