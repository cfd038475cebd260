use std::borrow::Cow;
use std::panic::{Location, resume_unwind};
use std::time::Duration;

use super::config::{Extras, Options};
use super::frame::{self, Scope};
use super::spec::{Kind, ScopeSpec};
use crate::thread::Thread;
use crate::time::{Limit, NEVER, clock};

/// A block or future that is only watched for reports. `extras` has the label, and the time after which it is reported.
#[derive(Debug)]
pub(crate) struct Watched {
    extras: Extras,
    location: &'static Location<'static>,
}

impl Watched {
    pub(crate) fn new(
        label: Cow<'static, str>,
        warn_after: Duration,
        location: &'static Location<'static>,
    ) -> Self {
        let label = Some(label).filter(|label| !label.is_empty());
        let options = Options { label, warn_after: Some(warn_after), ..Options::default() };
        Self { extras: Extras::new(&Limit::NONE, options), location }
    }

    pub(crate) fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        self.open(Kind::Watched, body)
    }

    pub(crate) fn poll<R>(&self, poll: impl FnOnce() -> R) -> R {
        self.open(Kind::WatchedPoll, poll)
    }

    fn open<R>(&self, kind: Kind, body: impl FnOnce() -> R) -> R {
        let result = Thread::with(|thread| {
            thread.slot();
            let now = clock::now();
            thread.now.set(now);
            let spec = ScopeSpec { unmeasured: true, ..ScopeSpec::lasting(NEVER, now, self.location, kind) };
            let mut frame = Scope::new(spec, thread);
            let effective = thread.deadline.get();
            frame::open(thread, &mut frame, effective, Some(&self.extras), true, |_| body())
        });
        result.unwrap_or_else(|payload| resume_unwind(payload))
    }
}
