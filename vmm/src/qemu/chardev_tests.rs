//! Terminals on what libvirt gives them.

use super::*;

fn chardev(backend: Backend, log: Option<&Path>) -> Chardev {
    Chardev {
        id: "charserial0".to_owned(),
        backend,
        log: log.map(|path| OutputFile {
            path: path.to_owned(),
            append: true,
        }),
    }
}

#[test]
fn a_terminal_on_a_pty_has_a_name_and_a_log() {
    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("log");
    let opened = open_terminal(
        Some(&chardev(Backend::Pty, Some(&log))),
        &mut Inherited::default(),
    );
    let opened = opened.expect("opens");
    assert!(
        opened.filename.starts_with("pty:/dev/pts/"),
        "{}",
        opened.filename
    );
    let place = opened.value.place.as_str();
    assert!(
        place.starts_with("the pseudo-terminal /dev/pts/")
            && place.ends_with(&format!(", logged in the file {}", log.display())),
        "{place}"
    );
    let sink: &dyn spapr_devices::vty::ConsoleSink = &opened.value.output;
    sink.try_write(b"login: ");
    opened.value.output.drain();
    assert_eq!(std::fs::read(&log).expect("a log"), b"login: ");
}

#[test]
fn a_file_can_be_a_descriptor_of_a_set() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("console");
    let mut inherited = Inherited::default();
    let file = File::create(&path).expect("file");
    inherited
        .sets
        .add(Some(3), file.into(), None)
        .expect("room");
    let output = OutputFile {
        path: "/dev/fdset/3".into(),
        append: true,
    };
    let opened = open_terminal(Some(&chardev(Backend::File(output), None)), &mut inherited);
    let opened = opened.expect("opens");
    assert_eq!(opened.value.place, "the file passed in as /dev/fdset/3");
    let sink: &dyn spapr_devices::vty::ConsoleSink = &opened.value.output;
    sink.try_write(b"x");
    opened.value.output.drain();
    assert_eq!(std::fs::read(&path).expect("a file"), b"x");
    let missing = OutputFile {
        path: "/dev/fdset/4".into(),
        append: true,
    };
    let refused = open_terminal(Some(&chardev(Backend::File(missing), None)), &mut inherited);
    assert!(matches!(refused, Err(ChardevError::Descriptor { .. })));
}

#[test]
fn what_a_terminal_is_called_says_where_to_look() {
    assert_eq!(place(&Backend::Null), "discarded");
    assert_eq!(place(&Backend::Stdio), "standard output");
    let unix = SocketAddress::Unix("/run/console".into());
    assert_eq!(
        place(&Backend::Listen(unix)),
        "the socket unix:/run/console"
    );
    let none = open_terminal(None, &mut Inherited::default()).expect("opens");
    assert_eq!(none.value.place, "discarded");
}

#[test]
fn a_socket_that_an_earlier_process_left_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("socket");
    let address = Backend::Listen(SocketAddress::Unix(path.clone()));
    let mut endpoints = Endpoints::default();
    for _ in 0..2 {
        let name = open_monitor(
            &chardev(address.clone(), None),
            &mut Inherited::default(),
            &mut endpoints,
        );
        assert_eq!(
            name.expect("binds"),
            format!("unix:{},server=on", path.display())
        );
    }
    std::fs::remove_file(&path).expect("there");
    std::fs::write(&path, "precious").expect("write");
    assert!(
        open_monitor(
            &chardev(address, None),
            &mut Inherited::default(),
            &mut endpoints
        )
        .is_err()
    );
    assert_eq!(std::fs::read(&path).expect("kept"), b"precious");
    let pty = open_monitor(
        &chardev(Backend::Pty, None),
        &mut Inherited::default(),
        &mut endpoints,
    );
    assert!(matches!(pty, Err(ChardevError::NoSocket(_))));
}

#[test]
fn what_is_no_socket_is_refused_as_one() {
    let (reader, _writer) = io::pipe().expect("pipe");
    assert!(is_unix(&OwnedFd::from(reader)).is_err());
    let (socket, _other) = UnixStream::pair().expect("sockets");
    assert!(is_unix(&OwnedFd::from(socket)).expect("a socket"));
}
