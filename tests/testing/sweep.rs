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
