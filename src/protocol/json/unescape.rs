//! What a string with escapes stands for.

/// Appends to `out` what the string `text` stands for, quotes left out. The scanner has taken it: its
/// escapes are those of RFC 8259 §7, and no surrogate is alone. What is not so is left out.
pub(super) fn unescape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut letters = escape.chars();
        let char = match letters.next() {
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('u') => {
                let (char, after) = unicode(letters.as_str());
                letters = after.chars();
                char
            }
            itself => itself,
        };
        out.extend(char);
        rest = letters.as_str();
    }
    out.push_str(rest);
}

/// The character that the digits behind a `\u` name, with the second half of a pair where they are
/// the first, and what follows it.
fn unicode(text: &str) -> (Option<char>, &str) {
    let Some((unit, after)) = unit(text) else {
        return (None, text);
    };
    let second = match unit {
        // RFC 8259 §7: what is beyond the basic plane is written as a pair of surrogates.
        0xd800..0xdc00 => after.strip_prefix("\\u").and_then(self::unit),
        _ => None,
    };
    match second {
        Some((low, after)) => {
            let scalar = 0x1_0000 + ((unit & 0x3ff) << 10) + (low & 0x3ff);
            (char::from_u32(scalar), after)
        }
        None => (char::from_u32(unit), after),
    }
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, after) = text.split_at_checked(4)?;
    let unit = u32::from_str_radix(digits, 16).ok()?;
    Some((unit, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    fn unescaped(text: &str) -> String {
        let mut out = String::from("before ");
        unescape(text, &mut out);
        out.split_off("before ".len())
    }

    #[test]
    fn each_escape_stands_for_its_character() {
        for (text, expected) in [
            ("", ""),
            ("é plain 🙂", "é plain 🙂"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"r\u00e9d\u0000", "réd\0"),
            (r"\ud83d\ude42\uD83D\uDE42", "🙂🙂"),
            (r"\\u0041", r"\u0041"),
        ] {
            assert_eq!(unescaped(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_serde_json_escapes_is_unescaped(text in ".{0,40}") {
            let quoted = serde_json::to_string(&text).unwrap();
            assert_eq!(unescaped(&quoted[1..quoted.len() - 1]), text);
        }

        #[test]
        fn any_character_is_read_from_its_digits(text in "[\\x00-\\u{ffff}🙂\u{10ffff}]{0,9}") {
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            assert_eq!(unescaped(&escaped), text);
        }
    }
}
