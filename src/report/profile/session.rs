//! One run of a profile, from its beginning to its end.

use std::sync::Arc;

use super::report::ProfileReport;
use super::sampler;
use super::setup::Setup;
use super::shared::Shared;
use crate::time::clock;

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
        // After `end` this finds the profile done.
        self.end_now();
    }
}
