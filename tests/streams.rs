//! Limits of streams: `timebox::future::StreamExt`, `TimeoutStream`.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::{FusedStream, Stream, StreamExt as _, iter, pending, poll_fn, repeat};
use timebox::future::{self, FutureExt as _, StreamExt as _};
use timebox::testing::MockClock;
use timebox::{CancellationToken, Limit, Timebox, TimeoutError, checkpoint, is_expired, remaining};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn poll<S: Stream>(stream: Pin<&mut S>) -> Poll<Option<S::Item>> {
    stream.poll_next(&mut Context::from_waker(Waker::noop()))
}

/// The item that must be ready.
#[track_caller]
fn ready<S: Stream>(stream: Pin<&mut S>) -> Option<S::Item> {
    match poll(stream) {
        Poll::Ready(item) => item,
        Poll::Pending => panic!("it is pending"),
    }
}

fn channel() -> (UnboundedSender<u32>, impl Stream<Item = u32>) {
    unbounded()
}

/// A stream that says, when it is dropped, whether its scope was over there.
fn told_of_its_drop() -> (impl Stream<Item = u32>, Arc<Mutex<Option<bool>>>) {
    struct Tells(Arc<Mutex<Option<bool>>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(is_expired());
        }
    }
    let dropped = Arc::new(Mutex::new(None));
    let tells = Tells(Arc::clone(&dropped));
    let stream = poll_fn(move |_| {
        let _ = &tells;
        Poll::Pending
    });
    (stream, dropped)
}

#[test]
fn items_and_the_end_pass_through() {
    let stream = iter([1, 2]).timebox(LONG).idle(LONG);
    assert_eq!(stream.size_hint(), (0, Some(3)));
    let items: Vec<_> = pollster::block_on(stream.collect());
    assert_eq!(items.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), [1, 2]);
}

#[test]
fn the_error_of_the_whole_is_the_last_item_and_the_stream_is_dropped_in_its_scope() {
    let (stream, dropped) = told_of_its_drop();
    let mut stream = pin!(stream.timebox(SHORT));
    let error = pollster::block_on(stream.next()).unwrap().unwrap_err();
    assert!(error.is_timeout() && !error.settled());
    assert_eq!(error.limit(), Some(SHORT));
    assert_eq!(*dropped.lock().unwrap(), Some(true));
    assert!(stream.is_terminated());
    assert!(ready(stream.as_mut()).is_none());
}

#[test]
fn the_error_of_the_time_between_items_has_that_limit() {
    let stream = iter([1]).chain(pending()).timebox(LONG).idle(SHORT);
    let items: Vec<_> = pollster::block_on(stream.collect());
    assert!(items[0].is_ok());
    let error = items[1].as_ref().unwrap_err();
    assert!(error.is_timeout() && !error.settled());
    assert_eq!(error.limit(), Some(SHORT));
    assert!(error.elapsed() >= SHORT);
    assert_eq!(items.len(), 2);
}

#[test]
fn the_limit_between_items_alone_lets_a_stream_of_any_length_pass() {
    MockClock::new().run(|clock| {
        let (sender, stream) = channel();
        let mut stream = pin!(stream.timebox_idle(SECOND));
        for item in 0..100 {
            assert!(poll(stream.as_mut()).is_pending());
            clock.advance(Duration::from_nanos(999_999_999));
            sender.unbounded_send(item).unwrap();
            assert_eq!(ready(stream.as_mut()).unwrap().unwrap(), item);
        }
        drop(sender);
        assert!(ready(stream.as_mut()).is_none());
    });
}

#[test]
fn the_time_of_the_consumer_does_not_count_as_idle() {
    MockClock::new().run(|clock| {
        let (sender, stream) = channel();
        let mut stream = pin!(stream.timebox_idle(SECOND));
        sender.unbounded_send(1).unwrap();
        assert_eq!(ready(stream.as_mut()).unwrap().unwrap(), 1);
        clock.advance(LONG);
        assert!(poll(stream.as_mut()).is_pending());
        clock.advance(SECOND);
        assert_eq!(ready(stream.as_mut()).unwrap().unwrap_err().elapsed(), SECOND);
    });
}

