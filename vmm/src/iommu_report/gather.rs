//! Asking the host about its IOMMU groups.
//!
//! Which devices a group has comes from sysfs; all about windows comes from VFIO: each group is
//! put into a container of each version in turn, and the container is asked. Nothing is enabled,
//! registered or mapped on the way, and the group is closed again.

use spapr_devices::vfio::{
    Container, ContainerError, Group, GroupError, GroupMember, GroupNumber, HostPaths, IommuPolicy,
    IommuVersion, MemoryLimit, MemoryLimitError, PciAddress, PreflightError, host_page_bytes,
};
use spapr_hypercalls::locking::RegionSize;
use spapr_kvm::host;

use super::IommuReportError;
use super::libvirt::LibvirtLimit;
use super::report::{
    ContainerNeed, ContainerReport, DynamicWindow, GroupReport, Limit, LimitedWindow, Member,
    Report, State, locked, version_number,
};
use crate::cli::{IommuArguments, IommuTarget};
use crate::machine::dma_windows;
use crate::machine::locked_memory::{GroupWindows, Guest};
use crate::spec::DmaWindowSize;
use spapr_devices::error_chain::chain;

/// The driver of bridges, which are never passed through.
const BRIDGE_DRIVER: &str = "pcieport";

/// The versions of a container, best first.
const VERSIONS: [(IommuVersion, IommuPolicy); 2] = [
    (IommuVersion::V2, IommuPolicy::V2),
    (IommuVersion::V1, IommuPolicy::V1),
];

/// Asks about one group, or all of the host, for the guest that `arguments` describe.
///
/// # Errors
/// When there is no such group or device, the host has none or no VFIO for SPAPR, or something of
/// the host cannot be read. That a group cannot be taken is part of the answer.
pub fn gather(host: &HostPaths, arguments: &IommuArguments) -> Result<Report, IommuReportError> {
    let target = arguments.target;
    let numbers = match target {
        Some(IommuTarget::Group(number)) => vec![number],
        Some(IommuTarget::Device(address)) => vec![group_of(host, address)?],
        None => host.groups()?,
    };
    if numbers.is_empty() {
        return Err(IommuReportError::NoGroups);
    }
    let limit = MemoryLimit::current()?;
    let kernel_tables = kernel_tables();
    let ram_bytes = arguments.memory.0;
    let region = arguments.lock_region.map(|region| region.0);
    let region = region.unwrap_or_else(|| RegionSize::for_ram(ram_bytes));
    let backing = arguments.hugepages.map(|size| size.bytes().0);
    let backing = backing.unwrap_or_else(host_page_bytes);
    let guest = Guest {
        ram_bytes,
        ram_end: ram_bytes,
        region,
        kernel_tables: kernel_tables.unwrap_or(true),
        host_page_bytes: host_page_bytes(),
        ddw: arguments.ddw,
        largest_page: dma_windows::page_backed_by(backing.min(region.bytes())),
    };
    let device = match target {
        Some(IommuTarget::Device(address)) => Some(address),
        _ => None,
    };
    let wanted_window = arguments.dma_window.map(DmaWindowSize::bytes);
    let groups = numbers
        .into_iter()
        .map(|number| group(host, number, device, wanted_window))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(report(groups, &guest, kernel_tables, limit))
}

/// A device's group. That the device is not ready to be passed through does not matter here.
fn group_of(host: &HostPaths, address: PciAddress) -> Result<GroupNumber, PreflightError> {
    match host.find_device(address) {
        Err(absent @ PreflightError::Absent { .. }) => Err(absent),
        _ => host.group_of(address),
    }
}

/// A group as it was found.
#[derive(Debug)]
struct Found {
    number: GroupNumber,
    members: Vec<Member>,
    outcome: Outcome,
    has_eeh: Option<bool>,
}

/// What the containers of a group are, or why it cannot be taken.
type Outcome = Result<Vec<Attached>, (State, Option<String>)>;

