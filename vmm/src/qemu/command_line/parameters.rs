//! Options and their properties, for whoever asks what is supported (`query-command-line-options`,
//! `qom-list-properties`).

/// Properties with the types of their values.
type Parameters = &'static [(&'static str, &'static str)];

/// The options that have properties.
pub const OPTION_PARAMETERS: &[(&str, Parameters)] = &[
    (
        "add-fd",
        &[("fd", "number"), ("set", "number"), ("opaque", "string")],
    ),
    ("boot-opts", &[("strict", "boolean"), ("menu", "boolean")]),
    (
        "chardev",
        &[
            ("id", "string"),
            ("backend", "string"),
            ("path", "string"),
            ("append", "boolean"),
            ("host", "string"),
            ("port", "string"),
            ("fd", "string"),
            ("server", "boolean"),
            ("wait", "boolean"),
            ("logfile", "string"),
            ("logappend", "boolean"),
        ],
    ),
    (
        "machine",
        &[
            ("type", "string"),
            ("accel", "string"),
            ("usb", "boolean"),
            ("dump-guest-core", "boolean"),
            ("memory-backend", "string"),
            ("cap-cfpc", "string"),
            ("cap-sbbc", "string"),
            ("cap-ibs", "string"),
            ("cap-ccf-assist", "boolean"),
        ],
    ),
    ("memory", &[("size", "size")]),
    ("mon", &[("chardev", "string"), ("mode", "string")]),
    (
        "msg",
        &[("timestamp", "boolean"), ("guest-name", "boolean")],
    ),
    (
        "netdev",
        &[
            ("type", "string"),
            ("id", "string"),
            ("fd", "string"),
            ("ifname", "string"),
            ("vhost", "boolean"),
            ("vhostfd", "string"),
            ("addr.type", "string"),
            ("addr.path", "string"),
            ("server", "boolean"),
        ],
    ),
    ("name", &[("guest", "string"), ("debug-threads", "boolean")]),
    ("object", &[("qom-type", "string"), ("id", "string")]),
    (
        "overcommit",
        &[("mem-lock", "boolean"), ("cpu-pm", "boolean")],
    ),
    (
        "rtc",
        &[
            ("base", "string"),
            ("clock", "string"),
            ("driftfix", "string"),
        ],
    ),
    (
        "sandbox",
        &[
            ("enable", "boolean"),
            ("obsolete", "string"),
            ("elevateprivileges", "string"),
            ("spawn", "string"),
            ("resourcecontrol", "string"),
        ],
    ),
    (
        "smp-opts",
        &[
            ("cpus", "number"),
            ("sockets", "number"),
            ("cores", "number"),
            ("threads", "number"),
            ("maxcpus", "number"),
        ],
    ),
    (
        "spapr-vmm",
        &[
            ("tce", "string"),
            ("lock", "string"),
            ("lock-region", "size"),
            ("iommu", "string"),
            ("ddw", "string"),
            ("log", "string"),
            ("stats", "string"),
        ],
    ),
];

/// The types of objects that `-object` makes, with their properties.
pub const OBJECT_TYPES: &[(&str, Parameters)] = &[
    (
        "memory-backend-file",
        &[
            ("mem-path", "string"),
            ("prealloc", "boolean"),
            ("share", "boolean"),
            ("size", "size"),
        ],
    ),
    (
        "memory-backend-memfd",
        &[
            ("hugetlb", "boolean"),
            ("hugetlbsize", "size"),
            ("prealloc", "boolean"),
            ("share", "boolean"),
            ("size", "size"),
        ],
    ),
    (
        "memory-backend-ram",
        &[("share", "boolean"), ("size", "size")],
    ),
    ("rng-builtin", &[]),
    ("rng-random", &[("filename", "string")]),
    ("secret", &[]),
];
