//! Finding JSON values in a stream of bytes, with bounded memory.

/// The most bytes of one value.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// What was found in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Text that is an object or an array as far as its brackets tell.
    Value(Vec<u8>),
    /// Bytes that begin no value, up to a line's end or the next value.
    Junk,
    /// A value larger than [`MOST_BYTES`], which was dropped.
    TooLarge,
}

/// A byte that is no part of any text in UTF-8. Clients send it to start afresh, as QEMU's guest
/// agent and monitor have it.
const START_AFRESH: u8 = 0xff;

/// Splits a stream into values.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    bytes: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between values.
    #[default]
    Between,
    /// In bytes that are no value, until the line ends.
    Junk,
    /// In a value.
    Value {
        /// Brackets that are open.
        depth: usize,
        /// In a string.
        string: bool,
        /// After a backslash.
        escaped: bool,
        /// Whether it is too large to be kept.
        dropped: bool,
    },
}

impl Splitter {
    /// Takes in more of the stream; calls `found` for all that ends in it.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Found)) {
        for &byte in bytes {
            if let Some(end) = self.next(byte) {
                found(end);
            }
        }
    }

    /// Bytes kept for a value that has not ended.
    #[cfg(test)]
    fn kept_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    fn next(&mut self, byte: u8) -> Option<Found> {
        if byte == START_AFRESH {
            let was_between = self.state == State::Between;
            self.reset();
            return (!was_between).then_some(Found::Junk);
        }
        match self.state {
            State::Between => self.between(byte),
            State::Junk => match byte {
                b'\n' => {
                    self.reset();
                    Some(Found::Junk)
                }
                b'{' | b'[' => {
                    self.open(byte);
                    Some(Found::Junk)
                }
                _ => None,
            },
            State::Value {
                depth,
                string,
                escaped,
                dropped,
            } => self.in_value(byte, depth, string, escaped, dropped),
        }
    }

    fn between(&mut self, byte: u8) -> Option<Found> {
        match byte {
            b'{' | b'[' => self.open(byte),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.state = State::Junk,
        }
        None
    }

    fn open(&mut self, byte: u8) {
        self.bytes.push(byte);
        self.state = State::Value {
            depth: 1,
            string: false,
            escaped: false,
            dropped: false,
        };
    }

    fn in_value(
        &mut self,
        byte: u8,
        depth: usize,
        string: bool,
        escaped: bool,
        dropped: bool,
    ) -> Option<Found> {
        let dropped = dropped || self.bytes.len() >= MOST_BYTES;
        if dropped {
            self.bytes = Vec::new();
        } else {
            self.bytes.push(byte);
        }
        let (depth, string, escaped) = if string {
            match byte {
                _ if escaped => (depth, true, false),
                b'\\' => (depth, true, true),
                b'"' => (depth, false, false),
                _ => (depth, true, false),
            }
        } else {
            match byte {
                b'"' => (depth, true, false),
                b'{' | b'[' => (depth.saturating_add(1), false, false),
                b'}' | b']' => (depth - 1, false, false),
                _ => (depth, false, false),
            }
        };
        if depth > 0 {
            self.state = State::Value {
                depth,
                string,
                escaped,
                dropped,
            };
            return None;
        }
        let value = std::mem::take(&mut self.bytes);
        self.reset();
        Some(if dropped {
            Found::TooLarge
        } else {
            Found::Value(value)
        })
    }

    fn reset(&mut self) {
        self.bytes = Vec::new();
        self.state = State::Between;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<Found> {
        let mut splitter = Splitter::default();
        let mut found = Vec::new();
        for piece in pieces {
            splitter.feed(piece, |end| found.push(end));
        }
        found
    }

    fn value(text: &str) -> Found {
        Found::Value(text.as_bytes().to_vec())
    }

    #[test]
    fn values_may_come_in_any_pieces() {
        let found = all(&[b"{\"execute\":\"st", b"op\"}\r\n{\"a\":[1,{}]", b"}[]"]);
        let expected = ["{\"execute\":\"stop\"}", "{\"a\":[1,{}]}", "[]"];
        assert_eq!(found, expected.map(value));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = r#"{"a":"}]\"}","b":"\\"}"#;
        assert_eq!(all(&[text.as_bytes()]), [value(text)]);
    }

    #[test]
    fn junk_is_told_of_once_and_forgotten() {
        assert_eq!(
            all(&[b"hello\n", b"12 {}"]),
            [Found::Junk, Found::Junk, value("{}")]
        );
        let mut splitter = Splitter::default();
        let mut count = 0;
        splitter.feed(&vec![b'x'; MOST_BYTES], |_| count += 1);
        assert_eq!((count, splitter.kept_bytes()), (0, 0));
    }

    #[test]
    fn a_byte_that_is_no_text_starts_afresh() {
        assert_eq!(all(&[b"{\"half\": \xff{}"]), [Found::Junk, value("{}")]);
        assert_eq!(all(&[b"\xff\xff{}"]), [value("{}")]);
    }

    #[test]
    fn a_value_too_large_is_dropped_and_the_next_one_found() {
        let mut splitter = Splitter::default();
        let mut found = Vec::new();
        splitter.feed(b"{\"a\":\"", |end| found.push(end));
        for _ in 0..40 {
            splitter.feed(&vec![b'x'; 1 << 16], |end| found.push(end));
            assert!(splitter.kept_bytes() <= 2 * MOST_BYTES);
        }
        splitter.feed(b"\"}\n{}", |end| found.push(end));
        assert_eq!(found, [Found::TooLarge, value("{}")]);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(|it| json!(it)),
            any::<i64>().prop_map(|it| json!(it)),
            ".*".prop_map(|it| json!(it)),
        ];
        let nested = leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|it| json!(it)),
                prop::collection::hash_map(".*", inner, 0..4).prop_map(|it| json!(it)),
            ]
        });
        nested.prop_map(|inner| json!({ "value": inner }))
    }

    proptest! {
        #[test]
        fn every_value_is_found_whole(
            values in prop::collection::vec(any_json(), 0..4), pieces in 1usize..50
        ) {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            let stream = texts.join("\r\n");
            let pieces: Vec<&[u8]> = stream.as_bytes().chunks(pieces).collect();
            let expected: Vec<Found> = texts.iter().map(|text| value(text)).collect();
            prop_assert_eq!(all(&pieces), expected);
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_much(
            bytes in prop::collection::vec(any::<u8>(), 0..3000)
        ) {
            let mut splitter = Splitter::default();
            splitter.feed(&bytes, |_| {});
            prop_assert!(splitter.kept_bytes() <= 4096);
        }
    }
}
