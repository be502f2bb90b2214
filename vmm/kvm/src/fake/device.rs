//! Devices that KVM makes: interrupt controllers, and the one that knows VFIO groups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::powerpc64::{
    KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE, KVM_DEV_XICS_GRP_CTRL,
    KVM_DEV_XICS_GRP_SOURCES, KVM_DEV_XIVE_GRP_CTRL, KVM_DEV_XIVE_GRP_EQ_CONFIG,
    KVM_DEV_XIVE_GRP_SOURCE, KVM_DEV_XIVE_GRP_SOURCE_CONFIG, KVM_DEV_XIVE_GRP_SOURCE_SYNC,
    KVM_DEV_XIVE_NR_SERVERS, KVM_DEV_XIVE_RESET, KVM_XIVE_ESB_PAGE_OFFSET, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO as VFIO, kvm_device_type_KVM_DEV_TYPE_XICS as XICS,
    kvm_device_type_KVM_DEV_TYPE_XIVE as XIVE, kvm_ppc_xive_eq, kvm_vfio_spapr_tce,
};
use parking_lot::Mutex;
use spapr_devices::interrupts::Lisn;
use spapr_devices::interrupts::xive::{PAGE_BYTES, SOURCE_BYTES};
use vmm_sys_util::errno;

use super::state::{Object, Shared, file_of};

const VFIO_GROUP_ADD: u64 = KVM_DEV_VFIO_GROUP_ADD as u64;
const VFIO_GROUP_SET_SPAPR_TCE: u64 = KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE as u64;
const XIVE_NR_SERVERS: u64 = KVM_DEV_XIVE_NR_SERVERS as u64;
const XIVE_RESET: u64 = KVM_DEV_XIVE_RESET as u64;

/// A device.
#[derive(Debug)]
pub(crate) struct DeviceFd {
    kind: u32,
    /// Its pages.
    pages: File,
    state: Mutex<DeviceState>,
    _object: Object,
}

#[derive(Debug, Default)]
struct DeviceState {
    /// By group and attribute.
    values: BTreeMap<(u32, u64), Vec<u8>>,
    /// VFIO groups that it was told of.
    groups: BTreeSet<i32>,
}

impl DeviceFd {
    pub(super) fn new(shared: &Shared, kind: u32) -> errno::Result<Self> {
        let is_there = |(what, id): &(&str, u64)| *what == "device" && *id == u64::from(kind);
        if shared.lock().alive().iter().any(is_there) {
            return Err(errno::Error::new(libc::EEXIST));
        }
        let bytes = match kind {
            XIVE => {
                let sources = u64::from(Lisn::END.0) * SOURCE_BYTES;
                u64::from(KVM_XIVE_ESB_PAGE_OFFSET) * PAGE_BYTES + sources
            }
            XICS | VFIO => 0,
            _ => return Err(errno::Error::new(libc::ENODEV)),
        };
        let object = shared.make("KVM_CREATE_DEVICE", kind.into(), "device", kind.into())?;
        Ok(Self {
            kind,
            pages: file_of(bytes)?,
            state: Mutex::default(),
            _object: object,
        })
    }

    pub(crate) fn has_attr(&self, attribute: &kvm_device_attr) -> bool {
        self.value_bytes(attribute).is_some()
    }

    /// # Safety
    /// As of the kernel's: see `real`.
    pub(crate) unsafe fn set_attr(&self, attribute: &kvm_device_attr) -> errno::Result<()> {
        let unknown = || errno::Error::new(libc::ENXIO);
        let bytes = self.value_bytes(attribute).ok_or_else(unknown)?;
        let mut value = vec![0; bytes];
        let from = std::ptr::with_exposed_provenance::<u8>(address(attribute));
        // SAFETY: the caller vouches for the address, which has as many bytes as the attribute takes.
        unsafe { std::ptr::copy_nonoverlapping(from, value.as_mut_ptr(), bytes) };
        let mut state = self.state.lock();
        match self.kind {
            VFIO => state.set_vfio(attribute, &value),
            XIVE => state.set_xive(attribute, value),
            _ => {
                state
                    .values
                    .insert((attribute.group, attribute.attr), value);
                Ok(())
            }
        }
    }

