//! What holds for any text: no panic, the grammar and nothing else, payloads unchanged.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use serde::de::IgnoredAny;

use crate::protocol::command::Command;
use crate::protocol::json::{NotJson, Parser, validate};

/// Text of any JSON value, with numbers and escapes that a tree of values would not keep.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|boolean| boolean.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
        string_text(),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        let member =
            (string_text(), inner.clone()).prop_map(|(name, value)| format!("{name}:{value}"));
        let list = |of| prop::collection::vec(of, 0..6);
        prop_oneof![
            (list(inner.boxed()), space())
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(","))),
            (list(member.boxed()), space())
                .prop_map(|(members, space)| format!("{{{space}{}}}", members.join(", "))),
        ]
    })
}

fn string_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z]{1,20}",
        "[^\"\\\\\\x00-\\x1f]{1,4}",
        "\\\\[\"\\\\/bfnrt]",
        "\\\\u[0-9a-fA-F]{4}",
        "\\\\u[dD][89a-fA-F][0-9a-f]{2}",
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

/// A right message, to be spoilt.
const MESSAGE: &str = r#"{"type":"message","room":"lob\u0062y","payload":{"a":[1,-2.5e3,"x\n"],"b":{}},"metadata":{"correlation_id":"c-1","message_id":"m-1","echo":false},"x":[true]}"#;

/// The scanner and serde_json agree, and so does the parser where the text is no JSON.
fn check_any(text: &str) {
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match validate(text) {
        Err(NotJson::TooDeep { .. }) => {}
        found => assert_eq!(found.is_ok(), is_json, "{text}"),
    }
    let mut parser = Parser::new();
    match parser.parse(text) {
        Ok(request) => {
            assert!(is_json, "{text}");
            if let Command::Message { payload, .. } = request.command {
                assert!(
                    serde_json::from_slice::<IgnoredAny>(payload).is_ok(),
                    "{text}"
                );
            }
        }
        Err(malformed) if !is_json => assert!(malformed.message.starts_with("not valid JSON")),
        Err(malformed) => assert!(
            malformed.message.contains("; send "),
            "{}",
            malformed.message
        ),
    }
}

proptest! {
    #[test]
    fn any_payload_passes_byte_for_byte(payload in json_text(), space in space()) {
        assert_eq!(validate(&payload), Ok(()));
        let mut parser = Parser::new();
        let text = format!("{{\"room\":\"r\",{space}\"payload\":{space}{payload}{space},\"type\":\"message\"}}");
        let request = parser.parse(&text).unwrap();
        let expected = Command::Message { room: "r", payload: payload.as_bytes() };
        assert_eq!(request.command, expected);
    }

    #[test]
    fn any_unknown_member_is_ignored(value in json_text(), name in "[x-z]{1,9}") {
        let mut parser = Parser::new();
        let text = format!("{{\"{name}\":{value},\"type\":\"ping\",\"metadata\":{{\"{name}\":{value}}}}}");
        assert_eq!(parser.parse(&text).unwrap().command, Command::Ping { payload: None });
    }

    #[test]
    fn strings_mean_what_serde_json_says(token in string_text()) {
        let mut parser = Parser::new();
        let text = format!("{{\"type\":\"auth\",\"payload\":{{\"token\":{token}}}}}");
        let found = parser.parse(&text).ok().map(|request| request.command);
        let expected = serde_json::from_str::<String>(&token).ok();
        assert_eq!(found, expected.as_deref().map(|token| Command::Auth { token }));
    }

    #[test]
    fn random_text_is_judged_as_serde_json_judges_it(text in any::<String>()) {
        check_any(&text);
    }

    #[test]
    fn random_json_is_judged_as_serde_json_judges_it(text in json_text()) {
        check_any(&text);
    }

    #[test]
    fn a_spoilt_message_is_judged_as_serde_json_judges_it(
        edits in prop::collection::vec((0..MESSAGE.len(), 0_usize..3, "[\\[\\]{}\",:0-9a-z\\\\ .\n-]"), 1..4),
    ) {
        let mut text = MESSAGE.to_owned();
        for (at, removed, inserted) in edits {
            let at = at.min(text.len());
            text.replace_range(at..(at + removed).min(text.len()), &inserted);
        }
        check_any(&text);
    }

    #[test]
    fn a_truncated_message_is_refused(len in 0..MESSAGE.len()) {
        check_any(&MESSAGE[..len]);
    }
}
