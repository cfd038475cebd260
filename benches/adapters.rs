//! What it costs that a call can be interrupted: a regular expression, and a query in SQLite, each beside the bare
//! call.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use rusqlite::Connection;
use timebox::regex::{Regex, linear};
use timebox::{Hook, TimeoutError, interruptible, timeout};

const LONG: Duration = Duration::from_secs(3600);

/// Two MiB of words.
fn text() -> String {
    let words =
        ["alpha", "beta", "foo@bar.com", "2024-01-31", "lorem", "ipsum", "aaaaaaaaab", "12345", "Zeta_9"];
    let mut text = String::new();
    let mut x = 1_u64;
    while text.len() < 2 << 20 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(words[usize::try_from(x >> 33).unwrap_or(0) % words.len()]);
        text.push(if (x >> 50).is_multiple_of(11) { '\n' } else { ' ' });
    }
    text
}

fn in_scope<T>(body: impl FnOnce() -> Result<T, TimeoutError>) -> T {
    timeout(LONG, body).expect("an hour is enough")
}

/// Outside every scope a search does not look up: PCRE2 just-in-time compiled, with its callouts, which call nobody.
fn regex(criterion: &mut Criterion) {
    let text = text();
    for (name, pattern) in [
        ("email", r"[\w.]+@[\w.]+\.\w+"),
        ("date", r"(\d{4})-(\d{2})-(\d{2})"),
        ("words", r"(\w+\s)+"),
        ("literals", "alpha|ipsum|Zeta"),
    ] {
        let mut group = criterion.benchmark_group(format!("regex_{name}"));
        group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
        let (pcre2, linear) =
            (Regex::new(pattern).expect("a pattern"), linear::Regex::new(pattern).expect("a pattern"));
        let plain = regex_automata::meta::Regex::new(pattern).expect("a pattern");
        let bare =
            pcre2::bytes::RegexBuilder::new().jit_if_available(true).utf(true).ucp(true).build(pattern);
        let bare = bare.expect("a pattern");
        bench(&mut group, "pcre2_without_callouts", || bare.find_iter(text.as_bytes()).count());
        bench(&mut group, "timebox_outside_scopes", || pcre2.find_iter(&text).count());
        bench(&mut group, "timebox_in_a_scope", || in_scope(|| Ok(pcre2.find_iter(&text).count())));
        bench(&mut group, "linear_plain", || plain.find_iter(&text).count());
        bench(&mut group, "linear_in_a_scope", || in_scope(|| Ok(linear.find_iter(&text).count())));
        group.finish();
    }
}

fn sqlite(criterion: &mut Criterion) {
    let db = Connection::open_in_memory().expect("a database");
    db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY); INSERT INTO t VALUES (42)").expect("a table");
    let mut statement = db.prepare("SELECT n FROM t WHERE n = 42").expect("a statement");
    let mut query = || statement.query_row([], |row| row.get::<_, i64>(0));
    let mut group = criterion.benchmark_group("sqlite_query");
    bench(&mut group, "bare", || query().expect("a row"));
    bench(&mut group, "interruptible", || {
        in_scope(|| {
            let handle = db.get_interrupt_handle();
            interruptible(Hook::inline(move || handle.interrupt()), &mut query)
        })
        .expect("a row")
    });
    group.finish();
}

fn bench<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut case: impl FnMut() -> T) {
    group.bench_function(name, |bencher| bencher.iter(|| black_box(case())));
}

criterion_group!(benches, regex, sqlite);
criterion_main!(benches);
