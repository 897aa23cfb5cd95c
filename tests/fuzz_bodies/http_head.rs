//! A request, whole and trickling: the same verdict, and everything that is asked of a head, where it
//! leads, and where its client is.

use tidewheel::codec::http::{
    Head, HeadFault, HeadLimits, HeadReader, decode_component, parse_head, query_value,
    websocket_upgrade,
};
use tidewheel::gate::{Limits, Policy, Route, client_address, route};
use tidewheel::protocol::ids::{is_room_name, is_user_id};

const LIMITS: HeadLimits = HeadLimits {
    bytes_max: 2048,
    headers_max: 16,
};

/// Reads `data` as the start of a connection.
pub fn run(data: &[u8]) {
    let whole = verdict(parse_head(data, &LIMITS).map(|head| head.map(|(_, bytes)| bytes)));
    for chunk in [1, 7] {
        let mut reader = HeadReader::default();
        let ends = (0..data.len()).step_by(chunk).chain([data.len()]);
        let trickled = ends
            .map(|end| reader.read(&data[..end], &LIMITS))
            .find_map(|result| {
                let result = result.map(|head| head.map(|(_, bytes)| bytes));
                (!matches!(result, Ok(None))).then_some(result)
            });
        assert_eq!(
            verdict(trickled.unwrap_or(Ok(None))),
            whole,
            "chunks of {chunk}"
        );
    }
    let Ok(Some((head, bytes))) = parse_head(data, &LIMITS) else {
        return;
    };
    assert!(bytes <= data.len() && bytes <= LIMITS.bytes_max);
    assert!(data[..bytes].ends_with(b"\r\n\r\n"));
    assert!(head.path.starts_with('/'));
    for segment in head.path.split('/') {
        let _ = decode_component(segment);
    }
    let _ = query_value(head.query.unwrap_or(""), "user_id");
    judge_route(&head);
    judge_client(&head);
    if let Ok(upgrade) = websocket_upgrade(&head) {
        assert!(head.wants_upgrade() && head.is_http_11 && head.method == "GET");
        assert_eq!((upgrade.key.len(), head.body_bytes), (24, 0));
    }
}

/// Where a request leads: only a whole upgrade opens anything, and names are names.
fn judge_route(head: &Head<'_>) {
    let is_upgrade = websocket_upgrade(head).is_ok();
    for echo in [false, true] {
        match route(head, echo, &Policy::default()) {
            Route::Native(entry) => {
                assert!(is_upgrade && head.path.starts_with("/ws"));
                assert!(entry.room.as_deref().is_none_or(is_room_name));
                assert!(entry.user.as_deref().is_none_or(is_user_id));
                assert!(query_value(head.query.unwrap_or(""), "token").is_none());
            }
            Route::Echo { .. } => assert!(is_upgrade && echo && head.path == "/echo"),
            Route::Page { .. } => assert!(head.path == "/"),
            Route::Refused(refusal) => {
                assert!((400..600).contains(&refusal.status));
                assert!(!refusal.message.is_empty());
            }
        }
    }
}

/// Where the client is, behind a proxy that is trusted and behind one that is not.
fn judge_client(head: &Head<'_>) {
    let trusted = ["10.0.0.0/8".parse().unwrap()];
    let limits = Limits {
        trusted_proxies: trusted.into(),
        ..Limits::default()
    };
    let [stranger, proxy] = ["192.0.2.9", "10.0.0.1"].map(|text| text.parse().unwrap());
    assert_eq!(client_address(head, stranger, &limits), Ok(stranger));
    if let Ok(client) = client_address(head, proxy, &limits) {
        // What was not said is not made up: the client is the proxy, or stands in the head.
        let says_nothing = head.values("x-forwarded-for").all(<[u8]>::is_empty);
        assert!(!says_nothing || client == proxy);
    }
}

/// Checks that a fault has a status of an error.
fn verdict(result: Result<Option<usize>, HeadFault>) -> Result<Option<usize>, HeadFault> {
    if let Err(fault) = result {
        assert!((400..600).contains(&fault.status()));
    }
    result
}
