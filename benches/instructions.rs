//! Instructions per iteration, counted by callgrind: the one measure of speed without noise.
//!
//! `cargo bench --bench instructions -- --check` runs this program under valgrind, twice per case; the difference of
//! the two counts is exact, start-up and warm-up fall out of it. It fails where a count is more than 10 % above what
//! has been reached. Without `--check` it only prints. With `--features report` it counts what reports add. A clock
//! read counts as its wrapper alone: valgrind hides the vDSO.

#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod measure;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod ours;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod peers;

use measure::{Case, Run, as_f64};
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Iterations of the two runs of each case.
const FEW: u64 = 1_000;
const MANY: u64 = 21_000;

/// What a count may be above what has been reached.
#[cfg(not(feature = "report"))]
const SLACK: f64 = 1.1;

/// A case, and the case whose count is taken off its own.
struct Count {
    case: &'static str,
    less: Option<&'static str>,
    /// Whether the case runs while a policy of reports is installed.
    under_policy: bool,
    limits: Option<Limits>,
}

/// The figure that is aimed at, the count that has been reached, and the highest count that passes.
#[derive(Clone, Copy)]
struct Limits {
    aim: f64,
    reached: f64,
    most: f64,
}

/// The aim is the count of a prototype that had no labels, no errors and no unwinding. There was no prototype for
/// requests, so their aim is the first count.
#[cfg(not(feature = "report"))]
const fn limits(aim: f64, reached: f64) -> Limits {
    Limits { aim, reached, most: reached * SLACK }
}

const fn count(case: &'static str, limits: Option<Limits>) -> Count {
    Count { case, less: None, under_policy: false, limits }
}

#[cfg(not(feature = "report"))]
const fn difference(case: &'static str, less: &'static str, limits: Option<Limits>) -> Count {
    Count { less: Some(less), ..count(case, limits) }
}

#[cfg(not(feature = "report"))]
const COUNTS: [Count; 12] = [
    count("scope/timebox", Some(limits(60.0, 85.0))),
    count("three_same/timebox", Some(limits(130.0, 212.0))),
    count("three_shrinking/timebox", Some(limits(240.0, 352.0))),
    count("ready/timebox", Some(limits(40.0, 191.0))),
    count("pending/timebox", Some(limits(270.0, 505.0))),
    count("request/timebox", Some(limits(386.0, 386.0))),
    difference("checkpoint/timebox", "checkpoint/none", Some(limits(10.0, 12.5))),
    count("three_pending/timebox", None),
    count("scope/instant_now", None),
    count("ready/tokio", None),
    count("pending/tokio", None),
    difference("checkpoint/tokio_util_is_cancelled", "checkpoint/none", None),
];

/// With the feature `report` a plain scope may take 3 instructions more than without it, and 12 more under a policy.
#[cfg(feature = "report")]
const COUNTS: [Count; 7] = [
    count("scope/timebox", Some(Limits { aim: 86.0, reached: 89.0, most: 89.0 })),
    under_policy("scope/timebox", Some(Limits { aim: 86.0, reached: 97.0, most: 98.0 })),
    under_policy("three_same/timebox", None),
    count("ready/timebox", None),
    under_policy("ready/timebox", None),
    count("pending/timebox", None),
    under_policy("pending/timebox", None),
];

#[cfg(feature = "report")]
const fn under_policy(case: &'static str, limits: Option<Limits>) -> Count {
    Count { under_policy: true, ..count(case, limits) }
}

fn cases() -> Vec<Case> {
    let mut cases = peers::cases();
    cases.extend(ours::cases());
    cases
}

/// Callgrind counts from here until this returns, on this thread: `--toggle-collect` names it.
#[inline(never)]
fn counted_section(run: &mut Run, n: u64) {
    run(n);
    // Subtle: something must follow, or the call above becomes a jump and the section ends at once.
    black_box(n);
}

/// The inner role: one case, so many times.
fn run_case(name: &str, n: u64, under_policy: bool) -> ExitCode {
    if under_policy {
        install_policy();
    }
    let Some(case) = cases().into_iter().find(|case| case.name == name) else {
        eprintln!("no case is named {name}");
        return ExitCode::FAILURE;
    };
    let mut run = (case.make)();
    // First scopes register their thread and start the watchdog, which settles how the two of them fence.
    run(10);
    std::thread::sleep(Duration::from_millis(100));
    run(10_000);
    counted_section(&mut run, n);
    ExitCode::SUCCESS
}

/// Installs a policy whose `warn_after` no case reaches.
fn install_policy() {
    #[cfg(feature = "report")]
    timebox::report::Policy::new().warn_after(Duration::from_secs(3600)).install().expect("no sink fails");
}

/// What callgrind counts in `n` iterations of a case.
fn collected(case: &str, n: u64, under_policy: bool) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_section*")
        .arg(program)
        .args(["--case", case, &n.to_string()])
        .args(under_policy.then_some("--policy"))
        .stdout(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
    match count {
        Some(count) if output.status.success() && count > 0 => Ok(count),
        _ => Err(format!("callgrind counted nothing in {case}:\n{said}")),
    }
}

/// Instructions of one iteration.
fn per_iteration(case: &str, under_policy: bool) -> Result<f64, String> {
    let (few, many) = (collected(case, FEW, under_policy)?, collected(case, MANY, under_policy)?);
    Ok((as_f64(many) - as_f64(few)) / as_f64(MANY - FEW))
}

fn print_counts(check: bool) -> Result<bool, String> {
    println!("| case | instructions | aimed at | reached | |\n|---|---|---|---|---|");
    let mut within = true;
    for count in &COUNTS {
        let mut n = per_iteration(count.case, count.under_policy)?;
        if let Some(less) = count.less {
            n -= per_iteration(less, count.under_policy)?;
        }
        let verdict = match count.limits {
            None => "",
            Some(limits) if n <= limits.aim => "pass",
            Some(limits) if n <= limits.most => "as reached",
            Some(_) => {
                within = false;
                "**over**"
            }
        };
        let [aim, reached] = [|limits: Limits| limits.aim, |limits: Limits| limits.reached]
            .map(|of| count.limits.map_or_else(|| "-".to_owned(), |limits| of(limits).to_string()));
        let less = count.less.map_or_else(String::new, |less| format!(" less {less}"));
        let policy = if count.under_policy { ", under a policy" } else { "" };
        println!("| {}{less}{policy} | {n:.1} | {aim} | {reached} | {verdict} |", count.case);
    }
    Ok(within || !check)
}

fn valgrind_is_here() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--case") {
        return match (args.get(at + 1), args.get(at + 2).and_then(|n| n.parse().ok())) {
            (Some(name), Some(n)) => run_case(name, n, args.iter().any(|arg| arg == "--policy")),
            _ => {
                eprintln!("--case takes a name and a number");
                ExitCode::FAILURE
            }
        };
    }
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let check = args.iter().any(|arg| arg == "--check");
    if !check && !measure::measuring() {
        for count in &COUNTS {
            run_case(count.case, 1, count.under_policy);
        }
        println!("ran {} cases; `-- --check` counts their instructions", COUNTS.len());
        return ExitCode::SUCCESS;
    }
    if !valgrind_is_here() {
        println!("SKIPPED: valgrind is not installed, so no instructions were counted");
        return ExitCode::SUCCESS;
    }
    match print_counts(check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a count is above its bound");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
