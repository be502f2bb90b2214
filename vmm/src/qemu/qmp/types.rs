//! Types of what commands take and return: one description, from which arguments are checked and
//! the schema is made, so that neither says what the other does not.

use serde_json::{Map, Value, json};

/// A type.
#[derive(Debug)]
pub(super) enum Type {
    /// Any text.
    Str,
    /// A whole number.
    Int,
    /// True or false.
    Bool,
    /// Whatever there is.
    Any,
    /// An object with these members.
    Object(&'static [Member]),
    /// A list.
    List(&'static Type),
    /// One of these words.
    Enum(&'static [&'static str]),
}

/// A member of an object.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) kind: Type,
    pub(super) optional: bool,
}

/// What of an object's members go with each value of one of them.
#[derive(Debug)]
pub(super) struct Variants {
    /// The member that says which.
    pub(super) tag: &'static str,
    /// Members that go with its values, and with no other.
    pub(super) cases: &'static [(&'static str, &'static [Member])],
}

/// The type of nothing: an object without members.
pub(super) const NOTHING: Type = Type::Object(&[]);

/// A member that is always there.
pub(super) const fn required(name: &'static str, kind: Type) -> Member {
    Member {
        name,
        kind,
        optional: false,
    }
}

/// A member that may be left out.
pub(super) const fn optional(name: &'static str, kind: Type) -> Member {
    Member {
        name,
        kind,
        optional: true,
    }
}

impl Type {
    /// What is wrong with `value`, which is called `name`; `None` when it is of this type.
    pub(super) fn mismatch(&self, name: &str, value: &Value) -> Option<String> {
        let wrong = |expected| {
            Some(format!(
                "Invalid parameter type for '{name}', expected: {expected}"
            ))
        };
        match (self, value) {
            (Self::Any, _) | (Self::Str, Value::String(_)) | (Self::Bool, Value::Bool(_)) => None,
            (Self::Int, Value::Number(number)) if number.is_i64() => None,
            (Self::Object(members), Value::Object(object)) => members_mismatch(members, object),
            (Self::List(element), Value::Array(list)) => {
                list.iter().find_map(|value| element.mismatch(name, value))
            }
            (Self::Enum(words), Value::String(word)) if words.contains(&word.as_str()) => None,
            (Self::Enum(_), Value::String(word)) => {
                Some(format!("Parameter '{name}' does not accept value '{word}'"))
            }
            (Self::Str | Self::Enum(_), _) => wrong("string"),
            (Self::Int, _) => wrong("integer"),
            (Self::Bool, _) => wrong("boolean"),
            (Self::Object(_), _) => wrong("object"),
            (Self::List(_), _) => wrong("array"),
        }
    }
}

/// What is wrong with an object that is to have these members.
pub(super) fn members_mismatch(members: &[Member], object: &Map<String, Value>) -> Option<String> {
    for member in members {
        match object.get(member.name) {
            Some(value) => {
                if let Some(wrong) = member.kind.mismatch(member.name, value) {
                    return Some(wrong);
                }
            }
            None if member.optional => {}
            None => return Some(format!("Parameter '{}' is missing", member.name)),
        }
    }
    let unexpected = object
        .keys()
        .find(|name| members.iter().all(|member| member.name != name.as_str()))?;
    Some(format!("Parameter '{unexpected}' is unexpected"))
}

/// A schema in the making (QAPI introspection, `SchemaInfo`). Types other than the simple ones are
/// known by numbers.
#[derive(Debug, Default)]
pub(super) struct Schema {
    entries: Vec<Value>,
    types: u32,
    simple: Vec<&'static str>,
}

impl Schema {
    /// Adds a command.
    pub(super) fn command(
        &mut self,
        name: &str,
        arguments: &[Member],
        variants: Option<&Variants>,
        returns: &Type,
    ) {
        let arguments = match variants {
            Some(variants) => self.union(arguments, variants),
            None => self.object(arguments),
        };
        let returns = self.name_of(returns);
        self.entries.push(json!({
            "name": name, "meta-type": "command", "arg-type": arguments, "ret-type": returns
        }));
    }

    /// Adds an event.
    pub(super) fn event(&mut self, name: &str, data: &[Member]) {
        let data = self.object(data);
        self.entries
            .push(json!({"name": name, "meta-type": "event", "arg-type": data}));
    }

    /// All of it.
    pub(super) fn finish(self) -> Value {
        Value::Array(self.entries)
    }

    fn name_of(&mut self, kind: &Type) -> String {
        match kind {
            Type::Str => self.builtin("str", "string"),
            Type::Int => self.builtin("int", "int"),
            Type::Bool => self.builtin("bool", "boolean"),
            Type::Any => self.builtin("any", "value"),
            Type::Object(members) => self.object(members),
            Type::List(element) => {
                let element = self.name_of(element);
                let name = format!("[{element}]");
                self.add(
                    &name,
                    json!({
                        "name": name, "meta-type": "array", "element-type": element
                    }),
                );
                name
            }
            Type::Enum(words) => {
                let name = self.next_name();
                let members: Vec<Value> = words.iter().map(|word| json!({"name": word})).collect();
                self.entries.push(json!({
                    "name": name, "meta-type": "enum", "values": words, "members": members
                }));
                name
            }
        }
    }

