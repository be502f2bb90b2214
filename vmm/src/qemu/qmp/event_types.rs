//! The events that there are, with what each carries.

use super::types::Type::{Bool, Enum, Int, Object, Str};
use super::types::{Member, Type, optional, required};

pub(super) const DUMP_STATE: Type = Object(&[
    required("status", Enum(&["none", "active", "completed", "failed"])),
    required("completed", Int),
    required("total", Int),
]);

/// Why a guest ended or was reset.
const SHUTDOWN_CAUSES: &[&str] = &[
    "guest-panic",
    "guest-reset",
    "guest-shutdown",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
];

/// All events.
pub(super) const EVENTS: &[(&str, &[Member])] = &[
    ("BALLOON_CHANGE", &[required("actual", Int)]),
    (
        "BLOCK_IO_ERROR",
        &[
            required("qom-path", Str),
            required("device", Str),
            optional("node-name", Str),
            required("operation", Enum(&["read", "write"])),
            required("action", Enum(&["ignore", "report", "stop"])),
            optional("nospace", Bool),
            required("reason", Str),
        ],
    ),
    (
        "DUMP_COMPLETED",
        &[required("result", DUMP_STATE), optional("error", Str)],
    ),
    (
        "GUEST_PANICKED",
        &[required("action", Enum(&["pause", "poweroff"]))],
    ),
    ("POWERDOWN", &[]),
    (
        "RESET",
        &[
            required("guest", Bool),
            required("reason", Enum(SHUTDOWN_CAUSES)),
        ],
    ),
    ("RESUME", &[]),
    (
        "SHUTDOWN",
        &[
            required("guest", Bool),
            required("reason", Enum(SHUTDOWN_CAUSES)),
        ],
    ),
    ("STOP", &[]),
    (
        "VSERPORT_CHANGE",
        &[required("id", Str), required("open", Bool)],
    ),
];
