//! Expiry at every interruption point in turn.

use super::*;

#[test]
fn runs_the_body_once_more_than_it_has_points() {
    let runs = Cell::new(0);
    let report = testing::for_each_checkpoint(|| -> Done {
        runs.set(runs.get() + 1);
        timeout(HOUR, || {
            checkpoint()?;
            checkpoint()
        })
    });
    assert_eq!((runs.get(), report.points().len()), (4, 3));
}

#[test]
fn a_failing_point_is_named_with_its_number_and_place() {
    let report = try_for_each_checkpoint(|| {
        let balance = Cell::new(0);
        let result = (|| -> Done {
            checkpoint()?;
            balance.set(1);
            checkpoint()?; // the bug
            balance.set(0);
            checkpoint()
        })();
        assert_eq!(balance.get(), 0, "not rolled back");
        result
    });
    let failed: Vec<_> = report.failures().map(Point::number).collect();
    assert_eq!(failed, [2]);
    let text = report.to_string();
    assert!(text.contains("not rolled back") && text.contains("expire_at_checkpoint(2, ..)"), "{text}");
    assert!(text.contains(&report.points()[1].location().to_string()));
    assert!(std::panic::catch_unwind(|| report.assert()).is_err());
}

#[test]
fn a_body_that_is_not_deterministic_is_reported() {
    let runs = Cell::new(0);
    let report = try_for_each_checkpoint(|| {
        runs.set(runs.get() + 1);
        for _ in runs.get()..4 {
            let _ = checkpoint();
        }
    });
    assert!(!report.is_deterministic());
    assert!(report.to_string().contains("not deterministic"));
}

#[test]
fn sweeps_futures() {
    let report = pollster::block_on(testing::future::for_each_checkpoint(|| {
        future::timeout(HOUR, async {
            checkpoint()?;
            checkpoint()
        })
    }));
    assert_eq!(report.points().len(), 3);
}

#[test]
fn a_point_of_a_scope_in_hand_is_where_it_was_asked() {
    let report = testing::try_for_each_checkpoint(|| {
        timebox::with_timeout(HOUR, |scope| {
            scope.checkpoint()?;
            scope.checkpoint_or_unwind();
            scope.checkpoint()
        })
    });
    let files: Vec<_> = report.points().iter().map(|point| point.location().file()).collect();
    assert!(files.len() >= 3 && files.iter().all(|&file| file == file!()), "{files:?}");
}

#[test]
fn a_sweep_of_futures_names_places_in_the_test() {
    let pending_once = || {
        let mut pending = true;
        std::future::poll_fn(move |context| {
            context.waker().wake_by_ref();
            if std::mem::take(&mut pending) { Poll::Pending } else { Poll::Ready(()) }
        })
    };
    let (line, sweep) = (line!(), testing::future::try_for_each_checkpoint(pending_once));
    let report = pollster::block_on(sweep);
    let place = report.points()[0].location();
    assert_eq!((place.file(), place.line()), (file!(), line));
    let title = report.to_string();
    assert!(title.lines().next().unwrap().contains(&place.to_string()), "{title}");
}

#[test]
fn a_closure_that_makes_futures_is_swept_too() {
    let report = pollster::block_on(testing::future::try_for_each_checkpoint(|| {
        let failed = checkpoint().is_err();
        assert!(!failed, "in the closure");
        async { checkpoint() }
    }));
    assert_eq!(report.points().len(), 2);
    assert_eq!(report.failures().map(Point::number).collect::<Vec<_>>(), [1]);
    assert!(report.to_string().contains("in the closure"), "{report}");
}

#[test]
fn a_wake_of_an_earlier_run_is_no_poll_of_the_next() {
    let wakers = RefCell::new(Vec::new());
    let mut sweep = pin!(testing::future::try_for_each_checkpoint(|| {
        let (mut polls, wakers) = (0, &wakers);
        std::future::poll_fn(move |context| {
            wakers.borrow_mut().push(context.waker().clone());
            polls += 1;
            if polls > 2 { Poll::Ready(()) } else { Poll::Pending }
        })
    }));
    let wake = |number: usize| wakers.borrow()[number - 1].wake_by_ref();
    assert!(poll(sweep.as_mut()).is_pending());
    wake(1);
    assert!(poll(sweep.as_mut()).is_pending());
    wake(2);
    // The first run ends, the second expires at once, the third has begun.
    assert!(poll(sweep.as_mut()).is_pending());
    assert_eq!(wakers.borrow().len(), 5);
    wake(1);
    assert!(poll(sweep.as_mut()).is_pending());
    assert_eq!(wakers.borrow().len(), 5);
    wake(5);
    let Poll::Ready(report) = poll(sweep.as_mut()) else { panic!("the third run has expired") };
    report.assert();
    assert_eq!(report.points().len(), 2);
}

/// Calls `test` in a scope that is over.
fn in_a_scope_that_is_over<R>(test: impl FnOnce() -> R) -> R {
    timebox::timeout_value(HOUR, || {
        timebox::token().cancel();
        test()
    })
    .unwrap()
}

fn panic_of<R>(test: impl FnOnce() -> R) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).map(drop).unwrap_err();
    *panic.downcast().unwrap()
}

#[test]
fn a_sweep_of_a_body_that_is_not_run_fails() {
    let sync = in_a_scope_that_is_over(|| try_for_each_checkpoint(checkpoint));
    let sweep = testing::future::try_for_each_checkpoint(|| async { checkpoint() });
    let polled = in_a_scope_that_is_over(|| pollster::block_on(sweep));
    for report in [sync, polled] {
        assert!(!report.unharmed().held());
        let message = panic_of(|| report.assert());
        assert!(message.contains("the body was not run: "), "{message}");
    }
}

#[test]
fn a_body_that_a_later_run_does_not_come_to_fails_there() {
    let around = CancellationToken::new();
    let report = Timebox::new(HOUR).cancel_on(&around).run_value(|_| {
        let runs = Cell::new(0);
        try_for_each_checkpoint(|| {
            runs.set(runs.get() + 1);
            let _ = checkpoint();
            let _ = checkpoint();
            if runs.get() == 2 {
                around.cancel();
            }
        })
    });
    let report = report.unwrap();
    assert_eq!(report.failures().map(Point::number).collect::<Vec<_>>(), [2]);
    assert!(report.to_string().contains("FAILED: the body was not run: "), "{report}");
}

#[test]
fn what_runs_a_body_once_panics_where_it_is_not_run() {
    let expire = panic_of(|| in_a_scope_that_is_over(|| expire_at_checkpoint(1, || ())));
    let label = panic_of(|| in_a_scope_that_is_over(|| expire_at("none", || ())));
    let gaps = panic_of(|| in_a_scope_that_is_over(|| testing::assert_checkpoints(HOUR, || ())));
    for message in [expire, label, gaps] {
        assert!(message.starts_with("the body was not run: "), "{message}");
    }
}
