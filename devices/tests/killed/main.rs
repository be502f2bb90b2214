//! A process that writes to an image is killed at any moment. All that it had flushed is there, the image is whole, and
//! nothing else is in it than what it wrote.
//!
//! Each round, a process of its own (this program once more) goes on with a sequence of operations that follows from
//! their numbers alone, says which flushes are done, and is killed. Then QEMU's own program, where there is one, checks
//! the image and reads it. The next round goes on with what is left. `KILL_ROUNDS` says how many there are.

mod model;
mod writer;

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use imago::qcow2::Qcow2 as Driver;
use imago::{FormatCreateBuilder, StorageOpenOptions};

use model::{DISK_BYTES, MOST_UNFLUSHED, Model, mixed};
use writer::{Means, flushed_line};

/// Rounds where nobody says how many.
const FEW_ROUNDS: u64 = 6;
/// A process is killed after so many flushes, fewer than that, and this time at most.
const MOST_FLUSHES: u64 = 6;
const LONGEST: Duration = Duration::from_millis(15);
/// What a flush takes at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process that writes; a test for no one else.
#[test]
fn writer_for_the_other_tests() {
    if let Some(means) = Means::of_environment() {
        writer::run(&means);
    }
}

fn rounds() -> u64 {
    let given = env::var("KILL_ROUNDS").ok();
    given.map_or(FEW_ROUNDS, |text| {
        text.parse().expect("KILL_ROUNDS is no number")
    })
}

/// Makes an empty image of the format qcow2, which stands on `base` if there is one.
fn make_qcow2(path: &Path, cluster: usize, base: Option<&str>) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    let how = StorageOpenOptions::new().filename(path).write(true);
    let storage = imago::file::File::from_open_file(file.expect("an image"), how);
    let builder = Driver::<imago::file::File>::create_builder(storage.expect("a file"));
    let mut builder = builder.size(DISK_BYTES).cluster_size(cluster);
    if let Some(base) = base {
        builder = builder.backing(base.to_owned(), "raw".to_owned());
    }
    builder.create().expect("cannot make an image");
}

/// Starts the process that writes from operation `first` on.
fn start(means: &Means) -> Child {
    let program = env::current_exe().expect("this program");
    // Where programs of this architecture run in an emulator, cargo was told which.
    let emulator = env::var_os("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER");
    let mut command = match emulator.filter(|_| cfg!(target_arch = "powerpc64")) {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["--exact", "writer_for_the_other_tests", "--nocapture"]);
    means.give(&mut command);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("cannot start it")
}

/// Has it write for a while and kills it. Returns the number of the last operation that it flushed.
fn kill_once(means: &Means, round: u64) -> u64 {
    let mut child = start(means);
    let stdout = child.stdout.take().expect("piped");
    let (says, hears) = mpsc::channel();
    let reader = thread::spawn(move || {
        // What was cut has no full stop.
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        for number in lines.filter_map(|line| flushed_line(&line)) {
            // Who hears it may have heard enough.
            let _ = says.send(number);
        }
    });
    let mut flushed = means.first - 1;
    for _ in 0..mixed(round, 1) % MOST_FLUSHES {
        flushed = hears.recv_timeout(PATIENCE).expect("it flushes nothing");
    }
    let most = u64::try_from(LONGEST.as_micros()).expect("short");
    thread::sleep(Duration::from_micros(mixed(round, 2) % most));
    child.kill().expect("it has ended by itself");
    let status = child.wait().expect("its end");
    assert_eq!(status.code(), None, "it was not killed: {status}");
    reader.join().expect("a reader");
    hears.try_iter().max().unwrap_or(flushed)
}

