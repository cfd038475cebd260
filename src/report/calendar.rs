use std::time::{SystemTime, UNIX_EPOCH};

/// Date and time of the Gregorian calendar. A moment before 1970 becomes the beginning of 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Utc {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
    micros: u32,
}

impl From<SystemTime> for Utc {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        Self { year, month, day, second_of_day, micros: since.subsec_micros() }
    }
}

/// The year, month and day that is this number of days after the first of January 1970.
///
/// The years are counted from the first of March, so that a leap day is the last day of its year. 400 such years, an
/// era, have 146,097 days. The five months from March on have 153 days, and so do the five months from August on.
fn date(days: u64) -> (u64, u64, u64) {
    // Makes `days` count from the first of March of the year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = if months_from_march < 10 { months_from_march + 3 } else { months_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

impl Utc {
    fn clock(self) -> (u64, u64, u64) {
        (self.second_of_day / 3_600, self.second_of_day / 60 % 60, self.second_of_day % 60)
    }

    /// `2026-11-28T15:20:49.123456Z`.
    pub(super) fn rfc3339(self) -> String {
        let (hour, minute, second) = self.clock();
        format!("{}T{hour:02}:{minute:02}:{second:02}.{:06}Z", self.day(), self.micros)
    }

    /// `2026-11-28 15:20:49.123 UTC`.
    pub(super) fn plain(self) -> String {
        let (hour, minute, second) = self.clock();
        format!("{} {hour:02}:{minute:02}:{second:02}.{:03} UTC", self.day(), self.micros / 1_000)
    }

    /// `20261128T152049.123456Z`, for the names of files. Files that are sorted by such a name are sorted by time.
    pub(super) fn compact(self) -> String {
        self.rfc3339().replace(['-', ':'], "")
    }

    fn day(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_of_the_calendar() {
        let shown = |seconds: u64| Utc::from(UNIX_EPOCH + Duration::from_secs(seconds)).plain();
        // The expected texts come from `date -u -d @seconds`.
        assert_eq!(shown(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(shown(951_782_399), "2000-02-28 23:59:59.000 UTC");
        assert_eq!(shown(951_782_400), "2000-02-29 00:00:00.000 UTC");
        assert_eq!(shown(951_868_800), "2000-03-01 00:00:00.000 UTC");
        assert_eq!(shown(1_709_164_800), "2024-02-29 00:00:00.000 UTC");
        assert_eq!(shown(1_795_879_249), "2026-11-28 15:20:49.000 UTC");
        assert_eq!(shown(4_107_542_400), "2100-03-01 00:00:00.000 UTC");
        assert_eq!(shown(253_402_300_799), "9999-12-31 23:59:59.000 UTC");
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(Utc::from(before).plain(), "1970-01-01 00:00:00.000 UTC");
    }

    #[test]
    fn each_form_of_one_moment() {
        let moment = Utc::from(UNIX_EPOCH + Duration::new(1_795_879_249, 123_456_789));
        assert_eq!(moment.rfc3339(), "2026-11-28T15:20:49.123456Z");
        assert_eq!(moment.compact(), "20261128T152049.123456Z");
    }
}
