//! Futures under a limit that does not pass: ready at once, pending once, three nested, and around a real yield.

#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod measure;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod ours;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod peers;

use criterion::{Criterion, criterion_group, criterion_main};

fn futures(criterion: &mut Criterion) {
    let mut cases = peers::cases();
    cases.extend(ours::cases());
    measure::criterion(criterion, &cases, &["ready", "pending", "three_pending", "yield"]);
}

criterion_group!(benches, futures);
criterion_main!(benches);