/// Lets it write so many operations, flush, and end.
fn finish(means: &Means, operations: u64) -> u64 {
    let means = Means {
        operations: Some(operations),
        ..means.clone()
    };
    let output = start(&means).wait_with_output().expect("its end");
    assert!(output.status.success(), "{:?}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(flushed_line)
        .max()
        .expect("a flush")
}

/// What qemu-img says of an image: the number of clusters that nothing uses; `None` where there is no qemu-img.
#[track_caller]
fn check(path: &Path) -> Option<u64> {
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2", "--output", "json"])
        .arg(path)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // 3: it is whole, and has clusters that nothing uses.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    let leaks = text.split_once("\"leaks\":").map_or("0", |(_, rest)| rest);
    let digits: String = leaks
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some(digits.parse().expect("a number"))
}

/// The disk's bytes, read by QEMU's program if there is one, else by ours.
fn content(means: &Means, folder: &Path) -> Vec<u8> {
    if means.format == "raw" {
        return fs::read(&means.image).expect("an image");
    }
    let raw = folder.join("content.raw");
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([&means.image, &raw])
        .status();
    match converted {
        Ok(status) => {
            assert!(status.success(), "qemu-img convert: {status}");
            fs::read(&raw).expect("what it wrote")
        }
        Err(_none) => writer::read_all(means),
    }
}

/// Whether qemu-img finds image and reference equal, where there is one.
#[track_caller]
fn compare(means: &Means, reference: &Path) {
    let compared = Command::new("qemu-img")
        .args(["compare", "-f", &means.format, "-F", "raw"])
        .args([&means.image, reference])
        .output();
    if let Ok(output) = compared {
        assert!(output.status.success(), "{output:?}");
    }
}

fn kill_again_and_again(format: &str, folder: &Path, model: Model, by_ring: bool) {
    let mut means = Means {
        image: folder.join("image"),
        format: format.to_owned(),
        first: 2,
        by_ring,
        operations: None,
    };
    let mut model = model;
    let (mut most_leaks, mut flushes) = (0, 0);
    for round in 0..rounds() {
        let flushed = kill_once(&means, round);
        flushes += u64::from(flushed >= means.first);
        if format == "qcow2" {
            most_leaks = most_leaks.max(check(&means.image).unwrap_or(0));
        }
        model.replay(means.first..=flushed);
        means.first = flushed + MOST_UNFLUSHED + 1;
        model.settle(flushed + 1..means.first, &content(&means, folder));
    }
    assert!(
        flushes > rounds() / 2,
        "it was killed before it had flushed anything: {flushes}"
    );
    let last = finish(&means, 500);
    model.replay(means.first..=last);
    let reference = folder.join("reference");
    let known = model.content(&content(&means, folder));
    fs::write(&reference, known).expect("a reference");
    compare(&means, &reference);
    if format == "qcow2" {
        check(&means.image);
    }
    let found = format!(
        "{format}: {} rounds, {flushes} with flushes, {last} operations, {most_leaks} clusters unused at most\n",
        rounds()
    );
    io::stdout().write_all(found.as_bytes()).expect("a reader");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_raw_image_has_all_that_was_flushed_whenever_its_process_is_killed() {
    for by_ring in [true, false] {
        let folder = folder();
        let file = File::create_new(folder.path().join("image")).expect("an image");
        file.set_len(DISK_BYTES).expect("a size");
        kill_again_and_again("raw", folder.path(), Model::empty(), by_ring);
    }
}

#[test]
fn a_qcow2_image_is_whole_and_has_all_that_was_flushed_whenever_its_process_is_killed() {
    for cluster in [0x1_0000, 0x1000] {
        let folder = folder();
        make_qcow2(&folder.path().join("image"), cluster, None);
        kill_again_and_again("qcow2", folder.path(), Model::empty(), false);
    }
}

#[test]
fn a_qcow2_image_on_another_is_whole_whenever_its_process_is_killed() {
    let folder = folder();
    let base: PathBuf = folder.path().join("base");
    let model = Model::on_a_base();
    let bytes = model.base_content();
    fs::write(&base, &bytes).expect("an image");
    make_qcow2(&folder.path().join("image"), 0x1_0000, Some("base"));
    kill_again_and_again("qcow2", folder.path(), model, false);
    assert_eq!(
        fs::read(&base).expect("an image"),
        bytes,
        "what it stands on has changed"
    );
}
