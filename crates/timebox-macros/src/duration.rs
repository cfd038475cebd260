//! A duration as text: `250ms`, `1.5s`, `2 min`, `1h 30m`.

use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Nanoseconds of each unit, and its names. The largest is first.
const UNITS: [(u128, &[&str]); 7] = [
    (86_400 * NANOS_PER_SECOND, &["d", "day", "days"]),
    (3_600 * NANOS_PER_SECOND, &["h", "hr", "hour", "hours"]),
    (60 * NANOS_PER_SECOND, &["m", "min", "mins", "minute", "minutes"]),
    (NANOS_PER_SECOND, &["s", "sec", "secs", "second", "seconds"]),
    (1_000_000, &["ms", "msec", "millisecond", "milliseconds"]),
    // The micro sign, and the Greek letter mu.
    (1_000, &["us", "\u{b5}s", "\u{3bc}s", "usec", "microsecond", "microseconds"]),
    (1, &["ns", "nsec", "nanosecond", "nanoseconds"]),
];

pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let mut total = 0_u128;
    let mut rest = text.trim();
    let mut smallest: Option<(u128, &str)> = None;
    let mut has_fraction = false;
    loop {
        let (number, after) = split(rest, |character| character.is_ascii_digit() || character == '.');
        if number.is_empty() {
            return Err(format!(
                "`{text}` is no duration: write a number and a unit, such as 250ms, 1.5s or 1m 30s"
            ));
        }
        let (unit, after) = split(after.trim_start(), char::is_alphabetic);
        let nanos = nanos_of(number, unit)?;
        if has_fraction {
            return Err(format!("`{text}`: only the last number may have a fraction"));
        }
        has_fraction = number.contains('.');
        if let Some((smaller, name)) = smallest
            && nanos >= smaller
        {
            return Err(format!(
                "`{text}`: {unit} must not follow {name}; the larger unit comes first, and each once"
            ));
        }
        smallest = Some((nanos, unit));
        total = amount(number, nanos)
            .map_err(|fault| format!("`{text}` {fault}"))?
            .checked_add(total)
            .ok_or_else(|| format!("`{text}` is too long"))?;
        rest = after.trim_start();
        if rest.is_empty() {
            break;
        }
    }
    if total == 0 {
        return Err(format!("`{text}` is zero: nothing would ever be started"));
    }
    let seconds = u64::try_from(total / NANOS_PER_SECOND).map_err(|_| format!("`{text}` is too long"))?;
    let nanos = u32::try_from(total % NANOS_PER_SECOND).expect("less than a second");
    Ok(Duration::new(seconds, nanos))
}

/// Splits the text after the leading characters for which `is_of_it` is true.
fn split(text: &str, is_of_it: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !is_of_it(character)).unwrap_or(text.len()))
}

fn nanos_of(number: &str, unit: &str) -> Result<u128, String> {
    const CHOICE: &str = "ns, us, ms, s, m (or min), h or d";
    if unit.is_empty() {
        return Err(format!("`{number}` has no unit: {CHOICE}"));
    }
    let known = UNITS.iter().find(|(_, names)| names.contains(&unit));
    known.map(|(nanos, _)| *nanos).ok_or_else(|| format!("there is no unit `{unit}`: use {CHOICE}"))
}

/// Parses a decimal number of units, and converts it to nanoseconds. `unit` is the length of one unit in nanoseconds.
fn amount(number: &str, unit: u128) -> Result<u128, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err("has a number that is none");
    }
    let too_long = "is too long";
    let whole = whole.parse::<u128>().ok().and_then(|whole| whole.checked_mul(unit)).ok_or(too_long)?;
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Ok(whole);
    }
    let too_fine = "is finer than a nanosecond";
    let scale =
        u32::try_from(fraction.len()).ok().and_then(|digits| 10_u128.checked_pow(digits)).ok_or(too_fine)?;
    let scaled =
        fraction.parse::<u128>().ok().and_then(|fraction| fraction.checked_mul(unit)).ok_or(too_fine)?;
    if scaled % scale != 0 {
        return Err(too_fine);
    }
    whole.checked_add(scaled / scale).ok_or(too_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_numbers_with_units() {
        let cases = [
            ("250ms", Duration::from_millis(250)),
            ("1.5s", Duration::from_millis(1500)),
            ("2 min", Duration::from_secs(120)),
            ("1m 30s", Duration::from_secs(90)),
            ("1m30s", Duration::from_secs(90)),
            (" 1h 0.5 m ", Duration::from_secs(3630)),
            ("1 day 2 hours", Duration::from_secs(26 * 3600)),
            ("10us", Duration::from_micros(10)),
            ("10\u{b5}s 5ns", Duration::from_nanos(10_005)),
            ("10\u{3bc}s", Duration::from_micros(10)),
            ("0.000000001s", Duration::from_nanos(1)),
            ("1.50000000000000000000000000000000000000000000s", Duration::from_millis(1500)),
            ("0m 1s", Duration::from_secs(1)),
            ("18446744073709551615s", Duration::from_secs(u64::MAX)),
        ];
        for (text, duration) in cases {
            assert_eq!(parse(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn each_fault_has_its_message() {
        let cases = [
            ("", "is no duration"),
            ("soon", "is no duration"),
            ("-5s", "is no duration"),
            ("5s!", "is no duration"),
            ("1e3s", "there is no unit `e`"),
            ("250", "has no unit"),
            ("5 parsecs", "there is no unit `parsecs`"),
            ("30s 1m", "m must not follow s"),
            ("1s 2s", "s must not follow s"),
            ("1.5m 30s", "only the last number"),
            ("1.s", "a number that is none"),
            (".5s", "a number that is none"),
            ("1.2.3s", "a number that is none"),
            ("0s", "is zero"),
            ("0.0ms", "is zero"),
            ("0.1ns", "finer than a nanosecond"),
            ("18446744073709551616s", "is too long"),
            ("340282366920938463463374607431768211456d", "is too long"),
        ];
        for (text, fault) in cases {
            let message = parse(text).expect_err(text);
            assert!(message.contains(fault), "{text}: {message}");
        }
    }
}