/// What came of putting a group into a container of one version, or why nothing did.
type Attached = (IommuVersion, Result<GroupWindows, String>);

fn group(
    host: &HostPaths,
    number: GroupNumber,
    device: Option<PciAddress>,
    wanted_window: Option<u64>,
) -> Result<Found, IommuReportError> {
    let members = host.members(number)?;
    let mut has_eeh = None;
    let outcome = match obstacle(host, number, &members, device)? {
        Some(obstacle) => Err(obstacle),
        None => attach(host, number, wanted_window, &mut has_eeh)?,
    };
    let members = members.iter().map(|member| {
        let address = member.name.parse().ok();
        let interrupts = address.and_then(|it| host.interrupts(it));
        Member::new(
            member,
            interrupts,
            address.and_then(|it| host.resources(it)),
        )
    });
    Ok(Found {
        number,
        members: members.collect(),
        outcome,
        has_eeh,
    })
}

/// What is in the way of passing a group through, as far as can be seen without opening it.
fn obstacle(
    host: &HostPaths,
    number: GroupNumber,
    members: &[GroupMember],
    device: Option<PciAddress>,
) -> Result<Option<(State, Option<String>)>, PreflightError> {
    let candidates: Vec<PciAddress> = match device {
        Some(address) => vec![address],
        None => members
            .iter()
            .filter(|member| member.driver.as_deref() != Some(BRIDGE_DRIVER))
            .filter_map(|member| member.name.parse().ok())
            .collect(),
    };
    let mut refusal = None;
    for address in candidates {
        match host.find_device(address) {
            Ok(_) => return Ok(None),
            // Another device of the group may be bound to it.
            Err(error @ PreflightError::NotBoundToVfio { .. }) => {
                refusal.get_or_insert(error);
            }
            Err(error) => return preflight_state(error).map(Some),
        }
    }
    match refusal {
        Some(error) => preflight_state(error).map(Some),
        None => {
            let reason = format!("IOMMU group {number} holds no device but bridges");
            Ok(Some((State::NoDevice, Some(reason))))
        }
    }
}

/// How a group stands that is refused for `error`, unless that concerns the whole host.
fn preflight_state(error: PreflightError) -> Result<(State, Option<String>), PreflightError> {
    let state = match &error {
        PreflightError::NotBoundToVfio { .. } => State::NotBound,
        PreflightError::InHostUse { .. } => State::UsedByHost,
        PreflightError::NoPermission { .. } => State::NoPermission,
        PreflightError::NoGroupNode(_) => State::Refused,
        PreflightError::Absent { .. }
        | PreflightError::NoGroup(_)
        | PreflightError::NoContainerNode(_)
        | PreflightError::NoSuchGroup(_)
        | PreflightError::Unreadable { .. } => return Err(error),
    };
    Ok((state, Some(chain(&error))))
}

/// Opens the group for a container of each version in turn. Any of them says whether there is EEH.
fn attach(
    host: &HostPaths,
    number: GroupNumber,
    wanted_window: Option<u64>,
    has_eeh: &mut Option<bool>,
) -> Result<Outcome, IommuReportError> {
    let mut attached = Vec::new();
    for (version, policy) in VERSIONS {
        let group = match Group::open(host, number) {
            Ok(group) => group,
            Err(GroupError::Preflight(error)) => return Ok(Err(preflight_state(error)?)),
            Err(error) => {
                let state = match &error {
                    GroupError::Busy { .. } => State::HeldByAnotherProcess,
                    GroupError::NotViable { .. } => State::UsedByHost,
                    _ => State::Refused,
                };
                return Ok(Err((state, Some(chain(&error)))));
            }
        };
        match Container::attach(host, group, policy) {
            Ok(container) => {
                // Where the group has none, the kernel refuses to tell its state.
                *has_eeh = Some(container.has_eeh().unwrap_or(false));
                let windows = GroupWindows::new(*container.info(), wanted_window);
                let windows = windows.map_err(|error| error.to_string());
                attached.push((version, windows));
            }
            Err(error @ (ContainerError::NoSpapr | ContainerError::ApiVersion { .. })) => {
                return Err(error.into());
            }
            Err(error) => attached.push((version, Err(chain(&error)))),
        }
    }
    Ok(Ok(attached))
}