    fn builtin(&mut self, name: &'static str, json_type: &str) -> String {
        if !self.simple.contains(&name) {
            self.simple.push(name);
            self.entries.push(json!({
                "name": name, "meta-type": "builtin", "json-type": json_type
            }));
        }
        name.to_owned()
    }

    /// An object of which some members are there or not by what one of them is.
    fn union(&mut self, members: &[Member], variants: &Variants) -> String {
        let cases = variants.cases.iter();
        let cases: Vec<Value> = cases
            .map(|(case, members)| json!({"case": case, "type": self.object(members)}))
            .collect();
        let of_a_case = |member: &Member| {
            let mut cases = variants.cases.iter();
            cases.any(|(_, members)| members.iter().any(|it| it.name == member.name))
        };
        let common: Vec<&Member> = members.iter().filter(|it| !of_a_case(it)).collect();
        let described = self.described(common);
        let name = self.next_name();
        self.entries.push(json!({
            "name": name, "meta-type": "object", "members": described, "tag": variants.tag,
            "variants": cases
        }));
        name
    }

    fn object(&mut self, members: &[Member]) -> String {
        let described = self.described(members);
        let name = if members.is_empty() {
            "0".to_owned()
        } else {
            self.next_name()
        };
        self.add(
            &name,
            json!({
                "name": name, "meta-type": "object", "members": described
            }),
        );
        name
    }

    fn described<'a>(&mut self, members: impl IntoIterator<Item = &'a Member>) -> Vec<Value> {
        let members = members.into_iter();
        members
            .map(|member| {
                let mut described = Map::new();
                described.insert("name".to_owned(), member.name.into());
                described.insert("type".to_owned(), self.name_of(&member.kind).into());
                if member.optional {
                    described.insert("default".to_owned(), Value::Null);
                }
                Value::Object(described)
            })
            .collect()
    }

    fn next_name(&mut self) -> String {
        self.types += 1;
        self.types.to_string()
    }

    fn add(&mut self, name: &str, entry: Value) {
        if self.entries.iter().all(|known| known["name"] != name) {
            self.entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: &[Member] = &[
        required("name", Type::Str),
        optional("mode", Type::Enum(&["a", "b"])),
        optional("list", Type::List(&Type::Int)),
    ];

    const VARIANTS: Variants = Variants {
        tag: "mode",
        cases: &[
            ("a", &[optional("list", Type::List(&Type::Int))]),
            ("b", &[]),
        ],
    };

    fn mismatch(value: &Value) -> Option<String> {
        Type::Object(MEMBERS).mismatch("arguments", value)
    }

    #[test]
    fn arguments_are_checked_by_name_and_type() {
        assert_eq!(
            mismatch(&json!({"name": "x", "mode": "b", "list": [1, 2]})),
            None
        );
        let wrong = |value: &Value| mismatch(value).expect("wrong");
        assert_eq!(wrong(&json!({})), "Parameter 'name' is missing");
        assert_eq!(
            wrong(&json!({"name": 1})),
            "Invalid parameter type for 'name', expected: string"
        );
        assert_eq!(
            wrong(&json!({"name": "x", "mode": "c"})),
            "Parameter 'mode' does not accept value 'c'"
        );
        assert_eq!(
            wrong(&json!({"name": "x", "list": [1.5]})),
            "Invalid parameter type for 'list', expected: integer"
        );
        assert_eq!(
            wrong(&json!({"name": "x", "more": 1})),
            "Parameter 'more' is unexpected"
        );
    }

    #[test]
    fn a_schema_names_every_type_that_it_uses() {
        let mut schema = Schema::default();
        schema.command("do", MEMBERS, None, &Type::List(&NOTHING));
        schema.event("DONE", &[]);
        schema.command("choose", MEMBERS, Some(&VARIANTS), &NOTHING);
        let schema = schema.finish();
        let entries = schema.as_array().expect("a list");
        let find = |name: &str| entries.iter().find(|entry| entry["name"] == name);
        let command = find("do").expect("there");
        let arguments = find(command["arg-type"].as_str().expect("text")).expect("there");
        assert_eq!(
            arguments["members"][0],
            json!({"name": "name", "type": "str"})
        );
        assert_eq!(arguments["members"][1]["default"], Value::Null);
        assert_eq!(command["ret-type"], "[0]");
        assert_eq!(find("[0]").expect("there")["element-type"], "0");
        assert_eq!(find("DONE").expect("there")["arg-type"], "0");
        let command = find("choose").expect("there");
        let arguments = find(command["arg-type"].as_str().expect("text")).expect("there");
        let names = |of: &Value| {
            let members = of["members"].as_array().expect("a list").iter();
            members
                .map(|member| member["name"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (names(arguments), &arguments["tag"]),
            (vec!["name".into(), "mode".into()], &"mode".into())
        );
        let of_a = &arguments["variants"][0];
        assert_eq!(of_a["case"], "a");
        let of_a = find(of_a["type"].as_str().expect("text")).expect("there");
        assert_eq!(names(of_a), ["list"]);
        assert_eq!(arguments["variants"][1]["type"], "0");
    }
}
