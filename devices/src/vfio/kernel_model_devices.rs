//! The model's calls on groups and devices.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::errno::Error as Errno;

use super::{Call, Kernel, error, run};

pub(in super::super) fn group_get_status(
    _: BorrowedFd<'_>,
    status: &mut vfio_group_status,
) -> Result<(), Errno> {
    assert_eq!(status.argsz, 8);
    run(Call::GroupGetStatus, |kernel| {
        status.flags = if kernel.viable {
            VFIO_GROUP_FLAGS_VIABLE
        } else {
            0
        };
        Ok(())
    })
}

pub(in super::super) fn group_set_container(
    _: BorrowedFd<'_>,
    _: BorrowedFd<'_>,
) -> Result<(), Errno> {
    run(Call::GroupSetContainer, |kernel| {
        kernel.has_container = true;
        Ok(())
    })
}

pub(in super::super) fn group_unset_container(_: BorrowedFd<'_>) -> Result<(), Errno> {
    run(Call::GroupUnsetContainer, |kernel| {
        kernel.has_container = false;
        kernel.windows.clear();
        Ok(())
    })
}

pub(in super::super) fn group_get_device_fd(
    _: BorrowedFd<'_>,
    name: &CStr,
) -> Result<OwnedFd, Errno> {
    let name = name.to_str().unwrap();
    let shown = name.split_once(" vf_token=").map(|(_, token)| token);
    run(Call::GroupGetDevice(name.to_owned()), |kernel| {
        match (shown, kernel.vf_token) {
            (Some(_), None) => return error(libc::EINVAL),
            (shown, wanted) if shown != wanted => return error(libc::EACCES),
            _ => {}
        }
        match &kernel.device {
            Some(file) => Ok(file.try_clone().unwrap().into()),
            None => error(libc::ENODEV),
        }
    })
}

pub(in super::super) fn device_get_info(
    _: BorrowedFd<'_>,
    info: &mut vfio_device_info,
) -> Result<(), Errno> {
    assert_eq!(info.argsz, 24);
    run(Call::DeviceGetInfo, |kernel| {
        info.flags = kernel.device_flags;
        info.num_regions = 9;
        info.num_irqs = 5;
        Ok(())
    })
}

pub(in super::super) fn device_get_region_info(
    _: BorrowedFd<'_>,
    words: &mut [u32],
) -> Result<(), Errno> {
    let index = words[2];
    run(Call::DeviceGetRegionInfo(index), |kernel| {
        let empty = vec![0; 8];
        let answer = kernel.regions.get(&index).unwrap_or(&empty);
        let fits = if answer.len() <= words.len() {
            answer.len()
        } else {
            8
        };
        words[..fits].copy_from_slice(&answer[..fits]);
        // Where capabilities do not fit, only their size is told.
        words[0] = u32::try_from(answer.len() * 4).unwrap();
        words[2] = index;
        if fits < answer.len() {
            words[3] = 0;
        }
        Ok(())
    })
}

pub(in super::super) fn device_get_irq_info(
    _: BorrowedFd<'_>,
    info: &mut vfio_irq_info,
) -> Result<(), Errno> {
    assert_eq!(info.argsz, 16);
    run(Call::DeviceGetIrqInfo(info.index), |kernel| {
        let Some(&(count, flags)) = kernel.irqs.get(&info.index) else {
            return error(libc::EINVAL);
        };
        (info.count, info.flags) = (count, flags);
        Ok(())
    })
}

pub(in super::super) fn device_set_irqs(
    _: BorrowedFd<'_>,
    words: &mut [u32],
) -> Result<u32, Errno> {
    let (flags, index, start, count) = (words[1], words[2], words[3], words[4]);
    assert_eq!(start, 0);
    let fds: Vec<i32> = words[5..].iter().map(|fd| fd.cast_signed()).collect();
    let call = Call::DeviceSetIrqs {
        index,
        flags,
        count,
        fds: fds.clone(),
    };
    run(call, |kernel| set_irqs(kernel, index, flags, count, fds))
}

fn set_irqs(
    kernel: &mut Kernel,
    index: u32,
    flags: u32,
    count: u32,
    fds: Vec<i32>,
) -> Result<u32, Errno> {
    let interrupts = VFIO_PCI_INTX_IRQ_INDEX..=VFIO_PCI_MSIX_IRQ_INDEX;
    let Some(&(_, info)) = kernel.irqs.get(&index) else {
        return error(libc::EINVAL);
    };
    if flags & VFIO_IRQ_SET_ACTION_UNMASK != 0 {
        let enabled = kernel.eventfds.contains_key(&index);
        return if enabled { Ok(0) } else { error(libc::EINVAL) };
    }
    if flags & VFIO_IRQ_SET_DATA_EVENTFD != 0 {
        assert_eq!(fds.len(), count as usize);
    }
    if count == 0 || fds == [-1] {
        kernel.eventfds.remove(&index);
        return Ok(0);
    }
    if interrupts.contains(&index) {
        let other = kernel
            .eventfds
            .keys()
            .any(|&other| interrupts.contains(&other) && other != index);
        let grows = kernel
            .eventfds
            .get(&index)
            .is_some_and(|now| now.len() < fds.len());
        if other || (grows && info & VFIO_IRQ_INFO_NORESIZE != 0) {
            return error(libc::EINVAL);
        }
        if count > kernel.vectors_left {
            return Ok(kernel.vectors_left);
        }
    }
    kernel.eventfds.insert(index, fds);
    Ok(0)
}

pub(in super::super) fn device_reset(_: BorrowedFd<'_>) -> Result<(), Errno> {
    run(Call::DeviceReset, |kernel| {
        if kernel.resets_refused == 0 {
            return Ok(());
        }
        kernel.resets_refused -= 1;
        error(libc::EAGAIN)
    })
}

pub(in super::super) fn device_get_hot_reset_info(
    _: BorrowedFd<'_>,
    words: &mut [u32],
) -> Result<(), Errno> {
    run(Call::DeviceHotResetInfo, |kernel| {
        let Some(bus) = &kernel.bus else {
            return error(libc::ENODEV);
        };
        words[2] = u32::try_from(bus.len()).unwrap();
        if words.len() < 3 + 2 * bus.len() {
            return error(libc::ENOSPC);
        }
        for (to, &(group, domain, bus, devfn)) in words[3..].chunks_mut(2).zip(bus) {
            let [low, high] = domain.to_ne_bytes();
            to.copy_from_slice(&[group, u32::from_ne_bytes([low, high, bus, devfn])]);
        }
        Ok(())
    })
}

pub(in super::super) fn device_hot_reset(_: BorrowedFd<'_>, groups: &[i32]) -> Result<(), Errno> {
    run(
        Call::DeviceHotReset(groups.to_vec()),
        |kernel| match kernel.bus {
            None => error(libc::ENODEV),
            Some(_) if groups.is_empty() => error(libc::EINVAL),
            Some(_) => Ok(()),
        },
    )
}