    /// # Safety
    /// As of the kernel's: see `real`.
    pub(crate) unsafe fn get_attr(&self, attribute: &mut kvm_device_attr) -> errno::Result<()> {
        let state = self.state.lock();
        let value = state.values.get(&(attribute.group, attribute.attr));
        let value = value.ok_or_else(|| errno::Error::new(libc::ENOENT))?;
        let to = std::ptr::with_exposed_provenance_mut::<u8>(address(attribute));
        // SAFETY: the caller vouches for the address, which has room for what the attribute has.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, value.len()) };
        Ok(())
    }

    /// How many bytes an attribute has; none if there is no such attribute.
    fn value_bytes(&self, attribute: &kvm_device_attr) -> Option<usize> {
        let bytes = match (self.kind, attribute.group, attribute.attr) {
            (VFIO, _, VFIO_GROUP_ADD)
            | (XICS, KVM_DEV_XICS_GRP_CTRL, _)
            | (XIVE, KVM_DEV_XIVE_GRP_CTRL, XIVE_NR_SERVERS) => 4,
            (VFIO, _, VFIO_GROUP_SET_SPAPR_TCE) => size_of::<kvm_vfio_spapr_tce>(),
            (XIVE, KVM_DEV_XIVE_GRP_CTRL, XIVE_RESET) => 0,
            (XICS, KVM_DEV_XICS_GRP_SOURCES, _)
            | (
                XIVE,
                KVM_DEV_XIVE_GRP_SOURCE
                | KVM_DEV_XIVE_GRP_SOURCE_CONFIG
                | KVM_DEV_XIVE_GRP_SOURCE_SYNC,
                _,
            ) => 8,
            (XIVE, KVM_DEV_XIVE_GRP_EQ_CONFIG, _) => size_of::<kvm_ppc_xive_eq>(),
            _ => return None,
        };
        Some(bytes)
    }
}

impl DeviceState {
    fn set_vfio(&mut self, attribute: &kvm_device_attr, value: &[u8]) -> errno::Result<()> {
        let group = value.first_chunk().copied().map(i32::from_ne_bytes);
        let group = group.unwrap_or(-1);
        let refusal = if attribute.attr == VFIO_GROUP_ADD {
            (!self.groups.insert(group)).then_some(libc::EEXIST)
        } else {
            (!self.groups.contains(&group)).then_some(libc::ENOENT)
        };
        refusal.map_or(Ok(()), |errno| Err(errno::Error::new(errno)))
    }

    fn set_xive(&mut self, attribute: &kvm_device_attr, value: Vec<u8>) -> errno::Result<()> {
        let kvm_device_attr { group, attr, .. } = *attribute;
        let is_source = [KVM_DEV_XIVE_GRP_SOURCE_CONFIG, KVM_DEV_XIVE_GRP_SOURCE_SYNC];
        let was_made = self.values.contains_key(&(KVM_DEV_XIVE_GRP_SOURCE, attr));
        if is_source.contains(&group) && !was_made {
            return Err(errno::Error::new(libc::ENOENT));
        }
        if group == KVM_DEV_XIVE_GRP_CTRL && attr == XIVE_RESET {
            let stays = |(group, _): &(u32, u64), _: &mut Vec<u8>| {
                ![KVM_DEV_XIVE_GRP_EQ_CONFIG, KVM_DEV_XIVE_GRP_SOURCE_CONFIG].contains(group)
            };
            self.values.retain(stays);
            return Ok(());
        }
        self.values.insert((group, attr), value);
        Ok(())
    }
}

fn address(attribute: &kvm_device_attr) -> usize {
    usize::try_from(attribute.addr).unwrap_or_default()
}

impl AsRawFd for DeviceFd {
    fn as_raw_fd(&self) -> RawFd {
        self.pages.as_raw_fd()
    }
}
