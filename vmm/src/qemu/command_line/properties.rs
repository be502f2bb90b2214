//! The properties of one option: `name=value,name=value`, or a JSON object.
//!
//! Every property has to be asked for; one that nobody asked for is refused by its name.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde_json::Value;
use spapr_devices::pci::DeviceFunction;
use spapr_devices::vfio::PciAddress;
use uuid::Uuid;

use super::{CommandLineError, instead, values};
use crate::spec::choice::{self, Choice};
use crate::spec::{ByteSize, DmaWindowSize};

/// How a property's value was written.
#[derive(Clone, Debug, PartialEq)]
enum Written {
    Text(String),
    /// As the word alone, which turns it on or off: `server`, `nowait`.
    Word {
        word: String,
        on: bool,
    },
    Json(Value),
}

impl Written {
    /// Its text; `None` when it is something else.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Json(Value::String(text)) => Some(text),
            Self::Word { on, .. } => Some(if *on { "on" } else { "off" }),
            Self::Json(_) => None,
        }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.text(), self) {
            (Some(text), _) => f.write_str(text),
            (None, Self::Json(value)) => value.fmt(f),
            (None, _) => Ok(()),
        }
    }
}

/// The properties of one occurrence of an option.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    /// What errors call it: `-device vfio-pci`, say.
    context: String,
    values: Vec<(String, Written)>,
}

impl Properties {
    /// Reads `text`, the value of `option`. `implied` is the name of a first property that is
    /// written as its value alone, as in `-chardev pty,id=x`.
    ///
    /// As in QEMU's "keyval" syntax, a comma in a value is doubled, and later properties of a name
    /// replace earlier ones.
    pub(super) fn parse(
        option: &'static str,
        implied: Option<&str>,
        text: &str,
    ) -> Result<Self, CommandLineError> {
        let mut properties = Self {
            context: option.to_owned(),
            values: Vec::new(),
        };
        if text.starts_with('{') {
            properties.read_json(text)?;
        } else {
            properties.read_pairs(implied, text)?;
        }
        Ok(properties)
    }

    fn read_json(&mut self, text: &str) -> Result<(), CommandLineError> {
        let error = |why: String| CommandLineError::Syntax {
            option: self.context.clone(),
            why,
        };
        let parsed: Value = serde_json::from_str(text).map_err(|json| error(json.to_string()))?;
        let Value::Object(object) = parsed else {
            return Err(error("no JSON object".to_owned()));
        };
        self.values = object
            .into_iter()
            .map(|(name, value)| (name, Written::Json(value)))
            .collect();
        Ok(())
    }

    fn read_pairs(&mut self, implied: Option<&str>, text: &str) -> Result<(), CommandLineError> {
        for (place, pair) in split_pairs(text).into_iter().enumerate() {
            let (name, value) = match (pair.split_once('='), implied) {
                (Some((name, value)), _) => (name.to_owned(), Written::Text(value.to_owned())),
                (None, Some(implied)) if place == 0 => (implied.to_owned(), Written::Text(pair)),
                (None, _) => {
                    let (name, on) = values::flag(&pair);
                    (
                        name.to_owned(),
                        Written::Word {
                            word: pair.clone(),
                            on,
                        },
                    )
                }
            };
            if name.is_empty() {
                return Err(CommandLineError::Syntax {
                    option: self.context.clone(),
                    why: format!("a property without a name in {text:?}"),
                });
            }
            self.values.retain(|(known, _)| *known != name);
            self.values.push((name, value));
        }
        Ok(())
    }

    /// Adds what is set to the name that errors use.
    pub(super) fn set_kind(&mut self, kind: &str) {
        self.context = format!("{} {kind}", self.context);
    }

    /// What errors call the option.
    pub(super) fn context(&self) -> &str {
        &self.context
    }

    fn take(&mut self, name: &str) -> Option<Written> {
        let place = self.values.iter().position(|(known, _)| known == name)?;
        Some(self.values.remove(place).1)
    }

    /// The text of a property that stays to be read, if it is given.
    pub(super) fn peek(&self, name: &str) -> Option<String> {
        let mut values = self.values.iter();
        let found = values.find(|(known, _)| known == name);
        found.map(|(_, written)| written.to_string())
    }

    /// Takes underscores in names for dashes, as QEMU does in some options (`keyval_dashify`).
    pub(super) fn dashed(mut self) -> Self {
        for (name, _) in &mut self.values {
            *name = name.replace('_', "-");
        }
        self
    }

