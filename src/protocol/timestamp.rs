//! RFC 3339 text of a wall-clock time, without a calendar crate and without allocating.

use std::fmt;

/// `2026-01-31T23:59:59.123Z`: a time in UTC with milliseconds, as text of constant width.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Timestamp([u8; Timestamp::LEN]);

/// The last millisecond of the year 9999, the last that RFC 3339 can write.
const UNIX_MS_MAX: u64 = 253_402_300_799_999;

impl Timestamp {
    /// Bytes of the text.
    pub const LEN: usize = 24;

    /// The time `unix_ms` milliseconds after 1970-01-01T00:00:00Z; times after the year 9999
    /// are written as its last millisecond.
    pub fn from_unix_ms(unix_ms: u64) -> Timestamp {
        let unix_ms = unix_ms.min(UNIX_MS_MAX);
        let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let second_of_day = ms_of_day / 1000;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second_of_day / 3600);
        digits(&mut text[14..16], second_of_day / 60 % 60);
        digits(&mut text[17..19], second_of_day % 60);
        digits(&mut text[20..23], ms_of_day % 1000);
        Timestamp(text)
    }

    /// The text as bytes, which nobody checks again.
    pub fn as_bytes(&self) -> &[u8; Timestamp::LEN] {
        &self.0
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII digits and separators are ever written, so this never falls back.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Writes the last digits of `number`, as many as `into` has places.
fn digits(into: &mut [u8], mut number: u64) {
    for place in into.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last of
/// its year, and 400 years (an era) always have 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_rfc_3339() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799_999, "2024-02-28T23:59:59.999Z"),
            (1_709_251_199_007, "2024-02-29T23:59:59.007Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (UNIX_MS_MAX, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_unix_ms(unix_ms).as_str(), text);
        }
    }

    #[test]
    fn each_day_follows_the_one_before_it() {
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let days_of = |year: u64, month: u64| match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..200_000 {
            assert_eq!(civil_from_days(days), (year, month, day));
            day += 1;
            if day > days_of(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