#[test]
fn an_item_that_is_ready_when_time_runs_out_is_given_and_none_begins_after_it() {
    MockClock::new().run(|clock| {
        let (sender, stream) = channel();
        let mut stream = pin!(stream.timebox(SECOND));
        assert!(poll(stream.as_mut()).is_pending());
        sender.unbounded_send(1).unwrap();
        sender.unbounded_send(2).unwrap();
        clock.advance(SECOND);
        assert_eq!(ready(stream.as_mut()).unwrap().unwrap(), 1);
        assert!(ready(stream.as_mut()).unwrap().is_err());
        assert!(ready(stream.as_mut()).is_none());
    });
}

#[test]
fn a_stream_that_is_always_ready_ends_too() {
    let items = repeat(1).timebox(SHORT).filter_map(|item| std::future::ready(item.err()));
    let errors: Vec<_> = pollster::block_on(items.collect());
    assert_eq!(errors.len(), 1);
}

#[test]
fn a_limit_of_zero_polls_no_stream() {
    let stream = poll_fn(|_| -> Poll<Option<()>> { unreachable!("it was polled") });
    let error = ready(pin!(stream.timebox(Duration::ZERO))).unwrap().unwrap_err();
    assert!(!error.started());
}

#[test]
fn one_scope_is_ambient_in_all_polls() {
    let mut polls = 0;
    let mut token = None;
    let stream = poll_fn(move |_| {
        polls += 1;
        assert!(remaining().unwrap() <= LONG);
        let now = timebox::token();
        assert_eq!(token.get_or_insert_with(|| now.clone()), &now);
        Poll::Ready((polls < 5).then_some(polls))
    });
    let items: Vec<_> = pollster::block_on(stream.timebox(LONG).idle(LONG).collect());
    assert_eq!(items.len(), 4);
}

#[test]
fn a_stream_that_is_idle_too_long_ends_what_its_handles_have_entered() {
    MockClock::new().run(|clock| {
        let handle = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&handle);
        let stream = poll_fn(move |_| -> Poll<Option<()>> {
            keep.lock().unwrap().get_or_insert_with(timebox::handle);
            Poll::Pending
        });
        let mut stream = pin!(stream.timebox_idle(SECOND));
        assert!(poll(stream.as_mut()).is_pending());
        let handle = handle.lock().unwrap().take().unwrap();
        assert!(!handle.is_expired());
        clock.advance(SECOND);
        assert!(ready(stream.as_mut()).unwrap().is_err());
        let error = handle.enter(Limit::NONE, |_| -> timebox::Result<()> { Ok(()) }).unwrap_err();
        assert!(error.is_timeout(), "{error}");
    });
}

#[test]
fn a_label_and_a_token_come_from_the_builder() {
    let token = CancellationToken::new();
    let limited = Timebox::new(LONG).label("feed").cancel_on(&token);
    let mut stream = pin!(limited.run_stream(pending::<()>()).idle(SHORT));
    assert!(poll(stream.as_mut()).is_pending());
    token.cancel_with("enough");
    let error = ready(stream.as_mut()).unwrap().unwrap_err();
    assert_eq!((error.label(), error.reason()), (Some("feed"), Some("enough")));
}

#[test]
fn the_limit_between_items_is_named_where_the_builder_set_another() {
    MockClock::new().run(|clock| {
        let mut stream = pin!(Timebox::new(LONG).label("feed").run_stream(pending::<()>()).idle(SECOND));
        assert!(poll(stream.as_mut()).is_pending());
        clock.advance(SECOND);
        let error = ready(stream.as_mut()).unwrap().unwrap_err();
        assert_eq!((error.label(), error.limit()), (Some("feed"), Some(SECOND)));
    });
}

