//! Panics under a mock clock.

use super::*;

#[test]
fn a_panic_in_a_poll_ends_what_the_scope_spends() {
    MockClock::new().run(|clock| {
        let quota = Quota::new(HOUR);
        let panics = future::timeout_value(
            &quota,
            std::future::poll_fn(|_| -> Poll<()> {
                clock.advance(SECOND);
                panic!("the future of a test panics, as it should")
            }),
        );
        let mut panics = Box::pin(panics);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(panics.as_mut())));
        assert!(caught.is_err());
        clock.advance(SECOND);
        assert_eq!(quota.remaining() + SECOND, HOUR);
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_check_while_panicking_does_not_take_the_turn_of_one_that_looks_at_the_clock() {
    struct Check;
    impl Drop for Check {
        fn drop(&mut self) {
            timebox::checkpoint_or_unwind();
        }
    }
    let clock = MockClock::new();
    let checked = std::sync::Barrier::new(2);
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            clock.run(|_| {
                timeout(SECOND, || {
                    let _panicked = std::panic::catch_unwind(|| {
                        let _check = Check;
                        std::panic::resume_unwind(Box::new(()));
                    });
                    checked.wait();
                    checked.wait();
                    checkpoint()
                })
            })
        });
        checked.wait();
        clock.advance(SECOND);
        checked.wait();
        assert!(thread.join().unwrap().is_err());
    });
}
