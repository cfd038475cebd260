//! Instructions per iteration, counted by callgrind: the one measure of speed without noise.
//!
//! `cargo bench --bench instructions -- --check` runs this program under valgrind, twice per case; the difference of
//! the two counts is exact, start-up and warm-up fall out of it. It fails where a count is more than 10 % above what has
//! been reached. Without `--check` it only prints.
//! A clock read counts as its wrapper alone: valgrind hides the vDSO.

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

/// What a count may be above its ceiling.
const SLACK: f64 = 1.1;

/// A case, and the case whose count is taken off its own.
struct Count {
    case: &'static str,
    less: Option<&'static str>,
    limits: Option<Limits>,
}

/// What is aimed at, which is what a prototype took that had no labels, no errors and no unwinding; and what has been
/// reached, which must not be lost again.
#[derive(Clone, Copy)]
struct Limits {
    figure: f64,
    ceiling: f64,
}

const fn limits(figure: f64, ceiling: f64) -> Limits {
    Limits { figure, ceiling }
}

const COUNTS: [Count; 11] = [
    Count { case: "scope/timebox", less: None, limits: Some(limits(60.0, 85.0)) },
    Count { case: "three_same/timebox", less: None, limits: Some(limits(130.0, 212.0)) },
    Count { case: "three_shrinking/timebox", less: None, limits: Some(limits(240.0, 352.0)) },
    Count { case: "ready/timebox", less: None, limits: Some(limits(40.0, 191.0)) },
    Count { case: "pending/timebox", less: None, limits: Some(limits(270.0, 505.0)) },
    Count { case: "checkpoint/timebox", less: Some("checkpoint/none"), limits: Some(limits(10.0, 12.5)) },
    Count { case: "three_pending/timebox", less: None, limits: None },
    Count { case: "scope/instant_now", less: None, limits: None },
    Count { case: "ready/tokio", less: None, limits: None },
    Count { case: "pending/tokio", less: None, limits: None },
    Count { case: "checkpoint/tokio_util_is_cancelled", less: Some("checkpoint/none"), limits: None },
];

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
fn run_case(name: &str, n: u64) -> ExitCode {
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

/// What callgrind counts in `n` iterations of a case.
fn collected(case: &str, n: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_section*")
        .arg(program)
        .args(["--case", case, &n.to_string()])
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
fn per_iteration(case: &str) -> Result<f64, String> {
    let (few, many) = (collected(case, FEW)?, collected(case, MANY)?);
    Ok((as_f64(many) - as_f64(few)) / as_f64(MANY - FEW))
}

fn print_counts(check: bool) -> Result<bool, String> {
    println!("| case | instructions | aimed at | reached | |\n|---|---|---|---|---|");
    let mut within = true;
    for count in &COUNTS {
        let mut n = per_iteration(count.case)?;
        if let Some(less) = count.less {
            n -= per_iteration(less)?;
        }
        let verdict = match count.limits {
            None => "",
            Some(limits) if n <= limits.figure => "pass",
            Some(limits) if n <= limits.ceiling * SLACK => "as reached",
            Some(_) => {
                within = false;
                "**over**"
            }
        };
        let [figure, ceiling] = [|limits: Limits| limits.figure, |limits: Limits| limits.ceiling]
            .map(|of| count.limits.map_or_else(|| "-".to_owned(), |limits| of(limits).to_string()));
        let name =
            count.less.map_or_else(|| count.case.to_owned(), |less| format!("{} less {less}", count.case));
        println!("| {name} | {n:.1} | {figure} | {ceiling} | {verdict} |");
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
            (Some(name), Some(n)) => run_case(name, n),
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
            run_case(count.case, 1);
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
            eprintln!("a count is more than 10 % above what had been reached");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
