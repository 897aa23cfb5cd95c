//! The values an operator writes: durations, sizes, counts, addresses.
//!
//! Each has one notation, the same on the command line, in the environment and in a file, and a
//! `Display` that the parser reads back to the same value:
//!
//! ```
//! use tidewheel::cli::units::{ByteSize, TimeSpan};
//!
//! let window: TimeSpan = "2m".parse().unwrap();
//! assert_eq!(window.0.as_secs(), 120);
//! assert_eq!("65536".parse::<ByteSize>().unwrap().to_string(), "64KiB");
//! ```

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::address::BadNetwork;
use crate::gate::rate::BadRate;

/// 1,024 bytes.
pub const KIB: usize = 1 << 10;
/// 1,048,576 bytes.
pub const MIB: usize = 1 << 20;
/// 1,073,741,824 bytes.
pub const GIB: usize = 1 << 30;

/// The longest duration taken: a year. Nothing here waits longer, and sums cannot overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Why a value was not taken. The text goes after the name of the flag and the value itself.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum UnitError {
    /// Not `<digits><unit>` with a unit of time.
    #[error("not a duration; write a whole number and us, ms, s, m, h or d, such as 25s or 500ms")]
    NotADuration,
    /// A number other than zero without its unit.
    #[error("a duration needs its unit: write {0}s, {0}ms or {0}m")]
    DurationWithoutUnit(u64),
    /// Not `<digits><unit>` with a unit of size.
    #[error(
        "not a size; write bytes as 1000, or with B, KiB, MiB, GiB, kB, MB or GB, such as 64KiB"
    )]
    NotASize,
    /// Not a whole number.
    #[error("not a whole number, such as 1000 or 1_000_000")]
    NotACount,
    /// Neither `auto` nor a whole number.
    #[error("neither auto nor a whole number, such as 1000")]
    NotACountOrAuto,
    /// Not `IP:PORT`.
    #[error("not an address; write an IP address and a port, such as {0}")]
    NotAnAddress(String),
    /// Outside of what this flag takes.
    #[error("out of range; write {min} to {max}")]
    OutOfRange {
        /// The least value taken, in the notation of its kind.
        min: String,
        /// The greatest value taken, in the notation of its kind.
        max: String,
    },
    /// Not `RATE` or `RATE:BURST`.
    #[error(
        "not a rate; write a number and /s, /m or /h, and what may come at once after a colon, \
         such as 100/s or 100/s:200; or off"
    )]
    NotARate,
    /// The same, of bytes.
    #[error(
        "not a rate of bytes; write a size and /s, /m or /h, and what may come at once after a \
         colon, such as 64KiB/s or 1MiB/s:4MiB; or off"
    )]
    NotARateOfBytes,
    /// A rate that nothing could be held to.
    #[error("{0}")]
    BadRate(BadRate),
    /// A rate of more than is counted here.
    #[error("more than {0} a second are not counted; write off for no limit")]
    RateTooHigh(u32),
    /// Something in a list that is no network.
    #[error("{0:?} is {1}")]
    NotANetwork(String, BadNetwork),
    /// Not a filter that the log understands.
    #[error(
        "not a log filter: {0}; write a level (off, error, warn, info, debug, trace) or target=level, separated by commas"
    )]
    NotALogFilter(String),
}

/// A duration in an operator's notation: `25s`, `500ms`, `10m`, `2h`, `0`.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TimeSpan(pub Duration);

/// Units of time and their microseconds, longest first, so that `Display` finds the shortest text.
const TIME_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<TimeSpan, UnitError> {
        let (number, unit) = split_number(text).ok_or(UnitError::NotADuration)?;
        if unit.is_empty() {
            return match number {
                0 => Ok(TimeSpan(Duration::ZERO)),
                _ => Err(UnitError::DurationWithoutUnit(number)),
            };
        }
        let (_, micros) = TIME_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(UnitError::NotADuration)?;
        number
            .checked_mul(*micros)
            .map(Duration::from_micros)
            .filter(|duration| *duration <= DURATION_MAX)
            .map(TimeSpan)
            .ok_or_else(|| out_of_range(&TimeSpan(Duration::ZERO), &TimeSpan(DURATION_MAX)))
    }
}

impl Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros == 0 {
            return f.write_str("0");
        }
        match TIME_UNITS
            .iter()
            .find(|(_, unit)| micros.is_multiple_of(u128::from(*unit)))
        {
            Some((name, unit)) => write!(f, "{}{name}", micros / u128::from(*unit)),
            None => write!(f, "{micros}us"),
        }
    }
}

