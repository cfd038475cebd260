//! The figures this crate must reach, against the named peers, in one process and in turns.
//!
//! `cargo bench --bench ratios` prints the table of this folder's README; with `-- --gate` it fails where a figure
//! is more than 15 % above its target.

#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod measure;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod ours;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod peers;

use measure::queue::Round;
use measure::{Case, Plan, Series, pinned, queue};
use std::future::{Future, pending};
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: measure::alloc::Counting = measure::alloc::Counting;

/// Each figure is the best of this many runs.
const RUNS: usize = 3;

/// What noise may add to a target before the gate closes.
const SLACK: f64 = 1.15;

/// A case against another: their quotient, at most `target`.
struct Ratio {
    what: &'static str,
    ours: &'static str,
    theirs: &'static str,
    target: f64,
}

const RATIOS: [Ratio; 11] = [
    Ratio { what: "scope", ours: "scope/timebox", theirs: "scope/instant_now", target: 1.15 },
    Ratio { what: "scope", ours: "scope/timebox", theirs: "scope/tokio_ready", target: 0.80 },
    Ratio {
        what: "three scopes, not shrinking",
        ours: "three_same/timebox",
        theirs: "scope/instant_now",
        target: 1.3,
    },
    Ratio {
        what: "three scopes, shrinking",
        ours: "three_shrinking/timebox",
        theirs: "scope/instant_now",
        target: 3.6,
    },
    Ratio { what: "async, ready", ours: "ready/timebox", theirs: "ready/tokio", target: 0.80 },
    Ratio { what: "async, pending once", ours: "pending/timebox", theirs: "pending/tokio", target: 0.65 },
    Ratio {
        what: "async, three nested",
        ours: "three_pending/timebox",
        theirs: "three_pending/tokio",
        target: 0.40,
    },
    Ratio { what: "a tree of 10 tokens", ours: "tree_10/timebox", theirs: "tree_10/tokio_util", target: 1.2 },
    Ratio {
        what: "a tree of 100 tokens",
        ours: "tree_100/timebox",
        theirs: "tree_100/tokio_util",
        target: 1.2,
    },
    Ratio {
        what: "a tree of 1,000 tokens",
        ours: "tree_1000/timebox",
        theirs: "tree_1000/tokio_util",
        target: 1.2,
    },
    Ratio {
        what: "a tree of 10,000 tokens",
        ours: "tree_10000/timebox",
        theirs: "tree_10000/tokio_util",
        target: 1.2,
    },
];

/// Nanoseconds a check may add to a step of the loop.
const CHECKPOINT_NS: f64 = 0.5;
/// What a scope may cost in each of two threads, relative to one.
const TWO_THREADS: f64 = 1.1;
const QUEUE_BYTES: f64 = 64.0;
const QUEUE_ARM: f64 = 0.85;
const QUEUE_CANCEL: f64 = 0.60;

/// A line of the table: one value per run, the least counts.
struct Figure {
    what: String,
    runs: Vec<f64>,
    target: f64,
}

impl Figure {
    fn best(&self) -> f64 {
        self.runs.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn verdict(&self) -> &'static str {
        if self.runs.is_empty() {
            "not measured"
        } else if self.best() <= self.target {
            "pass"
        } else {
            "**miss**"
        }
    }

    fn print(&self) {
        let runs: Vec<String> = self.runs.iter().map(|run| format!("{run:.2}")).collect();
        let best = if self.runs.is_empty() { "-".to_owned() } else { format!("{:.2}", self.best()) };
        println!("| {} | {} | {:.2} | {best} | {} |", self.what, runs.join(" "), self.target, self.verdict());
    }
}

/// The least of a case, in nanoseconds.
fn least(series: &[Series], name: &str) -> f64 {
    series.iter().find(|one| one.name == name).map_or(f64::NAN, Series::min)
}

