use std::io;

/// Writes a [`dump`](super::dump) to the standard error stream whenever the process gets the signal: `kill -USR1 4711`.
///
/// Name the signal by its number, such as `libc::SIGUSR1`. A thread of this crate makes the dump. The handler of the
/// signal first calls the handler that was there before, and then only wakes that thread. A second call for the same
/// signal does nothing.
///
/// On the thread that takes the signal, calls such as `epoll_wait` end with `EINTR`, as with any signal.
///
/// A forked child does not have the thread that makes dumps. The child ignores the signal until it calls this function
/// itself.
///
/// Returns an error if the system refuses the handler, if the signal cannot be handled, and for faults such as SIGSEGV.
/// On systems other than Unix it always returns an error.
///
/// ```
/// # #[cfg(unix)]
/// timebox::report::dump_on_signal(libc::SIGUSR1)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn dump_on_signal(signal: i32) -> io::Result<()> {
    platform::dump_on_signal(signal)
}

#[cfg(unix)]
mod platform {
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use signal_hook::consts::FORBIDDEN;
    use signal_hook::low_level::{pipe, unregister};

    use crate::report::dump::collect::dump_here;
    use crate::sync::fork::PerProcess;
    use crate::sync::{AtomicBool, Mutex, Ordering, lock, os};

    static SIGNALS: PerProcess<Mutex<Vec<i32>>> =
        PerProcess::new(Mutex::new(Vec::new()), || Mutex::new(Vec::new()));

    pub(super) fn dump_on_signal(signal: i32) -> io::Result<()> {
        if FORBIDDEN.contains(&signal) {
            let text = format!("signal {signal} cannot ask for a dump");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut signals = lock(SIGNALS.get());
        if signals.contains(&signal) {
            return Ok(());
        }
        let (mut wakes, wake) = UnixStream::pair()?;
        // A forked child that gets the signal writes to the same socket and so wakes this process. But the child sets
        // the flag only in its own memory, so this process can tell that the signal was not its own.
        let came = Arc::new(AtomicBool::new(false));
        let flag = signal_hook::flag::register(signal, Arc::clone(&came))?;
        // Registered after the flag, so the handler sets the flag before it writes to the pipe.
        let pipe = pipe::register(signal, wake).inspect_err(|_| {
            unregister(flag);
        })?;
        let serve = move || {
            while is_awake(&mut wakes) {
                // SeqCst: pairs with the store in the handler, which `signal_hook` makes.
                if came.swap(false, Ordering::SeqCst) {
                    let text = format!("{}\n", dump_here());
                    let _ = io::stderr().lock().write_all(text.as_bytes());
                }
            }
        };
        os::spawn("timebox-dump", serve).inspect_err(|_| {
            unregister(flag);
            unregister(pipe);
        })?;
        signals.push(signal);
        Ok(())
    }

    /// Waits until a signal has come since the last call, and returns `true`. Several signals count as one. Returns
    /// `false` if no more signals will come.
    fn is_awake(wakes: &mut UnixStream) -> bool {
        loop {
            match wakes.read(&mut [0; 64]) {
                Ok(count) => return count > 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use std::io;

    pub(super) fn dump_on_signal(_signal: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
