use std::time::Duration;

use http::HeaderValue;

use super::problem::Problem;
use super::{grpc, milliseconds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Grpc,
    Milliseconds,
}

impl Format {
    pub(super) fn parse(self, value: &[u8]) -> Result<Duration, Problem> {
        match self {
            Self::Grpc => grpc::parse(value),
            Self::Milliseconds => milliseconds::parse(value),
        }
    }

    /// The value of the header, rounded down.
    pub(crate) fn format(self, remaining: Duration) -> HeaderValue {
        match self {
            Self::Grpc => grpc::format(remaining),
            Self::Milliseconds => milliseconds::format(remaining),
        }
    }

    /// The shortest time that a header can carry, except zero.
    pub(crate) fn smallest(self) -> Duration {
        match self {
            Self::Grpc => Duration::from_nanos(1),
            Self::Milliseconds => Duration::from_millis(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(format: Format, remaining: Duration) -> Duration {
        format.parse(format.format(remaining).as_bytes()).ok().unwrap()
    }

    fn formats() -> impl Strategy<Value = Format> {
        prop_oneof![Just(Format::Grpc), Just(Format::Milliseconds)]
    }

    fn durations() -> impl Strategy<Value = Duration> {
        (any::<u64>(), 0..64_u32, 0..1_000_000_000_u32).prop_flat_map(|(number, shift, nanos)| {
            let number = number >> shift;
            prop_oneof![Just(Duration::from_nanos(number)), Just(Duration::new(number, nanos))]
        })
    }

    proptest! {
        #[test]
        fn a_round_trip_never_lengthens_a_deadline(format in formats(), remaining in durations()) {
            prop_assert!(round_trip(format, remaining) <= remaining);
        }

        #[test]
        fn a_round_trip_loses_less_than_a_unit(format in formats(), remaining in durations()) {
            // Each pair: a time, and the unit of gRPC's values below this time. A value in milliseconds has at most ten
            // digits, which is 115 days.
            let units = [
                (Duration::from_millis(100), Duration::from_nanos(1)),
                (Duration::from_secs(100), Duration::from_micros(1)),
                (Duration::from_secs(100_000), Duration::from_millis(1)),
                (Duration::from_secs(100_000_000), Duration::from_secs(1)),
                (Duration::from_secs(6_000_000_000), Duration::from_secs(60)),
                (Duration::from_secs(360_000_000_000), Duration::from_secs(3600)),
            ];
            let lost = remaining.checked_sub(round_trip(format, remaining)).unwrap();
            match format {
                Format::Grpc => if let Some((_, unit)) = units.iter().find(|(below, _)| remaining < *below) {
                    prop_assert!(lost < *unit);
                },
                Format::Milliseconds => if remaining < Duration::from_secs(10_000_000) {
                    prop_assert!(lost < Duration::from_millis(1));
                },
            }
        }

        #[test]
        fn many_round_trips_are_as_good_as_one(format in formats(), remaining in durations()) {
            let once = round_trip(format, remaining);
            prop_assert_eq!(round_trip(format, once), once);
        }

        #[test]
        fn what_has_not_passed_is_not_sent_as_zero(format in formats(), remaining in durations()) {
            prop_assert_eq!(round_trip(format, remaining).is_zero(), remaining < format.smallest());
        }

        #[test]
        fn no_value_is_longer_than_its_protocol_allows(format in formats(), remaining in durations()) {
            let most = match format { Format::Grpc => 9, Format::Milliseconds => 10 };
            prop_assert!(format.format(remaining).len() <= most);
        }
    }
}
