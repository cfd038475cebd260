//! Headers that a client sends, even a hostile client.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use timebox::Deadline;
use timebox_tower::{Malformed, Propagation, TimeoutLayer, respond};
use tower::{Layer, Service, service_fn};

/// An allocator that counts the bytes that each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    let _gone = ALLOCATED.try_with(|allocated| allocated.set(allocated.get() + bytes));
}

// SAFETY: each method passes its arguments on to `System`, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEADER: &str = "x-timeout-ms";

fn formats() -> [(Propagation, &'static str); 2] {
    [(Propagation::grpc(), "grpc-timeout"), (Propagation::header(HEADER), HEADER)]
}

/// Enters a scope with the limit of these headers, and returns its deadline. `None` if the headers ask for no limit.
fn deadline(propagation: &Propagation, headers: &HeaderMap) -> Result<Option<Deadline>, Malformed> {
    let allocated = ALLOCATED.get();
    let limit = propagation.deadline_of(headers);
    let allocated = ALLOCATED.get() - allocated;
    assert!(allocated < 100, "{allocated} bytes allocated");
    let Some(limit) = limit? else { return Ok(None) };
    let now = Deadline::after(Duration::ZERO);
    Ok(Some(timebox::timeout_value(limit, timebox::deadline).unwrap_or(now)))
}

fn sent(header: &'static str, value: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header, HeaderValue::from_bytes(value).unwrap());
    headers
}

/// What a server with the layer does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Served,
    Over,
    /// Refused with the status 400, or with gRPC's `INVALID_ARGUMENT` and a message.
    Refused,
}

fn serve(propagation: &Propagation, headers: HeaderMap) -> Done {
    async fn handler(_: Request<()>) -> Result<Response<String>, Infallible> {
        Ok(Response::new("served".to_owned()))
    }
    let is_grpc = propagation.name() == "grpc-timeout";
    let layer = TimeoutLayer::new(Duration::from_secs(3600)).propagate(propagation.clone());
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    let before = ALLOCATED.get();
    let response = if is_grpc {
        now(layer.respond_with_grpc_status().layer(service_fn(handler)).call(request)).unwrap()
    } else {
        now(layer.respond_with(respond::gateway_timeout()).layer(service_fn(handler)).call(request)).unwrap()
    };
    let allocated = ALLOCATED.get() - before;
    assert!(allocated < 10_000, "{allocated} bytes allocated");
    if response.body().size_hint().exact() == Some(6) {
        return Done::Served;
    }
    let grpc = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
    let message = response.headers().get("grpc-message").and_then(|message| message.to_str().ok());
    match (response.status(), grpc) {
        (StatusCode::OK, Some(b"4")) if is_grpc => Done::Over,
        (StatusCode::GATEWAY_TIMEOUT, None) => Done::Over,
        (StatusCode::BAD_REQUEST, None) => Done::Refused,
        (StatusCode::OK, Some(b"3")) if message.unwrap().starts_with("malformed header grpc-timeout: ") => {
            Done::Refused
        }
        _ => panic!("{response:?}"),
    }
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it is pending"),
    }
}

#[test]
fn absent_zero_and_infinite_are_three_different_things() {
    for (propagation, header) in formats() {
        let [zero, infinite] = match header {
            "grpc-timeout" => ["0S", "99999999H"],
            _ => ["0", "9999999999999999999"],
        };
        let [zero, infinite] = [zero, infinite].map(|value| sent(header, value.as_bytes()));
        assert_eq!(deadline(&propagation, &HeaderMap::new()).unwrap(), None);
        assert!(deadline(&propagation, &zero).unwrap().unwrap().has_passed());
        assert_eq!(deadline(&propagation, &infinite).unwrap(), Some(Deadline::NEVER));
        let done = [HeaderMap::new(), zero, infinite].map(|headers| serve(&propagation, headers));
        assert_eq!(done, [Done::Served, Done::Over, Done::Served]);
    }
}

#[test]
fn an_incoming_deadline_is_what_is_left_when_the_scope_begins() {
    for (propagation, header) in formats() {
        let value = if header == HEADER { "60000" } else { "1M" };
        let minute = Duration::from_secs(60);
        let before = Deadline::after(minute);
        let deadline = deadline(&propagation, &sent(header, value.as_bytes())).unwrap().unwrap();
        assert!(before <= deadline && deadline <= Deadline::after(minute), "{deadline:?}");
    }
}

