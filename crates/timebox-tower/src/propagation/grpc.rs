use std::time::Duration;

use http::HeaderValue;

use super::digits::parse_digits;
use super::problem::Problem;

const MOST_DIGITS: usize = 8;
const LARGEST: u128 = 99_999_999;

/// The units, shortest first.
const UNITS: [(u8, Duration); 6] = [
    (b'n', Duration::from_nanos(1)),
    (b'u', Duration::from_micros(1)),
    (b'm', Duration::from_millis(1)),
    (b'S', Duration::from_secs(1)),
    (b'M', Duration::from_secs(60)),
    (b'H', Duration::from_secs(3600)),
];

pub(super) fn parse(value: &[u8]) -> Result<Duration, Problem> {
    if value.len() > MOST_DIGITS + 1 {
        return Err(Problem::TooLong { most: MOST_DIGITS + 1 });
    }
    let parsed = value.split_last().and_then(|(letter, digits)| {
        let (_, unit) = UNITS.iter().find(|(name, _)| name == letter)?;
        let count = u32::try_from(parse_digits(digits)?).ok()?;
        Some(unit.saturating_mul(count))
    });
    parsed.ok_or(Problem::NotGrpc)
}

/// The time, rounded down, in the shortest unit in which it has at most eight digits.
pub(super) fn format(remaining: Duration) -> HeaderValue {
    let count = |unit: Duration| remaining.as_nanos() / unit.as_nanos();
    let fits = UNITS.iter().find(|(_, unit)| count(*unit) <= LARGEST);
    let (name, count) = fits.map_or((b'H', LARGEST), |(name, unit)| (*name, count(*unit)));
    let text = format!("{count}{}", char::from(name));
    HeaderValue::try_from(text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read() {
        let read = |value: &str| parse(value.as_bytes()).unwrap();
        assert_eq!(read("7n"), Duration::from_nanos(7));
        assert_eq!(read("7u"), Duration::from_micros(7));
        assert_eq!(read("7m"), Duration::from_millis(7));
        assert_eq!(read("7S"), Duration::from_secs(7));
        assert_eq!(read("7M"), Duration::from_secs(7 * 60));
        assert_eq!(read("7H"), Duration::from_secs(7 * 3600));
        assert_eq!(read("00000000n"), Duration::ZERO);
        assert_eq!(read("99999999H"), Duration::from_secs(99_999_999 * 3600));
    }

    #[test]
    fn the_shortest_unit_that_fits_is_written_and_the_rest_is_cut_off() {
        let written = |remaining| format(remaining).to_str().unwrap().to_owned();
        assert_eq!(written(Duration::ZERO), "0n");
        assert_eq!(written(Duration::from_nanos(99_999_999)), "99999999n");
        assert_eq!(written(Duration::from_nanos(100_000_999)), "100000u");
        assert_eq!(written(Duration::new(99, 999_999_999)), "99999999u");
        assert_eq!(written(Duration::new(100, 1)), "100000m");
        assert_eq!(written(Duration::from_secs(100_000)), "100000S");
        assert_eq!(written(Duration::from_secs(100_000_000)), "1666666M");
        assert_eq!(written(Duration::from_secs(60 * 100_000_000)), "1666666H");
        assert_eq!(written(Duration::MAX), "99999999H");
    }
}
