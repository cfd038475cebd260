use std::sync::Arc;
use std::time::Duration;

use super::report::ProfileReport;
use super::sampler;
use super::setup::Setup;
use super::shared::Shared;
use crate::error::Rounded;
use crate::report::stack::{CpuTimes, Target};
use crate::sync::os;
use crate::time::clock;

/// If a thread was ready to run but got no processor for more than a 20th of the time, the report says so.
const STARVED_PART: u32 = 20;

pub(super) fn own_times() -> Option<CpuTimes> {
    Target::new(os::thread_id(), 0).times()
}

/// A profile that runs. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    /// On the crate's clock.
    pub(super) began: u64,
}

impl Session {
    pub(super) fn begin(setup: &Setup, shared: Arc<Shared>) -> Self {
        let began = clock::real_now();
        shared.begin(setup.clone(), began);
        if !sampler::add(&shared, began, setup.period()) {
            let note = "There are no samples: the system had no thread to take them.";
            shared.record(|recording| recording.note(note.to_owned()));
        }
        Self { shared, began }
    }

    pub(super) fn note_starvation(&self, before: Option<CpuTimes>, after: Option<CpuTimes>) {
        let Some((before, after)) = before.zip(after) else { return };
        let starved = after.waited.saturating_sub(before.waited);
        let elapsed = Duration::from_nanos(clock::real_now().saturating_sub(self.began));
        if starved > elapsed / STARVED_PART {
            let text =
                format!("The thread was ready to run, but got no processor, for {}.", Rounded(starved));
            self.shared.record(|recording| recording.note(text));
        }
    }

    pub(super) fn end(self) -> ProfileReport {
        self.end_now()
    }

    fn end_now(&self) -> ProfileReport {
        let report = self.shared.end();
        sampler::remove(self.shared.id);
        report
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // If `end` was called, the profile is done, and this call changes nothing.
        self.end_now();
    }
}