#[test]
fn a_header_that_is_sent_twice_is_refused() {
    for (propagation, header) in formats() {
        for values in [["1", "1"], ["1m", "1m"], ["1S", "2S"], ["", ""]] {
            let headers = values.map(|value| (header.parse().unwrap(), HeaderValue::from_static(value)));
            let headers = HeaderMap::from_iter(headers);
            let error = deadline(&propagation, &headers).unwrap_err();
            assert!(error.to_string().ends_with("sent more than once"), "{error}");
            assert_eq!(serve(&propagation, headers), Done::Refused);
        }
        let many = (0..20_000).map(|_| (header.parse().unwrap(), HeaderValue::from_static("1")));
        assert_eq!(serve(&propagation, many.collect()), Done::Refused);
    }
}

#[test]
#[should_panic(expected = "not a name of a header")]
fn a_name_that_is_none_is_the_programmers_mistake() {
    let _ = Propagation::header("no name");
}

/// Values of a header of gRPC, and what they mean, in nanoseconds. `None` if they mean nothing.
const OF_GRPC: [(&[u8], Option<u64>); 40] = [
    (b"0n", Some(0)),
    (b"0H", Some(0)),
    (b"00000000S", Some(0)),
    (b"1n", Some(1)),
    (b"00000001n", Some(1)),
    (b"99999999n", Some(99_999_999)),
    (b"1u", Some(1_000)),
    (b"1m", Some(1_000_000)),
    (b"1S", Some(1_000_000_000)),
    (b"1M", Some(60_000_000_000)),
    (b"1H", Some(3_600_000_000_000)),
    (b"99999999S", Some(99_999_999_000_000_000)),
    (b"100000000n", None),
    (b"000000001n", None),
    (b"1", None),
    (b"12345678", None),
    (b"123456789", None),
    (b"n", None),
    (b"S", None),
    (b"1s", None),
    (b"1h", None),
    (b"1U", None),
    (b"1N", None),
    (b"1ms", None),
    (b"1us", None),
    (b"1Sn", None),
    (b"1S1m", None),
    (b"1S,2S", None),
    (b"1 S", None),
    (b" 1S", None),
    (b"1S ", None),
    (b"1.5S", None),
    (b"-1S", None),
    (b"+1S", None),
    (b"1e3S", None),
    (b"0x1S", None),
    (b"1_0S", None),
    (b"S1", None),
    (b"1\xc2\xb5", None),
    (b"\xd9\xa3S", None),
];

/// Values of a header in milliseconds, and what they mean, in nanoseconds. `None` if they mean nothing.
const OF_MILLISECONDS: [(&[u8], Option<u64>); 40] = [
    (b"0", Some(0)),
    (b"000", Some(0)),
    (b"1", Some(1_000_000)),
    (b"01", Some(1_000_000)),
    (b"250", Some(250_000_000)),
    (b"0000000000000000250", Some(250_000_000)),
    (b"9999999999", Some(9_999_999_999_000_000)),
    (b"00000000000000000250", None),
    (b"10000000000000000000", None),
    (b"18446744073709551616", None),
    (b"1n", None),
    (b"1m", None),
    (b"1ms", None),
    (b"1 ms", None),
    (b"1s", None),
    (b"1S", None),
    (b"1,2", None),
    (b"1, 1", None),
    (b"1;", None),
    (b"1;q=1", None),
    (b"1.0", None),
    (b"1.", None),
    (b".5", None),
    (b"1e3", None),
    (b"1E3", None),
    (b"0x10", None),
    (b"0b1", None),
    (b"1_000", None),
    (b"1'000", None),
    (b"+1", None),
    (b"-1", None),
    (b"-0", None),
    (b"- 1", None),
    (b"1-", None),
    (b"1 000", None),
    (b"1\t0", None),
    (b"\xef\xbc\x91", None),
    (b"\xd9\xa3", None),
    (b"\xe2\x88\x9e", None),
    (b"\xff", None),
];

/// Values that are a timeout neither in gRPC's format nor in milliseconds.
const OF_NEITHER: [&str; 60] = [
    "",
    " ",
    "  ",
    "\t",
    " \t ",
    "-",
    "+",
    "--1",
    "++1",
    "+-1",
    ".",
    "..",
    ",",
    ",,",
    ";",
    ":",
    "/",
    "\\",
    "%",
    "%31",
    "%00",
    "\"1\"",
    "'1'",
    "\"\"",
    "(1)",
    "[1]",
    "{1}",
    "<1>",
    "{\"ms\":1}",
    "$1",
    "${jndi:ldap://x/a}",
    "$(id)",
    "`id`",
    "1|id",
    "1&id",
    "1;id",
    "' or 1=1 --",
    "../../etc/passwd",
    "<script>",
    "%s%s%s%n",
    "%n",
    "NaN",
    "nan",
    "inf",
    "Infinity",
    "-Infinity",
    "infinite",
    "never",
    "none",
    "null",
    "nil",
    "undefined",
    "true",
    "PT1S",
    "P1D",
    "1:00",
    "00:00:01",
    "Sat, 28 Nov 2026 18:00:00 GMT",
    "2026-11-28T18:00:00Z",
    "max-age=1",
];