/// Puts together what was found.
fn report(
    found: Vec<Found>,
    guest: &Guest,
    kernel_tables: Option<bool>,
    limit: MemoryLimit,
) -> Report {
    let free: Vec<_> = found
        .iter()
        .filter_map(|group| group.outcome.as_ref().ok())
        .collect();
    let free_groups = u64::try_from(free.len()).unwrap_or(u64::MAX);
    let mut libvirt = vec![LibvirtLimit::new(guest.ram_bytes, 1)];
    let mut together = Vec::new();
    if free_groups > 1 {
        libvirt.push(LibvirtLimit::new(guest.ram_bytes, free_groups));
        together.extend(VERSIONS.iter().filter_map(|&(version, _)| {
            let kinds = kinds_of_all(&free, version)?;
            Some(ContainerNeed {
                version: version_number(version),
                groups: free_groups,
                locked: locked(guest, &kinds, &limit),
            })
        }));
    }
    let mut report = Report {
        memory_bytes: guest.ram_bytes,
        region_bytes: guest.region.bytes(),
        host_page_bytes: guest.host_page_bytes,
        ddw: guest.ddw.to_string(),
        kernel_tables,
        limit: Limit {
            limit_bytes: limit.limit_bytes,
            locked_bytes: limit.locked_bytes,
            exempt: limit.exempt,
            available_bytes: limit.available_bytes(),
            advice: None,
        },
        groups: found
            .into_iter()
            .map(|group| group_report(group, guest, &limit))
            .collect(),
        together,
        libvirt,
    };
    report.limit.advice = report
        .most_bytes()
        .and_then(|most| limit.check(most, most).err())
        .map(|shortage: MemoryLimitError| shortage.to_string());
    report
}

/// The containers of one version for all groups; `None` when one of them gets none.
fn kinds_of_all(groups: &[&Vec<Attached>], version: IommuVersion) -> Option<Vec<GroupWindows>> {
    groups
        .iter()
        .map(|attached| {
            let (_, outcome) = attached.iter().find(|(which, _)| *which == version)?;
            outcome.as_ref().ok().copied()
        })
        .collect()
}

fn group_report(found: Found, guest: &Guest, limit: &MemoryLimit) -> GroupReport {
    let (state, reason, attached) = match found.outcome {
        Ok(attached) => (State::Free, None, attached),
        Err((state, reason)) => (state, reason, Vec::new()),
    };
    let containers = attached
        .into_iter()
        .map(|(version, outcome)| ContainerReport {
            version: version_number(version),
            reason: outcome.as_ref().err().cloned(),
            locked: match &outcome {
                Ok(windows) => locked(guest, &[*windows], limit),
                Err(_) => Vec::new(),
            },
            iommu: outcome.as_ref().ok().map(|it| (&it.container).into()),
            default_window_bytes: outcome.as_ref().ok().map(GroupWindows::default_bytes),
            dynamic_window: outcome
                .as_ref()
                .ok()
                .and_then(|windows| DynamicWindow::of(guest, &windows.container)),
            limited_window: outcome
                .as_ref()
                .ok()
                .and_then(|windows| LimitedWindow::of(guest, &windows.container)),
        })
        .collect();
    GroupReport {
        group: found.number.0,
        members: found.members,
        state,
        reason,
        containers,
        eeh: found.has_eeh,
    }
}

/// Whether KVM says that it can bind TCE tables to groups; `None` when it cannot be asked.
fn kernel_tables() -> Option<bool> {
    host::open()
        .map(|kvm| host::binds_tce_tables(&kvm))
        .inspect_err(|error| log::info!("{}", chain(error)))
        .ok()
}

#[cfg(test)]
#[path = "gather_tests.rs"]
pub(super) mod tests;
