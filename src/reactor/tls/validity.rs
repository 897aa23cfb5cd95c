//! From when to when a certificate is good, read from its DER.
//!
//! rustls leaves our own certificate's dates alone, and a reader of all of X.509 would be a dozen
//! crates for two dates. The files are the operator's: what cannot be read here is not told.

/// The days within which a certificate is good, in seconds since 1970.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    pub not_before_unix_s: i64,
    pub not_after_unix_s: i64,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Reads it (RFC 5280 §4.1): a certificate is a sequence of the part that is signed, which begins
/// with version, serial number, algorithm, issuer and validity, and more.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (not_before_unix_s, rest) = time(validity)?;
    let (not_after_unix_s, _) = time(rest)?;
    Some(Validity {
        not_before_unix_s,
        not_after_unix_s,
    })
}

/// The content of the element at the start, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        // The number of bytes that the length has; nothing here is longer than 16 MiB.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The time at the start, `YYMMDDHHMMSSZ` or with a year of four digits, and what follows it.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest) = element(der, UTC_TIME).or_else(|| element(der, GENERALIZED_TIME))?;
    let digits = text.strip_suffix(b"Z")?;
    let (year, digits) = match digits.len() {
        12 => {
            let (year, digits) = number(digits, 2)?;
            (year + if year < 50 { 2000 } else { 1900 }, digits)
        }
        14 => number(digits, 4)?,
        _ => return None,
    };
    let (month, digits) = number(digits, 2)?;
    let (day, digits) = number(digits, 2)?;
    let (hour, digits) = number(digits, 2)?;
    let (minute, digits) = number(digits, 2)?;
    let (second, _) = number(digits, 2)?;
    let days = days_from_civil(year, month, day);
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second, rest))
}

fn number(digits: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = digits.split_at_checked(count)?;
    let digit = |sum: i64, byte: &u8| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + i64::from(byte - b'0'))
    };
    Some((number.iter().try_fold(0, digit)?, rest))
}

/// Days since 1970-01-01, by Howard Hinnant's `days_from_civil`: years begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_second_it_names() {
        for (text, unix_s) in [
            (&b"\x17\x0d700101000000Z"[..], 0),
            (b"\x17\x0d260131235959Z", 1_769_903_999),
            (b"\x17\x0d491231235959Z", 2_524_607_999),
            (b"\x18\x0f20500101000000Z", 2_524_608_000),
            (b"\x18\x0f20000229000000Z", 951_782_400),
        ] {
            assert_eq!(time(text), Some((unix_s, &[][..])), "{text:?}");
        }
        for text in [
            &b"\x17\x0c70010100000Z"[..],
            b"\x17\x0d7001010000+0Z",
            b"\x18\x7f2050",
            b"",
        ] {
            assert_eq!(time(text).map(|(s, _)| s), None, "{text:?}");
        }
    }

    #[test]
    fn a_certificate_s_dates_are_found_and_a_torn_one_has_none() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 31);
        params.not_after = rcgen::date_time_ymd(2060, 2, 29);
        let certificate = params.self_signed(&key).unwrap();
        let der: &[u8] = certificate.der();
        let expected = Validity {
            not_before_unix_s: 1_769_817_600,
            not_after_unix_s: 2_845_238_400,
        };
        assert_eq!(validity(der), Some(expected));
        for len in 0..der.len() {
            assert_eq!(validity(&der[..len]), None, "{len} bytes");
        }
    }
}
