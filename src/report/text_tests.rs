use std::time::Duration;

use super::contents::{Activity, Frame, Kind, Polls, Report, Stack};
use crate::error::{Fields, ScopeId, ScopeInfo};

/// The report's text. The example's scope was opened on a line of this file. The text has a fixed place instead of that
/// line, because an edit of this file can move the line.
fn shown(report: &Report) -> String {
    let here = report.scope.location().to_string();
    report.to_string().replace(&here, "src/main.rs:30:9")
}

fn frame(function: &str, place: Option<(&str, u32)>, foreign: bool) -> Frame {
    Frame {
        function: function.into(),
        file: place.map(|(file, _)| file.into()),
        line: place.map(|(_, line)| line),
        inlined: false,
        foreign,
        module: Some("shop".into()),
        offset: 0x1f2c,
    }
}

#[track_caller]
fn assert_text(report: &Report, expected: &str) {
    let shown = shown(report);
    assert!(shown == expected, "the text is\n{shown}\nand not\n{expected}");
}

fn scope(label: &str, limit: Option<Duration>, like: &ScopeInfo) -> ScopeInfo {
    let label = Some(label.to_owned().into());
    ScopeInfo { id: ScopeId::next(), label, limit, location: like.location, fields: Fields::default() }
}

#[test]
fn a_thread_that_is_blocked() {
    assert_text(
        &Report::example(),
        "\
slow: `GET /repos/42` open for 5.003s (limit 25s); thread worker-3 blocked in read on fd 7, TCP 10.0.0.7:51234 -> \
10.0.0.9:6379; at shop::cache::reply, src/cache.rs:57

  scope      `GET /repos/42`, limit 25s, opened at src/main.rs:30:9
                 user = 42
  began      2026-11-28 15:20:49.123 UTC
  process    4711, shop on web-1
  thread     4720, worker-3, blocked in read on fd 7, TCP 10.0.0.7:51234 -> 10.0.0.9:6379
  processor  used for 12ms of the last 2.501s (0.5 %)
             waited for 850µs

Stack, innermost frame first:
  ... 2 frames of libc.so.6 and std ...
  <std::net::tcp::TcpStream as std::io::Read>::read  std/src/net/tcp.rs:684
  shop::cache::reply                                 src/cache.rs:57  (inlined)
  shop::cache::get                                   src/cache.rs:42
  shop::repositories::show                           src/repositories.rs:118
  ... 2 frames of timebox ...
  shop::handle                                       src/main.rs:30
",
    );
}

#[test]
fn a_future_that_waits_at_two_places() {
    let mut report = Report::example();
    report.kind = Kind::Expired;
    report.thread = None;
    report.stacks.clear();
    let last = Some(Duration::from_millis(2_100));
    report.polls = Some(Polls { count: 17, last, thread: Some("tokio-runtime-worker".into()) });
    report.suppressed = 3;
    report.notes = vec!["A leaf did not clone its waker\nin this poll.".into()];
    // A label or a field must not bring control characters to the terminal.
    report.chain.push(scope("nightly\n\u{1b}[31mbatch", None, &report.scope));
    let place =
        "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/tokio-1.45.0/src/time/sleep.rs";
    let sleep = frame("<tokio::time::Sleep as core::future::Future>::poll", Some((place, 446)), true);
    let pin = frame("<core::pin::Pin<P> as core::future::Future>::poll", None, true);
    let fill = frame("shop::cache::fill::{{closure}}", Some(("src/cache.rs", 80)), false);
    let show = frame("shop::show::{{closure}}", None, false);
    let frames = vec![sleep.clone(), pin.clone(), fill, pin, show.clone()];
    report.awaits = vec![
        Stack { frames, truncated: false, approximate: false },
        Stack { frames: vec![sleep, show], truncated: true, approximate: true },
    ];
    assert_text(
        &report,
        r"expired: `GET /repos/42` open for 5.003s (limit 25s); waits at shop::cache::fill::{{closure}}, src/cache.rs:80 and at 1 more place

  scope      `GET /repos/42`, limit 25s, opened at src/main.rs:30:9
                 user = 42
  around it  `nightly\n\u{1b}[31mbatch`, opened at src/main.rs:30:9
  began      2026-11-28 15:20:49.123 UTC
  process    4711, shop on web-1
  thread     none: the future is between two polls
  polls      17, the last began 2.1s before this report, on thread tokio-runtime-worker
  left out   3 reports with this stack before this one

Waiting place 1 of 2, innermost frame first:
  <tokio::time::Sleep as core::future::Future>::poll  tokio-1.45.0/src/time/sleep.rs:446
  <core::pin::Pin<P> as core::future::Future>::poll   shop+0x1f2c
  shop::cache::fill::{{closure}}                      src/cache.rs:80
  <core::pin::Pin<P> as core::future::Future>::poll   shop+0x1f2c
  shop::show::{{closure}}                             shop+0x1f2c

Waiting place 2 of 2, innermost frame first:
  <tokio::time::Sleep as core::future::Future>::poll  tokio-1.45.0/src/time/sleep.rs:446
  shop::show::{{closure}}                             shop+0x1f2c

Not certain:
  - Frames are missing at the outer end of a stack.
  - Frames may be wrong or missing: the tables of a module did not cover them.
  - A leaf did not clone its waker\nin this poll.
",
    );
}

