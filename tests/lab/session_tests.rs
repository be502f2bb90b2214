use super::*;

#[test]
fn an_expectation_is_read_whole_or_not_at_all() {
    let digest = "a".repeat(64);
    let line = format!("{EXPECTATION}offset=4096 length=512 sha256={digest}");
    assert_eq!(parse_expectation(&line), Some((4096, 512, digest.as_str())));
    assert_eq!(parse_expectation(&line[..line.len() - 1]), None);
    assert_eq!(parse_expectation(&format!("{line} more")), None);
    assert_eq!(
        parse_expectation(&line.replace("offset=4096", "offset=-1")),
        None
    );
}

#[test]
fn expectations_are_found_in_pieces_of_output() {
    struct Nowhere;
    impl Output for Nowhere {
        fn stdout(&mut self, _: &[u8]) {}
        fn stderr(&mut self, _: &[u8]) {}
    }
    let mut inner = Nowhere;
    let mut watched = Expectations {
        inner: &mut inner,
        lines: vec![],
        partial: vec![],
    };
    for piece in [
        "test a ... LAB-EXPECT",
        "-NVME offset=1",
        " x\r\nLAB-",
        "\n",
    ] {
        watched.stdout(piece.as_bytes());
    }
    assert_eq!(watched.lines, ["LAB-EXPECT-NVME offset=1 x"]);
}

#[test]
fn what_goes_wrong_after_a_script_fails_the_session_unless_the_script_failed() {
    let missing = || {
        vec![SessionError::NotFetched {
            paths: vec!["/none".to_owned()],
        }]
    };
    assert!(conclude(0, missing()).is_err());
    assert!(conclude(7, missing()).is_ok());
    assert!(conclude(0, vec![]).is_ok());
}

#[test]
fn a_disk_that_differs_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::write(&disk, b"..abc").unwrap();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let line = |offset| format!("{EXPECTATION}offset={offset} length=3 sha256={digest}");
    check(&disk, &line(2)).unwrap();
    assert!(matches!(
        check(&disk, &line(1)),
        Err(SessionError::NvmeDiffers { .. })
    ));
}
