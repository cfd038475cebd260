use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{process, thread};

use sd_notify::NotifyState;
use timebox::report::{self, Dump, Policy};

/// Aborts the process if a scope is stuck, that is, if it is still open `after` its expiry. Before that, writes the
/// dump and waits for the reports that are being written.
pub fn abort_when_stuck(policy: Policy, after: Duration) -> Policy {
    policy.on_stuck(after, |dump| {
        write_out(dump);
        process::abort();
    })
}

/// Pings systemd until a scope is stuck, that is, if it is still open `after` its expiry. Then the pings stop, so
/// systemd ends the process.
pub fn withhold_ping_when_stuck(policy: Policy, after: Duration) -> io::Result<Policy> {
    // `None`: systemd does not watch this program, or the program was started by hand.
    let Some(patience) = sd_notify::watchdog_enabled() else { return Ok(policy) };
    let is_stuck = Arc::new(AtomicBool::new(false));
    let stuck = Arc::clone(&is_stuck);
    let ping = move || {
        while !stuck.load(Ordering::Relaxed) {
            // An error does no harm: systemd may be restarting, and a later ping comes in time.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            thread::sleep(patience / 3);
        }
    };
    thread::Builder::new().name("systemd-ping".into()).spawn(ping)?;
    Ok(policy.on_stuck(after, move |dump| {
        // The dump is written before the pings stop, because systemd ends the process `patience` after the last ping.
        write_out(dump);
        is_stuck.store(true, Ordering::Relaxed);
        let _ = sd_notify::notify(&[NotifyState::Status("stuck: see the dump in the journal")]);
    }))
}

/// Writes the dump to the standard error, and waits for the reports that are being written.
fn write_out(dump: &Dump) {
    let text = format!("{dump}\n");
    let _ = io::stderr().lock().write_all(text.as_bytes());
    report::flush(Duration::from_secs(5));
}
