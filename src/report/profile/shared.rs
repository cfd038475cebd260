//! What a running profile shares with the thread that samples it.

use std::fmt;
use std::task::Waker;

use super::recording::{Count, Place, Recording};
use super::report::ProfileReport;
use super::setup::Setup;
use super::waiting::{Waiting, pending};
use crate::report::awaits::AwaitCopies;
use crate::sync::ForkMutex;
use crate::sync::fork::Process;
use crate::thread::ProfileId;
use crate::time::clock;

pub(super) struct Shared {
    pub(super) id: ProfileId,
    state: ForkMutex<State>,
    /// Used only if a future is profiled.
    waiting: ForkMutex<Waiting>,
}

enum State {
    Idle,
    Running(Box<Running>),
    Done(ProfileReport),
}

#[derive(Clone)]
struct Running {
    setup: Setup,
    recording: Recording,
    process: Process,
}

impl Running {
    /// Makes the report. `unsettled`: the samples that found the future pending, but do not know at which place.
    fn end(self, unsettled: Count) -> ProfileReport {
        let Self { setup, mut recording, process } = self;
        if !process.is_current() {
            recording.note("The process was forked meanwhile: this is what was seen before.".to_owned());
        }
        recording.count(pending(Place::Unknown), unsettled);
        recording.end(clock::real_now());
        ProfileReport::new(setup, recording)
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            id: ProfileId::next(),
            state: ForkMutex::new(State::Idle),
            waiting: ForkMutex::new(Waiting::default()),
        }
    }

    pub(super) fn begin(&self, setup: Setup, now: u64) {
        let recording = Recording::new(now, setup.period(), setup.max_stacks);
        if let Some(mut state) = self.state.lock() {
            *state = State::Running(Box::new(Running { setup, recording, process: Process::current() }));
        }
    }

    pub(super) fn record<R>(&self, record: impl FnOnce(&mut Recording) -> R) -> Option<R> {
        match &mut *self.state.lock()? {
            State::Running(running) => Some(record(&mut running.recording)),
            State::Idle | State::Done(_) => None,
        }
    }

    pub(super) fn wait<R>(&self, look: impl FnOnce(&mut Waiting) -> R) -> Option<R> {
        self.waiting.lock().map(|mut waiting| look(&mut waiting))
    }

    /// Ends the profile, and returns its report. A second call returns the same report.
    pub(super) fn end(&self) -> ProfileReport {
        // `waiting` may hold the user's waker, whose drop may run the user's code. So `waiting` is taken out, and is
        // dropped outside of the locks.
        let waiting = self.wait(std::mem::take).unwrap_or_default();
        let Some(mut state) = self.state.lock() else { return ProfileReport::lost() };
        let report = match std::mem::replace(&mut *state, State::Idle) {
            State::Running(running) => running.end(waiting.unsettled()),
            State::Done(report) => report,
            State::Idle => ProfileReport::empty(),
        };
        *state = State::Done(report.clone());
        report
    }

    pub(super) fn report(&self) -> ProfileReport {
        let unsettled = self.wait(|waiting| waiting.unsettled()).unwrap_or_default();
        let Some(state) = self.state.lock() else { return ProfileReport::lost() };
        let running = match &*state {
            State::Idle => return ProfileReport::empty(),
            State::Done(report) => return report.clone(),
            State::Running(running) => running.clone(),
        };
        drop(state);
        running.end(unsettled)
    }

    /// Begins a poll. Returns `true` if the poll is to be traced.
    pub(super) fn begin_poll(&self, began: u64) -> bool {
        let elapsed = clock::real_now().saturating_sub(began);
        let (is_traced, waker) = self.wait(|waiting| waiting.begin_poll(elapsed)).unwrap_or_default();
        drop(waker);
        is_traced
    }

    /// Ends a poll that left the future pending. `copies` is `None` if the poll was not traced. Then a clone of `waker`
    /// is kept, because a sample may have to wake the task.
    pub(super) fn end_poll(&self, copies: Option<AwaitCopies>, waker: &Waker) {
        let waker = copies.is_none().then(|| waker.clone());
        self.wait(|waiting| waiting.end_poll(copies, waker));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}