#[test]
fn within_a_grace_the_stream_goes_on() {
    MockClock::new().run(|clock| {
        let (sender, stream) = channel();
        let mut stream = pin!(Timebox::new(SECOND).grace(SECOND).run_stream(stream));
        assert!(poll(stream.as_mut()).is_pending());
        clock.advance(SECOND);
        assert!(poll(stream.as_mut()).is_pending());
        sender.unbounded_send(1).unwrap();
        assert_eq!(ready(stream.as_mut()).unwrap().unwrap(), 1);
        clock.advance(SECOND);
        assert!(ready(stream.as_mut()).unwrap().is_err());
    });
}

#[test]
fn a_stream_that_is_idle_in_its_grace_ends_with_the_grace_and_the_error_of_the_limit() {
    MockClock::new().run(|clock| {
        let limits = Timebox::new(SECOND).grace(5 * SECOND);
        let mut stream = pin!(limits.clone().run_stream(pending::<()>()).idle(2 * SECOND));
        let mut with_handle =
            pin!(limits.run_stream(poll_fn(|_| held_pending(&timebox::handle()))).idle(2 * SECOND));
        for step in [0, 1000, 1500] {
            clock.advance(Duration::from_millis(step));
            assert!(poll(stream.as_mut()).is_pending() && poll(with_handle.as_mut()).is_pending());
        }
        clock.advance(Duration::from_millis(3500)); // six seconds in all
        for error in [ready(stream), ready(with_handle)] {
            assert_eq!(error.unwrap().unwrap_err().limit(), Some(SECOND));
        }
    });
}

#[test]
fn a_stream_that_is_idle_in_the_grace_of_a_cancelled_scope_keeps_its_limit() {
    MockClock::new().run(|clock| {
        let token = CancellationToken::new();
        let limits = Timebox::new(LONG).cancel_on(&token).grace(5 * SECOND);
        let mut stream = pin!(limits.run_stream(pending::<()>()).idle(2 * SECOND));
        assert!(poll(stream.as_mut()).is_pending());
        clock.advance(SECOND);
        token.cancel();
        for step in [0, 1500] {
            clock.advance(Duration::from_millis(step));
            assert!(poll(stream.as_mut()).is_pending());
        }
        clock.advance(Duration::from_millis(3500));
        let error = ready(stream).unwrap().unwrap_err();
        assert!(error.is_cancelled() && error.limit() != Some(2 * SECOND), "{error:?}");
    });
}

fn held_pending(_: &timebox::Handle) -> Poll<Option<()>> {
    Poll::Pending
}

#[test]
fn an_outer_limit_drops_the_stream() {
    let (stream, dropped) = told_of_its_drop();
    let all =
        async { stream.timebox(LONG).idle(LONG).map(|item| item.unwrap_err()).collect::<Vec<_>>().await };
    let error = pollster::block_on(all.timebox_value(SHORT)).unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
    assert_eq!(*dropped.lock().unwrap(), Some(true));
}

#[test]
fn a_checkpoint_in_the_stream_stops_its_computing_part() {
    let stream = poll_fn(|_| {
        loop {
            if let Err(error) = checkpoint() {
                return Poll::Ready(Some(error));
            }
        }
    });
    let error: TimeoutError = pollster::block_on(pin!(stream.timebox(SHORT)).next()).unwrap().unwrap();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn a_stream_that_is_never_polled_is_dropped_in_no_scope() {
    let (stream, dropped) = told_of_its_drop();
    drop(stream.timebox(Duration::ZERO));
    assert_eq!(*dropped.lock().unwrap(), Some(false));
}

#[test]
fn an_idle_stream_wakes_its_task() {
    let stream = pending::<()>().timebox_idle(SHORT);
    let all = future::timeout_value(LONG, stream.collect::<Vec<_>>());
    assert!(pollster::block_on(all).unwrap()[0].is_err());
}
