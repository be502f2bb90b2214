use super::super::device::tests::open_device;
use super::super::function::VfioFunction;
use super::super::kernel::{Call, Kernel};
use super::*;
use crate::interrupts::Signal;
use crate::pci::{FunctionBackend, InterruptKind, VectorsEnabled};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

const ENABLE: u32 = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
const DISABLE: u32 = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;

fn eventfds(count: usize) -> Vec<EventFd> {
    (0..count)
        .map(|_| EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap())
        .collect()
}

fn raw(eventfds: &[EventFd]) -> Vec<i32> {
    eventfds.iter().map(AsRawFd::as_raw_fd).collect()
}

/// The VFIO_DEVICE_SET_IRQS calls so far: index, flags and number of vectors.
fn changes() -> Vec<(u32, u32, u32)> {
    Kernel::calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::DeviceSetIrqs {
                index,
                flags,
                count,
                ..
            } => Some((index, flags, count)),
            _ => None,
        })
        .collect()
}

#[test]
fn each_vector_signals_its_own_eventfd() {
    let device = open_device(|_| {});
    let fds = eventfds(5);
    device.set_vectors(Irq::Msix, &fds).unwrap();
    Kernel::with(|k| assert_eq!(k.eventfds[&2], raw(&fds)));
    let others = eventfds(5);
    device.set_vectors(Irq::Msix, &others).unwrap();
    Kernel::with(|k| assert_eq!(k.eventfds[&2], raw(&others)));
    // The same number is set over the old ones, without disabling.
    assert_eq!(changes(), [(2, ENABLE, 5), (2, ENABLE, 5)]);
}

#[test]
fn a_growing_set_is_disabled_first_only_where_its_size_is_fixed() {
    let device = open_device(|_| {});
    device.set_vectors(Irq::Msix, &eventfds(2)).unwrap();
    device.set_vectors(Irq::Msix, &eventfds(4)).unwrap();
    assert_eq!(changes(), [(2, ENABLE, 2), (2, DISABLE, 0), (2, ENABLE, 4)]);
    let device = open_device(|k| {
        k.irqs.insert(2, (65, 1));
    });
    device.set_vectors(Irq::Msix, &eventfds(2)).unwrap();
    device.set_vectors(Irq::Msix, &eventfds(4)).unwrap();
    device.set_vectors(Irq::Msix, &eventfds(3)).unwrap();
    assert_eq!(
        changes(),
        [
            (2, ENABLE, 2),
            (2, ENABLE, 4),
            (2, DISABLE, 0),
            (2, ENABLE, 3)
        ]
    );
    Kernel::with(|k| assert_eq!(k.eventfds[&2].len(), 3));
}

#[test]
fn one_kind_of_interrupt_gives_way_to_another() {
    let device = open_device(|_| {});
    device.set_vectors(Irq::Intx, &eventfds(1)).unwrap();
    device.unmask_intx().unwrap();
    device.set_vectors(Irq::Msi, &eventfds(2)).unwrap();
    assert!(device.unmask_intx().is_err());
    Kernel::with(|k| assert_eq!(k.eventfds.keys().collect::<Vec<_>>(), [&1]));
    device.disable_vectors().unwrap();
    device.disable_vectors().unwrap();
    Kernel::with(|k| assert!(k.eventfds.is_empty()));
    device.set_vectors(Irq::Msi, &eventfds(0)).unwrap();
}

#[test]
fn more_vectors_than_the_device_or_the_host_has_are_refused_with_their_number() {
    let device = open_device(|k| k.vectors_left = 3);
    device.set_vectors(Irq::Msix, &eventfds(2)).unwrap();
    for (irq, wanted, available) in [(Irq::Msi, 9, 8), (Irq::Msix, 4, 3)] {
        let error = device.set_vectors(irq, &eventfds(wanted)).unwrap_err();
        let expected = IrqError::TooMany {
            address: device.address(),
            irq,
            wanted,
            available,
        };
        assert_eq!(error, expected);
        let message = error.to_string();
        assert!(message.contains(&format!("cannot have {wanted} {irq} vectors")));
        Kernel::with(|k| assert!(k.eventfds.is_empty()));
    }
}

#[test]
fn a_function_says_how_many_vectors_the_host_has_left() {
    let signals = |count| -> Vec<_> {
        let events = eventfds(count).into_iter().map(Arc::new);
        events.map(Signal::from).collect()
    };
    let function = VfioFunction::new(open_device(|k| k.vectors_left = 3), None).unwrap();
    let set = |count| function.set_interrupts(InterruptKind::MsiX, &signals(count));
    assert_eq!(set(3).unwrap(), VectorsEnabled::All);
    function.disable_interrupts(InterruptKind::MsiX).unwrap();
    assert_eq!(set(4).unwrap(), VectorsEnabled::AtMost(3));
    Kernel::with(|k| assert!(k.eventfds.is_empty()));
}

#[test]
fn a_refusal_leaves_no_interrupt_enabled() {
    let device = open_device(|_| {});
    device.set_vectors(Irq::Msix, &eventfds(2)).unwrap();
    Kernel::calls();
    // Call 0 asks what there is; call 1 sets the same number anew and fails; call 2 disables.
    Kernel::with(|k| k.fail = Some((1, libc::ENOMEM)));
    let error = device.set_vectors(Irq::Msix, &eventfds(2)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("MSI-X of PCI device 0001:01:00.0")
    );
    Kernel::with(|k| assert!(k.eventfds.is_empty()));
    Kernel::with(|k| k.fail = None);
    device.set_vectors(Irq::Msix, &eventfds(2)).unwrap();
}

#[test]
fn notices_are_set_beside_interrupts_and_taken_back() {
    let device = open_device(|k| {
        k.irqs.remove(&3);
    });
    let fds = eventfds(1);
    device.set_vectors(Irq::Msix, &fds).unwrap();
    device.set_notice(Irq::Request, Some(&fds[0])).unwrap();
    Kernel::with(|k| assert_eq!(k.eventfds[&4], raw(&fds)));
    device.set_notice(Irq::Request, None::<&EventFd>).unwrap();
    Kernel::with(|k| assert_eq!(k.eventfds.keys().collect::<Vec<_>>(), [&2]));
    // This device gives no error notice.
    let error = device.set_notice(Irq::Error, Some(&fds[0])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("error notice of PCI device 0001:01:00.0")
    );
    assert!(device.irq_info(Irq::Error).is_err());
}

#[test]
fn notices_and_interrupts_are_not_taken_for_each_other() {
    let device = open_device(|_| {});
    let fds = eventfds(1);
    let error = device.set_vectors(Irq::Error, &fds).unwrap_err();
    assert_eq!(error, IrqError::WrongKind(Irq::Error));
    let error = device.set_notice(Irq::Msi, Some(&fds[0])).unwrap_err();
    assert_eq!(error, IrqError::WrongKind(Irq::Msi));
    let info = device.irq_info(Irq::Intx).unwrap();
    assert!(info.automasked && !info.maskable && !info.no_resize && info.count == 1);
}
