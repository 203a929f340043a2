//! Seconds since the Unix epoch to a civil date and back. Pure.
//!
//! The proleptic Gregorian calendar, counted from 1 March so that the leap day is the last of a
//! year and month lengths follow one linear rule.

const SECONDS_PER_DAY: i64 = 86_400;
/// Days in 400 years: 97 of them are leap years.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH_FROM_MARCH_0: i64 = 719_468;

/// A date and time of day, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 0 to 23.
    pub(super) hour: u8,
    /// 0 to 59.
    pub(super) minute: u8,
    /// 0 to 59.
    pub(super) second: u8,
}

fn small(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

impl Civil {
    /// The date `seconds` after the epoch.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY) + EPOCH_FROM_MARCH_0;
        let (era, day_of_era) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
        // A year's worth of days, less the leap days of the 4-, 100- and 400-year rules so far.
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Five months from March have 153 days, and so have the next five.
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let time = seconds.rem_euclid(SECONDS_PER_DAY);
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * from_march + 2) / 5 + 1),
            hour: small(time / 3600),
            minute: small(time / 60 % 60),
            second: small(time % 60),
        }
    }

    /// Seconds from the epoch, or `None` when there is no such date or time.
    pub(super) fn to_unix(self) -> Option<i64> {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (month, day) = (i64::from(month), i64::from(day));
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let year_from_march = year - i64::from(month <= 2);
        let era = year_from_march.div_euclid(400);
        let year_of_era = year_from_march.rem_euclid(400);
        let day_of_year = (153 * from_march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * DAYS_PER_ERA + day_of_era - EPOCH_FROM_MARCH_0;
        let time = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
        let seconds = days * SECONDS_PER_DAY + time;
        // 31 April would have come out as 1 May.
        (Self::from_unix(seconds) == self).then_some(seconds)
    }

    /// The day of the week of `seconds` after the epoch, 1 (Sunday) to 7.
    pub(super) fn weekday(seconds: i64) -> u8 {
        // The epoch was a Thursday.
        small((seconds.div_euclid(SECONDS_PER_DAY) + 4).rem_euclid(7) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: i64, month: u8, day: u8) -> Civil {
        Civil {
            year,
            month,
            day,
            hour: 0,
            minute: 0,
            second: 0,
        }
    }

    #[test]
    fn known_dates() {
        assert_eq!(Civil::from_unix(0), date(1970, 1, 1));
        assert_eq!(Civil::weekday(0), 5);
        // `date -u -d '2000-02-29 23:59:59' +%s`
        let leap = Civil {
            hour: 23,
            minute: 59,
            second: 59,
            ..date(2000, 2, 29)
        };
        assert_eq!(Civil::from_unix(951_868_799), leap);
        assert_eq!(Civil::from_unix(951_868_800), date(2000, 3, 1));
        assert_eq!(Civil::weekday(951_868_799), 3);
        // `date -u -d '1900-01-01' +%s`, and the first date past 32 bits.
        assert_eq!(Civil::from_unix(-2_208_988_800), date(1900, 1, 1));
        assert_eq!(date(2038, 1, 20).to_unix(), Some(2_147_558_400));
    }

    #[test]
    fn every_day_of_a_thousand_years_goes_both_ways() {
        let first = date(1600, 1, 1).to_unix().unwrap();
        let mut previous = Civil::from_unix(first - SECONDS_PER_DAY);
        for day in 0..365_243 {
            let seconds = first + day * SECONDS_PER_DAY;
            let civil = Civil::from_unix(seconds);
            assert_eq!(civil.to_unix(), Some(seconds));
            assert!(
                (civil.year, civil.month, civil.day)
                    > (previous.year, previous.month, previous.day)
            );
            previous = civil;
        }
        assert_eq!(previous, date(2599, 12, 31));
    }

    #[test]
    fn dates_that_are_not_are_refused() {
        for bad in [
            date(2026, 0, 1),
            date(2026, 13, 1),
            date(2026, 255, 255),
            date(2026, 4, 31),
            date(2026, 2, 29),
            date(1900, 2, 29),
            date(2026, 1, 0),
            Civil {
                hour: 24,
                ..date(2026, 1, 1)
            },
            Civil {
                minute: 60,
                ..date(2026, 1, 1)
            },
            Civil {
                second: 60,
                ..date(2026, 1, 1)
            },
        ] {
            assert_eq!(bad.to_unix(), None, "{bad:?}");
        }
    }
}
