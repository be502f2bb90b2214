//! The properties of one option: `name=value,name=value`, or a JSON object.
//!
//! Every property has to be asked for; one that nobody asked for is refused by its name.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::CommandLineError;

/// How a property's value was written.
#[derive(Clone, Debug, PartialEq)]
enum Written {
    Text(String),
    Json(Value),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Json(Value::String(text)) => f.write_str(text),
            Self::Json(value) => value.fmt(f),
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
                (Some((name, value)), _) => (name.to_owned(), value.to_owned()),
                (None, Some(implied)) if place == 0 => (implied.to_owned(), pair),
                // QEMU's older options: a name alone is "on".
                (None, _) => (pair, "on".to_owned()),
            };
            if name.is_empty() {
                return Err(CommandLineError::Syntax {
                    option: self.context.clone(),
                    why: format!("a property without a name in {text:?}"),
                });
            }
            self.values.retain(|(known, _)| *known != name);
            self.values.push((name, Written::Text(value)));
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

    /// A property of text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, CommandLineError> {
        match self.take(name) {
            None => Ok(None),
            Some(Written::Text(text) | Written::Json(Value::String(text))) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &other, "a string")),
        }
    }

    /// A property of text that has to be there.
    pub(super) fn required(&mut self, name: &'static str) -> Result<String, CommandLineError> {
        self.text(name)?
            .ok_or_else(|| CommandLineError::MissingProperty {
                option: self.context.clone(),
                name,
            })
    }

    /// A path.
    pub(super) fn path(&mut self, name: &str) -> Result<Option<PathBuf>, CommandLineError> {
        Ok(self.text(name)?.map(PathBuf::from))
    }

    /// A property that is on or off.
    pub(super) fn switch(&mut self, name: &str) -> Result<Option<bool>, CommandLineError> {
        let Some(written) = self.take(name) else {
            return Ok(None);
        };
        let value = match &written {
            Written::Json(Value::Bool(value)) => Some(*value),
            Written::Text(text) | Written::Json(Value::String(text)) => match text.as_str() {
                "on" | "yes" | "true" | "y" => Some(true),
                "off" | "no" | "false" | "n" => Some(false),
                _ => None,
            },
            Written::Json(_) => None,
        };
        value
            .map(Some)
            .ok_or_else(|| self.wrong(name, &written, "on or off"))
    }

    /// A number, decimal or, after 0x, hexadecimal.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, CommandLineError> {
        let Some(written) = self.take(name) else {
            return Ok(None);
        };
        let value = match &written {
            Written::Json(value) if value.is_u64() => value.as_u64(),
            Written::Text(text) | Written::Json(Value::String(text)) => parse_number(text),
            Written::Json(_) => None,
        };
        value
            .map(Some)
            .ok_or_else(|| self.wrong(name, &written, "a number"))
    }

    /// A number of at most 32 bits.
    pub(super) fn number32(&mut self, name: &str) -> Result<Option<u32>, CommandLineError> {
        let Some(number) = self.number(name)? else {
            return Ok(None);
        };
        match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                let written = Written::Text(number.to_string());
                Err(self.wrong(name, &written, "a number of 32 bits"))
            }
        }
    }

    /// A number of bytes; without a suffix they are units of `unit_bytes`.
    pub(super) fn size(
        &mut self,
        name: &str,
        unit_bytes: u64,
    ) -> Result<Option<u64>, CommandLineError> {
        let Some(written) = self.take(name) else {
            return Ok(None);
        };
        let value = match &written {
            // JSON numbers are bytes.
            Written::Json(value) if value.is_u64() => value.as_u64(),
            Written::Text(text) | Written::Json(Value::String(text)) => {
                parse_size(text, unit_bytes)
            }
            Written::Json(_) => None,
        };
        value
            .map(Some)
            .ok_or_else(|| self.wrong(name, &written, "a size"))
    }

    /// Checks that a property, if it is given, has one of the values that mean what there is.
    pub(super) fn only(&mut self, name: &str, allowed: &[&str]) -> Result<(), CommandLineError> {
        let Some(written) = self.take(name) else {
            return Ok(());
        };
        let text = match &written {
            Written::Json(Value::Bool(true)) => "on".to_owned(),
            Written::Json(Value::Bool(false)) => "off".to_owned(),
            other => other.to_string(),
        };
        if allowed.contains(&text.as_str()) {
            return Ok(());
        }
        Err(self.wrong(name, &written, &allowed.join(" or ")))
    }

    /// A property that has one of these values, in letters of either case.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        name: &str,
        values: &[(&str, T)],
    ) -> Result<Option<T>, CommandLineError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let found = values
            .iter()
            .find(|(known, _)| text.eq_ignore_ascii_case(known));
        match found {
            Some(&(_, value)) => Ok(Some(value)),
            None => {
                let names: Vec<_> = values.iter().map(|(known, _)| *known).collect();
                Err(self.wrong(name, &text, &names.join(" or ")))
            }
        }
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
            expected: expected.to_owned(),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), CommandLineError> {
        match self.values.into_iter().next() {
            None => Ok(()),
            Some((name, value)) => Err(CommandLineError::Property {
                option: self.context,
                name,
                value: value.to_string(),
            }),
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

/// A number, decimal or, after 0x, hexadecimal.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.starts_with('+') => None,
        None => text.parse().ok(),
    }
}

