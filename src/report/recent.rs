use std::collections::VecDeque;
use std::sync::Arc;

use super::contents::{Kind, Report};
use crate::error::TimeoutError;
use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock};

/// How many reports are kept of those that were written, and of those that were left out.
const MOST: usize = 64;

/// Identifies a scope by where and when it was opened. A `ScopeId` would not do: a scope may have none yet, and only
/// the scope's own thread can give it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ScopeKey {
    /// The address of the `Location` at which the scope was opened.
    pub(crate) location: u64,
    /// When the scope was entered, in nanoseconds on the clock of this crate.
    pub(crate) entered: u64,
}

#[derive(Debug)]
struct Recent {
    written: VecDeque<(ScopeKey, Arc<Report>)>,
    /// Reports that the limiter left out. The error of a scope can show the scope's report even then.
    left_out: VecDeque<(ScopeKey, Arc<Report>)>,
}

impl Recent {
    const fn new() -> Self {
        Self { written: VecDeque::new(), left_out: VecDeque::new() }
    }
}

static RECENT: PerProcess<Mutex<Recent>> =
    PerProcess::new(Mutex::new(Recent::new()), || Mutex::new(Recent::new()));

/// The last 64 reports of this process, oldest first. A report is here as soon as it is made, before the sinks have
/// written it. Reports that are made without a [`Policy`](super::Policy) are here too.
///
/// Reports that were left out are not here, for example because a report with the same stack was written a short while
/// before.
///
/// ```
/// for report in timebox::report::recent() {
///     println!("{}", report.headline());
/// }
/// ```
pub fn recent() -> Vec<Arc<Report>> {
    let recent = lock(RECENT.get());
    recent.written.iter().map(|(_, report)| Arc::clone(report)).collect()
}

impl TimeoutError {
    /// The last report about the scope that is over, of those that were made while the scope was open. `None` if there
    /// is none. A report that the policy has left out, because a report with the same stack was written a short while
    /// before, is found here too.
    ///
    /// Another thread makes the report, which takes some milliseconds. Until then this is `None`;
    /// [`flush`](super::flush) waits for the report. Only the last reports of the process are kept: 64 that were
    /// written, and 64 that were left out.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::{report, sleep, timeout};
    ///
    /// # fn main() -> Result<(), report::InstallError> {
    /// report::Policy::new().install()?;
    /// let error = timeout(Duration::from_millis(20), || -> timebox::Result<()> {
    ///     sleep(Duration::from_secs(60)) // a place that is slow
    /// });
    /// report::flush(Duration::from_secs(10));
    /// if let Some(report) = error.unwrap_err().report() {
    ///     println!("{report}");
    /// }
    /// # report::uninstall();
    /// # Ok(())
    /// # }
    /// ```
    pub fn report(&self) -> Option<Arc<Report>> {
        let scope = &self.0.chain[self.0.over];
        let location = std::ptr::from_ref(scope.location).addr() as u64;
        recent_of(ScopeKey { location, entered: self.0.entered })
    }
}

/// The last report that was made of the scope while the scope was open. `None` if no such report is kept.
pub(crate) fn recent_of(scope: ScopeKey) -> Option<Arc<Report>> {
    let recent = lock(RECENT.get());
    let of_scope = |reports: &VecDeque<(ScopeKey, Arc<Report>)>| {
        let mut reports = reports.iter().rev();
        reports
            .find(|(key, report)| *key == scope && report.kind != Kind::Ended)
            .map(|(_, report)| Arc::clone(report))
    };
    let (written, left_out) = (of_scope(&recent.written), of_scope(&recent.left_out));
    [written, left_out].into_iter().flatten().max_by_key(|report| report.elapsed)
}

pub(super) fn keep(scope: ScopeKey, report: Arc<Report>, is_written: bool) {
    let mut recent = lock(RECENT.get());
    let reports = if is_written { &mut recent.written } else { &mut recent.left_out };
    let oldest = if reports.len() == MOST { reports.pop_front() } else { None };
    reports.push_back((scope, report));
    drop(recent);
    drop(oldest);
}
