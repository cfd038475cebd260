//! How far checkpoints are apart.

use super::*;
use std::panic::catch_unwind;

#[test]
fn a_missing_checkpoint_is_named_by_both_ends() {
    let panic = catch_unwind(|| {
        testing::assert_checkpoints(Duration::from_millis(10), || {
            checkpoint().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            checkpoint().unwrap();
        });
    });
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message.matches(file!()).count(), 2, "{message}");
}

#[test]
fn after_a_sleep_there_may_be_one() {
    let panic = catch_unwind(|| {
        testing::assert_checkpoints(Duration::from_millis(10), || {
            sleep(Duration::from_millis(1)).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            checkpoint().unwrap();
        });
    });
    assert!(panic.is_err());
}

#[test]
fn a_sleep_is_no_gap() {
    // Were it one, it would be too long each time. A busy machine makes gaps too, but not ever longer ones.
    let mut gap = Duration::from_millis(10);
    while catch_unwind(|| {
        testing::assert_checkpoints(gap, || timeout(HOUR, || sleep(2 * gap)).unwrap());
    })
    .is_err()
    {
        gap *= 2;
        assert!(gap < Duration::from_secs(10), "a sleep counts as a gap");
    }
}
