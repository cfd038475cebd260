//! Every name that the contract gives to the entry points, called as it says: a signature that changes shows here.

use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Cause, Deadline, Handle, Hook, Limit, Outcome, Quota, Registration, Scope, ScopeId,
    ScopeInfo, Timebox, TimeoutError, future,
};

use crate::support::{Failure, LONG, SHORT};

#[test]
fn whatever_is_a_limit_limits() {
    let quota = Quota::new(LONG);
    let limits: [Limit; 10] = [
        LONG.into(),
        Instant::now().checked_add(LONG).unwrap().into(),
        Deadline::after(LONG).into(),
        Deadline::at(Instant::now() + LONG).into(),
        Deadline::NEVER.into(),
        Deadline::after(LONG).min(Deadline::NEVER).into(),
        (&quota).into(),
        Some(LONG).into(),
        None::<Instant>.into(),
        Limit::NONE,
    ];
    for limit in limits {
        assert!(timebox::timeout_value(limit, timebox::remaining).unwrap() <= Some(LONG));
    }
    assert_eq!(timebox::timeout_value(Some(Some(&quota)), || 7).unwrap(), 7);
    assert!(!timebox::timeout_value(Some(Duration::ZERO), || 7).unwrap_err().started());
}

#[test]
fn a_deadline_answers() {
    assert_eq!(Deadline::NEVER.remaining(), None);
    assert!(!Deadline::NEVER.has_passed());
    assert_eq!(Deadline::after(Duration::ZERO).remaining(), Some(Duration::ZERO));
    assert!(Deadline::at(Instant::now()).has_passed());
}

#[test]
fn the_entry_points_of_blocks() {
    assert_eq!(timebox::timeout(LONG, || Ok::<_, Failure>(1)).unwrap(), 1);
    assert_eq!(timebox::with_timeout(LONG, |_: &Scope| Ok::<_, Failure>(2)).unwrap(), 2);
    assert_eq!(timebox::timeout_value(LONG, || 3).unwrap(), 3);
    let token = CancellationToken::new();
    let configured = Timebox::new(LONG)
        .label("load feed")
        .label(String::from("load feed"))
        .reserve(Duration::from_millis(1))
        .grace(SHORT)
        .cancel_on(&token)
        .strict()
        .field("sql", "select 1")
        .field(String::from("number"), 7);
    assert_eq!(configured.clone().run(|_| Ok::<_, Failure>(4)).unwrap(), 4);
    assert_eq!(configured.clone().run_value(|_| 5).unwrap(), 5);
    let fallback = |_: TimeoutError| Ok::<_, Failure>(0);
    assert_eq!(configured.clone().run_or_else(|_| Ok(6), fallback).unwrap(), 6);
    assert_eq!(pollster::block_on(configured.clone().run_future(async { Ok::<_, Failure>(7) })).unwrap(), 7);
    assert_eq!(pollster::block_on(configured.clone().run_future_value(async { 8 })).unwrap(), 8);
    let falls_back = configured.clone().run_future_or_else(async { Ok::<_, Failure>(9) }, fallback);
    assert_eq!(pollster::block_on(falls_back).unwrap(), 9);
    let beneath = configured.clone().within(&Handle::root());
    assert_eq!(beneath.clone().run_value(|_| 10).unwrap(), 10);
    assert_eq!(pollster::block_on(beneath.run_future_value(async { 11 })).unwrap(), 11);
}

#[test]
fn the_entry_points_of_futures() {
    pollster::block_on(async {
        use future::FutureExt as _;
        assert_eq!(future::timeout(LONG, async { Ok::<_, Failure>(1) }).await.unwrap(), 1);
        assert_eq!(future::timeout_value(LONG, async { 2 }).await.unwrap(), 2);
        assert_eq!(async { Ok::<_, Failure>(3) }.timebox(LONG).await.unwrap(), 3);
        assert_eq!(async { 4 }.timebox_value(LONG).await.unwrap(), 4);
        future::sleep(Duration::from_millis(1)).await.unwrap();
        let call = future::interruptible(|| (), async { Ok::<_, std::io::Error>(5) });
        assert_eq!(call.await.unwrap().unwrap(), 5);
        assert_eq!(future::shield(LONG, async { 6 }).await, 6);
        let waited: Result<i32, TimeoutError> = future::wait(LONG, async { 7 }).await;
        assert_eq!(waited.unwrap(), 7);
        let mut work = std::pin::pin!(future::sleep(SHORT));
        assert!(future::wait(Duration::ZERO, &mut work).await.is_err());
        work.await.unwrap();
    });
}

