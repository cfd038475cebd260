//! A check in a loop of dependent arithmetic, beside the loop without one. What a check costs is the difference.

#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod measure;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod ours;
#[allow(dead_code, reason = "shared by the benches, each of which uses its part")]
mod peers;

use criterion::{Criterion, criterion_group, criterion_main};

fn checkpoints(criterion: &mut Criterion) {
    let mut cases = peers::cases();
    cases.extend(ours::cases());
    measure::criterion(criterion, &cases, &["checkpoint"]);
}

criterion_group!(benches, checkpoints);
criterion_main!(benches);
