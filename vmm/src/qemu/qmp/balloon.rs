//! What commands about the memory balloon do.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use spapr_devices::virtio::balloon::{BalloonControl, STATISTICS};

use super::commands::{Answer, Request};
use super::error::QmpError;

/// Its property with what the guest tells of its memory, and the one with the seconds between two such words.
const GUEST_STATS: &str = "guest-stats";
const INTERVAL: &str = "guest-stats-polling-interval";

/// The properties that an object of its type has beside those of all.
pub(super) const PROPERTIES: [(&str, &str); 2] =
    [(GUEST_STATS, "guest statistics"), (INTERVAL, "int")];

/// The longest interval in seconds.
const MOST_SECONDS: u64 = u32::MAX as u64;

fn balloon<'a>(request: &'a Request<'_>) -> Result<&'a Arc<BalloonControl>, QmpError> {
    let balloon = request.monitor.facts.balloon.as_ref();
    let none = QmpError::DeviceNotActive("No balloon device has been activated");
    balloon.map(|facts| &facts.control).ok_or(none)
}

/// The balloon, if it is the object at `path`.
pub(super) fn at<'a>(request: &'a Request<'_>, path: &str) -> Option<&'a Arc<BalloonControl>> {
    let facts = request.monitor.facts.balloon.as_ref()?;
    let id = facts.device.as_ref()?;
    let own = path
        .trim_end_matches('/')
        .strip_prefix("/machine/peripheral/")?;
    (own == id).then_some(&facts.control)
}

pub(super) fn query_balloon(request: &mut Request<'_>) -> Answer {
    Ok(json!({"actual": balloon(request)?.left_bytes()}))
}

pub(super) fn balloon_to(request: &mut Request<'_>) -> Answer {
    let control = balloon(request)?;
    let value = request.number("value").unwrap_or(0);
    let bytes = u64::try_from(value).ok().filter(|bytes| *bytes != 0);
    let bytes = bytes.ok_or_else(|| {
        QmpError::Generic(format!(
            "Parameter 'value' expects a size of more than 0, not {value}"
        ))
    })?;
    control.leave(bytes);
    Ok(json!({}))
}

/// A property of the balloon's; `None` if it has no such.
pub(super) fn get(control: &BalloonControl, property: &str) -> Option<Value> {
    match property {
        GUEST_STATS => Some(statistics(control)),
        INTERVAL => Some(control.interval_seconds().into()),
        _ => None,
    }
}

fn statistics(control: &BalloonControl) -> Value {
    let told = control.statistics();
    let values = STATISTICS.iter().zip(told.values);
    // As QEMU has it, what was not told is the largest number.
    let values = values.map(|(name, value)| ((*name).to_owned(), value.unwrap_or(u64::MAX).into()));
    let values: Map<String, Value> = values.collect();
    json!({"stats": values, "last-update": told.seconds})
}

pub(super) fn qom_set(request: &mut Request<'_>) -> Answer {
    let path = request.text("path").unwrap_or_default();
    let property = request.text("property").unwrap_or_default();
    let (Some(control), INTERVAL) = (at(request, path), property) else {
        return Err(QmpError::Generic(format!(
            "Property '{property}' of '{path}' cannot be set"
        )));
    };
    let value = request.arguments.get("value").and_then(Value::as_u64);
    let seconds = value.filter(|seconds| *seconds <= MOST_SECONDS);
    let seconds = seconds.ok_or_else(|| {
        QmpError::Generic(format!(
            "Property '{INTERVAL}' expects a number of seconds, 0 to {MOST_SECONDS}"
        ))
    })?;
    control.set_interval_seconds(seconds);
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::super::answers;
    use super::super::commands::ask;
    use super::*;
    use crate::qemu::monitor::sample::monitor;

    const PATH: &str = "/machine/peripheral/balloon0";

    #[test]
    fn a_balloons_size_is_what_its_driver_says_and_not_what_is_asked_for() {
        let (monitor, _events) = monitor();
        let asked = ask(&monitor, balloon_to, &json!({"value": 1 << 29}));
        assert_eq!(asked, Ok(json!({})));
        let size = ask(&monitor, query_balloon, &json!({}));
        assert_eq!(size, Ok(json!({"actual": 1 << 30})));
        for value in [0, -1] {
            assert!(ask(&monitor, balloon_to, &json!({ "value": value })).is_err());
        }
    }

    #[test]
    fn statistics_are_asked_for_by_the_objects_properties_as_libvirt_does() {
        let (monitor, _events) = monitor();
        let listed = ask(&monitor, answers::qom_list, &json!({"path": PATH})).unwrap();
        let listed = listed.as_array().cloned().unwrap_or_default();
        assert!(
            listed.contains(&json!({"name": INTERVAL, "type": "int"})),
            "{listed:?}"
        );
        let set = |value: Value| {
            let arguments = json!({"path": PATH, "property": INTERVAL, "value": value});
            ask(&monitor, qom_set, &arguments)
        };
        assert_eq!(set(json!(10)), Ok(json!({})));
        let get = |property: &str| {
            let arguments = json!({"path": PATH, "property": property});
            ask(&monitor, answers::qom_get, &arguments)
        };
        assert_eq!(get(INTERVAL), Ok(json!(10)));
        for wrong in [json!(-1), json!("10"), json!(1_u64 << 40)] {
            assert!(set(wrong).is_err());
        }
        let told = get(GUEST_STATS).unwrap();
        assert_eq!(told["stats"]["stat-free-memory"], json!(u64::MAX));
        assert_eq!(told["last-update"], 0);
        assert!(get("other").is_err());
        let elsewhere = json!({"path": "/machine", "property": INTERVAL, "value": 1});
        assert!(ask(&monitor, qom_set, &elsewhere).is_err());
    }
}
