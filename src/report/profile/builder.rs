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

    /// Names what is profiled. The name is also the title of the flame graph.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.setup.label = Some(label.into());
        self
    }

    /// Sets how many samples are taken in a second. The default is 99, the least is 1, the most is 10,000.
    ///
    /// Each sample stops a running thread for some ten microseconds. At 99 Hz this cannot be measured. At 997 Hz it
    /// takes one to three percent of the thread's time.
    pub fn frequency(mut self, hertz: u32) -> Self {
        self.setup.frequency = hertz.clamp(1, 10_000);
        self
    }

    /// Sets how many different stacks are kept. The default is 10,000. The time of all further stacks is kept in one
    /// sum.
    ///
    /// A stack usually takes half a kilobyte, and at most two kilobytes. If a future waits in several branches, it has
    /// one stack for each branch.
    pub fn max_stacks(mut self, stacks: usize) -> Self {
        self.setup.max_stacks = stacks;
        self
    }

    /// Returns access to the profile, while it runs and after its end. So you get the profile even of code that panics
    /// or never ends, and of a future that a timeout drops.
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

    /// Runs a block, and profiles it on this thread. Other threads are profiled too, while they run in a
    /// [`Handle`](crate::Handle) that was made in the block.
    ///
    /// If the block panics, the panic goes on, and [`live`](Self::live) has the report.
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

    /// Runs a future, and profiles it from its first poll on: in its polls, on whichever threads they run, and between
    /// the polls, where the future waits.
    ///
    /// The place at which a future waits is the stack at which one of its leaves cloned the task's waker, as in
    /// [reports of pending futures](crate::guide::slow#futures). To find this place, the profile traces some polls.
    /// Sometimes it wakes the task for a sample, and so causes one more poll.
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

/// Gives the report of a profile at any time, on any thread: see [`Profile::live`].
#[derive(Clone, Debug)]
pub struct LiveProfile {
    shared: Arc<Shared>,
}

impl LiveProfile {
    /// What is known so far. Before the profile begins, the report is empty. After the profile's end, the report is
    /// complete.
    ///
    /// Each call copies the stacks that were seen: at most [`max_stacks`](Profile::max_stacks).
    pub fn report(&self) -> ProfileReport {
        self.shared.report()
    }
}