#[test]
fn what_a_token_answers() {
    let token = CancellationToken::new();
    let child: CancellationToken = token.child_token();
    assert!(token.cause().is_none() && token.reason().is_none() && !token.is_cancelled());
    assert_eq!((token.deadline(), token.remaining()), (Deadline::NEVER, None));
    token.checkpoint().unwrap();
    let _: Registration = token.on_cancel(|| ());
    let _: Registration = token.on_cancel(Hook::inline(|| ()));
    // As tokio-util's: it may end a match arm, and be the key of a map.
    let _: () = child.cancel();
    let _ = std::collections::HashSet::from([token.clone()]);
    let guard = token.clone().drop_guard();
    assert!(*guard.token() == token && guard.disarm() == token);
    let guard = token.drop_guard_ref();
    assert!(*guard.token() == token && *guard.disarm() == token);
    pollster::block_on(async {
        assert_eq!(token.run_until_cancelled(async { 1 }).await, Some(1));
        assert_eq!(token.clone().run_until_cancelled_owned(async { 2 }).await, Some(2));
    });

    assert!(token.cancel_with(String::from("not needed")) && !token.cancel_with("too late"));
    assert_eq!((token.cause(), token.reason().as_deref()), (Some(Cause::Cancelled), Some("not needed")));
    assert_eq!(token.checkpoint().unwrap_err().reason(), Some("not needed"));
    assert_eq!(token.remaining(), Some(Duration::ZERO));
    pollster::block_on(async {
        let () = token.cancelled().await;
        let () = token.clone().cancelled_owned().await;
        assert_eq!(token.run_until_cancelled(std::future::pending::<()>()).await, None);
    });
    let limited = CancellationToken::after(LONG);
    assert!(limited.remaining() <= Some(LONG) && limited.deadline() < Deadline::NEVER);
    assert_eq!(CancellationToken::after(Duration::ZERO).cause(), Some(Cause::Deadline));
}

#[test]
fn a_root_is_outside_of_every_scope() {
    timebox::timeout_value(LONG, || {
        let root = Handle::root();
        assert_eq!((root.deadline(), root.remaining(), root.is_expired()), (Deadline::NEVER, None, false));
        assert_eq!(root.enter(Limit::NONE, |scope| Ok::<_, TimeoutError>(scope.remaining())).unwrap(), None);
    })
    .unwrap();
}

#[test]
fn what_is_asked_and_done_in_a_scope() {
    timebox::with_timeout(LONG, |scope| {
        timebox::checkpoint()?;
        scope.checkpoint()?;
        timebox::checkpoint_or_unwind();
        scope.checkpoint_or_unwind();
        assert!(!timebox::is_expired() && !scope.is_expired());
        assert!(timebox::remaining() <= Some(LONG) && scope.remaining() <= Some(LONG));
        assert_eq!(timebox::deadline(), scope.deadline());
        timebox::require(SHORT)?;
        scope.require(SHORT)?;
        timebox::sleep(Duration::ZERO)?;
        scope.sleep(Duration::ZERO)?;
        assert_eq!(timebox::shield(SHORT, || 1), 1);
        assert_eq!(scope.shield(SHORT, || 2), 2);
        let call = || Ok::<_, std::io::Error>(3);
        assert_eq!(timebox::interruptible(|| (), call)?.unwrap(), 3);
        assert_eq!(scope.interruptible(Hook::inline(|| ()), call)?.unwrap(), 3);
        let Outcome { value, fires, .. } = timebox::interruptible_outcome(Hook::new(|| ()), || 4)?;
        assert_eq!((value, fires), (4, 0));
        let _: Registration = timebox::on_cancel(Hook::new(|| ()).once());
        let _: Registration = scope.on_cancel(Hook::new(|| ()).every(SHORT).then(LONG, || ()).spoils());
        let _: [CancellationToken; 2] = [timebox::token(), scope.token()];
        let handles: [Handle; 2] = [timebox::handle(), scope.handle()];
        for handle in handles {
            assert_eq!(handle.enter(LONG, |_| Ok::<_, TimeoutError>(5))?, 5);
            assert_eq!(handle.wrap(|| Ok::<_, TimeoutError>(6))()?, 6);
            assert_eq!(handle.wrap_value(|| 7)()?, 7);
            assert_eq!(handle.deadline(), scope.deadline());
            assert!(handle.remaining() <= Some(LONG) && !handle.is_expired());
            let _: CancellationToken = handle.token();
            let entered = handle.enter_future(LONG, async { Ok::<_, TimeoutError>(8) });
            assert_eq!(pollster::block_on(entered)?, 8);
        }
        let _: ScopeId = scope.id();
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn what_an_error_tells() {
    let error = Timebox::new(SHORT).label("load").run(|_| timebox::sleep(LONG)).unwrap_err();
    assert_eq!(error.cause(), Cause::Deadline);
    assert!(error.is_timeout() && !error.is_cancelled() && error.started() && error.settled());
    assert_eq!((error.reason(), error.label(), error.limit()), (None, Some("load"), Some(SHORT)));
    assert!(error.elapsed() >= SHORT && error.overshoot() < error.elapsed());
    assert_eq!(error.location().file(), error.interrupted_at().file());
    let chain: Vec<&ScopeInfo> = error.chain().collect();
    assert_eq!((chain.len(), chain[0].id()), (1, error.scope()));
    assert!(std::error::Error::source(&error).is_none());
    assert!(TimeoutError::find(&error).is_some());
    let result: timebox::Result<()> = Err(error.clone());
    assert!(result.is_err());
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn a_quota_answers() {
    let quota = Quota::new(LONG);
    assert!(quota.remaining() <= LONG && !quota.is_exhausted());
    assert_eq!(quota.timeout(|| Ok::<_, TimeoutError>(7)).unwrap(), 7);
}
