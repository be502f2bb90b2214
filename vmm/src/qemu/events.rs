//! Events on their way to monitors.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Events that wait for the monitors' thread at most; more are dropped, which takes a thread that
/// hangs.
const MOST_WAITING: usize = 1024;

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Vec<Value>>,
    ready: EventFd,
}

/// Where events are sent from. Clones are the same.
#[derive(Clone, Debug)]
pub struct Events(Arc<Queue>);

/// Where they arrive.
#[derive(Debug)]
pub struct EventSource(Arc<Queue>);

/// A way for events.
///
/// # Errors
/// That of eventfd(2).
pub fn channel() -> io::Result<(Events, EventSource)> {
    let queue = Arc::new(Queue {
        waiting: Mutex::default(),
        ready: EventFd::new(EFD_NONBLOCK)?,
    });
    Ok((Events(Arc::clone(&queue)), EventSource(queue)))
}

impl Events {
    /// Sends the event `name`, with the time that it is now. Without data, `data` is null.
    pub fn send(&self, name: &str, data: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let event = event(name, data, now.unwrap_or_default());
        let mut waiting = self.0.waiting.lock();
        if waiting.len() < MOST_WAITING {
            waiting.push(event);
        }
        drop(waiting);
        self.wake();
    }

    /// Makes the monitors' thread look up, with no event.
    pub fn wake(&self) {
        // Fails only when the counter is full, and then it is signalled.
        let _signalled = self.0.ready.write(1);
    }
}

fn event(name: &str, data: &Value, now: Duration) -> Value {
    let timestamp = json!({"seconds": now.as_secs(), "microseconds": now.subsec_micros()});
    if data.is_null() {
        json!({"timestamp": timestamp, "event": name})
    } else {
        json!({"timestamp": timestamp, "event": name, "data": data})
    }
}

impl EventSource {
    /// Readable when there are events.
    pub fn ready(&self) -> &EventFd {
        &self.0.ready
    }

    /// All that have come, in the order in which they were sent.
    pub fn take(&self) -> Vec<Value> {
        let _nothing_to_read = self.0.ready.read();
        let mut waiting = self.0.waiting.lock();
        std::mem::take(&mut *waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_arrive_in_order_with_the_time_they_were_sent_at() {
        let (events, source) = channel().expect("eventfd");
        assert!(source.ready().read().is_err());
        events.send("STOP", &Value::Null);
        events.send("RESET", &json!({"guest": true}));
        let came = source.take();
        assert_eq!(came[0]["event"], "STOP");
        assert_eq!(came[0].get("data"), None);
        assert_eq!(came[1]["data"]["guest"], true);
        let seconds = came[1]["timestamp"]["seconds"].as_u64().expect("a number");
        assert!(seconds > 1_700_000_000);
        assert!(source.take().is_empty() && source.ready().read().is_err());
    }

    #[test]
    fn a_reader_that_hangs_costs_events_and_no_memory() {
        let (events, source) = channel().expect("eventfd");
        for _ in 0..2 * MOST_WAITING {
            events.send("STOP", &Value::Null);
        }
        assert_eq!(source.take().len(), MOST_WAITING);
    }
}
