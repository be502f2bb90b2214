//! One client's session: what it says, and the replies.

use std::os::fd::OwnedFd;

use serde_json::{Map, Value, json};

use super::answers;
use super::commands::{self, Answer, CAPABILITIES, Command, Request};
use super::error::QmpError;
use super::framing::Found;
use super::instead;
use super::types::members_mismatch;
use crate::qemu::dumps::Outcome;
use crate::qemu::monitor::Monitor;

/// A session's state.
#[derive(Debug, Default)]
pub(super) struct Session {
    negotiated: bool,
    awaited: Option<Awaited>,
}

/// A command that is replied to when something has ended.
#[derive(Debug)]
struct Awaited {
    outcome: Outcome,
    id: Option<Value>,
}

impl Session {
    /// What a client is told first.
    pub(super) fn greeting() -> Value {
        json!({"QMP": {"version": answers::version(), "capabilities": []}})
    }

    /// Whether the client is told of events: once it has negotiated capabilities.
    pub(super) const fn hears_events(&self) -> bool {
        self.negotiated
    }

    /// Whether the next reply is that of a command whose work has not ended: others are not taken
    /// before.
    pub(super) fn is_waiting(&self) -> bool {
        let awaited = self.awaited.as_ref();
        awaited.is_some_and(|awaited| awaited.outcome.get().is_none())
    }

    /// Whether there is a command whose reply is still to come.
    pub(super) const fn awaits_reply(&self) -> bool {
        self.awaited.is_some()
    }

    /// The reply to a command whose work has ended meanwhile.
    pub(super) fn late_reply(&mut self) -> Option<Value> {
        if self.is_waiting() {
            return None;
        }
        let Awaited { outcome, id } = self.awaited.take()?;
        let reply = match outcome.get() {
            Some(Err(text)) => json!({"error": QmpError::Generic(text.clone()).to_json()}),
            _ => json!({"return": {}}),
        };
        Some(with_id(reply, id))
    }

    /// The reply to something that a client sent; none yet to what has to be waited for. `descriptor`
    /// gives the descriptor that came with it, if the command takes one.
    pub(super) fn reply(
        &mut self,
        found: &Found,
        monitor: &Monitor,
        descriptor: impl FnOnce() -> Option<OwnedFd>,
    ) -> Option<Value> {
        let parsed = match found {
            Found::Value(text) => parse(text),
            Found::Junk => Err(QmpError::Generic(
                "JSON parse error, expecting an object".to_owned(),
            )),
            Found::TooLarge => Err(QmpError::Generic(
                "JSON token size limit exceeded".to_owned(),
            )),
        };
        let mut message = match parsed {
            Ok(message) => message,
            Err(error) => return Some(json!({"error": error.to_json()})),
        };
        let id = message.remove("id");
        let (answer, awaits) = self.execute(message, monitor, descriptor);
        if let Some(outcome) = awaits {
            self.awaited = Some(Awaited { outcome, id });
            return self.late_reply();
        }
        let reply = match answer {
            Ok(value) => json!({"return": value}),
            Err(error) => json!({"error": error.to_json()}),
        };
        Some(with_id(reply, id))
    }

    /// What a command answers, and what its reply has to wait for.
    fn execute(
        &mut self,
        message: Map<String, Value>,
        monitor: &Monitor,
        descriptor: impl FnOnce() -> Option<OwnedFd>,
    ) -> (Answer, Option<Outcome>) {
        let (command, arguments) = match self.understand(message) {
            Ok(understood) => understood,
            Err(error) => return (Err(error), None),
        };
        if command.name == CAPABILITIES.name {
            self.negotiated = true;
        }
        let mut request = Request {
            monitor,
            arguments,
            descriptor: takes_descriptor(command).then(descriptor).flatten(),
            awaits: None,
        };
        ((command.run)(&mut request), request.awaits)
    }

