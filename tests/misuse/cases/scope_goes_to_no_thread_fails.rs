//! The message names the handle.

use std::time::Duration;

fn main() {
    let _ = timebox::with_timeout(Duration::from_secs(1), |scope| {
        std::thread::scope(|threads| threads.spawn(|| scope.checkpoint()).join().unwrap())
    });
}
