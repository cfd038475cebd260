use std::env;
use std::ffi::{OsStr, OsString};

use super::clock;
use super::deadline::Deadline;
use super::nanos::NEVER;
use crate::sync::os;

/// The environment variable [`Deadline::VARIABLE`] does not hold a deadline.
///
/// # Examples
///
/// ```
/// use timebox::{Deadline, InvalidDeadline};
///
/// let inherited: Result<Option<Deadline>, InvalidDeadline> = Deadline::from_env();
/// # assert_eq!(inherited, Ok(None));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {} holds no deadline: expected the nanoseconds that are left, and the clock reading \
     that they are counted from, as in 1500000000@86400000000000",
    Deadline::VARIABLE
)]
#[non_exhaustive]
pub struct InvalidDeadline;

impl Deadline {
    /// The name of the environment variable that carries a deadline to a child process: `TIMEBOX_DEADLINE`.
    ///
    /// The value has the time that is left, and a reading of the system's monotonic clock from which this time counts.
    /// Both are in nanoseconds: `1500000000@86400000000000`. So the deadline stays right while the child starts, or
    /// while a process in between runs, such as a shell. Without a reading (`1500000000`) the time counts from the
    /// moment at which the child reads the variable. A reading in the future is from another boot or from another time
    /// namespace, and is ignored.
    ///
    /// [`process`](crate::process) sets the variable (feature `process`). For any other way to start a process, see
    /// [`to_env`](Self::to_env).
    pub const VARIABLE: &'static str = "TIMEBOX_DEADLINE";

    /// The deadline in the environment variable [`VARIABLE`](Self::VARIABLE); `None` if the variable is not set.
    ///
    /// A program that should end in time runs its work in a scope with this deadline. A program that outlives the
    /// program that started it, such as a daemon, should not use the variable.
    ///
    /// # Errors
    ///
    /// [`InvalidDeadline`] if the variable is set, but not to a deadline.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     timebox::timeout(timebox::Deadline::from_env()?, work)
    /// }
    ///
    /// fn work() -> Result<(), Box<dyn std::error::Error>> {
    ///     timebox::checkpoint()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn from_env() -> Result<Option<Self>, InvalidDeadline> {
        env::var_os(Self::VARIABLE).map(|value| Self::parse_env(&value)).transpose()
    }

    /// The value of the environment variable [`VARIABLE`](Self::VARIABLE) for a child process that is started now;
    /// `None` if the deadline never passes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command; // or tokio's
    /// use std::time::Duration;
    /// use timebox::{Deadline, timeout_value};
    ///
    /// let mut child = Command::new("worker");
    /// timeout_value(Duration::from_secs(5), || {
    ///     if let Some(value) = timebox::deadline().to_env() {
    ///         child.env(Deadline::VARIABLE, value);
    ///     }
    /// })
    /// .unwrap();
    /// assert_eq!(child.get_envs().count(), 1);
    /// assert_eq!(Deadline::NEVER.to_env(), None);
    /// ```
    pub fn to_env(self) -> Option<OsString> {
        // The reading is taken before `left`, so that their sum is never later than the deadline.
        let reading = os::boot_nanos();
        let left = self.as_nanos().saturating_sub(clock::now());
        (self != Self::NEVER).then(|| match reading {
            Some(reading) => format!("{left}@{reading}").into(),
            None => left.to_string().into(),
        })
    }

    /// The deadline for a value of the variable. If the value has a clock reading, made since this boot and in this
    /// time namespace, the result is not later than the deadline from which the value was made.
    pub(crate) fn parse_env(value: &OsStr) -> Result<Self, InvalidDeadline> {
        let value = value.to_str().ok_or(InvalidDeadline)?;
        let (left, reading) = match value.split_once('@') {
            Some((left, reading)) => (number(left)?, Some(number(reading)?)),
            None => (number(value)?, None),
        };
        // `now` is read before `boot_nanos`. In the other order, time that passes between the two readings would make
        // the result later than the deadline from which the value was made.
        let now = clock::now();
        let age = match (reading, os::boot_nanos()) {
            (Some(reading), Some(now)) => now.saturating_sub(reading),
            _ => 0,
        };
        let left = if left == NEVER { NEVER } else { left.saturating_sub(age) };
        Ok(Self::from_nanos(now.saturating_add(left)))
    }
}

/// Reads digits only. (`u64::from_str` would accept a `+`.)
fn number(digits: &str) -> Result<u64, InvalidDeadline> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidDeadline);
    }
    digits.parse().map_err(|_| InvalidDeadline)
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(value: &str) -> Result<Deadline, InvalidDeadline> {
        Deadline::parse_env(OsStr::new(value))
    }

    #[test]
    fn a_round_trip_never_lengthens_a_deadline() {
        for left in [0, 1, 1_500_000_000, 1 << 62] {
            let before = Deadline::after(Duration::from_nanos(left));
            let after = Deadline::parse_env(&before.to_env().unwrap()).unwrap();
            assert!(after <= before || before.has_passed(), "{after:?} {before:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn the_time_since_it_was_written_counts() {
        if cfg!(miri) {
            // Its clock begins with the program.
            std::thread::sleep(Duration::from_secs(5));
        }
        let reading = os::boot_nanos().unwrap();
        let before = Deadline::after(Duration::from_secs(5));
        assert!(
            parse(&format!("10000000000@{}", reading - 5_000_000_000)).unwrap()
                <= Deadline::after(Duration::from_secs(5))
        );
        assert!(before <= parse(&format!("10000000000@{reading}")).unwrap());
        assert!(parse(&format!("1000@{}", reading - 5_000_000_000)).unwrap().has_passed());
    }

    #[test]
    fn a_reading_of_another_boot_counts_for_nothing() {
        let before = Deadline::after(Duration::from_secs(10));
        let deadline = parse(&format!("10000000000@{}", u64::MAX)).unwrap();
        assert!(before <= deadline && deadline <= Deadline::after(Duration::from_secs(10)));
    }

    #[test]
    fn zero_and_infinite_are_different() {
        assert!(parse("0").unwrap().has_passed());
        assert!(parse("0@0").unwrap().has_passed());
        assert_eq!(parse(&u64::MAX.to_string()), Ok(Deadline::NEVER));
        assert_eq!(parse(&format!("{}@0", u64::MAX)), Ok(Deadline::NEVER));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "1".repeat(if cfg!(miri) { 1000 } else { 100_000 });
        let values = [
            "", " ", "@", "1@", "@1", "1@2@3", "+1", "-1", "1.5", "1s", " 1", "1 ", "1 @2", "1@+2", "٣",
            "never",
        ];
        for value in values.into_iter().chain(["18446744073709551616", "1@18446744073709551616", &long]) {
            assert_eq!(parse(value), Err(InvalidDeadline), "{value}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            assert_eq!(Deadline::parse_env(OsStr::from_bytes(b"1\xff")), Err(InvalidDeadline));
        }
    }
}
