//! As the message says.

use std::time::Duration;

fn main() {
    let _ = timebox::with_timeout(Duration::from_secs(1), |scope| {
        let job = scope.handle().wrap(timebox::checkpoint);
        std::thread::scope(|threads| threads.spawn(job).join().unwrap())
    });
}
