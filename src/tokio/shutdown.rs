use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use ::tokio::runtime::Handle;

use crate::token::CancellationToken;

/// A token that Ctrl-C or SIGTERM cancels, for the shutdown of the whole program.
///
/// The token's [reason](CancellationToken::reason) is `SIGINT`, which is Ctrl-C, or `SIGTERM`. Give the token to scopes
/// with [`cancel_on`](crate::Timebox::cancel_on): they are over with it. Tasks without a scope wait for
/// [`cancelled`](CancellationToken::cancelled). The [grace](crate::Timebox::grace) of the scopes bounds how long the
/// program takes to end.
///
/// From this call on, as long as the process runs, the signals are caught: they no longer end the process. So a second
/// Ctrl-C changes nothing. On Windows the token is cancelled by Ctrl-C, Ctrl-Break, the close of the console, and the
/// shutdown of the system.
///
/// The task that waits for the signals ends with the runtime. After that, no signal cancels the token. Each call makes
/// a token and a task of its own.
///
/// # Errors
///
/// If there is no runtime, or the signals cannot be caught. End the program on an error. Otherwise Ctrl-C or SIGTERM
/// may have no effect: a signal that was caught before the error no longer ends the process.
///
/// # Panics
///
/// If the runtime has no I/O driver (`enable_io`, `enable_all`, `#[tokio::main]`), as all of `tokio::signal` does.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use timebox::{Timebox, TimeoutError};
/// use tokio::net::{TcpListener, TcpStream};
/// use tokio::task::JoinSet;
///
/// async fn serve(_: TcpStream) -> Result<(), TimeoutError> {
///     Ok(()) // stands for the work
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> std::io::Result<()> {
///     let listener = TcpListener::bind("127.0.0.1:8080").await?;
///     let shutdown = timebox::tokio::shutdown()?;
///     let limits = Timebox::new(Duration::from_secs(30)).cancel_on(&shutdown).grace(Duration::from_secs(5));
///     let mut requests = JoinSet::new();
///     while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
///         requests.spawn(limits.clone().run_future(serve(accepted?.0)));
///     }
///     requests.join_all().await; // at most five seconds: each request has its grace
///     Ok(())
/// }
/// ```
#[doc(alias("ctrl_c", "sigterm", "graceful_shutdown"))]
#[track_caller]
pub fn shutdown() -> io::Result<CancellationToken> {
    let runtime = Handle::try_current().map_err(io::Error::other)?;
    let mut signals = Signals::catch()?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    runtime.spawn(async move {
        let name = poll_fn(|cx| signals.poll(cx)).await;
        cancelled.cancel_with(name);
    });
    Ok(token)
}

#[cfg(unix)]
struct Signals {
    interrupt: ::tokio::signal::unix::Signal,
    terminate: ::tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn catch() -> io::Result<Self> {
        use ::tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        let terminate = self.terminate.poll_recv(cx).is_ready();
        let interrupt = self.interrupt.poll_recv(cx).is_ready();
        named([("SIGTERM", terminate), ("SIGINT", interrupt)])
    }
}

#[cfg(windows)]
struct Signals {
    interrupt: ::tokio::signal::windows::CtrlC,
    terminate: ::tokio::signal::windows::CtrlBreak,
    close: ::tokio::signal::windows::CtrlClose,
    shutdown: ::tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Signals {
    fn catch() -> io::Result<Self> {
        use ::tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self {
            interrupt: ctrl_c()?,
            terminate: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        let interrupt = self.interrupt.poll_recv(cx).is_ready();
        let terminate = self.terminate.poll_recv(cx).is_ready();
        let close = self.close.poll_recv(cx).is_ready();
        let shutdown = self.shutdown.poll_recv(cx).is_ready();
        let events =
            [("Ctrl-C", interrupt), ("Ctrl-Break", terminate), ("close", close), ("shutdown", shutdown)];
        named(events)
    }
}

fn named<const N: usize>(signals: [(&'static str, bool); N]) -> Poll<&'static str> {
    let come = signals.into_iter().find(|&(_, has_come)| has_come);
    come.map_or(Poll::Pending, |(name, _)| Poll::Ready(name))
}