fn queue_timer(limit: Duration) -> impl Future {
    timebox::future::timeout_value(limit, pending::<()>())
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let measuring = measure::measuring();
    let gate = std::env::args().any(|arg| arg == "--gate");
    let plan = if measuring { Plan::FULL } else { Plan::QUICK };
    let runs = if measuring { RUNS } else { 1 };

    let mut cases: Vec<Case> = peers::cases();
    cases.extend(ours::cases());
    let interleaved: Vec<Vec<Series>> = (0..runs).map(|_| measure::interleave(&cases, plan)).collect();
    let mut figures: Vec<Figure> = RATIOS
        .iter()
        .map(|ratio| Figure {
            what: format!("{}: `{}` / `{}`", ratio.what, ratio.ours, ratio.theirs),
            runs: interleaved.iter().map(|run| least(run, ratio.ours) / least(run, ratio.theirs)).collect(),
            target: ratio.target,
        })
        .collect();
    figures.push(Figure {
        what: "`checkpoint()` in a loop: ns added".to_owned(),
        runs: added(&interleaved, "checkpoint/timebox"),
        target: CHECKPOINT_NS,
    });
    figures.push(threads(plan, runs));
    figures.extend(million(measuring, runs));

    if !measuring {
        println!("ran {} cases; `cargo bench --bench ratios` measures them", cases.len());
        return ExitCode::SUCCESS;
    }
    println!("| figure | runs | target | best | |\n|---|---|---|---|---|");
    figures.iter().for_each(Figure::print);
    println!("\nns per iteration, of {RUNS} runs of {} rounds each\n", plan.rounds);
    print_cases(&interleaved);
    println!(
        "\nns that a check adds to a step: tokio-util's `is_cancelled` {:.2}, `Instant::now` {:.2}",
        best(&added(&interleaved, "checkpoint/tokio_util_is_cancelled")),
        best(&added(&interleaved, "checkpoint/instant_now")),
    );

    let failed =
        figures.iter().filter(|figure| figure.best() > figure.target * SLACK && !figure.runs.is_empty());
    if gate && failed.count() > 0 {
        eprintln!("a figure is more than 15 % above its target");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What a check adds to a step of the loop, in each run.
fn added(interleaved: &[Vec<Series>], check: &str) -> Vec<f64> {
    interleaved.iter().map(|run| least(run, check) - least(run, "checkpoint/none")).collect()
}

fn best(runs: &[f64]) -> f64 {
    runs.iter().copied().fold(f64::INFINITY, f64::min)
}

fn threads(plan: Plan, runs: usize) -> Figure {
    let case = ours::cases().into_iter().find(|case| case.name == "scope/timebox");
    let pairs = (0..runs).filter_map(|_| pinned::one_and_two(case.as_ref()?, plan));
    Figure {
        what: "scope: two pinned threads / one".to_owned(),
        runs: pairs.map(|(one, two)| two.min() / one.min()).collect(),
        target: TWO_THREADS,
    }
}

/// A queue that has never been full is quicker than one whose places have come back in random order: both count.
fn million(measuring: bool, runs: usize) -> Vec<Figure> {
    let n = queue::count(measuring);
    let rounds = if measuring { 3 } else { 1 };
    let runtime = peers::runtime();
    let _entered = runtime.enter();
    let first = queue::in_turn(1, n, queue_timer, tokio::time::sleep);
    let later: Vec<_> =
        (0..runs).map(|_| queue::in_turn(rounds, n, queue_timer, tokio::time::sleep)).collect();
    // Like with like: no scope is opened for the drop.
    let sleeps: Vec<_> =
        (0..runs).map(|_| queue::in_turn(rounds, n, timebox::future::sleep, tokio::time::sleep)).collect();
    if measuring {
        println!("| {n} timers, ns | arm | tokio | random cancel | tokio |\n|---|---|---|---|---|");
        for (i, [ours, theirs]) in std::iter::once(&first).chain(&later).enumerate() {
            let name = if i == 0 { "the first".to_owned() } else { format!("run {i}") };
            let Round { arm, cancel, .. } = ours;
            println!("| {name} | {arm:.0} | {:.0} | {cancel:.0} | {:.0} |", theirs.arm, theirs.cancel);
        }
        println!();
    }
    let ratios = |rounds: &[[Round; 2]], of: fn(&Round) -> f64| -> Vec<f64> {
        rounds.iter().map(|[ours, theirs]| of(ours) / of(theirs)).collect()
    };
    vec![
        Figure {
            what: format!("{n} timers: bytes each in the queue"),
            runs: vec![first[0].bytes],
            target: QUEUE_BYTES,
        },
        Figure {
            what: format!("{n} timers, the first: arm / tokio's `Sleep`"),
            runs: ratios(&[first], |round| round.arm),
            target: QUEUE_ARM,
        },
        Figure {
            what: format!("{n} timers, later ones: arm / tokio's `Sleep`"),
            runs: ratios(&later, |round| round.arm),
            target: QUEUE_ARM,
        },
        Figure {
            what: format!("{n} sleeps: arm / tokio's `Sleep`"),
            runs: ratios(&sleeps, |round| round.arm),
            target: QUEUE_ARM,
        },
        Figure {
            what: format!("{n} sleeps: random cancel / tokio's `Sleep`"),
            runs: ratios(&sleeps, |round| round.cancel),
            target: QUEUE_CANCEL,
        },
        Figure {
            what: format!("{n} timers, the first: random cancel / tokio's `Sleep`"),
            runs: ratios(&[first], |round| round.cancel),
            target: QUEUE_CANCEL,
        },
        Figure {
            what: format!("{n} timers, later ones: random cancel / tokio's `Sleep`"),
            runs: ratios(&later, |round| round.cancel),
            target: QUEUE_CANCEL,
        },
    ]
}

fn print_cases(interleaved: &[Vec<Series>]) {
    let base = best(&interleaved.iter().map(|run| least(run, "scope/instant_now")).collect::<Vec<_>>());
    println!("| case | min | median | min / `Instant::now` |\n|---|---|---|---|");
    for (i, case) in interleaved[0].iter().enumerate() {
        let min = best(&interleaved.iter().map(|run| run[i].min()).collect::<Vec<_>>());
        let median = best(&interleaved.iter().map(|run| run[i].median()).collect::<Vec<_>>());
        println!("| `{}` | {min:.2} | {median:.2} | {:.2} |", case.name, min / base);
    }
}
