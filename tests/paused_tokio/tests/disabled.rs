//! The off switch while tokio's clock is paused. It is one for the process, so this test has a process of its own.

use std::time::Duration;

use timebox::tokio::time::{sleep, timeout};

#[test]
fn a_timeout_that_is_made_while_limits_are_switched_off_does_not_elapse() {
    timebox::set_enabled(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let hour = Duration::from_secs(3600);
    assert!(runtime.unwrap().block_on(timeout(hour, sleep(2 * hour))).is_ok());
}