#[test]
fn a_thread_that_runs_in_foreign_code_within_an_inner_scope() {
    let mut report = Report::example();
    report.kind = Kind::Overdue;
    report.elapsed = Duration::from_millis(26_004);
    report.chain.insert(0, scope("thumbnail", Some(Duration::from_secs(2)), &report.scope));
    let thread = report.thread.as_mut().unwrap();
    thread.name.clear();
    thread.activity = Activity::Running;
    thread.cpu_time = Some(Duration::from_millis(25_990));
    (thread.waited_for_cpu, thread.observed) = (None, None);
    report.stacks[0].frames = vec![frame("png_read_row", None, true), frame("tokio::park", None, true)];
    assert_text(
        &report,
        "\
overdue: `GET /repos/42` still open after 26.004s (limit 25s); thread without a name running

  within it  `thumbnail`, limit 2s, opened at src/main.rs:30:9
  scope      `GET /repos/42`, limit 25s, opened at src/main.rs:30:9
                 user = 42
  began      2026-11-28 15:20:49.123 UTC
  process    4711, shop on web-1
  thread     4720, without a name, running
  processor  used for 25.99s of the last 26.004s (99.9 %)

Stack, innermost frame first:
  png_read_row  shop+0x1f2c
  tokio::park   shop+0x1f2c
",
    );
}

#[test]
fn the_end_of_a_scope_is_short() {
    let mut report = Report::example();
    report.kind = Kind::Ended;
    report.elapsed = Duration::from_millis(41_100);
    report.ended_before = Some(Duration::from_millis(41_200));
    report.stacks.clear();
    assert_text(
        &report,
        "\
ended: `GET /repos/42` finished between 41.1s and 41.2s after its start (limit 25s)
  scope      `GET /repos/42`, limit 25s, opened at src/main.rs:30:9
                 user = 42
  began      2026-11-28 15:20:49.123 UTC
  process    4711, shop on web-1
",
    );
    report.ended_before = Some(report.elapsed);
    assert!(report.headline().ends_with("finished 41.1s after its start (limit 25s)"));
}

#[test]
fn nothing_is_accused_if_there_was_no_processor() {
    let mut report = Report::example();
    report.stacks.clear();
    report.watchdog_late = Duration::from_millis(2_100);
    let text = shown(&report);
    let (headline, rest) = text.split_once('\n').unwrap();
    assert!(headline.ends_with("; the process got no processor for 2.1s"), "{headline}");
    let beware = "\n  BEWARE     the watchdog itself was 2.1s late: the whole process got no processor\n             \
                  do not blame this code\n";
    assert!(rest.starts_with(beware), "{text}");

    report.watchdog_late = Duration::from_millis(300);
    let text = shown(&report);
    assert!(text.contains("\n  watchdog   300ms late\n") && !text.contains("BEWARE"), "{text}");

    report.watchdog_late = Duration::ZERO;
    report.thread.as_mut().unwrap().waited_for_cpu = Some(Duration::from_millis(2_200));
    let text = shown(&report);
    let (headline, rest) = text.split_once('\n').unwrap();
    assert!(headline.ends_with("; the thread got no processor for 2.2s"), "{headline}");
    let beware = "\n  BEWARE     the thread was ready to run, but got no processor for 2.2s\n";
    assert!(rest.starts_with(beware), "{text}");
}

#[test]
fn json_keeps_its_shape() {
    let mut report = Report::example();
    report.stacks[0].frames.truncate(1);
    let here = report.scope.location().to_string();
    let scope = serde_json::json!({
        "id": report.scope.id().get(),
        "label": "GET /repos/42",
        "location": here,
        "limit": 25.0,
        "fields": { "user": "42" },
    });
    let text = serde_json::to_string(&report).unwrap();
    let shape = serde_json::json!({
        "kind": "slow",
        "scope": scope,
        "chain": [scope],
        "began": "2026-11-28T15:20:49.123456Z",
        "elapsed": 5.003,
        "ended_before": null,
        "limit": 25.0,
        "process": { "id": 4711, "program": "shop", "host": "web-1" },
        "thread": {
            "name": "worker-3",
            "id": 4720,
            "activity": { "blocked": "read on fd 7, TCP 10.0.0.7:51234 -> 10.0.0.9:6379" },
            "cpu_time": 0.012,
            "waited_for_cpu": 0.00085,
            "observed": 2.501,
        },
        "stacks": [{
            "frames": [{
                "function": "__libc_read",
                "file": null,
                "line": null,
                "inlined": false,
                "foreign": true,
                "module": "libc.so.6",
                "offset": 0x0010_1f2c,
            }],
            "truncated": false,
            "approximate": false,
        }],
        "awaits": [],
        "polls": null,
        "watchdog_late": 0.00008,
        "suppressed": 0,
        "notes": [],
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), shape);
    // The keys are in the order of the struct's fields.
    assert!(text.starts_with("{\"kind\":\"slow\",\"scope\":{\"id\":"), "{text}");
    report.thread.as_mut().unwrap().activity = Activity::Running;
    assert_eq!(serde_json::to_value(&report).unwrap()["thread"]["activity"], "running");
}
