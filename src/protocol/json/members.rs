//! A JSON text taken apart one level at a time, for what is read once and has to be strict: tokens
//! and key files. What is read for every message goes by the outline.
//!
//! ```
//! use tidewheel::protocol::json::{members, string};
//!
//! let members = members(r#"{"sub":"ad\u0061","rooms":[1, 2]}"#).unwrap();
//! assert_eq!(members[0].name, "sub");
//! assert_eq!(string(members[0].value).unwrap(), "ada");
//! assert_eq!(members[1].value, "[1, 2]");
//! ```

use std::borrow::Cow;
use std::ops::Range;

use super::scan::{NotJson, Scanner, Spelling};
use super::unescape::unescape;

/// Why a text is not an object that can be read in one way only.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadObject {
    /// It is not a JSON object.
    #[error(transparent)]
    NotJson(#[from] NotJson),
    /// A name is no text: half a surrogate pair.
    #[error("a member name with half a surrogate pair at byte {at}")]
    NameNotUnicode {
        /// Where the name stands.
        at: usize,
    },
    /// Two members have the same name: readers differ in which of them counts.
    #[error("two members with the same name")]
    Repeated,
}

/// A member of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    /// Its name, escapes undone.
    pub name: Cow<'a, str>,
    /// Its value as it stands in the text: valid JSON without white space around it.
    pub value: &'a str,
}

/// The members of the object that `text` is, in its order. Values are checked, and not looked into.
///
/// # Errors
/// [`BadObject`] where `text` is not one object, or has a name twice.
pub fn members(text: &str) -> Result<Vec<Member<'_>>, BadObject> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    scanner.expect(b'{', "an object")?;
    scanner.space();
    let mut members = Vec::new();
    let mut is_open = !scanner.eat(b'}');
    while is_open {
        let at = scanner.at();
        let (name, spelling) = scanner.name()?;
        let name = read(&scanner, name, spelling).ok_or(BadObject::NameNotUnicode { at })?;
        let value = scanner.value()?;
        let value = scanner.text(value);
        members.push(Member { name, value });
        scanner.space();
        is_open = !scanner.eat(b'}');
        if is_open {
            scanner.expect(b',', "a comma or a closing brace")?;
            scanner.space();
        }
    }
    scanner.space();
    scanner.end()?;
    if has_repeated_name(&members) {
        return Err(BadObject::Repeated);
    }
    Ok(members)
}

/// Sorted, so that thousands of members do not make us compare each with each.
fn has_repeated_name(members: &[Member<'_>]) -> bool {
    let mut names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
    names.sort_unstable();
    names
        .windows(2)
        .any(|pair| matches!(pair, [one, other] if one == other))
}

/// The elements of the array that `text` is, each as it stands there.
///
/// # Errors
/// [`NotJson`] where `text` is not one array.
pub fn elements(text: &str) -> Result<Vec<&str>, NotJson> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    scanner.expect(b'[', "an array")?;
    scanner.space();
    let mut elements = Vec::new();
    let mut is_open = !scanner.eat(b']');
    while is_open {
        let element = scanner.value()?;
        elements.push(scanner.text(element));
        scanner.space();
        is_open = !scanner.eat(b']');
        if is_open {
            scanner.expect(b',', "a comma or a closing bracket")?;
            scanner.space();
        }
    }
    scanner.space();
    scanner.end()?;
    Ok(elements)
}

/// What the string that `text` is says; none where it is no string, or one that no text can hold.
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'"') {
        return None;
    }
    let spelling = scanner.string().ok()?;
    scanner.end().ok()?;
    let end = scanner.at().checked_sub(1)?;
    read(&scanner, 1..end, spelling)
}

/// How deep the value that `text` is nests: 0 for what is neither array nor object.
pub fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn read<'a>(
    scanner: &Scanner<'a>,
    within: Range<usize>,
    spelling: Spelling,
) -> Option<Cow<'a, str>> {
    let text = scanner.text(within);
    match spelling {
        Spelling::Plain => Some(Cow::Borrowed(text)),
        Spelling::Escaped => {
            let mut unescaped = String::with_capacity(text.len());
            unescape(text, &mut unescaped);
            Some(Cow::Owned(unescaped))
        }
        Spelling::NotUnicode => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    #[test]
    fn members_are_read_one_level_deep() {
        let text = " { \"a\" : {\"b\":[1,{\"b\":2}]} , \"\\u0062\":\"}\" } ";
        let read: Vec<(String, &str)> = members(text)
            .unwrap()
            .into_iter()
            .map(|member| (member.name.into_owned(), member.value))
            .collect();
        let expected = [
            ("a".to_owned(), "{\"b\":[1,{\"b\":2}]}"),
            ("b".to_owned(), "\"}\""),
        ];
        assert_eq!(read, expected);
        assert_eq!(members("{}"), Ok(vec![]));
        assert_eq!(elements("[ ]"), Ok(vec![]));
        assert_eq!(
            elements(" [1 , [2],\"]\" ] "),
            Ok(vec!["1", "[2]", "\"]\""])
        );
    }

    #[test]
    fn a_repeated_name_is_found_however_it_is_spelt() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"{"":1,"":2}"#,
        ] {
            assert_eq!(members(text), Err(BadObject::Repeated), "{text}");
        }
        assert!(members(r#"{"a":{"a":1},"A":2}"#).is_ok());
        let many: Vec<String> = (0..20_000).map(|i| format!("\"{i}\":0")).collect();
        assert_eq!(
            members(&format!("{{{}}}", many.join(","))).unwrap().len(),
            20_000
        );
    }

    #[test]
    fn what_is_no_object_no_array_or_no_string_is_refused() {
        for text in [
            "",
            "1",
            "[]",
            "{",
            "{a:1}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":1 \"b\":2}",
        ] {
            assert!(members(text).is_err(), "{text}");
        }
        let half = members(r#"{"\ud800":1}"#);
        assert_eq!(half, Err(BadObject::NameNotUnicode { at: 1 }));
        for text in ["", "{}", "[", "[1,]", "[1]]", "[1 2]"] {
            assert!(elements(text).is_err(), "{text}");
        }
        for text in ["", "1", "\"", "\"a\"b", "\"\\ud800\"", " \"a\""] {
            assert_eq!(string(text), None, "{text}");
        }
        assert_eq!(string(r#""\"\u00e9""#).as_deref(), Some("\"é"));
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (text, expected) in [
            ("1", 0),
            (r#""[[""#, 0),
            ("[]", 1),
            (r#"[{"a\"[":[]},[]]"#, 3),
            (r#"{"\\":{}}"#, 2),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn objects_agree_with_serde_json(text in r#"\{("a":(1|"b"|\[\]|\{\}),?){0,3}\}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match members(&text) {
                Ok(members) => {
                    let theirs = theirs.unwrap();
                    assert_eq!(members.len(), theirs.as_object().unwrap().len());
                }
                Err(BadObject::Repeated) => assert!(theirs.is_ok()),
                Err(_) => assert!(theirs.is_err(), "{text}"),
            }
        }
    }
}