    /// Takes an object's members for properties with a dot in their names, as QEMU does: `cache.direct`.
    pub(super) fn flattened(mut self) -> Self {
        let mut flat = Vec::new();
        for (name, written) in self.values {
            match written {
                Written::Json(Value::Object(members)) => {
                    let members = members.into_iter();
                    flat.extend(
                        members.map(|(member, value)| {
                            (format!("{name}.{member}"), Written::Json(value))
                        }),
                    );
                }
                written => flat.push((name, written)),
            }
        }
        self.values = flat;
        self
    }

    /// A property of text that JSON may have as null, too.
    pub(super) fn text_or_null(
        &mut self,
        name: &str,
    ) -> Result<Option<Option<String>>, CommandLineError> {
        self.read(name, "a string or null", |written| match written {
            Written::Json(Value::Null) => Some(None),
            written => Some(Some(written.text()?.to_owned())),
        })
    }

    /// A property of text that JSON may have as true or false, too, which are `on` and `off`.
    pub(super) fn text_or_switch(
        &mut self,
        name: &str,
    ) -> Result<Option<String>, CommandLineError> {
        self.read(name, "a string", |written| match written {
            Written::Json(Value::Bool(on)) => Some(if *on { "on" } else { "off" }.to_owned()),
            written => written.text().map(str::to_owned),
        })
    }