/// A number of bytes in an operator's notation: `1000`, `64KiB`, `10MB`. Case does not matter.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub usize);

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<ByteSize, UnitError> {
        let (number, unit) = split_number(text).ok_or(UnitError::NotASize)?;
        let bytes = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => KIB,
            "mib" => MIB,
            "gib" => GIB,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            // `64K` is refused: half of its readers would be wrong about it.
            _ => return Err(UnitError::NotASize),
        };
        usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_mul(bytes))
            .map(ByteSize)
            .ok_or_else(|| out_of_range(&ByteSize(0), &ByteSize(usize::MAX)))
    }
}

impl Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            ("GiB", GIB),
            ("MiB", MIB),
            ("KiB", KIB),
            ("GB", 1_000_000_000),
            ("MB", 1_000_000),
        ];
        match units
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A number the operator gave, or `auto`: chosen at the start from what the machine has.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Count {
    /// Chosen at the start.
    Auto,
    /// Given by the operator.
    Exactly(usize),
}

impl Count {
    /// The given number, or `auto` where none was given.
    pub fn unwrap_or(self, auto: usize) -> usize {
        match self {
            Count::Auto => auto,
            Count::Exactly(count) => count,
        }
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Auto => f.write_str("auto"),
            Count::Exactly(count) => write!(f, "{count}"),
        }
    }
}

/// A parser of durations within `range`.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, UnitError> + Clone + Send + Sync + 'static {
    move |text| {
        let span: TimeSpan = text.parse()?;
        in_range(span, &(TimeSpan(*range.start())..=TimeSpan(*range.end()))).map(|span| span.0)
    }
}

/// A parser of sizes within `range`, in bytes.
pub(super) fn bytes(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, UnitError> + Clone + Send + Sync + 'static {
    move |text| {
        let size: ByteSize = text.parse()?;
        in_range(size, &(ByteSize(*range.start())..=ByteSize(*range.end()))).map(|size| size.0)
    }
}

/// A parser of `auto` or sizes within `range`, in bytes; 0 is taken too, and means that there is none.
pub(super) fn bytes_or_auto(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<Count, UnitError> + Clone + Send + Sync + 'static {
    let size = bytes(range);
    move |text| match text {
        "auto" => Ok(Count::Auto),
        "0" => Ok(Count::Exactly(0)),
        text => size(text).map(Count::Exactly),
    }
}

/// So many things, as people say it: `1 room`, `2 rooms`.
pub(super) fn counted(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

/// A parser of whole numbers within `range`; `_` may group the digits.
pub(super) fn count(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, UnitError> + Clone + Send + Sync + 'static {
    move |text| {
        let count = whole_number(text).ok_or(UnitError::NotACount)?;
        in_range(count, &range)
    }
}

/// A parser of `auto` or whole numbers within `range`.
pub(super) fn count_or_auto(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<Count, UnitError> + Clone + Send + Sync + 'static {
    move |text| {
        if text == "auto" {
            return Ok(Count::Auto);
        }
        let count = whole_number(text).ok_or(UnitError::NotACountOrAuto)?;
        in_range(count, &range).map(Count::Exactly)
    }
}

/// Reads `IP:PORT`. Names are not resolved: which of their addresses is meant would be a guess.
pub(super) fn address(text: &str) -> Result<SocketAddr, UnitError> {
    text.parse().map_err(|_| {
        let host_and_port = text.rsplit_once(':');
        let port = host_and_port.and_then(|(_, port)| port.parse::<u16>().ok());
        let host = match host_and_port {
            Some(("" | "*", _)) => "0.0.0.0",
            _ => "127.0.0.1",
        };
        UnitError::NotAnAddress(format!("{host}:{}", port.unwrap_or(8080)))
    })
}

fn in_range<T: PartialOrd + Display>(value: T, range: &RangeInclusive<T>) -> Result<T, UnitError> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(out_of_range(range.start(), range.end()))
    }
}

fn out_of_range(min: &impl Display, max: &impl Display) -> UnitError {
    UnitError::OutOfRange {
        min: min.to_string(),
        max: max.to_string(),
    }
}

/// Splits `25s` into 25 and `s`. The unit may be empty, the number may not.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit))
}

