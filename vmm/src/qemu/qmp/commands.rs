//! The commands that there are, with what each takes and returns.

use std::os::fd::OwnedFd;

use serde_json::{Map, Value, json};

use super::answers;
use super::balloon;
use super::block;
use super::control;
use super::descriptors;
use super::dump;
use super::error::QmpError;
use super::event_types::{DUMP_STATE, EVENTS};
use super::net;
use super::types::Type::{Any, Bool, Enum, Int, List, Object, Str};
use super::types::{Member, NOTHING, Schema, Type, Variants, optional, required};
use crate::qemu::dumps::Outcome;
use crate::qemu::monitor::Monitor;

/// What a command is given: checked arguments, and a descriptor that came with it.
pub(super) struct Request<'a> {
    pub(super) monitor: &'a Monitor,
    pub(super) arguments: Map<String, Value>,
    pub(super) descriptor: Option<OwnedFd>,
    /// What the command leaves behind to be waited for before it is replied to.
    pub(super) awaits: Option<Outcome>,
}

impl Request<'_> {
    /// An argument of text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.arguments.get(name)?.as_str()
    }

    /// An argument that is a number.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.arguments.get(name)?.as_i64()
    }

    /// An argument that is true or false.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.arguments.get(name)?.as_bool()
    }
}

pub(super) type Answer = Result<Value, QmpError>;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) arguments: &'static [Member],
    /// Which of its arguments go together.
    pub(super) variants: Option<&'static Variants>,
    pub(super) returns: Type,
    pub(super) run: fn(&mut Request<'_>) -> Answer,
}

