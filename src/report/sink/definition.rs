use std::io;

use crate::report::contents::Report;

/// A place for reports. [`Policy::to`](crate::report::Policy::to) takes any number of them.
///
/// Each sink has a thread of its own, behind a queue of 64 reports. So a sink may block. A sink that hangs, fails or
/// panics harms no scope and no other sink. [`dropped`](crate::report::dropped) counts the reports that a sink loses.
/// All signals are blocked on the sink's thread.
///
/// Any `Fn(&Report) + Send + Sync` is a sink:
///
/// ```
/// use timebox::report::{Report, Sink};
///
/// let print = |report: &Report| println!("{}", report.headline());
/// print.write(&Report::example())?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A sink that can fail says so:
///
/// ```
/// use std::io;
/// use std::net::UdpSocket;
/// use timebox::report::{Report, Sink};
///
/// struct Collector(UdpSocket);
///
/// impl Sink for Collector {
///     fn write(&self, report: &Report) -> io::Result<()> {
///         self.0.send(&serde_json::to_vec(report)?).map(drop)
///     }
/// }
///
/// # let peer = UdpSocket::bind("127.0.0.1:0")?;
/// # let socket = UdpSocket::bind("127.0.0.1:0")?;
/// # socket.connect(peer.local_addr()?)?;
/// Collector(socket).write(&Report::example())?;
/// # let mut text = [0; 8];
/// # peer.recv_from(&mut text)?;
/// # assert_eq!(&text, b"{\"kind\":");
/// # Ok::<(), io::Error>(())
/// ```
pub trait Sink: Send + Sync {
    /// Writes the report. If this returns an error, the report counts as lost.
    fn write(&self, report: &Report) -> io::Result<()>;

    /// Checks that the sink can write. [`Policy::install`](crate::report::Policy::install) calls this. If this returns
    /// an error, the policy is not installed.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

impl<F: Fn(&Report) + Send + Sync> Sink for F {
    fn write(&self, report: &Report) -> io::Result<()> {
        self(report);
        Ok(())
    }
}