    /// Reads a property, if it is given; what cannot be read should be `expected`.
    fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Written) -> Option<T>,
    ) -> Result<Option<T>, CommandLineError> {
        let Some(written) = self.take(name) else {
            return Ok(None);
        };
        match read(&written) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(name, &written, expected)),
        }
    }

    /// A property of text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, CommandLineError> {
        self.read(name, "a string", |written| {
            written.text().map(str::to_owned)
        })
    }

    /// A property of text that has to be there.
    pub(super) fn required(&mut self, name: &'static str) -> Result<String, CommandLineError> {
        self.text(name)?
            .ok_or_else(|| CommandLineError::MissingProperty {
                option: self.context.clone(),
                name,
            })
    }

    /// A property that has one of `choices`, by its name in letters of either case.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        name: &str,
        choices: &[Choice<T>],
    ) -> Result<Option<T>, CommandLineError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let found = choice::find(choices, &text);
        let value = found.ok_or_else(|| self.wrong(name, &text, &choice::names(choices)))?;
        Ok(Some(value))
    }

    /// A path.
    pub(super) fn path(&mut self, name: &str) -> Result<Option<PathBuf>, CommandLineError> {
        Ok(self.text(name)?.map(PathBuf::from))
    }

    /// A property that is on or off.
    pub(super) fn switch(&mut self, name: &str) -> Result<Option<bool>, CommandLineError> {
        self.read(name, "on or off", switch)
    }

    /// Checks that a property, if it is given, is on, or off, as it is here in any case.
    pub(super) fn always(&mut self, name: &str, on: bool) -> Result<(), CommandLineError> {
        let expected = if on { "on" } else { "off" };
        let given = self.read(name, expected, |written| {
            switch(written).filter(|given| *given == on)
        });
        given.map(drop)
    }

    /// Checks that a property that makes no difference here is on or off, if it is given.
    pub(super) fn either(&mut self, name: &str) -> Result<(), CommandLineError> {
        self.switch(name).map(drop)
    }

    /// A number of at most 32 bits.
    pub(super) fn number32(&mut self, name: &str) -> Result<Option<u32>, CommandLineError> {
        self.read(name, "a number up to 4294967295", |written| {
            u32::try_from(number(written)?).ok()
        })
    }

    /// A number of at most 64 bits.
    pub(super) fn number64(&mut self, name: &str) -> Result<Option<u64>, CommandLineError> {
        self.read(name, "a number", number)
    }

    /// A number of at most 16 bits for which `is_good`; another should be `expected`.
    pub(super) fn number16(
        &mut self,
        name: &str,
        expected: &str,
        is_good: impl Fn(u16) -> bool,
    ) -> Result<Option<u16>, CommandLineError> {
        let Some(given) = self.number32(name)? else {
            return Ok(None);
        };
        let number = u16::try_from(given).ok().filter(|number| is_good(*number));
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &given, expected)),
        }
    }

    /// An open file descriptor.
    pub(super) fn descriptor(&mut self, name: &str) -> Result<Option<RawFd>, CommandLineError> {
        let expected = "the number of an open file descriptor";
        self.read(name, expected, |written| {
            RawFd::try_from(number(written)?).ok()
        })
    }

    /// A port of TCP.
    pub(super) fn port(&mut self, name: &str) -> Result<Option<u16>, CommandLineError> {
        self.read(name, "a number up to 65535", |written| {
            u16::try_from(number(written)?).ok()
        })
    }

    /// The size of a default DMA window: a number of bytes in any base, or with a unit.
    pub(super) fn dma_window(
        &mut self,
        name: &str,
    ) -> Result<Option<DmaWindowSize>, CommandLineError> {
        let expected = "a size such as 0x40000000 or 1G";
        let bytes = self.read(name, expected, |written| {
            number(written).or_else(|| Some(ByteSize::parse(written.text()?, 1).ok()?.0))
        })?;
        let size = bytes.map(|bytes| {
            DmaWindowSize::new(bytes).map_err(|why| self.bad(name, &format!("{bytes:#x}"), why))
        });
        size.transpose()
    }

    /// A number of bytes; without a unit they are units of `unit_bytes`. JSON numbers are bytes.
    pub(super) fn size(
        &mut self,
        name: &str,
        unit_bytes: u64,
    ) -> Result<Option<u64>, CommandLineError> {
        let expected = "a size such as 512M, 1.5G or 2GiB";
        self.read(name, expected, |written| match written.text() {
            Some(text) => Some(ByteSize::parse(text, unit_bytes).ok()?.0),
            None => number(written),
        })
    }

    /// An address of a device on the host.
    pub(super) fn host_address(
        &mut self,
        name: &'static str,
    ) -> Result<Option<PciAddress>, CommandLineError> {
        let expected = "a PCI address such as 0001:01:00.0";
        self.read(name, expected, |written| written.text()?.parse().ok())
    }

    /// A UUID.
    pub(super) fn uuid(&mut self, name: &'static str) -> Result<Option<Uuid>, CommandLineError> {
        let expected = "a UUID such as bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
        self.read(name, expected, |written| written.text()?.parse().ok())
    }

    /// Device and function on a bus of the guest's. A JSON number has both in one byte.
    pub(super) fn place(&mut self, name: &str) -> Result<Option<DeviceFunction>, CommandLineError> {
        let expected = "a slot such as 0x1 or 0x1.0x2";
        self.read(name, expected, |written| match written.text() {
            Some(text) => text.parse().ok(),
            None => Some(DeviceFunction::from_byte(number(written)?.try_into().ok()?)),
        })
    }

    /// Checks that a property, if it is given, has one of the values that mean what there is.
    pub(super) fn only(&mut self, name: &str, allowed: &[&str]) -> Result<(), CommandLineError> {
        let expected = allowed.join(" or ");
        let given = self.read(name, &expected, |written| {
            allowed
                .contains(&written.to_string().as_str())
                .then_some(())
        });
        given.map(drop)
    }

    /// Takes properties that change nothing here, whatever their value.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            drop(self.take(name));
        }
    }

    /// An error about a property's value.
    pub(super) fn wrong(
        &self,
        name: &str,
        value: &dyn fmt::Display,
        expected: &str,
    ) -> CommandLineError {
        CommandLineError::Value {
            option: self.context.clone(),
            name: name.to_owned(),
            value: value.to_string(),
            expected: match instead::of_value(&self.context, name) {
                Some(xml) => format!("{expected} (in a libvirt domain: {xml})"),
                None => expected.to_owned(),
            },
        }
    }

    /// An error about a property's value, in the words of whoever knows what is wrong with it.
    pub(super) fn bad(&self, name: &str, value: &str, why: String) -> CommandLineError {
        CommandLineError::BadValue {
            option: self.context.clone(),
            name: name.to_owned(),
            value: value.to_owned(),
            why,
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), CommandLineError> {
        match self.values.into_iter().next() {
            None => Ok(()),
            Some((name, value)) => {
                let property = match value {
                    Written::Word { word, .. } => word,
                    value => format!("{name}={value}"),
                };
                let option = self.context;
                Err(match instead::of_property(&option, &name) {
                    Some(instead) => CommandLineError::Instead {
                        option: format!("{option}: the property {property}"),
                        instead,
                    },
                    None => CommandLineError::Property { option, property },
                })
            }
        }
    }
}

/// Splits at single commas; a double one stands for itself.
fn split_pairs(text: &str) -> Vec<String> {
    let mut pairs = Vec::new();
    let mut pair = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ',' if characters.next_if_eq(&',').is_some() => pair.push(','),
            ',' => pairs.push(std::mem::take(&mut pair)),
            other => pair.push(other),
        }
    }
    if !pair.is_empty() {
        pairs.push(pair);
    }
    pairs
}

fn switch(written: &Written) -> Option<bool> {
    match (written.text(), written) {
        (Some(text), _) => values::boolean(text),
        (None, Written::Json(value)) => value.as_bool(),
        (None, _) => None,
    }
}

fn number(written: &Written) -> Option<u64> {
    match (written.text(), written) {
        (Some(text), _) => values::number(text),
        (None, Written::Json(value)) => value.as_u64(),
        (None, _) => None,
    }
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
