//! A profile, as the user sets it up.

use std::borrow::Cow;
use std::future::IntoFuture;
use std::sync::Arc;

use super::future::Profiled;
use super::report::ProfileReport;
use super::session::{Session, own_times};
use super::setup::Setup;
use super::shared::Shared;
use crate::thread::visit::visit;

/// Finds out where one piece of code spends its time, computing and waiting: see [the module](crate::report#profiles).
///
/// ```
/// use std::time::Duration;
/// use timebox::report::Profile;
///
/// fn handle(request: u32) -> u32 {
///     std::thread::sleep(Duration::from_millis(100));
///     request + 1
/// }
///
/// let (answer, report) = Profile::new().label("GET /repos/42").run(|| handle(41));
/// assert_eq!(answer, 42);
/// println!("{report}");
/// ```
#[derive(Debug)]
#[must_use = "a profile does nothing before it runs something"]
pub struct Profile {
    setup: Setup,
    shared: Arc<Shared>,
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}

impl Profile {
    /// A profile with 99 samples a second.
    pub fn new() -> Self {
        let setup = Setup { label: None, frequency: 99, max_stacks: 10_000 };
        Self { setup, shared: Arc::new(Shared::new()) }
    }

    /// The name of what is profiled: the title of the picture.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.setup.label = Some(label.into());
        self
    }

    /// Takes so many samples a second: 99 unless set, at least 1 and at most 10,000.
    ///
    /// A sample of a thread that runs stops it for some ten microseconds. At 99 Hz that is not measurable, at 997 Hz it is one to
    /// three percent of the thread's time.
    pub fn frequency(mut self, hertz: u32) -> Self {
        self.setup.frequency = hertz.clamp(1, 10_000);
        self
    }

    /// Keeps at most so many different stacks: 10,000 unless set. The time of others is kept in one sum.
    ///
    /// A stack takes up to two kilobytes, and half of one as a rule.
    pub fn max_stacks(mut self, stacks: usize) -> Self {
        self.setup.max_stacks = stacks;
        self
    }

    /// Shows the profile while it runs, and after its end. This is the way to a profile of code that never ends, that panics, or
    /// of a future that a timeout drops.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::report::Profile;
    /// use timebox::future;
    ///
    /// # pollster::block_on(async {
    /// let profile = Profile::new();
    /// let live = profile.live();
    /// let request = profile.run_future(future::sleep(Duration::from_secs(60)));
    /// assert!(future::timeout_value(Duration::from_millis(100), request).await.is_err());
    /// assert!(live.report().waiting() > Duration::from_millis(50));
    /// # });
    /// ```
    pub fn live(&self) -> LiveProfile {
        LiveProfile { shared: Arc::clone(&self.shared) }
    }

    /// Runs a block, and profiles it: on this thread, and on each thread for as long as it is in a [`Handle`](crate::Handle) that
    /// was made in the block.
    ///
    /// The block does not notice it. If the block panics, the panic goes on; [`live`](Self::live) has the report.
    ///
    /// ```
    /// use timebox::report::Profile;
    ///
    /// let (sum, report) = Profile::new().frequency(997).run(|| (1..=100).sum::<u32>());
    /// assert_eq!(sum, 5050);
    /// assert!(report.samples() <= 1, "it ended at once");
    /// ```
    pub fn run<R>(self, body: impl FnOnce() -> R) -> (R, ProfileReport) {
        let before = own_times();
        let session = Session::begin(&self.setup, self.shared);
        let (result, after) = visit(session.shared.id, || (body(), own_times()));
        session.note_starvation(before, after);
        (result, session.end())
    }

    /// Runs a future, and profiles it from its first poll on: in its polls, on whichever threads they run, and between them, where
    /// it waits.
    ///
    /// The place at which a future waits is the stack at which a leaf of it cloned the task's waker, as in
    /// [reports of pending futures](crate::guide::slow#futures). To see it, some polls are watched; a task may be woken, and polled
    /// once more, for a sample.
    ///
    /// # Cancellation safety
    ///
    /// Dropping the returned future drops the inner one. [`live`](Self::live) has the report.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    /// use timebox::{future, report::Profile};
    ///
    /// let request = async { future::sleep(Duration::from_millis(100)).await.map(|()| 42) };
    /// let (answer, report) = Profile::new().run_future(request).await;
    /// assert_eq!(answer.unwrap(), 42);
    /// assert!(report.waiting() > report.running());
    /// # });
    /// ```
    pub fn run_future<F: IntoFuture>(self, future: F) -> Profiled<F::IntoFuture> {
        Profiled::new(future.into_future(), self.setup, self.shared)
    }
}

/// A look at a profile from elsewhere, at any time: see [`Profile::live`].
#[derive(Clone, Debug)]
pub struct LiveProfile {
    shared: Arc<Shared>,
}

impl LiveProfile {
    /// What is known so far. Before the profile begins, a report without samples; after its end, the whole.
    ///
    /// It copies what was seen so far: at most [`max_stacks`](Profile::max_stacks) stacks.
    pub fn report(&self) -> ProfileReport {
        self.shared.report()
    }
}
