//! Reports: what a scope that ran too long was doing.
//!
//! A [`Policy`] says which scopes are reported, and where to. While a policy is installed, the watchdog looks at each
//! scope that is due, from a thread of its own. A [`Report`] has the scope, its thread, the call in which the thread is
//! blocked, and the stack. For a pending future it has the places at which the future waits. The page
//! [slow](crate::guide::slow) of the guide reads a report line by line.
//!
//! ```
//! use std::sync::mpsc;
//! use std::time::Duration;
//! use timebox::report::{self, Policy, Report};
//! use timebox::{Timebox, sleep};
//!
//! # fn main() -> Result<(), report::InstallError> {
//! let (sender, reports) = mpsc::channel();
//! let sink = move |report: &Report| { let _ = sender.send(report.headline()); };
//! Policy::new().warn_after(Duration::from_millis(20)).to(sink).install()?;
//!
//! let request = Timebox::new(Duration::from_millis(200)).label("GET /repos/42");
//! assert!(request.run(|_| sleep(Duration::from_secs(60))).is_err());
//!
//! report::flush(Duration::from_secs(10));
//! for headline in reports.try_iter() {
//!     println!("{headline}"); // slow: `GET /repos/42` open for 20.113ms (limit 200ms); thread main blocked in ..
//! }
//! # report::uninstall();
//! # Ok(())
//! # }
//! ```
//!
//! # What is reported
//!
//! A scope is reported when it has been open for its `warn_after`, and when it is still open at its deadline. It is
//! reported once more when it is still open one second after its deadline; [`Policy::overdue_after`] sets another time.
//! If one of its reports was written, its end is reported too. [`Kind`] names these cases.
//!
//! The policy's [`warn_after`](Policy::warn_after) is for outermost scopes. A scope's own
//! [`warn_after`](crate::Timebox::warn_after) counts for any scope. **Without both, nothing is reported before a
//! deadline**: the policy then reports scopes that reach their deadlines, and scopes that are overdue.
//!
//! [`watch`] and [`watched`](fn@watched) are for code without a limit: a block, and each poll of a future.
//!
//! Without a policy nothing is watched.
//!
//! # What it costs
//!
//! When a watched block is entered, it writes one more word than other blocks. It allocates nothing for reports and
//! reads no second clock. When it is left, it never waits for a report. A blocked thread is not woken, and its system
//! call gets no `EINTR`. A running thread is stopped for some microseconds when a report is due. A pending future is
//! woken, and polled one more time, for each report.
//!
//! Reports are made on the thread `timebox-reporter`. Each sink has a thread of its own. The queues of these threads
//! are bounded. When a queue is full, reports are lost, and [`dropped`] counts them.
//!
//! # Systems
//!
//! Blocks, and futures that are stuck in a poll, are reported on Linux, on `x86_64` and `aarch64`. Pending futures are
//! reported on all systems.
//!
//! # Signals
//!
//! Only a thread that *runs* is sent a signal. It is `SIGURG`, which systems ignore by default. The handler copies the
//! stack; it takes no lock and allocates nothing. [`Policy::install`] installs the handler, and the handler stays until
//! the process ends. A `SIGURG` that this crate did not send goes on to the handler that was there before. A program
//! that needs a handler of its own installs it first. If a program replaces this crate's handler, running threads have
//! no stack, and the report says so.
//!
//! A blocked thread gets no signal, as long as the system lets the process read `/proc/self/task`. Where a sandbox
//! forbids that, every thread counts as running. The handler asks the system to restart calls that it interrupts
//! (`SA_RESTART`).
//!
//! The handler runs on the thread's alternate stack for signals, so it does no harm on a stack that is nearly full. std
//! gives its threads such a stack. A thread that C code started gets one with its first scope, if it has none, and
//! keeps it until it ends.
//!
//! # Fork
//!
//! A forked child keeps the policy. Its reports are made and written on threads of its own. Reports that are being made
//! at the fork stay with the parent.
//!
//! # Profiles
//!
//! A report shows one moment. A `Profile` (feature `profile`) looks at one block or future again and again, 99 times a
//! second unless set otherwise, and shows where its time goes: computing and waiting. Its result is a table of
//! functions, folded stacks for other tools, and a flame graph (feature `flamegraph`). It needs no policy. The
//! paragraphs above about signals, systems and sandboxes hold for profiles too. While no profile runs, no thread takes
//! samples.
//!
//! # What is not certain
//!
//! A report shows one moment. The stack and the scopes come from one consistent copy, so a stack never belongs to
//! another scope. If the scope ends before the copy is made, there is no report. If a running thread does not take the
//! signal in time, the report has no stack, and its scopes were read twice and found equal. [`notes`](Report::notes)
//! say in sentences what is doubtful: frames that may be wrong, a stack that is cut, a thread that did not take the
//! signal. While a debugger is attached, blocks are not reported. Scopes on a mock clock are not reported.

mod awaits;
mod backtrace;
mod blocked;
mod calendar;
pub(crate) mod contents;
mod due;
mod dump;
mod example;
mod foreign;
mod frames;
mod install;
mod json;
mod limiter;
mod look;
mod losses;
mod offenders;
mod pending;
mod policy;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(feature = "profile")]
mod profile;
mod queue;
mod recent;
pub(crate) mod reporter;
#[cfg(feature = "tokio")]
mod runtime;
mod seen;
mod sink;
mod stack;
mod state;
mod stuck;
mod text;
mod tools;
mod watch;
mod watched;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub use awaits::awaits_of;
pub use contents::{Activity, Frame, Kind, Polls, Process, Report, Stack, Thread};
pub use dump::{Dump, OpenScope, ThreadDump, dump, dump_on_signal};
pub use install::uninstall;
pub use losses::dropped;
pub use offenders::{Offender, Offenders, Total, offenders};
pub use policy::{InstallError, Policy};
#[cfg(feature = "profile")]
pub use profile::{Doing, FunctionTime, LiveProfile, Profile, ProfileReport, ProfileStack, Profiled};
pub use recent::recent;
pub use reporter::flush;
#[cfg(feature = "tokio")]
pub use runtime::{watch_current_runtime, watch_runtime};
#[cfg(feature = "tracing")]
pub use sink::Tracing;
pub use sink::{Directory, Sink, Stderr};
pub use watched::{Watched, watch, watched};

#[cfg(test)]
mod pipeline_tests;
#[cfg(test)]
mod text_tests;
