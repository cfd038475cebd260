use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use super::definition::Sink;
use crate::report::contents::Report;
use crate::report::losses;
use crate::report::queue::{CAPACITY, Queue};
use crate::sync::callback::drop_quietly;
use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock, os};

pub(crate) struct SinkThread {
    sink: Arc<dyn Sink>,
    queue: Queue<Arc<Report>>,
}

/// The sinks of this process that may have reports to write. Sinks of policies that were replaced may be among them.
static ALL: PerProcess<Mutex<Vec<Weak<SinkThread>>>> =
    PerProcess::new(Mutex::new(Vec::new()), || Mutex::new(Vec::new()));

impl SinkThread {
    pub(crate) fn new(sink: Arc<dyn Sink>) -> Arc<Self> {
        let this = Arc::new(Self { sink, queue: Queue::new(CAPACITY) });
        let mut all = lock(ALL.get());
        all.retain(|sink| sink.strong_count() > 0);
        all.push(Arc::downgrade(&this));
        this
    }

    pub(crate) fn submit(self: &Arc<Self>, report: Arc<Report>) {
        if self.queue.submit(report, || self.start()).is_err() {
            losses::count_one();
        }
    }

    /// Lets the thread end once all is written.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    fn start(self: &Arc<Self>) -> bool {
        let this = Arc::clone(self);
        os::spawn("timebox-sink", move || this.queue.serve(|report| this.write(&report))).is_ok()
    }

    fn write(&self, report: &Report) {
        match catch_unwind(AssertUnwindSafe(|| self.sink.write(report))) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => losses::count_one(),
            Err(payload) => {
                drop_quietly(payload);
                losses::count_one();
            }
        }
    }
}

/// Waits until all sinks have written what was submitted, and returns `true`. Returns `false` if the time `until` comes
/// first.
pub(crate) fn wait_for_all(until: u64) -> bool {
    let all: Vec<_> = lock(ALL.get()).iter().filter_map(Weak::upgrade).collect();
    let mut done = true;
    for sink in all {
        done &= sink.queue.wait(until, || sink.start());
    }
    done
}

impl std::fmt::Debug for SinkThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkThread").finish_non_exhaustive()
    }
}
