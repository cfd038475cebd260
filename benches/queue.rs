//! A million timers pending at once: what arming one and cancelling one costs, and the bytes each holds in the queue.

#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod measure;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod peers;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use measure::queue::{count, round};
use std::future::{Future, pending};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: measure::alloc::Counting = measure::alloc::Counting;

fn ours(limit: Duration) -> impl Future {
    timebox::future::timeout_value(limit, pending::<()>())
}

fn timers(criterion: &mut Criterion) {
    let n = count(measure::measuring());
    // The first round: later ones find the room that this one has made.
    println!("bytes in the queue per pending timer: {:.1}, of {n}", round(n, ours).bytes);
    println!(
        "bytes of the future itself: timebox {}, tokio's Sleep {}",
        size(ours),
        size(tokio::time::sleep)
    );

    let runtime = peers::runtime();
    let _entered = runtime.enter();
    for (name, part) in [("arm", Part::Arm), ("random_cancel", Part::Cancel)] {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(5));
        group.throughput(Throughput::Elements(n as u64));
        bench(&mut group, "timebox", part, n, ours);
        bench(&mut group, "timebox_sleep", part, n, timebox::future::sleep);
        bench(&mut group, "tokio_sleep", part, n, tokio::time::sleep);
        group.finish();
    }
}

#[derive(Clone, Copy)]
enum Part {
    Arm,
    Cancel,
}

/// One iteration is all `n` timers; only the part is timed.
fn bench<F: Future>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    who: &str,
    part: Part,
    n: usize,
    make: impl Fn(Duration) -> F,
) {
    group.bench_function(who, |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let round = round(n, &make);
                    let ns = match part {
                        Part::Arm => round.arm,
                        Part::Cancel => round.cancel,
                    };
                    Duration::from_secs_f64(ns * measure::as_f64(n as u64) / 1e9)
                })
                .sum()
        });
    });
}

fn size<F: Future>(_: impl Fn(Duration) -> F) -> usize {
    size_of::<F>()
}

criterion_group!(benches, timers);
criterion_main!(benches);
