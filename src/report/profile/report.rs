use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::contents::{FunctionTime, ProfileStack};
use super::functions::functions;
use super::names::named;
use super::recording::{Count, Doing as Raw, Recording, Seen};
use super::setup::Setup;
use crate::report::{json, look};
use crate::sync::SetOnce;

/// Where the time of a profile went.
///
/// The time is wall time. Each sample tells whether the code ran or waited, and where. [`running`](Self::running),
/// [`waiting`](Self::waiting) and [`missed`](Self::missed) together are [`elapsed`](Self::elapsed).
///
/// `{}` is a text for a terminal: the profile in one line, and two tables of functions. [`folded`](Self::folded) is for
/// other tools, and [`flame_graph`](Self::flame_graph) draws a picture. Serialized, a profile has its times in seconds,
/// its functions and its stacks.
///
/// All of these show the names of functions. **The names are found only when they are needed.** To find them, the
/// program's file is read. This takes some milliseconds, or a hundred for a large program. In async code, call these
/// methods in `spawn_blocking`. The clones of a report share the names.
///
/// ```
/// use std::time::Duration;
/// use timebox::report::Profile;
///
/// let (_, report) = Profile::new().run(|| std::thread::sleep(Duration::from_millis(50)));
/// assert!(report.elapsed() >= Duration::from_millis(50));
/// assert_eq!(report.running() + report.waiting() + report.missed(), report.elapsed());
/// println!("{report}");
/// ```
#[derive(Clone)]
pub struct ProfileReport(Arc<Contents>);

struct Contents {
    setup: Option<Setup>,
    recording: Recording,
    began: SystemTime,
    named: SetOnce<Vec<ProfileStack>>,
}

impl ProfileReport {
    pub(super) fn new(setup: Setup, recording: Recording) -> Self {
        let began = look::time_of(recording.began);
        Self(Arc::new(Contents { setup: Some(setup), recording, began, named: SetOnce::new() }))
    }

    /// The report of a profile that has not begun.
    pub(super) fn empty() -> Self {
        let (recording, began) = (Recording::new(0, 1, 0), SystemTime::UNIX_EPOCH);
        Self(Arc::new(Contents { setup: None, recording, began, named: SetOnce::new() }))
    }

    /// The report of a profile whose samples were lost in a fork.
    pub(super) fn lost() -> Self {
        let (mut recording, began) = (Recording::new(0, 1, 0), SystemTime::UNIX_EPOCH);
        recording.note("The process was forked in the middle of a sample: the samples are lost.".to_owned());
        Self(Arc::new(Contents { setup: None, recording, began, named: SetOnce::new() }))
    }

    /// The label of [`Profile::label`](super::Profile::label).
    pub fn label(&self) -> Option<&str> {
        self.0.setup.as_ref()?.label.as_deref()
    }

    /// When the profile began. The profile of a future begins at the first poll.
    pub fn began(&self) -> SystemTime {
        self.0.began
    }

    /// The time from the profile's beginning to its end. If the profile still runs: to this report.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.recording.elapsed)
    }

    /// How many samples a second were asked for. 0 if the profile has not begun, or if its samples were lost in a fork.
    pub fn frequency(&self) -> u32 {
        self.0.setup.as_ref().map_or(0, |setup| setup.frequency)
    }

    /// How many samples saw the profile's own code. Samples of work by a [`Handle`](crate::Handle) do not count.
    pub fn samples(&self) -> u64 {
        self.sum(|seen| !seen.by_handle).samples
    }

    /// The time in which the code ran, or was ready to run.
    pub fn running(&self) -> Duration {
        Duration::from_nanos(self.sum(|seen| !seen.by_handle && seen.doing == Raw::Running).time)
    }

    /// The time in which the code was blocked, or was a pending future.
    pub fn waiting(&self) -> Duration {
        Duration::from_nanos(self.sum(|seen| !seen.by_handle && seen.doing != Raw::Running).time)
    }

    /// The time of which nothing is known. [`notes`](Self::notes) may say why. If a profile ends before its first
    /// sample, this is all of its time.
    pub fn missed(&self) -> Duration {
        Duration::from_nanos(self.0.recording.missed.time)
    }

    /// The time of work that other threads got by a [`Handle`](crate::Handle): the sum over these threads. It is not a
    /// part of [`elapsed`](Self::elapsed).
    pub fn on_other_threads(&self) -> Duration {
        Duration::from_nanos(self.sum(|seen| seen.by_handle).time)
    }

    fn sum(&self, is_counted: impl Fn(&Seen) -> bool) -> Count {
        let mut sum = Count::default();
        let counted = self.0.recording.seen.iter().filter(|(seen, _)| is_counted(seen));
        counted.for_each(|(_, count)| sum.add(*count));
        sum
    }

    /// All stacks, those with the most time first. Stacks of the same functions count as one. Stacks of code that waits
    /// count as one only if the code waits in the same line.
    ///
    /// If a future waits in several branches at once, each branch gets an equal part of the time.
    pub fn stacks(&self) -> &[ProfileStack] {
        self.0.named.get_or_init(|| named(&self.0.recording))
    }

    /// The functions, those with the most time of their own first.
    pub fn functions(&self) -> Vec<FunctionTime> {
        functions(self.stacks())
    }

    /// What is not certain about this profile, in sentences.
    pub fn notes(&self) -> Vec<String> {
        let recording = &self.0.recording;
        let mut notes = recording.reasons.clone();
        if recording.approximate > 0 {
            let (count, all) = (recording.approximate, self.sum(|_| true).samples);
            notes.push(format!("Frames may be wrong or missing in {count} of {all} samples."));
        }
        notes
    }
}

impl Serialize for ProfileReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        #[serde(transparent)]
        struct Time(#[serde(serialize_with = "json::time")] SystemTime);

        let mut fields = serializer.serialize_struct("ProfileReport", 12)?;
        fields.serialize_field("label", &self.label())?;
        fields.serialize_field("began", &Time(self.began()))?;
        fields.serialize_field("elapsed", &self.elapsed().as_secs_f64())?;
        fields.serialize_field("frequency", &self.frequency())?;
        fields.serialize_field("samples", &self.samples())?;
        fields.serialize_field("running", &self.running().as_secs_f64())?;
        fields.serialize_field("waiting", &self.waiting().as_secs_f64())?;
        fields.serialize_field("missed", &self.missed().as_secs_f64())?;
        fields.serialize_field("on_other_threads", &self.on_other_threads().as_secs_f64())?;
        fields.serialize_field("functions", &self.functions())?;
        fields.serialize_field("stacks", self.stacks())?;
        fields.serialize_field("notes", &self.notes())?;
        fields.end()
    }
}

impl fmt::Debug for ProfileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileReport")
            .field("label", &self.label())
            .field("elapsed", &self.elapsed())
            .field("samples", &self.samples())
            .finish_non_exhaustive()
    }
}
