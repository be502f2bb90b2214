//! What the documents have a reader type.

mod long;
