use std::io;
use std::thread;

use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};
use timebox::CancellationToken;

/// Cancels `shutdown` at Ctrl-C and SIGTERM, with the signal's name as the reason. If `shutdown` is already cancelled,
/// the signal has its default effect: so a second Ctrl-C ends a program that does not end by itself.
pub fn cancel_on_signals(shutdown: &CancellationToken) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let shutdown = shutdown.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        // The signal handler only writes a byte to a pipe. This thread waits for that byte outside the handler, so it
        // may call anything.
        for signal in signals.forever() {
            if !shutdown.cancel_with(signal_name(signal).unwrap_or("a signal")) {
                let _ended = emulate_default_handler(signal);
            }
        }
    })?;
    Ok(())
}
