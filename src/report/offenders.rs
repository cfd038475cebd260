use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde::Serialize;

use super::contents::{Frame, Kind, Report, Stack};
use super::frames::Place;
use super::json;
use super::recent::ScopeKey;
use super::text::Name;
use crate::error::{OneLine, Rounded, ScopeInfo};
use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock};

const MOST_STACKS: usize = 256;

/// How many of the innermost frames of the program's own code decide whether two stacks count as the same.
const FRAMES: usize = 3;

/// How many scopes are remembered, so that a scope with several reports counts once.
const MOST_SCOPES: usize = 1024;

/// Which code was slow, and how often. `{}` is a table.
///
/// See [`offenders`]. Serialized, durations are seconds, as numbers with a fraction.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Offenders {
    /// The stacks that were reported. The stack with the longest total comes first.
    pub stacks: Vec<Offender>,
    /// At most 256 stacks are counted one by one. This is the sum of all other stacks.
    pub others: Total,
}

/// The scopes that were reported with one stack.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Offender {
    /// The innermost frames of the program's own code, at most three. Empty if no stack could be had.
    pub frames: Vec<Frame>,
    /// The scope that was open for longest.
    #[serde(serialize_with = "json::scope")]
    pub scope: ScopeInfo,
    /// How many scopes were reported with this stack, and for how long they were open.
    #[serde(flatten)]
    pub total: Total,
}

/// How many scopes were reported, and for how long they were open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Total {
    /// How many scopes were reported.
    pub count: u64,
    /// The sum of the times for which these scopes were open, each up to its last report.
    #[serde(serialize_with = "json::seconds")]
    pub total: Duration,
    /// The longest time that one of these scopes was open.
    #[serde(serialize_with = "json::seconds")]
    pub worst: Duration,
}

/// Which code was slow since the process began. For each stack: how often, for how long in total, and for how long at
/// worst.
///
/// A scope counts once, with the stack of its first report, however many reports there are of it. It counts even if its
/// reports were left out because a report with the same stack had been written a short while before. Reports do not
/// count if the process or the thread got no processor.
///
/// ```
/// // Say, at a page for administrators, or on a signal.
/// println!("{}", timebox::report::offenders());
/// ```
///
/// ```text
///   count      total      worst  where
///      12     63.204s    10.011s  shop::cache::reply  src/cache.rs:57
///                                 shop::cache::get  src/cache.rs:42
///                                 shop::repositories::show  src/repositories.rs:118
///                                 at worst `GET /repos/42`
/// ```
pub fn offenders() -> Offenders {
    lock(OFFENDERS.get()).as_ref().map(Table::sorted).unwrap_or_default()
}

pub(super) fn count(scope: ScopeKey, report: &Report) {
    lock(OFFENDERS.get()).get_or_insert_default().count(scope, report);
}

static OFFENDERS: PerProcess<Mutex<Option<Table>>> = PerProcess::new(Mutex::new(None), || Mutex::new(None));

#[derive(Debug, Default)]
struct Table {
    stacks: HashMap<Key, Offender>,
    others: Total,
    /// The scopes that were counted last, oldest first. A later report of one of these scopes does not count the scope
    /// again.
    scopes: VecDeque<Counted>,
}

/// Two stacks with the same key count as one. The key has the functions and lines of the stack. If there is no stack,
/// it has the place of the scope.
type Key = Vec<(String, Option<u32>)>;

#[derive(Debug)]
struct Counted {
    scope: ScopeKey,
    key: Key,
    elapsed: Duration,
}

impl Total {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
        self.worst = self.worst.max(other.worst);
    }
}

impl Table {
    fn count(&mut self, scope: ScopeKey, report: &Report) {
        let elapsed = report.elapsed;
        if let Some(counted) = self.scopes.iter_mut().rev().find(|counted| counted.scope == scope) {
            let further = elapsed.saturating_sub(counted.elapsed);
            counted.elapsed = counted.elapsed.max(elapsed);
            let total = Total { count: 0, total: further, worst: elapsed };
            match self.stacks.get_mut(&counted.key) {
                Some(stack) => stack.add(total, &report.scope),
                None => self.others.add(total),
            }
            return;
        }
        if report.kind == Kind::Ended || report.starved().is_some() {
            return;
        }
        let frames = top(report);
        let key = key(&frames, report);
        if self.scopes.len() == MOST_SCOPES {
            self.scopes.pop_front();
        }
        self.scopes.push_back(Counted { scope, key: key.clone(), elapsed });
        if self.stacks.len() == MOST_STACKS && !self.stacks.contains_key(&key) {
            self.sum_up_the_least();
        }
        let new = || Offender { frames, scope: report.scope.clone(), total: Total::default() };
        let total = Total { count: 1, total: elapsed, worst: elapsed };
        self.stacks.entry(key).or_insert_with(new).add(total, &report.scope);
    }

    fn sum_up_the_least(&mut self) {
        let least = self.stacks.iter().min_by_key(|(_, stack)| stack.total.total);
        if let Some(key) = least.map(|(key, _)| key.clone())
            && let Some(stack) = self.stacks.remove(&key)
        {
            self.others.add(stack.total);
        }
    }

    fn sorted(&self) -> Offenders {
        let mut stacks: Vec<Offender> = self.stacks.values().cloned().collect();
        stacks.sort_by_key(|stack| std::cmp::Reverse((stack.total.total, stack.total.worst)));
        Offenders { stacks, others: self.others }
    }
}

impl Offender {
    fn add(&mut self, total: Total, scope: &ScopeInfo) {
        if total.worst > self.total.worst {
            self.scope = scope.clone();
        }
        self.total.add(total);
    }
}

