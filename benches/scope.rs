//! A sync scope that does not expire, armed and disarmed, beside what else could be done.

#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod measure;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod ours;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod peers;

use criterion::{Criterion, criterion_group, criterion_main};
use measure::{Case, pinned};
use std::time::Duration;

fn cases() -> Vec<Case> {
    let mut cases = peers::cases();
    cases.extend(ours::cases());
    cases
}

fn scopes(criterion: &mut Criterion) {
    measure::criterion(criterion, &cases(), &["scope", "three_same", "three_shrinking"]);
}

/// One pinned thread, and two at the same time: nanoseconds per scope of each thread.
fn threads(criterion: &mut Criterion) {
    let Some(case) = ours::cases().into_iter().find(|case| case.name == "scope/timebox") else { return };
    let Some(processors) = pinned::two_processors() else { return };
    let mut group = criterion.benchmark_group("pinned");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (name, processors) in [("one_thread", &processors[..1]), ("two_threads", &processors[..])] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|n| pinned::time_on(&case, processors, n));
        });
    }
    group.finish();
}

criterion_group!(benches, scopes, threads);
criterion_main!(benches);
