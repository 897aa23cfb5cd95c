//! Percent-encoded parts of a URI, RFC 3986 §2.1, read strictly: a name that cannot be read is
//! refused and not guessed, because names of rooms and users are identities.

use std::borrow::Cow;

/// A part of a URI that has no meaning as text.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPercent {
    /// A percent sign that two hexadecimal digits do not follow.
    #[error("bad percent sequence at byte {at}")]
    Sequence {
        /// Where the percent sign is.
        at: usize,
    },
    /// What the sequences stand for is not UTF-8.
    #[error("percent sequences do not give UTF-8")]
    NotUtf8,
}

/// Decodes one path segment, query name or query value. A plus sign stands for itself.
pub fn decode_component(component: &str) -> Result<Cow<'_, str>, BadPercent> {
    for (at, _) in component.match_indices('%') {
        let digits = component.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BadPercent::Sequence { at });
        }
    }
    percent_encoding::percent_decode_str(component)
        .decode_utf8()
        .map_err(|_| BadPercent::NotUtf8)
}

/// The parameters of a query, as they stand: not decoded, a missing value empty.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The decoded value of the first parameter called `name`.
///
/// Parameters whose names cannot be decoded are passed over: they are nobody's.
pub fn query_value<'q>(query: &'q str, name: &str) -> Option<Result<Cow<'q, str>, BadPercent>> {
    query_pairs(query)
        .find(|(key, _)| decode_component(key).is_ok_and(|key| key == name))
        .map(|(_, value)| decode_component(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_sequences_are_decoded_and_bad_ones_refused() {
        for (component, expected) in [
            ("plain", Ok("plain")),
            ("", Ok("")),
            ("a+b", Ok("a+b")),
            ("caf%C3%A9%20%2f", Ok("café /")),
            ("%e2%82%ac", Ok("€")),
            ("100%", Err(BadPercent::Sequence { at: 3 })),
            ("%", Err(BadPercent::Sequence { at: 0 })),
            ("%2", Err(BadPercent::Sequence { at: 0 })),
            ("ok%20%zz", Err(BadPercent::Sequence { at: 5 })),
            ("%%41", Err(BadPercent::Sequence { at: 0 })),
            ("%+1", Err(BadPercent::Sequence { at: 0 })),
            ("%é", Err(BadPercent::Sequence { at: 0 })),
            ("%ff", Err(BadPercent::NotUtf8)),
            ("%ed%a0%80", Err(BadPercent::NotUtf8)),
        ] {
            assert_eq!(
                decode_component(component).as_deref(),
                expected.as_deref(),
                "{component}"
            );
        }
    }

    #[test]
    fn a_parameter_is_found_by_its_decoded_name() {
        let query = "&x&%zz=1&us%65r_id=a%20b&user_id=second&empty=";
        assert_eq!(query_value(query, "user_id"), Some(Ok("a b".into())));
        assert_eq!(query_value(query, "empty"), Some(Ok("".into())));
        assert_eq!(query_value(query, "x"), Some(Ok("".into())));
        assert_eq!(query_value(query, "absent"), None);
        assert_eq!(
            query_value("a=%", "a"),
            Some(Err(BadPercent::Sequence { at: 0 }))
        );
        assert_eq!(
            query_pairs("a=b=c&d").collect::<Vec<_>>(),
            [("a", "b=c"), ("d", "")]
        );
    }
}
