//! The values of limits: rates and networks. See [`super::units`] for the others.

use std::fmt::{self, Display};
use std::sync::Arc;

use super::units::{ByteSize, UnitError, whole_number};
use crate::address::Network;
use crate::gate::rate::{Per, Rate};

/// A rate in an operator's notation: `100/s`, `100/s:200`, `off`. What may come at once is as much as
/// the rate's number where it is not given.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct RateLimit(pub Option<Rate>);

impl Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(rate) => rate.fmt(f),
        }
    }
}

/// Addresses and networks, by commas; or `none`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Networks(pub Arc<[Network]>);

impl Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, network) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// Reads a rate of things that are counted.
pub(super) fn rate(text: &str) -> Result<RateLimit, UnitError> {
    let number = |text: &str| whole_number(text).and_then(|n| u32::try_from(n).ok());
    rate_with(text, number, UnitError::NotARate)
}

/// Reads a rate of bytes.
pub(super) fn rate_of_bytes(text: &str) -> Result<RateLimit, UnitError> {
    let size = |text: &str| text.parse::<ByteSize>().ok().map(|size| size.0);
    let size = |text: &str| size(text).and_then(|n| u32::try_from(n).ok());
    rate_with(text, size, UnitError::NotARateOfBytes)
}

/// The most a second that every connection has a count of.
const SLOW_RATE_MAX: u32 = 1_000;

/// Reads a rate of at most 1,000 a second, for what every connection has a small count of.
pub(super) fn slow_rate(text: &str) -> Result<RateLimit, UnitError> {
    let limit = rate(text)?;
    match limit.0 {
        Some(rate) if rate.is_above(SLOW_RATE_MAX) => Err(UnitError::RateTooHigh(SLOW_RATE_MAX)),
        _ => Ok(limit),
    }
}

fn rate_with(
    text: &str,
    number: impl Fn(&str) -> Option<u32>,
    fault: UnitError,
) -> Result<RateLimit, UnitError> {
    if text == "off" {
        return Ok(RateLimit(None));
    }
    let read = || {
        let (rate, burst) = match text.split_once(':') {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (text, None),
        };
        let (count, per) = rate.split_once('/')?;
        let (count, per) = (number(count)?, Per::from_name(per)?);
        let burst = burst.map_or(Some(count), &number)?;
        Some((count, per, burst))
    };
    let (count, per, burst) = read().ok_or(fault)?;
    let rate = Rate::new(count, per, burst).map_err(UnitError::BadRate)?;
    Ok(RateLimit(Some(rate)))
}

/// Reads networks, separated by commas, or `none`.
pub(super) fn networks(text: &str) -> Result<Networks, UnitError> {
    if matches!(text, "none" | "") {
        return Ok(Networks([].into()));
    }
    let network = |part: &str| {
        let part = part.trim();
        let fault = |bad| UnitError::NotANetwork(part.to_owned(), bad);
        part.parse::<Network>().map_err(fault)
    };
    let all: Result<Vec<Network>, UnitError> = text.split(',').map(network).collect();
    all.map(|all| Networks(all.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::rate::BadRate;

    #[test]
    fn rates_are_read_with_what_may_come_at_once() {
        let table = [
            ("off", "off"),
            ("100/s", "100/s:100"),
            ("100/s:200", "100/s:200"),
            ("5/m", "5/m:5"),
            ("1_000/h:1", "1000/h:1"),
        ];
        for (text, expected) in table {
            let read = rate(text).unwrap();
            assert_eq!(read.to_string(), expected);
            assert_eq!(rate(expected), Ok(read));
        }
        let bytes = rate_of_bytes("64KiB/s:1MiB").unwrap();
        assert_eq!(bytes.to_string(), "65536/s:1048576");
        assert_eq!(rate_of_bytes(&bytes.to_string()), Ok(bytes));
        for text in [
            "", "100", "/s", "1/d", "1/s:", "1/s:x", "-1/s", "1.5/s", "1/s:2:3", "5GiB/s",
        ] {
            assert_eq!(rate(text), Err(UnitError::NotARate), "{text}");
            assert_eq!(
                rate_of_bytes(text),
                Err(UnitError::NotARateOfBytes),
                "{text}"
            );
        }
        assert_eq!(rate("0/s"), Err(UnitError::BadRate(BadRate::Zero)));
        let slow = UnitError::BadRate(BadRate::FillsTooSlowly);
        assert_eq!(rate("1/h:100"), Err(slow));
        assert_eq!(slow_rate("1001/s"), Err(UnitError::RateTooHigh(1_000)));
        assert!(slow_rate("1000/s").is_ok() && slow_rate("60000/m:9").is_ok());
    }

    #[test]
    fn networks_are_read_with_commas_between() {
        let read = |text: &str| networks(text).map(|networks| networks.to_string());
        assert_eq!(read("none"), Ok("none".into()));
        let two = "10.0.0.0/8,::1/128";
        assert_eq!(read("10.0.0.0/8, ::1"), Ok(two.into()));
        assert_eq!(read(two), Ok(two.into()));
        let fault = networks("10.0.0.0/8,,::1").unwrap_err().to_string();
        assert!(fault.starts_with("\"\" is not a network"), "{fault}");
    }
}
