use std::time::Duration;

use http::HeaderValue;

use super::digits::parse_digits;
use super::problem::Problem;

/// Every number of 19 digits fits into a `u64`.
const MOST_DIGITS: usize = 19;
const LARGEST_WRITTEN: u64 = 9_999_999_999;

pub(super) fn parse(value: &[u8]) -> Result<Duration, Problem> {
    if value.len() > MOST_DIGITS {
        return Err(Problem::TooLong { most: MOST_DIGITS });
    }
    parse_digits(value).map(Duration::from_millis).ok_or(Problem::NotMilliseconds)
}

/// The time in milliseconds, rounded down, and at most `LARGEST_WRITTEN`.
pub(super) fn format(remaining: Duration) -> HeaderValue {
    let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
    HeaderValue::from(millis.min(LARGEST_WRITTEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_read() {
        let read = |value: &str| parse(value.as_bytes()).unwrap();
        assert_eq!(read("0"), Duration::ZERO);
        assert_eq!(read("0250"), Duration::from_millis(250));
        assert_eq!(read("9999999999999999999"), Duration::from_millis(9_999_999_999_999_999_999));
    }

    #[test]
    fn the_rest_of_a_millisecond_is_cut_off() {
        assert_eq!(format(Duration::from_micros(1_999)), "1");
        assert_eq!(format(Duration::from_micros(999)), "0");
        assert_eq!(format(Duration::MAX), "9999999999");
    }
}
