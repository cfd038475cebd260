//! Makes the report of one look at a thread. Runs on the reporter thread.

use std::time::{Duration, SystemTime};

use super::contents::{Activity, Kind, Report, Thread};
use super::recent::ScopeKey;
use super::stack::{Begun, Copy, CpuTimes, Memory, State};
use super::tools::Tools;
use super::{blocked, stack, state};
use crate::error::{Fields, ScopeId, ScopeInfo};
use crate::scope::{ReadMemory, ScopeCopy, ScopeKind};
use crate::time::{NEVER, clock};

/// How long the reporter waits until a running thread has copied its own stack, in the handler of a signal.
const WAIT: Duration = Duration::from_secs(1);

/// Why a scope is reported. Each value is one bit, so that a `u8` can be a set of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Slow = 1,
    Expired = 2,
    Overdue = 4,
    Stuck = 8,
}

pub(super) fn key_of(scope: &ScopeCopy) -> ScopeKey {
    ScopeKey { location: scope.location, entered: scope.entered }
}

/// What the watchdog has seen of a scope that is to be reported.
pub(crate) struct Look {
    pub(super) event: Event,
    pub(super) scope: ScopeKey,
    pub(super) frame: u64,
    pub(super) begun: Begun,
    /// How late the watchdog was, in nanoseconds.
    pub(super) late: u64,
    /// When an earlier look at the thread was, and the processor times of the thread then. `None` without an earlier
    /// look.
    pub(super) before: Option<(u64, CpuTimes)>,
}

impl From<Event> for Kind {
    fn from(event: Event) -> Self {
        match event {
            Event::Slow => Self::Slow,
            Event::Expired => Self::Expired,
            Event::Overdue | Event::Stuck => Self::Overdue,
        }
    }
}

/// Returns `None`, so there is no report, if the scope was left before the thread was copied, if a debugger is attached
/// to the process, or if the copy may be nonsense.
pub(super) fn make(look: Look, tools: &mut Tools) -> Option<Report> {
    let copy = match look.begun {
        Begun::Copied(copy) => copy,
        Begun::Asked(request) => request.wait(WAIT),
    };
    let scopes = copy.scopes.scopes();
    let at = scopes.iter().position(|scope| scope.frame == look.frame && key_of(scope) == look.scope)?;
    if state::is_traced() {
        return None;
    }
    let scope = &scopes[at];
    let infos = |scope| info(scope, copy.is_consistent);
    // `info` returns `None` if the scope's place is not known. Then the copy may be nonsense.
    let chain: Vec<ScopeInfo> = scopes.iter().map(infos).collect::<Option<_>>()?;
    let mut notes = copy.notes();
    if copy.scopes.is_cut {
        notes.push("There are more scopes around these.".to_owned());
    }
    let (stack, more) = tools.stack_of(&copy.stack, Some(scope.frame));
    notes.extend(more);
    Some(Report {
        kind: if scope.kind == ScopeKind::WatchedPoll { Kind::Stalled } else { look.event.into() },
        scope: chain[at].clone(),
        limit: chain[at].limit(),
        chain,
        began: time_of(scope.entered),
        elapsed: Duration::from_nanos(copy.at.saturating_sub(scope.entered)),
        ended_before: None,
        process: state::this_process(),
        thread: Some(thread(&copy, look.before)),
        stacks: stack.into_iter().collect(),
        awaits: Vec::new(),
        polls: None,
        watchdog_late: Duration::from_nanos(look.late),
        suppressed: 0,
        notes,
    })
}

/// The report that a scope has ended. The scope was open at `seen`, and it was no longer open at `now`. Returns `None`
/// if no earlier report of the scope is kept: then its label and its thread are not known.
pub(super) fn ended(scope: ScopeKey, seen: u64, now: u64) -> Option<Report> {
    let before = super::recent::recent_of(scope)?;
    let since = |at: u64| Duration::from_nanos(at.saturating_sub(scope.entered));
    Some(Report {
        kind: Kind::Ended,
        elapsed: since(seen),
        ended_before: Some(since(now)),
        thread: before.thread.clone().map(|thread| Thread { activity: Activity::Unknown, ..thread }),
        stacks: Vec::new(),
        awaits: Vec::new(),
        polls: None,
        watchdog_late: Duration::ZERO,
        suppressed: 0,
        notes: Vec::new(),
        ..(*before).clone()
    })
}

/// The time of day of a moment on the crate's clock.
pub(super) fn time_of(at: u64) -> SystemTime {
    #[allow(clippy::disallowed_methods)] // the time of day, for people
    let now = SystemTime::now();
    let ago = Duration::from_nanos(clock::real_now().saturating_sub(at));
    now.checked_sub(ago).unwrap_or(now)
}

/// `before`: the time of an earlier look at the thread, and the thread's processor times then.
pub(super) fn thread(copy: &Copy, before: Option<(u64, CpuTimes)>) -> Thread {
    let activity = match (copy.state, copy.call) {
        (State::Running, _) => Activity::Running,
        (State::Blocked, Some(call)) => {
            let read = |address: u64, into: &mut [u8]| Memory.read(address, into);
            Activity::Blocked(blocked::describe(copy.tid, call.number, &call.arguments, &read))
        }
        _ => Activity::Unknown,
    };
    let since = before.map(|(at, times)| (Duration::from_nanos(copy.at.saturating_sub(at)), times));
    let used = |now: Option<Duration>, before: fn(&CpuTimes) -> Duration| {
        let (_, times) = since.as_ref()?;
        Some(now?.saturating_sub(before(times)))
    };
    Thread {
        name: name_of(copy.tid),
        id: copy.tid,
        activity,
        cpu_time: used(copy.cpu_time, |times| times.run),
        waited_for_cpu: used(copy.waited_for_cpu, |times| times.waited),
        observed: since.map(|(observed, _)| observed),
    }
}

/// The description of a scope that was copied; `None` if its place is not known.
pub(super) fn info(scope: &ScopeCopy, is_consistent: bool) -> Option<ScopeInfo> {
    let label = scope.label.to_text();
    let text = scope.fields.to_text();
    let mut fields = Fields::default();
    let mut parts = text.split('\0');
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        fields.set(name.to_owned().into(), value.to_owned());
    }
    let has_limit = !scope.unmeasured && scope.asked != NEVER;
    Some(ScopeInfo {
        id: ScopeId::from_raw(scope.id).unwrap_or_else(ScopeId::next),
        label: (!label.is_empty()).then(|| label.into()),
        location: stack::location(scope, is_consistent)?,
        limit: has_limit.then(|| Duration::from_nanos(scope.asked)),
        fields,
    })
}

pub(super) fn name_of(tid: u32) -> String {
    state::state_of(tid).map(|state| state.name).unwrap_or_default()
}
