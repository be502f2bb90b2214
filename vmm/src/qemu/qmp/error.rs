//! Errors as QMP tells them.

use serde_json::{Value, json};

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QmpError {
    /// For a reason without a class of its own.
    #[error("{0}")]
    Generic(String),
    /// There is no such command, or not now.
    #[error("{0}")]
    CommandNotFound(String),
    /// There is no such device or type.
    #[error("{0}")]
    DeviceNotFound(String),
    /// A device that would have to be there is not.
    #[error("{0}")]
    DeviceNotActive(&'static str),
}

impl QmpError {
    /// The error as an object.
    pub(super) fn to_json(&self) -> Value {
        let class = match self {
            Self::Generic(_) => "GenericError",
            Self::CommandNotFound(_) => "CommandNotFound",
            Self::DeviceNotFound(_) => "DeviceNotFound",
            Self::DeviceNotActive(_) => "DeviceNotActive",
        };
        json!({"class": class, "desc": self.to_string()})
    }
}
