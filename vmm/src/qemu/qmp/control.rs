//! Commands that change what the guest does.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::commands::{Answer, Request};
use super::error::QmpError;

pub(super) fn stop(request: &mut Request<'_>) -> Answer {
    request.monitor.guest.stop();
    Ok(json!({}))
}

pub(super) fn cont(request: &mut Request<'_>) -> Answer {
    let done = request.monitor.guest.cont();
    done.map_err(|error| QmpError::Generic(error.to_string()))?;
    Ok(json!({}))
}

pub(super) fn system_reset(request: &mut Request<'_>) -> Answer {
    request.monitor.guest.reset();
    Ok(json!({}))
}

pub(super) fn system_powerdown(request: &mut Request<'_>) -> Answer {
    request.monitor.guest.power_down();
    Ok(json!({}))
}

pub(super) fn inject_nmi(request: &mut Request<'_>) -> Answer {
    let done = request.monitor.guest.inject_nmi();
    done.map_err(|error| QmpError::Generic(error.to_string()))?;
    Ok(json!({}))
}

pub(super) fn quit(request: &mut Request<'_>) -> Answer {
    request.monitor.guest.quit();
    Ok(json!({}))
}

pub(super) fn migrate_set_capabilities(request: &mut Request<'_>) -> Answer {
    let all = request
        .arguments
        .get("capabilities")
        .and_then(Value::as_array);
    // Checked before: each is the one that there is.
    for capability in all.into_iter().flatten() {
        let state = capability["state"].as_bool().unwrap_or_default();
        request
            .monitor
            .migration_events
            .store(state, Ordering::Relaxed);
    }
    Ok(json!({}))
}