    /// The command of a message, and its arguments, which are of the types that it takes.
    fn understand(
        &self,
        mut message: Map<String, Value>,
    ) -> Result<(&'static Command, Map<String, Value>), QmpError> {
        let generic = |text: &str| QmpError::Generic(text.to_owned());
        let name = match message.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(generic("QMP input member 'execute' must be a string")),
            None => return Err(generic("QMP input lacks member 'execute'")),
        };
        let arguments = match message.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(generic("QMP input member 'arguments' must be an object")),
            None => Map::new(),
        };
        if let Some(unexpected) = message.keys().next() {
            return Err(QmpError::Generic(format!(
                "QMP input member '{unexpected}' is unexpected"
            )));
        }
        let command = self.find(&name)?;
        if let Some(wrong) = members_mismatch(command.arguments, &arguments) {
            return Err(QmpError::Generic(wrong));
        }
        Ok((command, arguments))
    }

    fn find(&self, name: &str) -> Result<&'static Command, QmpError> {
        let is_capabilities = name == CAPABILITIES.name;
        let refused = |text: String| Err(QmpError::CommandNotFound(text));
        match (self.negotiated, is_capabilities) {
            (false, true) => Ok(&CAPABILITIES),
            (false, false) => {
                refused("Expecting capabilities negotiation with 'qmp_capabilities'".to_owned())
            }
            (true, true) => {
                refused("Capabilities negotiation is already complete, command ignored".to_owned())
            }
            (true, false) => commands::find(name).map_or_else(
                || {
                    refused(match instead::of_command(name) {
                        Some(instead) => format!("The command {name} is not supported: {instead}"),
                        None => format!("The command {name} has not been found"),
                    })
                },
                Ok,
            ),
        }
    }
}

fn with_id(mut reply: Value, id: Option<Value>) -> Value {
    if let Some(id) = id {
        reply["id"] = id;
    }
    reply
}

fn takes_descriptor(command: &Command) -> bool {
    matches!(command.name, "getfd" | "add-fd")
}