#[test]
fn two_hundred_values_made_by_hand_are_read_or_clearly_refused() {
    let long = ["1", "0", "9", " ", "S", "x", "\u{b5}", "1S", "1 ", ",1"].map(|part| part.repeat(30_000));
    let neither = OF_NEITHER.iter().map(|value| value.as_bytes()).chain(long.iter().map(String::as_bytes));
    let neither: Vec<_> = neither.map(|value| (value, None)).collect();
    let mut tried = 0;
    for ((propagation, header), own) in formats().into_iter().zip([&OF_GRPC, &OF_MILLISECONDS]) {
        for &(value, expected) in own.iter().chain(&neither) {
            tried += 1;
            let text = String::from_utf8_lossy(&value[..value.len().min(40)]);
            let headers = sent(header, value);
            let before = Deadline::after(Duration::ZERO);
            match (deadline(&propagation, &headers), expected) {
                (Err(_), None) => assert_eq!(serve(&propagation, headers), Done::Refused, "{text}"),
                (Ok(Some(deadline)), Some(nanos)) => {
                    let limit = Duration::from_nanos(nanos);
                    let passes = |before: Deadline| Deadline::at(before.to_instant().unwrap() + limit);
                    assert!(passes(before) <= deadline, "{text}");
                    assert!(deadline <= Deadline::after(limit), "{text}");
                }
                (deadline, expected) => panic!("{text}: {deadline:?}, not {expected:?}"),
            }
        }
    }
    assert_eq!(tried, 220);
}

/// Whether gRPC's grammar allows the value. It is checked here in another way than in the crate, so that a mistake in
/// the crate shows.
fn is_grpc(value: &[u8]) -> bool {
    (2..=9).contains(&value.len())
        && value.is_ascii()
        && value[..value.len() - 1].iter().all(u8::is_ascii_digit)
        && b"HMSmun".contains(&value[value.len() - 1])
}

fn is_milliseconds(value: &[u8]) -> bool {
    (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// Bytes that a header may hold: nonsense, short and long, and values that are nearly right.
fn values() -> impl Strategy<Value = Vec<u8>> {
    let allowed = prop_oneof![9 => b' '..=b'~', 1 => 0x80..=0xff_u8, 1 => Just(b'\t')];
    prop_oneof![
        prop::collection::vec(allowed.clone(), 0..12),
        (prop::collection::vec(allowed, 0..50), 1..200_usize).prop_map(|(bytes, times)| bytes.repeat(times)),
        "[0-9]{0,21}[HMSmunhs]?".prop_map(String::into_bytes),
        "[ ,+.-]?[0-9]{1,9}[ ,+.-]?[HMSmun]?[ ,+.-]?".prop_map(String::into_bytes),
    ]
}

#[test]
fn ten_thousand_random_values_are_read_or_clearly_refused() {
    let mut runner =
        TestRunner::new(Config { cases: 10_000, failure_persistence: None, ..Config::default() });
    runner
        .run(&values(), |value| {
            for ((propagation, header), is_right) in
                formats().into_iter().zip([is_grpc as fn(&[u8]) -> bool, is_milliseconds])
            {
                let headers = sent(header, &value);
                prop_assert_eq!(deadline(&propagation, &headers).is_ok(), is_right(&value));
                prop_assert_eq!(serve(&propagation, headers) != Done::Refused, is_right(&value));
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_incoming_deadline_never_lengthens_the_limit_of_the_server() {
    for (propagation, header) in formats() {
        for value in ["", "60000", "1M", "1H", "99999999H", "9999999999999999999"] {
            let limit = Duration::from_secs(1);
            let deadline = Deadline::after(limit);
            let service = |_: Request<()>| {
                assert!(timebox::deadline() >= deadline, "it is not the server's");
                assert!(timebox::remaining().unwrap() <= limit);
                async { Ok::<_, Infallible>(Response::new(String::new())) }
            };
            let layer = TimeoutLayer::new(limit).propagate(propagation.clone()).respond_with_grpc_status();
            let mut request = Request::new(());
            if propagation.deadline_of(&sent(header, value.as_bytes())).is_ok() {
                *request.headers_mut() = sent(header, value.as_bytes());
            }
            now(layer.layer(service_fn(service)).call(request)).unwrap();
        }
    }
}