const fn command(
    name: &'static str,
    arguments: &'static [Member],
    returns: Type,
    run: fn(&mut Request<'_>) -> Answer,
) -> Command {
    Command {
        name,
        arguments,
        variants: None,
        returns,
        run,
    }
}

/// A command that takes nothing and returns a list that is empty here.
const fn none(name: &'static str) -> Command {
    command(name, &[], List(&NOTHING), |_| Ok(json!([])))
}

const RUN_STATES: &[&str] = &[
    "prelaunch",
    "running",
    "paused",
    "save-vm",
    "shutdown",
    "guest-panicked",
    "internal-error",
    "io-error",
];

const VERSION: Type = Object(&[
    required(
        "qemu",
        Object(&[
            required("major", Int),
            required("minor", Int),
            required("micro", Int),
        ]),
    ),
    required("package", Str),
]);

const NAME: Type = Object(&[required("name", Str)]);

const OBJECT_TYPE: Type = Object(&[
    required("name", Str),
    optional("abstract", Bool),
    optional("parent", Str),
]);

const PROPERTY: Type = Object(&[
    required("name", Str),
    required("type", Str),
    optional("description", Str),
]);

const MACHINE: Type = Object(&[
    required("name", Str),
    optional("is-default", Bool),
    required("cpu-max", Int),
    required("hotpluggable-cpus", Bool),
    required("numa-mem-supported", Bool),
    required("deprecated", Bool),
    required("acpi", Bool),
    optional("default-cpu-type", Str),
    optional("default-ram-id", Str),
]);

const CPU_DEFINITION: Type = Object(&[
    required("name", Str),
    required("typename", Str),
    required("static", Bool),
    required("deprecated", Bool),
]);

const CPU: Type = Object(&[
    required("cpu-index", Int),
    required("qom-path", Str),
    required("thread-id", Int),
    optional(
        "props",
        Object(&[optional("core-id", Int), optional("thread-id", Int)]),
    ),
    required("target", Enum(&["ppc64"])),
]);

const CHARDEV: Type = Object(&[
    required("label", Str),
    required("filename", Str),
    required("frontend-open", Bool),
]);

const COMMAND_LINE_OPTION: Type = Object(&[
    required("option", Str),
    required("parameters", List(&OPTION_PARAMETER)),
]);

const OPTION_PARAMETER: Type = Object(&[
    required("name", Str),
    required("type", Enum(&["string", "boolean", "number", "size"])),
]);

/// Guests do not migrate. libvirt insists on this capability, which asks for events about what then
/// never happens.
const MIGRATION_CAPABILITY: Type = Object(&[
    required("capability", Enum(&["events"])),
    required("state", Bool),
]);

const FD_SET: Type = Object(&[required("fdset-id", Int), required("fds", List(&FD_OF_SET))]);

const FD_OF_SET: Type = Object(&[required("fd", Int), optional("opaque", Str)]);

/// Formats of a dump.
const DUMP_FORMATS: Type = Enum(&["elf"]);

/// All commands, but for qmp_capabilities, which is a session's own.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "add-fd",
        &[optional("fdset-id", Int), optional("opaque", Str)],
        Object(&[required("fdset-id", Int), required("fd", Int)]),
        descriptors::add_fd,
    ),
    command(
        "balloon",
        &[required("value", Int)],
        NOTHING,
        balloon::balloon_to,
    ),
    command(
        "block_resize",
        &[
            optional("device", Str),
            optional("node-name", Str),
            required("size", Int),
        ],
        NOTHING,
        block::block_resize,
    ),
    command(
        "closefd",
        &[required("fdname", Str)],
        NOTHING,
        descriptors::closefd,
    ),
    command("cont", &[], NOTHING, control::cont),
    command(
        "device-list-properties",
        &[required("typename", Str)],
        List(&PROPERTY),
        answers::device_list_properties,
    ),
    command(
        "dump-guest-memory",
        &[
            required("paging", Bool),
            required("protocol", Str),
            optional("detach", Bool),
            optional("begin", Int),
            optional("length", Int),
            optional("format", DUMP_FORMATS),
        ],
        NOTHING,
        dump::dump_guest_memory,
    ),
    command(
        "getfd",
        &[required("fdname", Str)],
        NOTHING,
        descriptors::getfd,
    ),
    command("inject-nmi", &[], NOTHING, control::inject_nmi),
    command(
        "migrate-set-capabilities",
        &[required("capabilities", List(&MIGRATION_CAPABILITY))],
        NOTHING,
        control::migrate_set_capabilities,
    ),
    Command {
        name: "netdev_add",
        arguments: net::NETDEV,
        variants: Some(&net::NETDEVS),
        returns: NOTHING,
        run: net::netdev_add,
    },
    command(
        "qom-get",
        &[required("path", Str), required("property", Str)],
        Any,
        answers::qom_get,
    ),
    command(
        "qom-list",
        &[required("path", Str)],
        List(&PROPERTY),
        answers::qom_list,
    ),
    command(
        "qom-list-properties",
        &[required("typename", Str)],
        List(&PROPERTY),
        answers::qom_list_properties,
    ),
    command(
        "qom-list-types",
        &[optional("implements", Str), optional("abstract", Bool)],
        List(&OBJECT_TYPE),
        answers::qom_list_types,
    ),
    command(
        "qom-set",
        &[
            required("path", Str),
            required("property", Str),
            required("value", Any),
        ],
        NOTHING,
        balloon::qom_set,
    ),
    command(
        "query-balloon",
        &[],
        Object(&[required("actual", Int)]),
        balloon::query_balloon,
    ),
    command("query-block", &[], List(&block::BLOCK), block::query_block),
    none("query-block-jobs"),
    command(
        "query-blockstats",
        &[optional("query-nodes", Bool)],
        List(&block::STATISTICS),
        block::query_blockstats,
    ),
    command("query-chardev", &[], List(&CHARDEV), answers::query_chardev),
    command(
        "query-chardev-backends",
        &[],
        List(&NAME),
        answers::query_chardev_backends,
    ),
    command(
        "query-command-line-options",
        &[optional("option", Str)],
        List(&COMMAND_LINE_OPTION),
        answers::query_command_line_options,
    ),
    command("query-commands", &[], List(&NAME), |_| Ok(query_commands())),
    command(
        "query-cpu-definitions",
        &[],
        List(&CPU_DEFINITION),
        answers::query_cpu_definitions,
    ),
    command("query-cpus-fast", &[], List(&CPU), answers::query_cpus_fast),
    command("query-dump", &[], DUMP_STATE, dump::query_dump),
    command(
        "query-dump-guest-memory-capability",
        &[],
        Object(&[required("formats", List(&DUMP_FORMATS))]),
        |_| Ok(json!({"formats": ["elf"]})),
    ),
    command(
        "query-fdsets",
        &[],
        List(&FD_SET),
        descriptors::query_fdsets,
    ),
    none("query-iothreads"),
    none("query-jobs"),
    command(
        "query-kvm",
        &[],
        Object(&[required("enabled", Bool), required("present", Bool)]),
        answers::query_kvm,
    ),
    command(
        "query-machines",
        &[],
        List(&MACHINE),
        answers::query_machines,
    ),
    none("query-memory-devices"),
    command(
        "query-memory-size-summary",
        &[],
        Object(&[
            required("base-memory", Int),
            optional("plugged-memory", Int),
        ]),
        answers::query_memory_size_summary,
    ),
    command(
        "query-migrate-capabilities",
        &[],
        List(&MIGRATION_CAPABILITY),
        answers::query_migrate_capabilities,
    ),
    command(
        "query-name",
        &[],
        Object(&[optional("name", Str)]),
        answers::query_name,
    ),
    command(
        "query-named-block-nodes",
        &[optional("flat", Bool)],
        List(&block::NODE),
        block::query_named_block_nodes,
    ),
    command("query-qmp-schema", &[], List(&Any), |_| {
        Ok(query_qmp_schema())
    }),
    command(
        "query-rx-filter",
        &[optional("name", Str)],
        List(&net::FILTER),
        net::query_rx_filter,
    ),
    command(
        "query-status",
        &[],
        Object(&[
            required("running", Bool),
            required("status", Enum(RUN_STATES)),
        ]),
        answers::query_status,
    ),
    command(
        "query-target",
        &[],
        Object(&[required("arch", Enum(&["ppc64"]))]),
        |_| Ok(json!({"arch": "ppc64"})),
    ),
    command("query-tpm-models", &[], List(&Str), |_| Ok(json!([]))),
    command("query-tpm-types", &[], List(&Str), |_| Ok(json!([]))),
    command(
        "query-uuid",
        &[],
        Object(&[required("UUID", Str)]),
        answers::query_uuid,
    ),
    command("query-version", &[], VERSION, |_| Ok(answers::version())),
    command("quit", &[], NOTHING, control::quit),
    command(
        "remove-fd",
        &[required("fdset-id", Int), optional("fd", Int)],
        NOTHING,
        descriptors::remove_fd,
    ),
    command(
        "set_link",
        &[required("name", Str), required("up", Bool)],
        NOTHING,
        net::set_link,
    ),
    command("stop", &[], NOTHING, control::stop),
    command("system_powerdown", &[], NOTHING, control::system_powerdown),
    command("system_reset", &[], NOTHING, control::system_reset),
];

/// The command that begins a session.
pub(super) const CAPABILITIES: Command = command(
    "qmp_capabilities",
    &[optional("enable", List(&Enum(&[])))],
    NOTHING,
    |_| Ok(json!({})),
);

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

fn query_commands() -> Value {
    let all = COMMANDS.iter().chain([&CAPABILITIES]);
    all.map(|command| json!({"name": command.name})).collect()
}

fn query_qmp_schema() -> Value {
    let mut schema = Schema::default();
    for command in COMMANDS.iter().chain([&CAPABILITIES]) {
        schema.command(
            command.name,
            command.arguments,
            command.variants,
            &command.returns,
        );
    }
    for (name, data) in EVENTS {
        schema.event(name, data);
    }
    schema.finish()
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;

/// What a command answers to these arguments.
#[cfg(test)]
pub(super) fn ask(
    monitor: &Monitor,
    run: fn(&mut Request<'_>) -> Answer,
    arguments: &Value,
) -> Answer {
    run(&mut Request {
        monitor,
        arguments: arguments.as_object().cloned().unwrap_or_default(),
        descriptor: None,
        awaits: None,
    })
}