/// The innermost frames of the program's own code. Of several stacks, the first in alphabetical order is taken: a
/// future may poll its places in any order, and the result must always be the same.
fn top(report: &Report) -> Vec<Frame> {
    let own = |stack: &Stack| -> Vec<Frame> {
        stack.frames.iter().filter(|frame| !frame.foreign).take(FRAMES).cloned().collect()
    };
    let of =
        |stacks: &[Stack]| stacks.iter().map(own).filter(|own| !own.is_empty()).min_by_key(|own| key_of(own));
    of(&report.stacks).or_else(|| of(&report.awaits)).unwrap_or_default()
}

fn key_of(frames: &[Frame]) -> Key {
    frames.iter().map(|frame| (frame.function.clone(), frame.line)).collect()
}

fn key(frames: &[Frame], report: &Report) -> Key {
    if frames.is_empty() {
        return vec![(report.scope.location().to_string(), None)];
    }
    key_of(frames)
}

impl Display for Offenders {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.stacks.is_empty() {
            return writeln!(f, "no scope was reported");
        }
        writeln!(f, "{:>7} {:>10} {:>10}  where", "count", "total", "worst")?;
        for Offender { frames, scope, total } in &self.stacks {
            write!(f, "{total}  ")?;
            for frame in frames {
                let place = format!("{}  {}", OneLine(&frame.function), Place(frame));
                write!(f, "{}\n{:31}", place.trim_end(), "")?;
            }
            if frames.is_empty() {
                write!(f, "scope opened at {}", scope.location())?;
            } else {
                write!(f, "at worst {}", Name(scope))?;
            }
            writeln!(f)?;
        }
        if self.others.count > 0 {
            writeln!(f, "{}  others", self.others)?;
        }
        Ok(())
    }
}

impl Display for Total {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (total, worst) = (Rounded(self.total).to_string(), Rounded(self.worst).to_string());
        write!(f, "{:>7} {total:>10} {worst:>10}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(entered: u64) -> ScopeKey {
        ScopeKey { location: 1, entered }
    }

    fn report(function: &str, millis: u64) -> Report {
        let mut report = Report::example();
        report.elapsed = Duration::from_millis(millis);
        for frame in &mut report.stacks[0].frames {
            frame.function = frame.function.replace("shop::cache::reply", function);
        }
        report
    }

    #[test]
    fn a_scope_counts_once_with_its_last_time() {
        let mut table = Table::default();
        table.count(scope(1), &report("shop::a", 5_000));
        let mut overdue = report("shop::elsewhere", 26_000);
        overdue.kind = Kind::Overdue;
        table.count(scope(1), &overdue);
        let mut ended = report("", 41_100);
        ended.kind = Kind::Ended;
        ended.stacks.clear();
        table.count(scope(1), &ended);
        table.count(scope(2), &report("shop::a", 5_000));
        table.count(scope(3), &ended);
        table.count(scope(4), &report("shop::b", 6_000));
        let mut starved = report("shop::c", 1_000);
        starved.watchdog_late = Duration::from_millis(900);
        table.count(scope(5), &starved);
        let text = table.sorted().to_string();
        assert_eq!(
            text,
            "  count      total      worst  where
      2      46.1s      41.1s  shop::a  src/cache.rs:57
                               shop::cache::get  src/cache.rs:42
                               shop::repositories::show  src/repositories.rs:118
                               at worst `GET /repos/42`
      1         6s         6s  shop::b  src/cache.rs:57
                               shop::cache::get  src/cache.rs:42
                               shop::repositories::show  src/repositories.rs:118
                               at worst `GET /repos/42`
"
        );
        let json = serde_json::to_value(table.sorted()).unwrap();
        assert_eq!(json["stacks"][0]["count"], 2);
        assert_eq!(json["stacks"][0]["worst"], 41.1);
        assert_eq!(json["stacks"][0]["scope"]["label"], "GET /repos/42");
        assert_eq!(json["others"]["count"], 0);
    }

    #[test]
    fn the_least_of_many_stacks_are_summed() {
        let mut table = Table::default();
        table.count(scope(0), &report("shop::worst", 60_000));
        for n in 1..=2_000 {
            table.count(scope(n), &report(&format!("shop::f{n}"), 10 + n));
        }
        // The stack of this scope is no longer counted by itself: its total was added to `others`.
        table.count(scope(1_000), &report("shop::f1000", 1_500));
        let offenders = table.sorted();
        assert_eq!(offenders.stacks.len(), MOST_STACKS);
        assert_eq!(offenders.stacks[0].frames[0].function, "shop::worst");
        let count: u64 = offenders.stacks.iter().map(|stack| stack.total.count).sum();
        assert_eq!(count + offenders.others.count, 2_001);
        let total: Duration = offenders.stacks.iter().map(|stack| stack.total.total).sum();
        assert_eq!(total + offenders.others.total, Duration::from_millis(60_000 + 20_000 + 2_001_000 + 490));
        assert_eq!(table.scopes.len(), MOST_SCOPES);
        assert!(offenders.to_string().ends_with("  others\n"));
    }

    #[test]
    fn nothing_and_no_stack() {
        assert_eq!(Offenders::default().to_string(), "no scope was reported\n");
        let mut table = Table::default();
        let mut report = report("", 10);
        report.stacks.clear();
        table.count(scope(1), &report);
        let text = table.sorted().to_string();
        let here = report.scope.location().to_string();
        assert!(
            text.ends_with(&format!("      1       10ms       10ms  scope opened at {here}\n")),
            "{text}"
        );
    }
}
