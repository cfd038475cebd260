//! Random programs of scopes, run twice: by the crate under a mock clock, and by a plain model of its rules.
//!
//! `program.rs` says what a program is; `rules.rs` is the model, and `rules/running.rs` runs a program with it;
//! `stage.rs` runs it with the crate. The two write down what happens; where the traces differ, a small program for
//! which they do is printed, with both.
//!
//! The model takes one thing from the crate: at which times that was polled. Where it was not, but by the rules had
//! something to do, the traces differ.
//!
//! The programs are the same in each run. `PROPTEST_RNG_SEED=7 PROPTEST_CASES=200000` looks further.

mod program;
mod rules;
mod stage;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};

use program::{Body, Event};

const CASES: u32 = 10_000;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig {
        cases: default.cases.max(CASES),
        rng_seed,
        max_shrink_iters: 100_000,
        failure_persistence: None,
        ..default
    }
}

/// Has the crate and the model run a program, and compares what they have written down.
fn agree(program: &Body) -> Result<(), TestCaseError> {
    let (crates, polls) = stage::run(program);
    let models = rules::run(program, &polls);
    if crates == models {
        return Ok(());
    }
    let same = crates.iter().zip(&models).take_while(|(of_crate, of_model)| of_crate == of_model).count();
    let list = |name: &str, events: &[Event]| {
        let lines: Vec<_> = events.iter().map(|event| format!("  {event:?}\n")).collect();
        format!("{name}:\n{}", lines.concat())
    };
    Err(TestCaseError::fail(format!(
        "the traces differ\n{}{}{}",
        list("both", &crates[..same]),
        list("then the crate", &crates[same..]),
        list("but the model", &models[same..]),
    )))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn blocks_follow_the_rules(program in program::of_blocks()) {
        agree(&program)?;
    }

    #[test]
    fn futures_follow_the_rules(program in program::of_futures()) {
        agree(&program)?;
    }
}
