//! Text into markup.

/// Text for between tags and within quoted attributes.
pub fn escaped(text: &str) -> String {
    let mut markup = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => markup.push_str("&amp;"),
            '<' => markup.push_str("&lt;"),
            '>' => markup.push_str("&gt;"),
            '"' => markup.push_str("&quot;"),
            '\'' => markup.push_str("&#39;"),
            // A terminal's escapes and the like have no business on a page.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {
                markup.push('\u{fffd}');
            }
            plain => markup.push(plain),
        }
    }
    markup
}

/// A value as JSON within a `<script>`, which only its own end tag ends.
pub fn script_json(value: &serde_json::Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// Milliseconds of Unix time as `21 September 2026, 14:13 UTC`.
pub fn date(unix_ms: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let minutes = unix_ms / 60_000;
    let (day, minute) = (minutes / 1_440, minutes % 1_440);
    // Days since 1 March of the year 0; years begin in March, so that a leap day ends one.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    let month = MONTHS.get((month as usize + 2) % 12).unwrap_or(&"");
    format!(
        "{day} {month} {year}, {:02}:{:02} UTC",
        minute / 60,
        minute % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_text_stays_text() {
        assert_eq!(
            escaped("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;"
        );
        assert_eq!(escaped("é – µs\u{1b}[31m"), "é – µs\u{fffd}[31m");
    }

    #[test]
    fn a_script_is_not_ended_by_its_values() {
        let json = script_json(&serde_json::json!({"n": "</script><!--&"}));
        assert!(!json.contains('<') && !json.contains('>'), "{json}");
        let back: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(back["n"], "</script><!--&");
    }

    #[test]
    fn dates_follow_the_calendar() {
        let cases = [
            (0, "1 January 1970, 00:00 UTC"),
            (951_782_400_000, "29 February 2000, 00:00 UTC"),
            (1_709_251_199_000, "29 February 2024, 23:59 UTC"),
            (1_790_000_000_000, "21 September 2026, 14:13 UTC"),
            (4_107_542_400_000, "1 March 2100, 00:00 UTC"),
        ];
        for (unix_ms, text) in cases {
            assert_eq!(date(unix_ms), text);
        }
    }
}
