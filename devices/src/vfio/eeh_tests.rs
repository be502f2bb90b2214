use super::super::device::tests::open_device;
use super::super::kernel::{Call, Kernel};
use super::*;

/// The container of a group on a host that has these, and an endpoint in this state.
fn container(has_eeh: bool, endpoint: Option<u32>) -> Arc<Container> {
    let device = open_device(|kernel| {
        if has_eeh {
            kernel.extensions.push(VFIO_EEH);
        }
        kernel.endpoint = endpoint;
    });
    Kernel::calls();
    Arc::clone(device.container())
}

#[test]
fn a_group_has_eeh_where_the_kernel_has_it_and_tells_its_endpoint_s_state() {
    let normal = Some(VFIO_EEH_PE_STATE_NORMAL);
    for (has_eeh, endpoint, expected) in [
        (true, normal, true),
        (true, None, false),
        (false, normal, false),
        (false, None, false),
    ] {
        let container = container(has_eeh, endpoint);
        let found = VfioEndpoint::of(&container).is_some();
        assert_eq!(found, expected, "{has_eeh} {endpoint:?}");
    }
}

#[test]
fn each_request_is_one_operation_and_each_state_is_told() {
    let container = container(true, Some(VFIO_EEH_PE_STATE_STOPPED));
    let endpoint = VfioEndpoint::of(&container).unwrap();
    Kernel::calls();
    for (request, operation, state) in [
        (PeRequest::Disable, 0, PeState::Stopped),
        (PeRequest::Enable, 1, PeState::Stopped),
        (PeRequest::ThawIo, 2, PeState::DmaStopped),
        (PeRequest::ThawDma, 3, PeState::Normal),
        (PeRequest::HotReset, 6, PeState::Reset),
        (PeRequest::EndReset, 5, PeState::Normal),
        (PeRequest::FundamentalReset, 7, PeState::Reset),
        (PeRequest::Configure, 8, PeState::Reset),
    ] {
        endpoint.request(request).unwrap();
        assert_eq!(endpoint.state().unwrap(), state, "{request:?}");
        let asked = [Call::Eeh(operation), Call::Eeh(VFIO_EEH_PE_GET_STATE)];
        assert_eq!(Kernel::calls(), asked, "{request:?}");
    }
    // What a later kernel may say beside these.
    Kernel::with(|kernel| kernel.endpoint = Some(9));
    assert_eq!(endpoint.state().unwrap(), PeState::Unavailable);
    Kernel::with(|kernel| kernel.endpoint = None);
    let error = endpoint.state().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    let error = endpoint.request(PeRequest::HotReset).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn an_error_is_injected_at_an_address_that_the_firmware_chooses() {
    let container = container(true, Some(VFIO_EEH_PE_STATE_NORMAL));
    let endpoint = VfioEndpoint::of(&container).unwrap();
    Kernel::calls();
    let error = |is_64_bit, function| PeError {
        is_64_bit,
        function,
    };
    endpoint.inject(error(false, 0)).unwrap();
    endpoint
        .inject(error(true, PeError::LAST_FUNCTION))
        .unwrap();
    let asked = [
        Call::InjectError(0, 0, 0, 0),
        Call::InjectError(1, 19, 0, 0),
    ];
    assert_eq!(Kernel::calls(), asked);
    assert_eq!(endpoint.state().unwrap(), PeState::Stopped);
    let refused = endpoint.inject(error(true, 20)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}
