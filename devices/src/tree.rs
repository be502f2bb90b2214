//! The device tree as data (Devicetree Specification v0.4, chapter 2; IEEE 1275): what each part of a machine says
//! of itself. Who boots a guest renders it as a blob.

use std::borrow::Cow;

/// A node: its properties, and the nodes below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    name: String,
    properties: Vec<Property>,
    children: Vec<Node>,
}

/// A property of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name. PAPR has some that are longer than the 31 characters of the Devicetree Specification.
    pub name: Cow<'static, str>,
    /// Its value, big-endian.
    pub value: Vec<u8>,
}

/// A property's name.
type Name = Cow<'static, str>;

impl Node {
    /// A node named `name`, with its unit address if it has one: `memory@0`. The root's name is empty.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// With a property of bytes.
    #[must_use]
    pub fn bytes(mut self, name: impl Into<Name>, value: impl Into<Vec<u8>>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.properties.push(Property { name, value });
        self
    }

    /// With a property that says all by being there.
    #[must_use]
    pub fn flag(self, name: impl Into<Name>) -> Self {
        self.bytes(name, [])
    }

    /// With a property of one cell.
    #[must_use]
    pub fn cell(self, name: impl Into<Name>, value: u32) -> Self {
        self.bytes(name, value.to_be_bytes())
    }

    /// With a property of one cell, if there is a value.
    #[must_use]
    pub fn optional_cell(self, name: impl Into<Name>, value: Option<u32>) -> Self {
        match value {
            Some(value) => self.cell(name, value),
            None => self,
        }
    }

    /// With a property of cells.
    #[must_use]
    pub fn cells(self, name: impl Into<Name>, values: &[u32]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect();
        self.bytes(name, bytes)
    }

    /// With a property of values of two cells.
    #[must_use]
    pub fn doublewords(self, name: impl Into<Name>, values: &[u64]) -> Self {
        let cells: Vec<u32> = values.iter().copied().flat_map(cells).collect();
        self.cells(name, &cells)
    }

    /// With a property that is a string.
    #[must_use]
    pub fn string(self, name: impl Into<Name>, value: &str) -> Self {
        self.strings(name, &[value])
    }

    /// With a property that is a list of strings.
    #[must_use]
    pub fn strings(self, name: impl Into<Name>, values: &[&str]) -> Self {
        let with_end = |value: &&str| [value.as_bytes(), &[0]].concat();
        let bytes: Vec<u8> = values.iter().flat_map(with_end).collect();
        self.bytes(name, bytes)
    }

    /// With a node below it.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// With nodes below it.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// Its name, with its unit address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its properties, in the order in which they were given.
    pub fn properties(&self) -> &[Property] {
        &self.properties
    }

    /// The nodes below it, likewise.
    pub fn children(&self) -> &[Self] {
        &self.children
    }

    /// A property's value.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        let mut properties = self.properties.iter();
        let property = properties.find(|property| property.name == name)?;
        Some(&property.value)
    }

    /// A property's value as cells; an incomplete one at the end is left out.
    pub fn cells_of(&self, name: &str) -> Option<Vec<u32>> {
        let (cells, _) = self.property(name)?.as_chunks();
        Some(cells.iter().copied().map(u32::from_be_bytes).collect())
    }
}

/// The two cells of a doubleword, the upper half first.
pub const fn cells(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_as_the_specification_lays_them_out() {
        let node = Node::new("node@1")
            .flag("flag")
            .cells("cells", &[1, 0x0203_0405])
            .doublewords("doublewords", &[0x0102_0304_0506_0708])
            .strings("strings", &["a", "bc"])
            .optional_cell("none", None)
            .child(Node::new("child").cell("cell", 7));
        let expected: [(&str, &[u8]); 4] = [
            ("flag", &[]),
            ("cells", &[0, 0, 0, 1, 2, 3, 4, 5]),
            ("doublewords", &[1, 2, 3, 4, 5, 6, 7, 8]),
            ("strings", b"a\0bc\0"),
        ];
        let properties = node.properties().iter();
        let properties: Vec<_> = properties.map(|it| (&*it.name, &it.value[..])).collect();
        assert_eq!(properties, expected);
        let [child] = node.children() else {
            panic!("{node:?}")
        };
        assert_eq!(
            (child.name(), child.cells_of("cell")),
            ("child", Some(vec![7]))
        );
        assert_eq!(cells(0x0000_0001_0000_0002), [1, 2]);
    }
}
