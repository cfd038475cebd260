//! By what a scope is over, and since when, to the nanosecond.

use super::*;

#[test]
fn an_error_tells_what_a_quota_had_left_also_when_another_limit_came_first() {
    MockClock::new().run(|clock| {
        let quota = Quota::new(HOUR);
        let limits = |error: &TimeoutError| error.chain().map(timebox::ScopeInfo::limit).collect::<Vec<_>>();
        let refused = timeout(SECOND, || {
            clock.advance(SECOND);
            quota.timeout(|| Ok::<_, TimeoutError>(()))
        });
        assert_eq!(limits(&refused.unwrap_err()), [Some(HOUR), Some(SECOND)]);
        let reserved = timeout(SECOND, || {
            Timebox::new(&quota).reserve(NANO).run(|_| {
                clock.advance(SECOND);
                checkpoint()
            })
        });
        assert_eq!(limits(&reserved.unwrap_err()), [Some(HOUR), Some(SECOND)]);
    });
}

#[test]
fn a_cancel_at_the_very_deadline_is_not_the_earlier_cause() {
    MockClock::new().run(|_| {
        let token = CancellationToken::new();
        assert!(token.cancel_with("first"));
        let error = Timebox::new(Duration::ZERO).cancel_on(&token).run(|_| checkpoint()).unwrap_err();
        assert_eq!(error.cause(), timebox::Cause::Deadline);
    });
}

#[test]
fn a_token_is_over_since_it_was_cancelled_not_since_its_parent_was() {
    MockClock::new().run(|clock| {
        let parent = CancellationToken::new();
        let child = parent.child_token();
        assert!(child.cancel_with("first"));
        clock.advance(SECOND);
        assert!(parent.cancel_with("first"));
        let error = Timebox::new(clock.now()).cancel_on(&child).run(|_| checkpoint()).unwrap_err();
        assert_eq!((error.cause(), error.overshoot()), (timebox::Cause::Cancelled, SECOND));
    });
}

#[test]
fn the_fallback_is_given_the_last_error_that_named_its_scope() {
    MockClock::new().run(|clock| {
        let scope = Timebox::new(SECOND);
        let told = scope.run_or_else(
            |_| {
                clock.advance(SECOND);
                assert!(checkpoint().is_err());
                clock.advance(SECOND);
                timebox::token().checkpoint().map(|()| Duration::ZERO)
            },
            |timed_out| Ok(timed_out.overshoot()),
        );
        assert_eq!(told.unwrap(), SECOND);
    });
}

#[test]
fn a_token_that_reached_its_deadline_cancels_what_is_linked_to_it() {
    MockClock::new().run(|clock| {
        let token = timeout(SECOND, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
        let linked = || Timebox::new(HOUR).cancel_on(&token);
        let error = linked().run(|_| {
            clock.advance(SECOND);
            checkpoint()
        });
        assert!(error.unwrap_err().is_timeout());
        let refused = linked().run(|_| checkpoint()).unwrap_err();
        assert!(refused.is_timeout() && !refused.started());
    });
}