/// A number with one of QEMU's suffixes, all powers of 1024; without one, of `unit_bytes`.
fn parse_size(text: &str, unit_bytes: u64) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (_, digit) if digit.is_ascii_digit() => (text, unit_bytes),
        (at, suffix) => {
            let shift = match suffix.to_ascii_uppercase() {
                'B' => 0,
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                'P' => 50,
                _ => return None,
            };
            (&text[..at], 1 << shift)
        }
    };
    parse_number(digits)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn properties(text: &str) -> Properties {
        Properties::parse("-thing", Some("kind"), text).expect("parses")
    }

    #[test]
    fn pairs_have_an_implied_first_name_and_doubled_commas() {
        let mut pairs = properties("file,id=a,,b,path=/x=y,append=on,server");
        assert_eq!(pairs.required("kind").expect("kind"), "file");
        assert_eq!(pairs.required("id").expect("id"), "a,b");
        assert_eq!(pairs.required("path").expect("path"), "/x=y");
        assert_eq!(pairs.switch("append").expect("switch"), Some(true));
        assert_eq!(pairs.switch("server").expect("switch"), Some(true));
        pairs.finish().expect("all asked for");
    }

    #[test]
    fn json_says_the_same() {
        let mut json = properties(r#"{"kind":"vty","reg":805306368,"on":true,"hex":"0x10"}"#);
        assert_eq!(json.required("kind").expect("kind"), "vty");
        assert_eq!(json.number32("reg").expect("reg"), Some(0x3000_0000));
        assert_eq!(json.switch("on").expect("on"), Some(true));
        assert_eq!(json.number("hex").expect("hex"), Some(16));
        json.finish().expect("all asked for");
    }

    #[test]
    fn what_nobody_asked_for_is_refused_by_name() {
        let mut pairs = properties("vfio-pci,x-speed=9");
        pairs.set_kind("vfio-pci");
        pairs.ignore(&["kind"]);
        let error = pairs.finish().expect_err("refused").to_string();
        assert_eq!(
            error,
            "-thing vfio-pci: the property x-speed=9 is not supported"
        );
    }

    #[test]
    fn values_of_the_wrong_kind_are_told() {
        let error = properties("kind,reg=many").number("reg").expect_err("bad");
        assert_eq!(error.to_string(), "-thing: reg=many should be a number");
        let error = properties("kind,usb=on").only("usb", &["off"]);
        assert_eq!(
            error.expect_err("bad").to_string(),
            "-thing: usb=on should be off"
        );
        for text in ["{", "[]", "{\"a\":1", "{}{}"] {
            let parsed = Properties::parse("-thing", None, text);
            assert!(parsed.is_err() || !text.starts_with('{'), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("524288k", 1 << 20), Some(512 << 20));
        assert_eq!(parse_size("2", 1 << 20), Some(2 << 20));
        assert_eq!(parse_size("1G", 1), Some(1 << 30));
        for bad in ["", "k", "1x", "-1", "16777216T", "0x", "1.5G", "é"] {
            assert_eq!(parse_size(bad, 1), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_value_comes_back_as_it_was_written(value in "[ -~]{0,40}") {
            let text = format!("kind,name={},more=1", value.replace(',', ",,"));
            let mut pairs = properties(&text);
            prop_assert_eq!(pairs.required("name").expect("name"), value);
            prop_assert_eq!(pairs.number("more").expect("more"), Some(1));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            if let Ok(mut properties) = Properties::parse("-thing", Some("kind"), &text) {
                let _ = properties.size("kind", 1);
                let _ = properties.finish();
            }
        }
    }
}