fn parse(text: &[u8]) -> Result<Map<String, Value>, QmpError> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(message)) => Ok(message),
        Ok(_) => Err(QmpError::Generic(
            "QMP input must be a JSON object".to_owned(),
        )),
        Err(error) => Err(QmpError::Generic(format!("JSON parse error, {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qemu::monitor::sample::monitor;
    use crate::qemu::state::RunState;

    struct Fixture {
        session: Session,
        monitor: Monitor,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                session: Session::default(),
                monitor: monitor().0,
            }
        }

        fn negotiated() -> Self {
            let mut fixture = Self::new();
            let reply = fixture.say(r#"{"execute":"qmp_capabilities","id":"libvirt-1"}"#);
            assert_eq!(reply, json!({"return": {}, "id": "libvirt-1"}));
            fixture
        }

        fn say(&mut self, text: &str) -> Value {
            let found = Found::Value(text.as_bytes().to_vec());
            let reply = self.session.reply(&found, &self.monitor, || None);
            reply.expect("at once")
        }

        fn error(&mut self, text: &str) -> (String, String) {
            let reply = self.say(text);
            let text = |name: &str| reply["error"][name].as_str().unwrap_or("none").to_owned();
            (text("class"), text("desc"))
        }
    }

    fn generic(desc: &str) -> (String, String) {
        ("GenericError".to_owned(), desc.to_owned())
    }

    #[test]
    fn capabilities_come_first_and_once() {
        let mut fixture = Fixture::new();
        let not_found = |desc: &str| ("CommandNotFound".to_owned(), desc.to_owned());
        assert_eq!(
            fixture.error(r#"{"execute":"query-status"}"#),
            not_found("Expecting capabilities negotiation with 'qmp_capabilities'")
        );
        assert!(!fixture.session.hears_events());
        let mut fixture = Fixture::negotiated();
        assert!(fixture.session.hears_events());
        assert_eq!(
            fixture.error(r#"{"execute":"qmp_capabilities"}"#),
            not_found("Capabilities negotiation is already complete, command ignored")
        );
        assert_eq!(
            fixture.error(r#"{"execute":"query-frob"}"#),
            not_found("The command query-frob has not been found")
        );
    }

    #[test]
    fn a_guest_is_driven_by_commands() {
        let mut fixture = Fixture::negotiated();
        let status = fixture.say(r#"{"execute":"query-status","id":7}"#);
        let expected = json!({"return": {"running": false, "status": "prelaunch"}, "id": 7});
        assert_eq!(status, expected);
        fixture.say(r#"{"execute":"cont"}"#);
        assert_eq!(fixture.monitor.guest.run_state(), RunState::Running);
        fixture.say(r#"{"execute":"stop","arguments":{}}"#);
        assert_eq!(fixture.monitor.guest.run_state(), RunState::Paused);
    }

    #[test]
    fn mistakes_are_told_with_the_id_they_came_with() {
        let mut fixture = Fixture::negotiated();
        let reply = fixture.say(r#"{"execute":"stop","arguments":{"now":true},"id":[1]}"#);
        assert_eq!(reply["id"], json!([1]));
        for (text, expected) in [
            (
                r#"{"execute":1}"#,
                "QMP input member 'execute' must be a string",
            ),
            (r#"{"id":1}"#, "QMP input lacks member 'execute'"),
            (
                r#"{"execute":"stop","arguments":[]}"#,
                "QMP input member 'arguments' must be an object",
            ),
            (
                r#"{"execute":"stop","more":1}"#,
                "QMP input member 'more' is unexpected",
            ),
            (r#"{"execute":"qom-list"}"#, "Parameter 'path' is missing"),
            (
                r#"{"execute":"qom-list","arguments":{"path":1}}"#,
                "Invalid parameter type for 'path', expected: string",
            ),
            ("[]", "QMP input must be a JSON object"),
        ] {
            assert_eq!(fixture.error(text), generic(expected), "{text}");
        }
        let (class, desc) = fixture.error("{\"execute\":}");
        assert_eq!(class, "GenericError");
        assert!(desc.starts_with("JSON parse error"), "{desc}");
        let too_large = fixture
            .session
            .reply(&Found::TooLarge, &fixture.monitor, || None)
            .expect("at once");
        assert_eq!(too_large["error"]["desc"], "JSON token size limit exceeded");
    }

    #[test]
    fn a_descriptor_is_taken_by_the_command_that_it_came_with() {
        let mut fixture = Fixture::negotiated();
        let (reader, _) = std::io::pipe().expect("pipe");
        let mut waiting = Some(OwnedFd::from(reader));
        let mut say = |fixture: &mut Fixture, text: &str| {
            let found = Found::Value(text.as_bytes().to_vec());
            fixture
                .session
                .reply(&found, &fixture.monitor, || waiting.take())
                .expect("at once")
        };
        say(&mut fixture, r#"{"execute":"query-status"}"#);
        let reply = say(
            &mut fixture,
            r#"{"execute":"getfd","arguments":{"fdname":"fd1"}}"#,
        );
        assert_eq!(reply, json!({"return": {}}));
        let again = say(&mut fixture, r#"{"execute":"add-fd"}"#);
        assert_eq!(
            again["error"]["desc"],
            "No file descriptor supplied via SCM_RIGHTS"
        );
    }

    fn some_command() -> impl Strategy<Value = String> {
        let names: Vec<&str> = commands::COMMANDS
            .iter()
            .map(|command| command.name)
            .collect();
        let values = prop_oneof![
            Just("1"),
            Just("\"/machine\""),
            Just("-1"),
            Just("{}"),
            Just("[]"),
            Just("null"),
            Just("true"),
            Just("\"\\u0000\""),
            Just("99999999999999999999"),
        ];
        let keys = prop_oneof![
            Just("path"),
            Just("typename"),
            Just("fdset-id"),
            Just("fd"),
            Just("option"),
            Just("property"),
            Just("fdname"),
            Just("implements"),
            Just("paging"),
            Just("protocol"),
            Just("begin"),
            Just("length"),
            Just("x"),
        ];
        let arguments = prop::collection::hash_map(keys, values, 0..3);
        (prop::sample::select(names), arguments).prop_map(|(name, arguments)| {
            let arguments: Vec<String> = arguments
                .iter()
                .map(|(key, value)| format!("\"{key}\":{value}"))
                .collect();
            format!(
                "{{\"execute\":\"{name}\",\"arguments\":{{{}}},\"id\":1}}",
                arguments.join(",")
            )
        })
    }

    proptest! {
        #[test]
        fn every_command_is_replied_to_once_whatever_its_arguments(
            texts in prop::collection::vec(some_command(), 0..20)
        ) {
            let mut fixture = Fixture::negotiated();
            for text in texts {
                let reply = fixture.say(&text);
                let reply = reply.as_object().expect("an object");
                prop_assert!(reply.contains_key("return") != reply.contains_key("error"));
                prop_assert_eq!(reply.get("id"), Some(&json!(1)));
            }
        }

        #[test]
        fn any_text_gets_an_error_or_a_return(text: String, bytes: Vec<u8>) {
            let mut fixture = Fixture::negotiated();
            let reply = fixture.say(&text);
            prop_assert!(reply.get("error").is_some() || reply.get("return").is_some());
            let found = Found::Value(bytes);
            fixture.session.reply(&found, &fixture.monitor, || None);
        }
    }
}
