//! Telling the user what is being done, on standard error.
//!
//! On a terminal a step shows a spinner or a bar; elsewhere it prints plain lines, one at its
//! start and one every few seconds, so that nobody waits in silence.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a step that goes on says so where there is no terminal.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(8);

/// Prints one line on standard error; that it may be closed is no reason to stop.
pub(crate) fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "lab: {line}");
    let _ = stderr.flush();
}

/// How many columns the terminal on standard output has; `None` when it is none, where lines may have any length.
pub(crate) fn columns_of_stdout() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}

/// Prints an error and what caused it.
pub(crate) fn report(error: &dyn Error) {
    say(&format!("error: {error}"));
    let mut source = error.source();
    while let Some(cause) = source {
        say(&format!("  because: {cause}"));
        source = cause.source();
    }
}

/// A step under way; it ends when dropped or [`Step::done`].
pub(crate) struct Step {
    title: String,
    started: Instant,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines {
        stop: Option<mpsc::Sender<()>>,
        reporter: Option<thread::JoinHandle<()>>,
    },
}

impl Step {
    /// Starts a step of unknown length.
    pub(crate) fn start(title: impl Into<String>) -> Self {
        let title = title.into();
        let started = Instant::now();
        let display = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.set_message(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            Display::Bar(bar)
        } else {
            say(&format!("{title} …"));
            lines(title.clone(), started)
        };
        Self {
            title,
            started,
            display,
        }
    }

    /// Turns the spinner into a bar of so many bytes.
    pub(crate) fn expect_bytes(&self, total: u64) {
        if let Display::Bar(bar) = &self.display {
            bar.set_length(total);
            bar.set_style(style(
                "{spinner} {msg} {bar:30} {bytes}/{total_bytes} {elapsed}",
            ));
        }
    }

    /// Shows how many bytes are there.
    pub(crate) fn at_bytes(&self, bytes: u64) {
        if let Display::Bar(bar) = &self.display {
            bar.set_position(bytes);
        }
    }

    /// Ends the step and says how long it took.
    pub(crate) fn done(self) {
        let line = format!(
            "{}: {:.1} s",
            self.title,
            self.started.elapsed().as_secs_f64()
        );
        drop(self);
        say(&line);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        match &mut self.display {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Lines { stop, reporter } => {
                drop(stop.take());
                if let Some(reporter) = reporter.take() {
                    let _ = reporter.join();
                }
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn lines(title: String, started: Instant) -> Display {
    let (stop, stopped) = mpsc::channel::<()>();
    let reporter = thread::spawn(move || {
        while stopped.recv_timeout(REPORT_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            say(&format!(
                "{title} … still at it, {} s",
                started.elapsed().as_secs()
            ));
        }
    });
    Display::Lines {
        stop: Some(stop),
        reporter: Some(reporter),
    }
}
