//! Options of one value: words between commas.

/// Splits at single commas; a double one stands for itself, as in QEMU's options.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, parts.last_mut()) {
            (',', Some(part)) if characters.next_if_eq(&',').is_some() => part.push(','),
            (',', _) => parts.push(String::new()),
            (other, Some(part)) => part.push(other),
            (_, None) => {}
        }
    }
    parts
}
