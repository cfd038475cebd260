use std::panic::Location;
use std::time::{Duration, UNIX_EPOCH};

use super::contents::{Activity, Frame, Kind, Process, Report, Stack, Thread};
use crate::error::{Fields, ScopeId, ScopeInfo};

impl Report {
    /// An invented report, to show what reports look like, or to try out a sink.
    ///
    /// ```
    /// use timebox::report::{Report, Sink, Stderr};
    ///
    /// Stderr.write(&Report::example())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn example() -> Self {
        let location = Location::caller();
        let mut fields = Fields::default();
        fields.set("user".into(), "42".into());
        let scope = ScopeInfo {
            id: ScopeId::next(),
            label: Some("GET /repos/42".into()),
            location,
            limit: Some(Duration::from_secs(25)),
            fields,
        };
        let frame = |function: &str, place: Option<(&str, u32)>, foreign| Frame {
            function: function.into(),
            file: place.map(|(file, _)| file.into()),
            line: place.map(|(_, line)| line),
            inlined: false,
            foreign,
            module: Some(if place.is_some() { "shop" } else { "libc.so.6" }.into()),
            offset: 0x10_1f2c,
        };
        let std = "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src";
        let frames = vec![
            frame("__libc_read", None, true),
            frame(
                "std::sys::net::connection::socket::TcpStream::read",
                Some((&format!("{std}/sys/net/connection/socket/mod.rs"), 334)),
                true,
            ),
            frame(
                "<std::net::tcp::TcpStream as std::io::Read>::read",
                Some((&format!("{std}/net/tcp.rs"), 684)),
                true,
            ),
            Frame { inlined: true, ..frame("shop::cache::reply", Some(("src/cache.rs", 57)), false) },
            frame("shop::cache::get", Some(("src/cache.rs", 42)), false),
            frame("shop::repositories::show", Some(("src/repositories.rs", 118)), false),
            frame("timebox::scope::run::run", Some(("src/scope/run.rs", 60)), true),
            frame("timebox::timeout", Some(("src/scope/entry.rs", 31)), true),
            frame("shop::handle", Some(("src/main.rs", 30)), false),
        ];
        Self {
            kind: Kind::Slow,
            chain: vec![scope.clone()],
            scope,
            // 28 November 2026, 15:20:49 UTC.
            began: UNIX_EPOCH + Duration::new(1_795_879_249, 123_456_789),
            elapsed: Duration::from_millis(5_003),
            ended_before: None,
            limit: Some(Duration::from_secs(25)),
            process: Process { id: 4711, program: "shop".into(), host: "web-1".into() },
            thread: Some(Thread {
                name: "worker-3".into(),
                id: 4720,
                activity: Activity::Blocked("read on fd 7, TCP 10.0.0.7:51234 -> 10.0.0.9:6379".into()),
                cpu_time: Some(Duration::from_millis(12)),
                waited_for_cpu: Some(Duration::from_micros(850)),
                observed: Some(Duration::from_millis(2_501)),
            }),
            stacks: vec![Stack { frames, truncated: false, approximate: false }],
            awaits: Vec::new(),
            polls: None,
            watchdog_late: Duration::from_micros(80),
            suppressed: 0,
            notes: Vec::new(),
        }
    }
}
