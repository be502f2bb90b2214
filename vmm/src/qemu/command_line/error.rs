//! Why a command line is refused.

/// Why a command line is refused. Whatever is not supported is named.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandLineError {
    /// There is no such option here.
    #[error("the option {0} is not supported")]
    Option(String),
    /// An option of QEMU's for something that is reached in another way, or not there.
    #[error("{option} is not supported: {instead}")]
    Instead {
        /// The option, with what of its value matters.
        option: String,
        /// Why, and what to do instead.
        instead: &'static str,
    },
    /// A word that is no option.
    #[error("{0:?} is not an option; options start with -")]
    NoOption(String),
    /// An option without its value.
    #[error("the option -{0} needs a value")]
    MissingValue(&'static str),
    /// A value that cannot be read.
    #[error("{option}: cannot be read: {why}")]
    Syntax {
        /// The option.
        option: String,
        /// What is wrong.
        why: String,
    },
    /// A property that is not supported.
    #[error("{option}: the property {property} is not supported")]
    Property {
        /// The option.
        option: String,
        /// The property, with its value as it was written.
        property: String,
    },
    /// A property whose value is not supported.
    #[error("{option}: {name}={value} should be {expected}")]
    Value {
        /// The option.
        option: String,
        /// The property.
        name: String,
        /// Its value.
        value: String,
        /// What could be there.
        expected: String,
    },
    /// A property whose value makes no sense.
    #[error("{option}: {name}={value}: {why}")]
    BadValue {
        /// The option.
        option: String,
        /// The property.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A property that has to be there and is not.
    #[error("{option} needs the property {name}")]
    MissingProperty {
        /// The option.
        option: String,
        /// The property.
        name: &'static str,
    },
    /// A kind of device, object or back end that is not supported.
    #[error("{option}: {name} is not supported; there are {supported}")]
    Kind {
        /// The option.
        option: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        supported: String,
    },
    /// One name twice.
    #[error("{option}: the id {id} is given twice")]
    Twice {
        /// The option.
        option: String,
        /// The id.
        id: String,
    },
    /// Something named that is nowhere.
    #[error("{option}: there is no {what} {id}")]
    Unknown {
        /// The option that names it.
        option: String,
        /// What kind of thing it would be.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// Something named that nothing uses.
    #[error("{option}: {id} is used by nothing")]
    Unused {
        /// The option.
        option: &'static str,
        /// Its id.
        id: String,
    },
    /// Options that do not go together, or one that is missing.
    #[error("{0}")]
    Combination(String),
}