pub(super) fn whole_number(text: &str) -> Option<usize> {
    let grouped = text.starts_with(|c: char| c.is_ascii_digit());
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if !(grouped && digits) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        let told = [0, 1, 2].map(|count| counted(count, "room"));
        assert_eq!(told, ["0 rooms", "1 room", "2 rooms"]);
    }

    #[test]
    fn durations_are_read_in_their_units() {
        let cases = [
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("25s", Duration::from_secs(25)),
            ("500ms", Duration::from_millis(500)),
            ("250us", Duration::from_micros(250)),
            ("10m", Duration::from_secs(600)),
            ("2h", Duration::from_secs(7_200)),
            ("365d", DURATION_MAX),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(TimeSpan(expected)), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_their_units() {
        let cases = [
            ("0", 0),
            ("1000", 1_000),
            ("7B", 7),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("1MiB", 1_048_576),
            ("1GiB", 1_073_741_824),
            ("3kB", 3_000),
            ("10MB", 10_000_000),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_value_is_refused_with_what_to_write() {
        for text in [
            "",
            "s",
            "-1s",
            "1.5s",
            " 25s",
            "25 s",
            "25sec",
            "1h30m",
            "99999999999999999999s",
        ] {
            assert_eq!(
                text.parse::<TimeSpan>(),
                Err(UnitError::NotADuration),
                "{text}"
            );
        }
        assert_eq!(
            "25".parse::<TimeSpan>(),
            Err(UnitError::DurationWithoutUnit(25))
        );
        for text in ["", "KiB", "-1", "64K", "1.5MiB", "64 KiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::NotASize), "{text}");
        }
        for text in ["", "_1", "-1", "1e6", "1 000", "ten", "1,000"] {
            assert_eq!(count(0..=9)(text), Err(UnitError::NotACount), "{text}");
        }
    }

    #[test]
    fn what_is_too_much_or_too_little_is_refused_with_the_range() {
        let out_of = |min: &str, max: &str| UnitError::OutOfRange {
            min: min.to_owned(),
            max: max.to_owned(),
        };
        assert_eq!("366d".parse::<TimeSpan>(), Err(out_of("0", "365d")));
        assert!("18446744073709551615GiB".parse::<ByteSize>().is_err());
        assert_eq!(bytes(KIB..=16 * MIB)("1023"), Err(out_of("1KiB", "16MiB")));
        assert_eq!(count(1..=9)("10"), Err(out_of("1", "9")));
        let second_to_hour = duration(Duration::from_secs(1)..=Duration::from_secs(3_600));
        assert_eq!(second_to_hour("999ms"), Err(out_of("1s", "1h")));
        assert_eq!(second_to_hour("1s"), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn counts_may_group_their_digits_or_be_left_to_the_machine() {
        assert_eq!(count(1..=usize::MAX)("1_000_000"), Ok(1_000_000));
        assert_eq!(count_or_auto(1..=9)("auto"), Ok(Count::Auto));
        assert_eq!(count_or_auto(1..=9)("2"), Ok(Count::Exactly(2)));
        assert_eq!(
            count_or_auto(1..=9)("some"),
            Err(UnitError::NotACountOrAuto)
        );
        assert_eq!(Count::Auto.unwrap_or(4), 4);
        assert_eq!(Count::Exactly(2).unwrap_or(4), 2);
    }

    #[test]
    fn a_size_may_be_left_to_the_machine_or_be_none() {
        let budget = bytes_or_auto(MIB..=GIB);
        assert_eq!(budget("auto"), Ok(Count::Auto));
        assert_eq!(budget("0"), Ok(Count::Exactly(0)));
        assert_eq!(budget("64MiB"), Ok(Count::Exactly(64 * MIB)));
        assert!(budget("1KiB").is_err() && budget("much").is_err());
    }

    #[test]
    fn an_address_that_is_none_is_answered_with_one_that_is_close() {
        let hint = |text: &str| UnitError::NotAnAddress(text.to_owned());
        assert_eq!(address(":9000"), Err(hint("0.0.0.0:9000")));
        assert_eq!(address("localhost:9000"), Err(hint("127.0.0.1:9000")));
        assert_eq!(address("127.0.0.1"), Err(hint("127.0.0.1:8080")));
        assert!(address("[::1]:0").is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_displayed_duration_reads_back_as_itself(micros in 0..=DURATION_MAX.as_micros()) {
            let span = TimeSpan(Duration::from_micros(u64::try_from(micros).unwrap()));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn a_displayed_size_reads_back_as_itself(bytes: usize, shift in 0..40u32) {
            let size = ByteSize(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = text.parse::<TimeSpan>();
            let _ = text.parse::<ByteSize>();
            let _ = count_or_auto(0..=9)(&text);
            let _ = address(&text);
        }
    }
}
