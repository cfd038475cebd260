//! Limits, and how the other arguments are evaluated.

use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use timebox::{Deadline, Limit, Quota, checkpoint, deadline, remaining, timeboxed};

use crate::{MyError, spin};

const SHORT: Duration = Duration::from_millis(2);

struct Client {
    limit: Option<Duration>,
    budget: Quota,
    limits: Mutex<Duration>,
}

impl Client {
    fn new() -> Self {
        Self { limit: Some(SHORT), budget: Quota::new(SHORT), limits: Mutex::new(SHORT) }
    }

    #[timeboxed(limit = self.limit)]
    fn of_a_field(&self) -> timebox::Result<()> {
        if remaining().is_none() { Ok(()) } else { spin() }
    }

    #[timeboxed(limit = &self.budget)]
    fn of_a_quota(&self) -> timebox::Result<()> {
        spin()
    }

    #[timeboxed(limit = *self.limits.lock().unwrap())]
    fn of_a_lock(&self) -> timebox::Result<bool> {
        Ok(self.limits.try_lock().is_ok())
    }
}

#[test]
fn a_limit_may_be_any_expression() {
    #[timeboxed(limit = SHORT)]
    fn of_a_constant() -> timebox::Result<()> {
        spin()
    }
    #[timeboxed(limit = limit)]
    fn of_an_argument(limit: impl Into<Limit>) -> timebox::Result<Deadline> {
        Ok(deadline())
    }
    #[timeboxed(limit = seconds.parse::<u64>().map(Duration::from_secs)?)]
    fn of_what_may_fail(seconds: &str) -> Result<(), MyError> {
        Ok(checkpoint()?)
    }

    assert_eq!(of_a_constant().unwrap_err().limit(), Some(SHORT));
    let instant = Instant::now() + Duration::from_secs(60);
    assert_eq!(of_an_argument(Deadline::at(instant)).unwrap(), Deadline::at(instant));
    assert_eq!(of_an_argument(instant).unwrap(), Deadline::at(instant));
    assert_eq!(of_an_argument(Limit::NONE).unwrap(), Deadline::NEVER);
    assert!(matches!(of_what_may_fail("soon"), Err(MyError::Parse(_))));
    of_what_may_fail("60").unwrap();

    let mut client = Client::new();
    assert!(client.of_a_field().unwrap_err().is_timeout());
    client.limit = None;
    client.of_a_field().unwrap();
    assert_eq!(client.of_a_quota().unwrap_err().cause(), timebox::Cause::Quota);
}

#[test]
fn what_the_limit_locks_is_free_in_the_body() {
    assert!(Client::new().of_a_lock().unwrap());
}

#[test]
fn a_limit_of_zero_starts_nothing() {
    #[timeboxed(limit = Duration::ZERO)]
    fn starts() -> timebox::Result<()> {
        unreachable!("the limit is over")
    }
    assert!(!starts().unwrap_err().started());
}

#[test]
fn an_outer_limit_counts_if_it_is_earlier() {
    #[timeboxed("1h")]
    fn inner() -> timebox::Result<()> {
        spin()
    }
    #[timeboxed(limit = SHORT)]
    fn outer() -> timebox::Result<()> {
        inner()
    }
    assert_eq!(outer().unwrap_err().limit(), Some(SHORT));
}

#[test]
fn strict_refuses_a_late_value() {
    #[timeboxed("1ms")]
    fn late() -> timebox::Result<()> {
        sleep(Duration::from_millis(2));
        Ok(())
    }
    #[timeboxed("1ms", strict)]
    fn strict() -> timebox::Result<()> {
        sleep(Duration::from_millis(2));
        Ok(())
    }
    #[timeboxed("1ms", strict)]
    async fn strict_future() -> timebox::Result<()> {
        sleep(Duration::from_millis(2));
        Ok(())
    }

    if let Err(error) = late() {
        assert!(!error.started());
    }
    assert!(strict().unwrap_err().is_timeout());
    assert!(pollster::block_on(strict_future()).unwrap_err().settled());
}

#[test]
fn arguments_come_in_any_order_and_with_a_last_comma() {
    #[timeboxed(strict, label = "all", limit = SHORT,)]
    fn all() -> timebox::Result<()> {
        spin()
    }
    assert_eq!(all().unwrap_err().label(), Some("all"));
}

mod renamed {
    pub(crate) use timebox as limits;
}

#[test]
fn the_crate_may_be_found_elsewhere() {
    #[timeboxed("1ms", crate = crate::arguments::renamed::limits, fallback = Ok(1))]
    fn block() -> timebox::Result<u32> {
        spin()
    }
    #[timeboxed("1ms", crate = renamed::limits)]
    async fn future() -> timebox::Result<u32> {
        spin()
    }
    assert_eq!(block().unwrap(), 1);
    assert!(pollster::block_on(future()).is_err());
}
