//! ibm,get-system-parameter and ibm,set-system-parameter (PAPR 7.3.16).

use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::call::Call;
use super::{Outcome, Platform, Status};

/// A string of what the partition may have of the machine, for `/proc/powerpc/lparcfg`.
const SPLPAR_CHARACTERISTICS: u32 = 20;
/// The partition's UUID.
const UUID: u32 = 48;

/// Arguments: parameter, address and length of a buffer, which gets the value's length in two
/// bytes and as much of the value as it has room for.
pub(super) fn get_system_parameter(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [parameter, address, length] = call.arguments();
    let value = match parameter {
        SPLPAR_CHARACTERISTICS => splpar_characteristics(platform),
        UUID => platform.uuid().to_vec(),
        _ => {
            call.status(Status::Parameter);
            return Outcome::Done;
        }
    };
    let status = store(call, address, length, &value);
    call.status(status);
    Outcome::Done
}

/// No parameter can be set.
pub(super) fn set_system_parameter(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::Parameter);
    Outcome::Done
}

/// A processor is 100 hundredths of one; memory is in MiB. The string ends with a zero byte.
fn splpar_characteristics(platform: &dyn Platform) -> Vec<u8> {
    let (cpus, max_cpus) = platform.cpu_count();
    let mut text = format!(
        "MaxEntCap={},DesMem={},DesProcs={cpus},MaxPlatProcs={max_cpus}",
        max_cpus.saturating_mul(100),
        platform.memory_bytes() >> 20,
    );
    text.push('\0');
    text.into_bytes()
}

fn store(call: &Call<'_>, address: u32, length: u32, value: &[u8]) -> Status {
    let Some(room) = length
        .checked_sub(2)
        .and_then(|room| usize::try_from(room).ok())
    else {
        return Status::ParameterBuffer;
    };
    let Ok(value_length) = u16::try_from(value.len()) else {
        return Status::Hardware;
    };
    let mut buffer = value_length.to_be_bytes().to_vec();
    buffer.extend(&value[..value.len().min(room)]);
    let address = GuestAddress(address.into());
    let memory = call.memory();
    if !memory.check_range(address, buffer.len(), Permissions::Write) {
        return Status::Parameter;
    }
    memory
        .write_slice(&buffer, address)
        .map_or(Status::Parameter, |()| Status::Success)
}
